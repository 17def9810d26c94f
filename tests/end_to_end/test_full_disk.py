"""A disk that is nearly full: nothing is polled and claimed, which is said once, and it goes on when there is room."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from aitp.ledger.engine import DISK_RESERVE_BYTES
from tests.end_to_end.running import Service

DISK_MEGABYTES = 160  # above the reserve that the ledger keeps free


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


def fill(disk: Path) -> Path:
    """Leave less than the reserve, and enough for what is written all the same. Returns what is to be removed."""
    ballast = disk / "ballast"
    ballast.write_bytes(bytes(DISK_MEGABYTES * 2**20 - DISK_RESERVE_BYTES // 2))
    return ballast


def test_each_process_says_once_that_it_stops_and_once_that_it_goes_on(service: Service, disk: Path) -> None:
    service.open_world(3)
    ballast = fill(disk)
    service.start(CONCURRENCY_LIMIT=2, RELAY_PROCESSES=1)
    slots = sorted(child.slot for child in service.crew())
    service.wait(lambda: len(service.said("Ledger's disk is nearly full")) == 3, what="not said by all")
    ballast.unlink()

    service.await_states(succeeded=3)
    service.wait(lambda: len(service.said("Ledger's disk has room again")) >= 3, what="not said by all")
    for event in ("Ledger's disk is nearly full", "Ledger's disk has room again"):
        assert sorted(line["slot"] for line in service.said(event)) == slots


def test_once_polls_nothing_and_says_why_while_the_disk_is_nearly_full(service: Service, disk: Path) -> None:
    world = service.open_world(3)
    fill(disk)

    assert service.run("once") == 1

    [told] = service.said("Work may be left for the next run, the task API was not polled")
    assert "less than 64 MB are free on the ledger's disk" in told["reason"]
    assert world.states() == {"pending": 3}


def test_once_does_not_wait_for_a_disk_that_filled_up_while_it_holds_tasks(service: Service, disk: Path) -> None:
    service.open_world(3)
    assert service.run("once", RATE_LIMIT_ENABLED="true", RATE_LIMIT_PER_MINUTE=0, RATE_LIMIT_PER_HOUR=1) == 1
    fill(disk)

    assert service.run("once", RATE_LIMIT_PER_HOUR=0, timeout=20) == 1

    [_, told] = service.said("Work is left for the next run")
    assert (told["done"], told["left"]) == (0, 2)
    assert "less than 64 MB are free on the ledger's disk" in told["reason"]
