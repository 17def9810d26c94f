"""Real processes on one ledger: each forked, each with its own connection and locks, told what to do and heard."""

from __future__ import annotations

import os
import pickle
import signal
import traceback
from collections.abc import Callable
from typing import Any, Self

from tests.ledger.world import World


class Process:
    """Runs `work(world)` in a forked process; `result()` is what it returned. As a context it is killed at the end.

    The caller's ledger is closed meanwhile: a SQLite connection must not be carried over fork. It loses its slots.
    """

    def __init__(self, world: World, work: Callable[[World], Any], *, slot: int | None = None) -> None:
        """`slot`: the one whose lock it holds as long as it lives."""
        self._read, write = os.pipe()
        world.close()
        self.pid = os.fork()
        if self.pid == 0:
            os.close(self._read)
            os._exit(_live(world, work, slot, write))
        os.close(write)
        world.open()
        self.status: int | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.status is None:
            self.kill()
        if self._read >= 0:
            os.close(self._read)

    def result(self) -> Any:
        """What it returned, once it has ended. Fails if it failed."""
        with open(self._read, "rb") as answer:
            self._read = -1
            said = answer.read()
        self.wait()
        assert said, f"it died: {self.status}"
        kind, value = pickle.loads(said)
        assert kind == "returned", value
        return value

    def wait(self) -> int:
        """Its exit status; negative for a signal."""
        if self.status is None:
            self.status = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return self.status

    def kill(self) -> None:
        """Kill -9; gone when this returns."""
        os.kill(self.pid, signal.SIGKILL)
        self.wait()


def _live(world: World, work: Callable[[World], Any], slot: int | None, write: int) -> int:
    try:
        world.open()
        if slot is not None:
            assert world.ledger.locks.acquire(slot, 5.0)
        said = pickle.dumps(("returned", work(world)))
    except BaseException:  # noqa: BLE001 (the parent is told)
        said = pickle.dumps(("failed", traceback.format_exc()))
    os.write(write, said)
    return 0


class Gate:
    """A line that processes wait at until it is opened, all together; or that one of them opens for the parent."""

    def __init__(self) -> None:
        self._read, self._write = os.pipe()

    def wait(self) -> None:
        os.read(self._read, 1)

    def open(self, count: int = 1) -> None:
        os.write(self._write, b"." * count)
