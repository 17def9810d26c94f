"""A ledger to try things on: a clock set by hand, a real file, and short words for what relays and workers do."""

from __future__ import annotations

import dataclasses
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from hypothesis import HealthCheck, settings

from aitp.ledger.budgets import publish_budgets
from aitp.ledger.claims import Claim, ClaimOptions, Idle, IdleReason
from aitp.ledger.duplicates import fingerprint
from aitp.ledger.engine import Database, Fleet, Place
from aitp.ledger.evidence import Failure, Report, Settled
from aitp.ledger.inbox import Admitted, Malformed, Poll, PollOptions
from aitp.ledger.ledger import Ledger, prepare
from aitp.ledger.limits import publish_limits
from aitp.ledger.locks import SlotLocks
from aitp.ledger.maintenance import check
from aitp.ledger.outbox import Delivery, DeliveryOutcome
from aitp.ledger.postgresql import PostgreSQLDatabase
from aitp.ledger.queue import LedgerConfig
from aitp.ledger.sqlite import SQLiteDatabase
from aitp.policy.costs import Pricing
from aitp.policy.routing import Route
from aitp.tasks import Culprit, Ending, Health, NewTask, Outcome, QueueKey, Task
from tests.services.postgres import clear

P = TypeVar("P", Path, Fleet)
START = 1_753_900_000.0  # a Wednesday in July 2025
SMALL = QueueKey("text_embedding", "text-embedding-3-small")
LARGE = QueueKey("text_embedding", "text-embedding-3-large")
TOPICS = QueueKey("defining_topics", "o3-mini")
RELAY, OTHER_RELAY = 1, 2
WORKER, OTHER_WORKER = 101, 102
POLLING = PollOptions(interval=30.0, concurrency=2, batch_size=4)


@dataclass
class Clock:
    """Wall time, moved by hand, and what has gone by since START unless it was set (`step`)."""

    now: float = START
    stepped: float = 0.0
    boot: str = "the first"

    def __call__(self) -> float:
        return self.now

    def uptime(self) -> float:
        return self.now - self.stepped

    def step(self, seconds: float) -> None:
        """Set it forward or back: no time goes by."""
        self.now += seconds
        self.stepped += seconds

    def go(self, seconds: float) -> None:
        self.now += seconds


def at(text: str) -> float:
    """A moment of UTC, as in 2025-07-30 18:26:50."""
    return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()


def names(prefix: str, count: int) -> list[str]:
    """Ids of so many tasks."""
    return [f"{prefix}{number}" for number in range(count)]


def middle(low: float, high: float) -> float:
    """In place of the random spread of the back-off: none."""
    return 1.0


def terms(workers: int = 1, batch: int = 32) -> ClaimOptions:
    return ClaimOptions(workers, lambda queue: (Route("openai", queue.model),), lambda queue: batch)


def priced(pricing: Pricing, batch: int = 32, workers: int = 1, currency: str = "USD") -> ClaimOptions:
    """Claim options under which everything costs that much."""
    return dataclasses.replace(terms(workers, batch), pricing=lambda queue, route: pricing, currency=currency)


ALONE = terms()  # one worker, large batches


