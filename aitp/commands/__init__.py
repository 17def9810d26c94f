"""What the commands print, and what they do on an operator's behalf: one room a command, or a few that belong together.

`--json` prints what programs read; otherwise there are tables for people. The service need not be running, unless a
room says so. Nothing here is imported before its command runs.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any


def imported(name: str) -> Any:
    """The function of that name: `room.module.function`."""
    module, _, function = name.rpartition(".")
    with importing():
        return getattr(import_module(f"aitp.{module}"), function)


@contextmanager
def importing() -> Iterator[None]:
    """What is imported here stays: it is not looked through for garbage, which is a fifth of what a look costs."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
