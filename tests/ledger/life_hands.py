"""The processes of `test_life_model.py`: each slot's own connection, and its death in the middle of what it does."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar

import psycopg
import pytest

from aitp.errors import LedgerError
from aitp.ledger.engine import HOST_SLOTS, Database, Fleet, Place
from aitp.ledger.hosts import holders
from aitp.ledger.ledger import Ledger
from aitp.ledger.locks import SlotLocks
from aitp.ledger.postgresql import PostgreSQLDatabase
from aitp.ledger.queue import LedgerConfig
from aitp.ledger.sqlite import SQLiteDatabase
from tests.ledger.world import World, middle
from tests.waiting import wait_until

T = TypeVar("T")
HOSTS = ("one", "two")


class Died(Exception):
    """The process of a slot died in the middle of what it did."""


class Cut(Exception):
    """The line of a slot's process was cut at its COMMIT. `committed`: it had arrived, and nobody heard the answer."""

    def __init__(self, committed: bool) -> None:
        super().__init__(committed)
        self.committed = committed


class Hands:
    """One ledger in as many hands as there are slots. `fuse`: the next to do something dies at its statement of this
    number; 0: none does. `cut`: the line of the next to do something is cut before its COMMIT, or (True) after it."""

    def __init__(self, world: World, rules: LedgerConfig) -> None:
        self._world = world
        self._rules = rules
        self._ledgers: dict[int, Ledger] = {}
        self.fuse = 0
        self.cut: bool | None = None

    def of(self, slot: int) -> Ledger:
        """The slot's own connection."""
        if slot not in self._ledgers:
            place, locks = self._at_home(slot)
            ledger = Ledger.open(place, self._rules, clock=self._world.clock, locks=locks)
            for part in (ledger.outbox, ledger.outcomes):
                part.draw = middle
            self._ledgers[slot] = ledger
        return self._ledgers[slot]

    def _at_home(self, slot: int) -> tuple[Place, SlotLocks]:
        """The ledger as the slot's process opens it, and that process's locks."""
        place = self._world.place
        if not isinstance(place, Fleet):
            return place, self._world.ledger.locks  # once: another descriptor closed would drop them
        # Of the slot alone, because all of these processes are one.
        host, number = divmod(slot, HOST_SLOTS)
        place = dataclasses.replace(place, host=HOSTS[host], lock_file=place.lock_file.with_name(f"slot-{slot}"))
        locks = SlotLocks(place.lock_file)
        assert locks.acquire(number, 0)
        return place, locks

    def hang_up(self, slot: int) -> None:
        """As when its process is killed: what was not committed is gone."""
        if slot not in self._ledgers:
            return
        if isinstance(self._world.place, Fleet):
            self._cut(slot)
            self._ledgers.pop(slot).close()
        else:
            line_of(self._ledgers.pop(slot)._database).close()

    def is_known(self, slot: int) -> bool:
        """Whether it has a process."""
        return slot in self._ledgers

    def has_line(self, slot: int) -> bool:
        """Whether it holds its place in the ledger, where that is a fleet's."""
        return slot in self._ledgers and not line_of(self._ledgers[slot]._database).closed

    def lose_line(self, slot: int) -> None:
        """Its process lives, and finds its line lost."""
        if self.has_line(slot):
            self._cut(slot)
            self.find_lost(slot)

    def find_lost(self, slot: int) -> None:
        """It asks something of the ledger, and there is no line."""
        if self.has_line(slot):
            with pytest.raises(LedgerError):
                self._ledgers[slot]._database.read("SELECT 1")

    def _cut(self, slot: int) -> None:
        """The server ends its session, and nothing is left of it when this returns."""
        if self.has_line(slot):
            pid = line_of(self._ledgers[slot]._database).info.backend_pid
            self._world.rows("SELECT pg_terminate_backend(CAST(? AS INTEGER))", pid)
        wait_until(lambda: slot not in self.holders(), every=0.002)

    def holders(self) -> set[int]:
        """Slots whose place in the fleet is held."""
        assert isinstance(self._world.place, Fleet)
        with self._world.database.reading() as connection:
            return holders(connection, self._world.place)

    def close(self) -> None:
        for slot in [*self._ledgers]:
            self.hang_up(slot)

    def attempt(self, slot: int, act: Callable[[Ledger], T]) -> T:
        """Do something with the slot's hands. Raises Died if the fuse burnt down meanwhile, Cut for a line that was."""
        ledger, fuse, cut = self.of(slot), self.fuse, self.cut
        self.fuse, self.cut = 0, None
        try:
            if fuse:
                with burning(ledger._database, fuse):
                    return act(ledger)
            if cut is not None:
                with cut_at_commit(ledger._database, partial(self._cut, slot), committed=cut):
                    return act(ledger)
        except LedgerError:
            if fuse:
                self.hang_up(slot)
                raise Died from None
            assert cut is not None
            raise Cut(cut) from None
        return act(ledger)


def line_of(database: Database) -> Any:
    """The connection behind the ledger's interface."""
    if isinstance(database, SQLiteDatabase):
        return database.connection
    assert isinstance(database, PostgreSQLDatabase)
    return database._connection


@contextmanager
def burning(database: Database, fuse: int) -> Iterator[None]:
    """No statement but the next few comes to anything."""
    left, line = fuse, line_of(database)

    def burn(*_: object) -> bool:
        nonlocal left
        left -= 1
        return left >= 0

    if isinstance(database, SQLiteDatabase):
        line.exec_trace = burn
        yield
        line.exec_trace = None
        return
    assert isinstance(database, PostgreSQLDatabase)

    def cut(execute: Callable[..., Any]) -> Callable[..., Any]:
        def executed(*arguments: Any, **named: Any) -> Any:
            if not burn():
                line.close()  # those that nobody has heard the answers of may have been sent, and are rolled back
            return execute(*arguments, **named)

        return executed

    statements = database._statements
    with pytest.MonkeyPatch.context() as patches:
        for verb in ("execute", "executemany"):
            patches.setattr(statements, verb, cut(getattr(statements, verb)))
        yield


@contextmanager
def cut_at_commit(database: Database, cut: Callable[[], None], *, committed: bool) -> Iterator[None]:
    """The next COMMIT does not arrive, or nobody hears that it did."""
    assert isinstance(database, PostgreSQLDatabase)
    statements, execute = database._statements, database._statements.execute

    def at_commit(statement: str, *bindings: Any) -> Any:
        if statement != "COMMIT":
            return execute(statement, *bindings)
        if committed:
            execute(statement)
        assert statements.changes() >= 0  # all so far have been answered
        cut()
        if not committed:
            return execute(statement)
        database._connection.close()
        raise psycopg.OperationalError("nobody heard the answer")

    with pytest.MonkeyPatch.context() as patches:
        patches.setattr(statements, "execute", at_commit)
        yield