@dataclass
class World:
    """One ledger and this process's hold of it."""

    place: Place
    clock: Clock = field(default_factory=Clock)
    rules: LedgerConfig = field(default_factory=LedgerConfig)
    ledger: Ledger = field(init=False)

    @classmethod
    def create(cls, folder: Path, template: Place, rules: LedgerConfig | None = None, **limits: int) -> World:
        """A new ledger, copied from a prepared one; `limits` by period. Of a fleet's there is one at a time."""
        place = template
        if isinstance(template, Path):
            place = folder / "ledger.db"
            shutil.copy(template, place)
        else:
            clear(template)
        world = cls(place, rules=rules or LedgerConfig())
        world.open()
        if limits:
            set_limits(world.ledger, "rolling", "UTC", limits)
        return world

    def open(self, locks: SlotLocks | None = None) -> Ledger:
        """Open it (again, in a forked process)."""
        self.ledger = Ledger.open(self.place, self.rules, clock=self.clock, locks=locks)
        for part in (self.ledger.outbox, self.ledger.outcomes):
            part.draw = middle
        return self.ledger

    def close(self) -> None:
        self.ledger.close()

    @property
    def path(self) -> Path:
        """The ledger's file."""
        assert isinstance(self.place, Path)
        return self.place

    @property
    def database(self) -> Database:
        """What is behind the ledger's interface."""
        return self.ledger._database

    @property
    def file(self) -> SQLiteDatabase:
        """The same, where it is SQLite's."""
        return file_of(self.ledger)

    @property
    def postgres(self) -> PostgreSQLDatabase:
        """The same, where it is PostgreSQL's."""
        assert isinstance(self.database, PostgreSQLDatabase)
        return self.database

    def rows(self, sql: str, *bindings: object) -> list[tuple[Any, ...]]:
        """Look into the tables."""
        return self.database.read(sql, bindings)

    def problems(self) -> tuple[str, ...]:
        """What is wrong with it."""
        return check(self.place).problems

    def value(self, sql: str, *bindings: object) -> Any:
        return self.rows(sql, *bindings)[0][0]

    def change(self, sql: str, *bindings: object) -> None:
        with self.database.transaction() as connection:
            connection.execute(sql, bindings)

    # What relays do

    def poll(self, slot: int = RELAY) -> Poll:
        poll = self.ledger.inbox.begin_poll(slot, POLLING, asked=True)
        assert isinstance(poll, Poll)
        return poll

    def listing(
        self,
        *ids: str,
        queue: QueueKey = SMALL,
        complete: bool = True,
        more_there: bool = False,
        unreadable: Iterable[Malformed] = (),
        content: bytes = b'{"text": "..."}',
        twins: bool = False,
    ) -> tuple[Admitted, int]:
        """A poll that lists these tasks; (what it admitted, how many tasks it dropped). `twins`: of one another."""
        poll = self.poll()
        digest = fingerprint(queue, content) if twins else None
        tasks = [NewTask(name, queue, content, fingerprint=digest) for name in ids]
        admitted = self.ledger.inbox.admit(poll, tasks, unreadable)
        dropped = self.ledger.inbox.end_poll(
            poll,
            complete=complete,
            more_there=more_there,
            documents=len(ids),
            regular_at=self.clock() + POLLING.interval,
        )
        return admitted, dropped

    def admit(self, *ids: str, queue: QueueKey = SMALL, content: bytes = b'{"text": "..."}') -> None:
        """Put tasks into the ledger."""
        self.listing(*ids, queue=queue, complete=False, content=content)

    def take(self, slot: int = RELAY, most: int = 8) -> tuple[Delivery, ...]:
        taken = self.ledger.outbox.take(slot, most)
        assert isinstance(taken, tuple), taken
        return taken

    def deliver_all(self) -> list[str]:
        """Bring out everything that is finished; the ids."""
        ids = []
        while isinstance(taken := self.ledger.outbox.take(RELAY, 8), tuple):
            for delivery in taken:
                self.ledger.outbox.settle(delivery, DeliveryOutcome.DELIVERED)
                ids.append(delivery.id)
        return ids

    # What workers do

    def claim(self, slot: int = WORKER, terms: ClaimOptions = ALONE) -> Claim:
        claim = self.ledger.claims.claim(slot, terms)
        assert isinstance(claim, Claim), claim
        return claim

    def idle(self, slot: int = WORKER, terms: ClaimOptions = ALONE) -> Idle:
        idle = self.ledger.claims.claim(slot, terms)
        assert isinstance(idle, Idle), idle
        return idle

    def finish(self, claim: Claim, ending: Ending = Ending.SUCCEEDED, health: Health = Health.HEALTHY) -> Settled:
        return self.ledger.outcomes.finish(claim, report(claim.tasks, ending, health))

    def run(self, ending: Ending = Ending.SUCCEEDED, health: Health = Health.HEALTHY, slot: int = WORKER) -> Settled:
        """One attempt: claim and finish."""
        return self.finish(self.claim(slot), ending, health)

    def fail_until_open(self) -> None:
        """Faults in a row until the provider's breaker opens; the tasks wait."""
        for number in range(self.rules.breaker_threshold):
            self.admit(f"fault-{self.clock():.0f}-{number}")
            settled = self.finish(self.claim(terms=terms(batch=1)), Ending.RETRY, Health.FAULTY)
        assert settled.breaker is not None
        assert settled.breaker.state == "open"

    # What there is to see

    def states(self) -> dict[str, str]:
        """State by task id; 'later' for a ready one that is not due."""
        return {
            name: "later" if state == "ready" and due_at is not None else state
            for name, state, due_at in self.rows("SELECT id, state, due_at FROM tasks ORDER BY seq")
        }

    def completions(self) -> int:
        return int(self.value("SELECT COUNT(*) FROM task_completions"))


