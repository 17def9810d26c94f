"""A relay's or a worker's process that is nobody's child: it has nobody to wake, and no master to hear from."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from aitp.process.child import Child
from aitp.process.scoreboard import LAST_SLOT


class Alone(Child):
    """`done`: tasks that were counted."""

    def __init__(self, slot: int) -> None:
        self.slot = slot
        self.done = 0

    def idle(self) -> None: ...

    def recording(self) -> None: ...

    def wake_workers(self, count: int = LAST_SLOT) -> None: ...

    def wake_relays(self, count: int = LAST_SLOT) -> None: ...

    def count_done(self, count: int = 1) -> None:
        self.done += count

    @contextmanager
    def call(self, task_id: str, seconds: float) -> Iterator[None]:
        yield
