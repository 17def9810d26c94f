"""Whether the service is there, and telling its master something: for the command line, which is no child of it."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path

from aitp.process.scoreboard import Record, glance, master_ticks
from aitp.process.slots import MASTER


def living_master(records: Sequence[Record]) -> Record | None:
    """The master's record, if it is alive and does its rounds, whomever it belongs to."""
    if not master_ticks(list(records), time.monotonic()):
        return None
    return next((record for record in records if record.slot == MASTER and _is_alive(record.pid)), None)


def signal_master(scoreboard: Path, number: int) -> bool:
    """Signal the running master; False if there is none that we may signal."""
    master = living_master(glance(scoreboard))
    if master is None:
        return False
    try:
        os.kill(master.pid, number)
    except (ProcessLookupError, PermissionError):
        return False
    return True


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True  # another user's
    return True
