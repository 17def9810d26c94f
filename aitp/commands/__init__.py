"""What the commands print, and what they do on an operator's behalf: one room a command, or a few that belong together.

`--json` prints what programs read; otherwise there are tables for people. The service need not be running, unless a
room says so. Nothing here is imported before its command runs.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from aitp.commands import check as check
    from aitp.commands import console as console
    from aitp.commands import watch as watch


def __getattr__(name: str) -> ModuleType:
    with importing():
        return import_module(f"{__name__}.{name}")


@contextmanager
def importing() -> Iterator[None]:
    """What is imported here stays: it is not looked through for garbage, which is a fifth of what a look costs."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
