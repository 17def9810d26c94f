"""Reaching the service: its ledger, and its scoreboard."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from aitp.ledger import Ledger, LedgerConfig
from aitp.ledger.stats import snapshot

if TYPE_CHECKING:
    from pathlib import Path

    from aitp.settings import Settings


@contextmanager
def open_ledger(settings: Settings) -> Iterator[Ledger]:
    """The ledger, to change something in it. Raises LedgerError if there is none, or one of another version."""
    snapshot(settings.ledger_path)  # says so clearly, and makes none
    ledger = Ledger.open(settings.ledger_path, LedgerConfig.of(settings))
    try:
        yield ledger
    finally:
        ledger.close()


def scoreboard_of(settings: Settings) -> Path:
    """Where the master and its children say what they do."""
    return settings.runtime_dir / "scoreboard"
