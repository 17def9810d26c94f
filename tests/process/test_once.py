"""`aitp once` before its work begins: it keeps the master's place from its first look on."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from aitp.errors import LedgerError
from aitp.ledger import SlotLocks
from aitp.process import once
from aitp.process.scoreboard import MASTER
from aitp.process.service import prepare_service
from aitp.settings import Settings
from tests.process.forks import in_child
from tests.taskapi.desk import settings_for


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    place = str(tmp_path / "data" / "ledger.db")
    return settings_for("http://127.0.0.1:9", "http://127.0.0.1:9/token", tmp_path, RATE_LIMIT_STORAGE_PATH=place)


def masters_place(ledger: Path) -> int | None:
    """Who has it, as another process sees it."""
    holder: int | None = in_child(lambda: SlotLocks(ledger).holder(MASTER))
    return holder


def test_the_masters_place_is_held_from_the_first_look_to_the_end(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    held: list[int | None] = []

    def note(*_: object, **__: object) -> int:
        held.append(masters_place(settings.ledger_path))
        return 0

    def noted_prepare(settings: Settings, locks: SlotLocks) -> None:
        note()
        prepare_service(settings, locks)

    monkeypatch.setattr(once, "prepare_service", noted_prepare)
    monkeypatch.setattr(once, "look_after_models", note)
    monkeypatch.setattr(once._Run, "drive", note)

    assert once.run_once(settings) == 0
    assert held == [os.getpid()] * 3
    assert masters_place(settings.ledger_path) is None


def test_beside_a_service_nothing_is_published(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    def running() -> None:
        with SlotLocks(settings.ledger_path) as locks:
            assert locks.acquire(MASTER, 0)
            in_child(refused)

    def refused() -> None:
        monkeypatch.setattr(once, "prepare_service", lambda *_: os._exit(3))
        with pytest.raises(LedgerError, match="is in use"):
            once.run_once(settings)

    in_child(running)
