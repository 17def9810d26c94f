"""Writes down a ledger of the present version, with something of everything in it: `python -m tests.ledger.dump`.

Whoever appends a migration runs it once, and commits tests/ledger/dumps/<version>.sql with it. From then on
test_migrations.py brings that ledger up to date in every later release. Once released, a dump is never written anew: it
is what the ledgers out there look like. (Before that: delete it, and run this again.)
"""

from __future__ import annotations

import dataclasses
import sqlite3
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

from aitp.ledger import DeliveryOutcome, Failure, Malformed, Report
from aitp.ledger.schema import VERSION
from aitp.policy.costs import Bill, Pricing
from aitp.prices import Price
from aitp.tasks import Culprit, Ending, Health, Outcome, QueueKey
from tests.ledger.world import OTHER_WORKER, SMALL, TOPICS, World, make_template, priced, report

DUMPS = Path(__file__).with_name("dumps")
STRATEGY, ZONE = "fixed", "America/Sao_Paulo"
LIMITS = {"minute": 20, "day": 500}
BUDGETS = {"day": 10**9}

# State by task id, as `live` leaves them; "delivered" is a tombstone.
LEFT = {"refused": "dead", "later": "later", "claimed": "claimed", "finished": "finished", "ready": "ready"}


def enter(world: World, name: str, queue: QueueKey = SMALL, unreadable: Iterable[Malformed] = ()) -> None:
    """A task with a text of its own."""
    text = f'{{"text": "São Paulo, {name}"}}'.encode()
    world.listing(name, queue=queue, complete=False, content=text, unreadable=unreadable, twins=True)


def live(world: World) -> None:
    """A short life that leaves a task in each state, and a trace in each table."""
    ledger, clock = world.ledger, world.clock
    enter(world, "refused")
    world.run()
    [delivery] = world.take()
    ledger.outbox.settle(delivery, DeliveryOutcome.REFUSED, refusal="404: no such task")
    clock.go(40)
    enter(world, "later", TOPICS)
    world.run(Ending.RETRY, Health.FAULTY)
    enter(world, "delivered")
    dear = priced(Pricing(Price(10**9, 4 * 10**9), answers=True))
    claim = world.claim(terms=dear)
    refused = Failure(Culprit.INPUT, "400: dimensions", named=True, parameter="dimensions")
    outcome = Outcome(claim.tasks[0], Ending.RETRY, culprit=Culprit.INPUT)
    ledger.claims.finish(claim, Report([outcome], refused, optional=["dimensions"]))
    claim = world.claim(terms=dear)
    paid = Bill("USD", 5_000_000, input_tokens=1_000, output_tokens=1_000)
    world.ledger.claims.finish(claim, dataclasses.replace(report(claim.tasks, Ending.SUCCEEDED), bill=paid))
    world.deliver_all()
    enter(world, "finished")
    world.run(slot=OTHER_WORKER)
    enter(world, "claimed")
    world.claim(terms=dear)
    enter(world, "ready", unreadable=[Malformed("unreadable", "no content")])
    ledger.cache.put({"wikidata/pt/São Paulo": b'["Q174"]'}, 86_400)


def dump(folder: Path) -> str:
    """The SQL of such a ledger."""
    world = World.create(folder, make_template(folder))
    try:
        world.ledger.limits.publish(STRATEGY, ZONE, LIMITS)
        world.ledger.budgets.publish("USD", BUDGETS)
        live(world)
        assert world.states() == LEFT
    finally:
        world.close()
    connection = sqlite3.connect(folder / "ledger.db")
    try:
        return "\n".join(connection.iterdump()) + "\n"
    finally:
        connection.close()


def main() -> int:
    path = DUMPS / f"{VERSION}.sql"
    if path.exists():
        print(f"{path} is there already, and stays as it is: a change of the tables is a new migration")
        return 1
    with tempfile.TemporaryDirectory() as folder:
        path.write_text(dump(Path(folder)))
    print(f"written: {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
