"""The one fixture of this room: a service that is not started yet, and of which nothing is left afterwards."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.end_to_end.running import Service


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    """Its world first (`open_world`), then `start`."""
    service = Service(tmp_path)
    try:
        yield service
    finally:
        service.clear()
    assert service.pids() == []
