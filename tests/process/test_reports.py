"""When a process says that it stops taking new work, for want of disk or of an upgrade, and that it goes on."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from aitp import logs
from aitp.ledger.claims import IdleReason
from aitp.process.reports import IntakeWatch

STOPS, GOES_ON = "warning", "info"
DISK, PAUSED, IDLE, AT_WORK = IdleReason.DISK, IdleReason.PAUSED, IdleReason.NOTHING_READY, None
UPGRADE = IdleReason.UPGRADE

TABLE = [
    ("with room nothing is said", [(AT_WORK, 0), (IDLE, 5), (PAUSED, 10)], []),
    ("each look at a full disk after the first is silent", [(DISK, 0), (DISK, 5), (DISK, 500)], [STOPS]),
    ("work goes on", [(DISK, 0), (AT_WORK, 5), (AT_WORK, 10)], [STOPS, GOES_ON]),
    ("work may go on with nothing to do", [(DISK, 0), (IDLE, 5), (IDLE, 10)], [STOPS, GOES_ON]),
    ("paused, nobody looks at the disk", [(DISK, 0), (PAUSED, 5), (DISK, 10)], [STOPS]),
    ("around the bound", [(DISK, 0), (IDLE, 5), (DISK, 10), (IDLE, 15), (DISK, 20)], [STOPS, GOES_ON]),
    ("outdated, it stops once and for all", [(AT_WORK, 0), (UPGRADE, 5), (UPGRADE, 500)], [STOPS]),
    ("around the bound, and then full", [(DISK, 0), (IDLE, 5), (DISK, 10), (DISK, 60)], [STOPS, GOES_ON, STOPS]),
]


@pytest.mark.parametrize(("looks", "said"), [row[1:] for row in TABLE], ids=[row[0] for row in TABLE])
def test_what_is_said_of_new_work_that_is_not_taken(
    looks: list[tuple[IdleReason | None, float]], said: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    logs.configure("INFO", "json")
    watch = IntakeWatch(Path("/data/ledger.db"), "polling")

    for because, now in looks:
        watch.heed(because, 1000.0 + now)

    lines = [json.loads(line) for line in capfd.readouterr().out.splitlines()]
    assert [line["level"] for line in lines] == said
    assert all("polling" in (line.get("stopped"), line.get("goes_on")) for line in lines)
