"""Wikidata, and somebody who looks things up in it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from aitp.demo.wikidata_api import WikidataApi
from aitp.knowledge import wikidata
from tests.knowledge.desk import Desk


@pytest.fixture(autouse=True)
def own_turns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Other tests ask at the same time."""
    monkeypatch.setattr(wikidata, "TURNS", tuple(f"\0{tmp_path} {number}" for number in range(3)))


@pytest.fixture
def server() -> Iterator[WikidataApi]:
    with WikidataApi(made_up=120) as server:
        yield server


@pytest.fixture
def desk(server: WikidataApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Desk]:
    monkeypatch.setattr(wikidata, "CALLS", 10_000)  # no waiting for turns
    desk = Desk(server, tmp_path / "ledger.db")
    yield desk
    desk.close()
