"""Waiting for a condition with a deadline: the one place in the tests that knows how, and how long that is here."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

# Between two looks: what comes soon is seen soon, and whoever waits for long leaves the machine to what he waits for.
FIRST_SECONDS, LATER_SECONDS = 0.02, 0.06
MOST_PATIENCE = 6.0  # times what would do on a quiet machine; pytest's own time-out is to end what hangs


def patience(seconds: float) -> float:
    """So many seconds of a quiet machine: longer, where more processes want a CPU than there are CPUs."""
    wanted = os.getloadavg()[0] / (os.cpu_count() or 1)
    return seconds * min(max(1.0, wanted), MOST_PATIENCE)


def wait_until(condition: Callable[[], T], timeout: float = 10.0, every: float | None = None) -> T:
    """Return the first true value of `condition`; fail after `timeout` seconds, more under load, and name it."""
    started = time.monotonic()
    while True:
        if value := condition():
            return value
        waited = time.monotonic() - started
        # Looked at only now: a wait that comes to nothing may take long, one that succeeds costs no more.
        if waited > timeout and waited > patience(timeout):
            raise AssertionError(f"not true within {timeout} s: {getattr(condition, '__name__', condition)}")
        time.sleep(every or (FIRST_SECONDS if waited < 0.5 else LATER_SECONDS))
