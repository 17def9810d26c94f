"""Waiting for a condition with a deadline: the one place in the tests that knows how, and how long that is here."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

MOST_PATIENCE = 6.0  # times what would do on a quiet machine; pytest's own time-out is to end what hangs


def patience(seconds: float) -> float:
    """So many seconds of a quiet machine: longer, where more processes want a CPU than there are CPUs."""
    wanted = os.getloadavg()[0] / (os.cpu_count() or 1)
    return seconds * min(max(1.0, wanted), MOST_PATIENCE)


def wait_until(condition: Callable[[], T], timeout: float = 10.0, every: float = 0.02) -> T:
    """Return the first true value of `condition`; fail after `timeout` seconds, more under load, and name it."""
    started = time.monotonic()
    while True:
        if value := condition():
            return value
        # Looked at only now: a wait that comes to nothing may take long, one that succeeds costs no more.
        if time.monotonic() > started + timeout and time.monotonic() > started + patience(timeout):
            raise AssertionError(f"not true within {timeout} s: {getattr(condition, '__name__', condition)}")
        time.sleep(every)
