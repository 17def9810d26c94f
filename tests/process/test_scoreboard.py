"""The scoreboard: what is written is read, and no content makes a reader fail."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aitp.process.scoreboard import (
    LAST_SLOT,
    RECORD_BYTES,
    Record,
    Role,
    Scoreboard,
    State,
    glance,
    living_master,
    role_of,
    slots_of,
)

BUSY = Record(LAST_SLOT, 4711, State.BUSY, started=1.5, since=2.5, deadline=3.5, done=6, task_id="65f0c0ffee")


def test_what_is_written_is_read_by_writers_and_by_those_who_glance(tmp_path: Path) -> None:
    board = Scoreboard.create(tmp_path / "scoreboard")
    board.write(BUSY)
    assert board.read(LAST_SLOT) == BUSY
    assert Scoreboard(tmp_path / "scoreboard").read(BUSY.slot) == BUSY
    assert glance(tmp_path / "scoreboard") == [BUSY]


def test_a_new_scoreboard_leaves_the_old_ones_writers_alone(tmp_path: Path) -> None:
    old = Scoreboard.create(tmp_path / "scoreboard")
    Scoreboard.create(tmp_path / "scoreboard")
    old.write(BUSY)
    assert glance(tmp_path / "scoreboard") == []


def test_the_file_is_allocated_so_that_a_full_disk_cannot_kill_a_writer(tmp_path: Path) -> None:
    Scoreboard.create(tmp_path / "scoreboard")
    status = (tmp_path / "scoreboard").stat()
    assert status.st_blocks * 512 >= status.st_size == RECORD_BYTES * (LAST_SLOT + 2)


def test_ids_cannot_forge_lines_and_long_ones_are_cut(tmp_path: Path) -> None:
    board = Scoreboard.create(tmp_path / "scoreboard")
    board.write(Record(1, 1, State.BUSY, task_id="a\n\x1b[31mb" + "c" * 100))
    assert board.read(1).task_id == "a??[31mb" + "c" * 56


def test_glancing_at_nothing_sees_nothing(tmp_path: Path) -> None:
    assert glance(tmp_path / "scoreboard") == []
    assert glance(tmp_path) == []


@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    garbage=st.binary(max_size=300), slot=st.integers(0, LAST_SLOT), cut=st.integers(0, RECORD_BYTES * (LAST_SLOT + 2))
)
def test_no_content_makes_a_reader_fail(tmp_path: Path, garbage: bytes, slot: int, cut: int) -> None:
    path = tmp_path / "scoreboard"
    board = Scoreboard.create(path)
    board.write(BUSY)
    with path.open("r+b") as file:
        file.seek(RECORD_BYTES * (slot + 1))
        file.write(garbage)
        file.truncate(max(cut, file.tell()))
    for record in glance(path):
        assert record.task_id.isprintable()
        assert record.overdue(time.monotonic()) in (True, False)
    board.close()


def test_a_reader_beside_a_writer_never_sees_half_a_record(tmp_path: Path) -> None:
    board = Scoreboard.create(tmp_path / "scoreboard")
    writer = os.fork()
    if writer == 0:
        for number in range(10**9):
            at = float(number)
            board.write(Record(7, number % 1000, State.BUSY, at, at, at + 1, number, str(number)))
    try:
        seen = set()
        until = time.monotonic() + 0.5
        while time.monotonic() < until:
            for record in glance(tmp_path / "scoreboard"):
                assert record.task_id == str(record.done)
                assert record.started == record.since == record.deadline - 1 == record.done
                seen.add(record.done)
        assert len(seen) > 10
    finally:
        os.kill(writer, 9)
        os.waitpid(writer, 0)


@pytest.mark.parametrize(("deadline", "ticks"), [(100, True), (96, True), (94, False), (100 + 601, False)])
def test_a_master_ticks_until_its_next_tick_is_overdue(deadline: float, ticks: bool) -> None:
    master = Record(0, 1, State.RUNNING, deadline=deadline)
    assert living_master([BUSY, master], monotonic=100.0) == (master if ticks else None)


def test_without_a_masters_record_nobody_ticks() -> None:
    assert living_master([BUSY], monotonic=0.0) is None


def test_slots_belong_to_roles() -> None:
    assert list(slots_of(Role.RELAY, 2)) == [1, 2]
    assert list(slots_of(Role.WORKER, 1000))[-1] == LAST_SLOT
    assert {role_of(slot) for slot in slots_of(Role.RELAY, 99)} == {Role.RELAY}
    assert {role_of(slot) for slot in slots_of(Role.WORKER, 1000)} == {Role.WORKER}
    with pytest.raises(ValueError, match="belongs to no role"):
        role_of(0)
