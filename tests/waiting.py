"""Waiting for a condition with a deadline: the one place in the tests that knows how."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def wait_until(condition: Callable[[], T], timeout: float = 10.0, every: float = 0.01) -> T:
    """Return the first true value of `condition`; fail after `timeout` seconds, naming the condition."""
    give_up = time.monotonic() + timeout
    while True:
        if value := condition():
            return value
        if time.monotonic() > give_up:
            raise AssertionError(f"not true within {timeout} s: {getattr(condition, '__name__', condition)}")
        time.sleep(every)
