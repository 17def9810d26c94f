"""Waking those who sleep: one eventfd a slot, made by the master before it forks, so that everyone can ring.

A ring that finds its child just turning busy must not be lost on it while another one sleeps. Both sides look twice:
who rings, rings first and then looks whether that child is still idle; who turns busy, says so first and then looks
whether it was rung, and passes that on. One of them always notices.
"""

from __future__ import annotations

import os

from aitp.process.scoreboard import Scoreboard, State
from aitp.process.slots import Role, role_of


class Wakes:
    """The bells of all slots. Grows in the master; children know the bells that were there when they were forked."""

    def __init__(self) -> None:
        self._bells: dict[int, int] = {}

    def install(self, slot: int) -> None:
        """Make the bell of `slot`, unless it is there."""
        if slot not in self._bells:
            self._bells[slot] = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)

    def bell(self, slot: int) -> int:
        """The descriptor that becomes readable when `slot` is rung."""
        return self._bells[slot]

    def ring(self, slot: int) -> None:
        """Wake `slot` from its present sleep, or keep it from its next."""
        os.eventfd_write(self._bells[slot], 1)

    def silence(self, slot: int) -> int:
        """How often `slot` was rung since the last time."""
        try:
            return os.eventfd_read(self._bells[slot])
        except BlockingIOError:
            return 0

    def wake_idle(self, role: Role, count: int, board: Scoreboard, but: int = -1) -> int:
        """Ring up to `count` idle children of a role, `but` excepted; how many were idle and stayed so."""
        woken = 0
        for slot in self._bells:
            if woken >= count:
                break
            if slot == but or role_of(slot) is not role or board.state(slot) != State.IDLE:
                continue
            self.ring(slot)
            woken += board.state(slot) == State.IDLE
        return woken