# What a call that failed as a whole is put down to, by what it says of its provider.
FAILURES = {
    Health.HEALTHY: Failure(Culprit.ANSWER, "said the test"),
    Health.FAULTY: Failure(Culprit.SERVICE, "said the test"),
    Health.REFUSED: Failure(Culprit.ACCOUNT, "said the test", named=True),
    Health.UNKNOWN: None,
}


def report(tasks: Iterable[Task], ending: Ending, health: Health = Health.HEALTHY) -> Report:
    result = b"[0.5]" if ending is Ending.SUCCEEDED else None
    failure = FAILURES[health] if ending in (Ending.RETRY, Ending.FALLBACK) else None
    culprit = Culprit.SERVICE if failure is None else failure.culprit
    return Report([Outcome(task, ending, result, ending.value, culprit) for task in tasks], failure)


def file_of(ledger: Ledger) -> SQLiteDatabase:
    """What is behind the ledger's interface, where it is SQLite's."""
    assert isinstance(ledger._database, SQLiteDatabase)
    return ledger._database


@contextmanager
def example(place: Place, now: float = START) -> Iterator[World]:
    """A world for one of many examples, at that time."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(prefix="aitp-model-", dir=memory if memory.is_dir() else None) as folder:
        world = World.create(Path(folder), place)
        world.clock.now = now
        try:
            yield world
        finally:
            world.close()


def examples(place: Place, count: int) -> settings:
    """So many for the file, a tenth for a fleet's ledger: a transaction there takes as many times longer."""
    most = count if isinstance(place, Path) else count // 10
    return settings(max_examples=most, deadline=None, suppress_health_check=list(HealthCheck))


def set_limits(ledger: Ledger, strategy: str, timezone: str, allowed: Mapping[str, int]) -> None:
    """Put these limits in force, as a reload does."""
    with ledger._database.transaction() as connection:
        publish_limits(connection, ledger._database.clock(), strategy, timezone, allowed)


def set_budgets(ledger: Ledger, currency: str, allowed: Mapping[str, int]) -> None:
    """Put these budgets in force, as a reload does."""
    with ledger._database.transaction() as connection:
        publish_budgets(connection, currency, allowed)


def ids(claim: Claim) -> list[str]:
    return [task.id for task in claim.tasks]


def make_template(folder: Path) -> Path:
    """A prepared ledger without limits, to be copied."""
    return prepared(folder / "template.db")


def prepared(place: P) -> P:
    """A ledger without limits."""
    prepare(place, strategy="rolling", timezone="UTC", limits={}, clock=Clock())
    return place


__all__ = ["Clock", "IdleReason", "World", "ids", "make_template", "report", "terms"]
