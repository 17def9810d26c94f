from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.process.house import House, Stage


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    """A place to run masters in; all that was started is gone afterwards."""
    house = House(tmp_path)
    yield house
    house.clear()


@pytest.fixture
def stage() -> Iterator[Stage]:
    with tempfile.TemporaryDirectory(prefix="aitp-") as directory:  # short: there are sockets in it
        stage = Stage(Path(directory))
        yield stage
        stage.clear()
