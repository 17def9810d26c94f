"""The processes of `test_life_model.py`: each slot's own connection, and its death in the middle of what it does."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import pytest

from aitp.errors import LedgerError
from aitp.ledger import Ledger, LedgerConfig
from aitp.ledger.engine import Database
from aitp.ledger.postgresql import PostgreSQLDatabase
from aitp.ledger.sqlite import SQLiteDatabase
from tests.ledger.world import World, middle

T = TypeVar("T")


class Died(Exception):
    """The process of a slot died in the middle of what it did."""


class Hands:
    """One ledger in as many hands as there are slots. `fuse`: the next to do something dies at its statement of this
    number; 0: none does."""

    def __init__(self, world: World, rules: LedgerConfig) -> None:
        self._world = world
        self._rules = rules
        self._ledgers: dict[int, Ledger] = {}
        self.fuse = 0

    def of(self, slot: int) -> Ledger:
        """The slot's own connection."""
        if slot not in self._ledgers:
            clock = self._world.clock
            locks = self._world.ledger.locks  # a process has these once: another descriptor closed would drop them
            ledger = Ledger.open(self._world.place, self._rules, clock=clock, locks=locks)
            for part in (ledger.outbox, ledger.claims._outcomes):
                part._draw = middle
            self._ledgers[slot] = ledger
        return self._ledgers[slot]

    def hang_up(self, slot: int) -> None:
        """As when its process is killed: what was not committed is gone."""
        if slot in self._ledgers:
            line_of(self._ledgers.pop(slot)._database).close()

    def close(self) -> None:
        for slot in [*self._ledgers]:
            self.hang_up(slot)

    def attempt(self, slot: int, act: Callable[[Ledger], T]) -> T:
        """Do something with the slot's hands. Raises Died if the fuse burnt down meanwhile."""
        ledger, fuse = self.of(slot), self.fuse
        self.fuse = 0
        if not fuse:
            return act(ledger)
        try:
            with burning(ledger._database, fuse):
                return act(ledger)
        except LedgerError:
            self.hang_up(slot)
            raise Died from None


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
        for each, verb in ((statements, "execute"), (statements, "executemany"), (line, "execute")):
            patches.setattr(each, verb, cut(getattr(each, verb)))
        yield
