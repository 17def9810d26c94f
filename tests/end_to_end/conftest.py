"""The one fixture of this room: a service that is not started yet, and of which nothing is left afterwards."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.end_to_end.running import Service

DISK_MEGABYTES = 160  # above the reserve that the ledger keeps free


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    """Its world first (`open_world`), then `start`."""
    service = Service(tmp_path)
    try:
        yield service
    finally:
        service.clear()
    assert service.pids() == []


@pytest.fixture
def disk(service: Service, tmp_path: Path) -> Iterator[Path]:
    """A small file system of its own, for the ledger of `service`, which is gone before it is."""
    place = tmp_path / "data"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={DISK_MEGABYTES}m", "tmpfs", str(place)]
    if subprocess.run(command, capture_output=True, check=False).returncode != 0:
        pytest.skip("needs the right to mount a tmpfs (root)")
    try:
        yield place
    finally:
        service.kill_everything()
        subprocess.run(["umount", str(place)], check=True)
