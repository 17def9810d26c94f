"""The processes of `test_life_model.py`: each slot's own connection, and its death in the middle of what it does."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import apsw

from aitp.errors import LedgerError
from aitp.ledger import Ledger, LedgerConfig
from tests.ledger.world import World, file_of, middle

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
            ledger = Ledger.open(self._world.path, self._rules, clock=clock, locks=locks)
            for part in (ledger.outbox, ledger.claims._outcomes):
                part._draw = middle
            self._ledgers[slot] = ledger
        return self._ledgers[slot]

    def hang_up(self, slot: int) -> None:
        """As when its process is killed: what was not committed is gone."""
        if slot in self._ledgers:
            file_of(self._ledgers.pop(slot)).connection.close()

    def close(self) -> None:
        for slot in [*self._ledgers]:
            self.hang_up(slot)

    def attempt(self, slot: int, act: Callable[[Ledger], T]) -> T:
        """Do something with the slot's hands. Raises Died if the fuse burnt down meanwhile."""
        ledger, fuse = self.of(slot), self.fuse
        self.fuse = 0
        if not fuse:
            return act(ledger)
        left = fuse

        def burn(cursor: apsw.Cursor, sql: str, bindings: object) -> bool:
            nonlocal left
            left -= 1
            return left >= 0

        connection = file_of(ledger).connection
        connection.exec_trace = burn
        try:
            done = act(ledger)
        except LedgerError:
            self.hang_up(slot)
            raise Died from None
        connection.exec_trace = None
        return done
