"""Reaching the service: its ledger, and its master by signals."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from aitp.ledger import Ledger, Rules
from aitp.ledger.views import snapshot
from aitp.process.scoreboard import Record, glance, master_ticks
from aitp.process.slots import MASTER

if TYPE_CHECKING:
    from pathlib import Path

    from aitp.settings import Settings


@contextmanager
def open_ledger(settings: Settings) -> Iterator[Ledger]:
    """The ledger, to change something in it. Raises LedgerError if there is none, or one of another version."""
    snapshot(settings.ledger_path)  # says so clearly, and makes none
    ledger = Ledger.open(settings.ledger_path, Rules.of(settings))
    try:
        yield ledger
    finally:
        ledger.close()


def scoreboard_of(settings: Settings) -> Path:
    """Where the master and its children say what they do."""
    return settings.runtime_dir / "scoreboard"


def running_master(records: Sequence[Record]) -> Record | None:
    """The master's record, if it is alive and does its rounds."""
    if not master_ticks(list(records), time.monotonic()):
        return None
    return next((record for record in records if record.slot == MASTER and _signal(record.pid, 0)), None)


def signal_master(settings: Settings, number: int) -> bool:
    """Signal the running master; False if there is none that we may signal."""
    master = running_master(glance(scoreboard_of(settings)))
    return master is not None and _signal(master.pid, number)


def _signal(pid: int, number: int) -> bool:
    try:
        os.kill(pid, number)
    except (ProcessLookupError, PermissionError):
        return False
    return True
