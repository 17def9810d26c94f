"""What the commands print, and what they do on an operator's behalf: one room a command, or a few that belong together.

`--json` prints what programs read; otherwise there are tables for people. The service need not be running, unless a
room says so. Nothing here is imported before its command runs.
"""

from __future__ import annotations

from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from aitp.commands import check as check
    from aitp.commands import console as console
    from aitp.commands import watch as watch


def __getattr__(name: str) -> ModuleType:
    return import_module(f"{__name__}.{name}")
