"""What the tests of this package share. They run in a clone of aitp, with this package installed beside it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from jev_stub import KEY, Jev

from tests import forkserver
from tests.end_to_end.running import Service

forkserver.install()


@pytest.fixture
def jev() -> Iterator[Jev]:
    with Jev() as jev:
        yield jev
    assert jev.faults == []


@pytest.fixture
def service(tmp_path: Path, jev: Jev) -> Iterator[Service]:
    """aitp with Jev, not started yet; its world is open."""
    service = Service(tmp_path)
    service.open_world()
    service.configure(
        TYPESAFE_API_KEY=KEY, JEV_BASE_URL=jev.url, WIKIDATA_ENABLED="false", JEV_BACKOFF_SECONDS="[0.2, 0.4]"
    )
    try:
        yield service
    finally:
        service.clear()
