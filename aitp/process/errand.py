"""Errands: short-lived processes for what must not happen in the master, the ledger's preparation above all.

The master sends them, bounds them, and learns from the exit code how they went.
"""

from __future__ import annotations

import math
import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import NoReturn

from aitp.errors import ConfigurationError
from aitp.logs import get_logger
from aitp.settings import withhold

DONE = 0
FAILED = 1
AGAIN = 75  # EX_TEMPFAIL: not all could be done yet
MISCONFIGURED = 78  # EX_CONFIG

log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Errand:
    """One that is underway. `deadline` is monotonic; `ended` is told the exit code (negative: a signal)."""

    name: str
    deadline: float
    ended: Callable[[int], None]


class Errands:
    """All that are underway. `shed` is what each does first: let go of what is the master's alone."""

    def __init__(self, shed: Callable[[], None]) -> None:
        self._shed = shed
        self._underway: dict[int, Errand] = {}  # by pid

    def send(self, name: str, seconds: float, work: Callable[[], bool | None], ended: Callable[[int], None]) -> None:
        """Do `work` in a process of its own. It exits AGAIN for False, MISCONFIGURED for a ConfigurationError."""
        try:
            pid = os.fork()
        except OSError as error:
            log.error("Cannot fork", reason=error.strerror, errand=name)
            ended(FAILED)
            return
        if pid == 0:
            _do(work, self._shed)
        self._underway[pid] = Errand(name, time.monotonic() + seconds, ended)

    def underway(self, name: str) -> bool:
        return any(errand.name == name for errand in self._underway.values())

    def __len__(self) -> int:
        return len(self._underway)

    def bury(self, pid: int, exit_code: int) -> None:
        """A process was reaped; if it was an errand, go on with what waits for it."""
        if errand := self._underway.pop(pid, None):
            errand.ended(exit_code)

    def kill_overdue(self) -> float:
        """Kill those that took too long; when to look again (monotonic)."""
        now = time.monotonic()
        for pid, errand in self._underway.items():
            if now >= errand.deadline:
                log.error("A short-lived process took too long and is killed", errand=errand.name)
                os.kill(pid, signal.SIGKILL)
        return min((errand.deadline for errand in self._underway.values() if errand.deadline > now), default=math.inf)

    def end(self, signum: signal.Signals, name: str | None = None) -> None:
        """Signal those of that name, or all."""
        for pid, errand in self._underway.items():
            if name in (None, errand.name):
                os.kill(pid, signum)


def _do(work: Callable[[], bool | None], shed: Callable[[], None]) -> NoReturn:
    code = FAILED
    try:
        shed()
        withhold()
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group: the master decides
        signal.pthread_sigmask(signal.SIG_SETMASK, [])
        code = AGAIN if work() is False else DONE
    except ConfigurationError as error:
        code = MISCONFIGURED
        for problem in error.problems:
            log.error("Configuration cannot be used", problem=problem)
    except Exception:
        log.exception("A short-lived process failed")
    finally:
        os._exit(code)  # whatever happens: it never runs on in the master's code
