"""`aitp once` beside a service: it does nothing at all."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from aitp.errors import LedgerError
from aitp.ledger.locks import SlotLocks
from aitp.process import once
from aitp.process.scoreboard import MASTER
from tests.process.forks import in_child
from tests.taskapi.desk import settings_for


def test_beside_a_service_nothing_is_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = str(tmp_path / "data" / "ledger.db")
    settings = settings_for("http://127.0.0.1:9", "http://127.0.0.1:9/token", tmp_path, RATE_LIMIT_STORAGE_PATH=place)

    def running() -> None:
        with SlotLocks(settings.rate_limit_storage_path) as locks:
            assert locks.acquire(MASTER, 0)
            in_child(refused)

    def refused() -> None:
        monkeypatch.setattr(once, "run_master", lambda *_: os._exit(3))
        with pytest.raises(LedgerError, match="is in use"):
            once.run_once(settings)

    in_child(running)
