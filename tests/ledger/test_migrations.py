"""Versions: what is refused, and a made-up next version, to which a ledger with work in it is brought."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from pathlib import Path

import apsw
import pytest

from aitp.errors import ConfigurationError, LedgerError
from aitp.ledger.evidence import Failure, Report
from aitp.ledger.inbox import Malformed
from aitp.ledger.ledger import Ledger, prepare
from aitp.ledger.maintenance import check
from aitp.ledger.outbox import DeliveryOutcome
from aitp.ledger.outcomes import Cause
from aitp.ledger.queue import LedgerConfig
from aitp.ledger.schema import FIRST_VERSION, MIGRATIONS, VERSION
from aitp.ledger.stats import snapshot
from aitp.policy.costs import Bill, Price, Pricing
from aitp.tasks import Culprit, Ending, Health, Outcome, QueueKey
from tests.ledger.world import (
    OTHER_WORKER,
    SMALL,
    TOPICS,
    WORKER,
    Clock,
    World,
    ids,
    priced,
    report,
    set_budgets,
    set_limits,
)

pytestmark = pytest.mark.sqlite

STRATEGY, ZONE = "fixed", "America/Sao_Paulo"
LIMITS = {"minute": 20, "day": 500}
BUDGETS = {"day": 10**9}
AN_HOUR = 3600.0
NEXT = (
    "ALTER TABLE tasks ADD COLUMN colour TEXT NOT NULL DEFAULT 'blue';"
    "CREATE TABLE colours (name TEXT PRIMARY KEY) STRICT; INSERT INTO colours SELECT DISTINCT colour FROM tasks"
)

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
    ledger.outcomes.finish(claim, Report([outcome], refused, optional=["dimensions"]))
    claim = world.claim(terms=dear)
    paid = Bill("USD", 5_000_000, input_tokens=1_000, output_tokens=1_000)
    world.ledger.outcomes.finish(claim, dataclasses.replace(report(claim.tasks, Ending.SUCCEEDED), bill=paid))
    world.deliver_all()
    enter(world, "finished")
    world.run(slot=OTHER_WORKER)
    enter(world, "claimed")
    world.claim(terms=dear)
    enter(world, "ready", unreadable=[Malformed("unreadable", "no content")])
    ledger.cache.put({"wikidata/pt/São Paulo": b'["Q174"]'}, 86_400)


def release(monkeypatch: pytest.MonkeyPatch, *migrations: str) -> int:
    """From here on this is a release that has these migrations as well; its version."""
    version = VERSION + len(migrations)
    monkeypatch.setattr("aitp.ledger.schema.MIGRATIONS", (*MIGRATIONS, *migrations))
    for module in ("schema", "maintenance", "stats", "claims", "inbox", "ledger"):
        monkeypatch.setattr(f"aitp.ledger.{module}.VERSION", version)
    return version


def start(path: Path, clock: Clock) -> int:
    return prepare(path, strategy=STRATEGY, timezone=ZONE, limits=LIMITS, budgets=BUDGETS, currency="USD", clock=clock)


@pytest.fixture
def busy(world: World) -> World:
    """A ledger with work in it, as a service of this version leaves it."""
    set_limits(world.ledger, STRATEGY, ZONE, LIMITS)
    set_budgets(world.ledger, "USD", BUDGETS)
    live(world)
    assert world.states() == LEFT
    world.close()
    return world


def test_a_ledger_with_work_in_it_is_brought_to_the_next_version_and_its_work_goes_on(
    busy: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    busy.clock.go(AN_HOUR)
    version = release(monkeypatch, NEXT)
    assert start(busy.path, busy.clock) == VERSION
    assert start(busy.path, busy.clock) == version
    assert check(busy.path).problems == ()
    ledger = busy.open()

    assert busy.states() == LEFT
    assert busy.rows("SELECT name FROM colours") == [("blue",)]
    assert busy.completions() == 5
    assert snapshot(busy.path, now=busy.clock()).limits["day"].current == 6  # the claim in hand is counted, too
    assert ledger.cache.get(["wikidata/pt/São Paulo"]) == {"wikidata/pt/São Paulo": b'["Q174"]'}
    # Whoever held the slot is gone: what he had claimed is ready again.
    assert [outcome.task.id for outcome in ledger.outcomes.release(WORKER, Cause.CRASHED).outcomes] == ["claimed"]
    [delivery] = busy.take()
    assert (delivery.id, delivery.result) == ("finished", b"[0.5]")
    ledger.outbox.settle(delivery, DeliveryOutcome.DELIVERED)
    done: list[str] = []
    while set(busy.states()) != {"refused"}:
        claim = busy.claim()
        done += ids(claim)
        busy.finish(claim)
        busy.deliver_all()
    assert sorted(done) == ["claimed", "later", "ready"]


def test_a_new_ledger_has_the_tables_of_one_that_was_brought_up(
    busy: World, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    release(monkeypatch, NEXT)
    start(busy.path, busy.clock)
    start(folder / "new.db", busy.clock)

    assert tables(busy.path) == tables(folder / "new.db")


def tables(path: Path) -> dict[str, str]:
    connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
    found = connection.execute("SELECT name, sql FROM sqlite_schema WHERE sql IS NOT NULL").fetchall()
    connection.close()
    return {str(name): str(sql) for name, sql in found}


def test_a_migration_that_fails_leaves_the_ledger_as_it_was(busy: World, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as broken:
        release(broken, NEXT, "CREATE TABLE more (id INTEGER); DELETE FROM tasks; THIS IS NO SQL")
        with pytest.raises(LedgerError):
            start(busy.path, busy.clock)
    busy.open()

    assert busy.states() == LEFT
    assert busy.value("SELECT version FROM ledger") == VERSION


def test_a_newer_ledger_is_a_configuration_error_for_all(world: World) -> None:
    world.change("UPDATE ledger SET version = ?", VERSION + 1)

    for opening in (
        lambda: start(world.path, world.clock),
        lambda: Ledger.open(world.path, LedgerConfig(), locks=world.ledger.locks),
    ):
        with pytest.raises(ConfigurationError, match=f"version {VERSION + 1}, this release knows {VERSION}"):
            opening()


def test_a_ledger_of_a_version_that_was_never_released_is_refused_and_stays_as_it_is(world: World) -> None:
    world.admit("a")
    world.change("UPDATE ledger SET version = ?", FIRST_VERSION - 1)

    with pytest.raises(ConfigurationError, match=r"was never released.*; move the file away"):
        start(world.path, world.clock)
    assert world.states() == {"a": "ready"}
