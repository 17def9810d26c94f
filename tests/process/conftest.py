from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.process.house import House


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    """A place to run masters in; all that was started is gone afterwards."""
    house = House(tmp_path)
    yield house
    house.clear()
