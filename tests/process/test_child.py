"""What a child knows of itself: waiting and being woken, without a wake-up being lost."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from aitp.ledger.locks import SlotLocks
from aitp.process.child import Child, Inherited, Timings
from aitp.process.scoreboard import Notifier, Record, Scoreboard, State
from aitp.settings import PROJECT_ROOT, Settings, load_settings
from tests.process.forks import in_child
from tests.process.house import House
from tests.waiting import patience


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    house = House(tmp_path)
    house.settings(SHUTDOWN_GRACE_SECONDS=0.3)
    return load_settings(house.environment())


@pytest.fixture
def inherited(settings: Settings, tmp_path: Path) -> Iterator[Inherited]:
    """What a master would hand on, with bells for a relay and three workers."""
    notifier = Notifier()
    for slot in (1, 101, 102, 103):
        notifier.install(slot)
    read, write = os.pipe()
    with SlotLocks(settings.rate_limit_storage_path) as locks:
        yield Inherited(Scoreboard.create(tmp_path / "scoreboard"), notifier, read, write, locks, Timings())
    os.close(read)


@pytest.fixture
def child(settings: Settings, inherited: Inherited) -> Child:
    return Child(101, settings, inherited)


def waits(child: Child, seconds: float, line: int | None = None) -> float:
    """How long the child slept."""
    started = time.monotonic()
    child.wait(time.time() + seconds, line)
    return time.monotonic() - started


def test_a_wait_ends_at_its_time_and_not_before(child: Child) -> None:
    assert 0.2 <= waits(child, 0.2) < patience(1)


def test_a_wait_for_a_moment_that_is_past_does_not_sleep(child: Child) -> None:
    assert waits(child, -5) < patience(0.1)


def test_a_ring_before_the_wait_is_not_lost_and_rings_once(child: Child, inherited: Inherited) -> None:
    inherited.notifier.notify(101)
    assert waits(child, 10) < patience(1)
    assert waits(child, 0.2) >= 0.2


def test_a_line_that_can_be_read_ends_a_wait_and_no_other_one(child: Child) -> None:
    read, write = os.pipe()
    assert waits(child, 0.2, read) >= 0.2
    os.write(write, b".")
    assert waits(child, 10, read) < patience(1)
    assert waits(child, 0.2) >= 0.2
    os.close(write)
    assert waits(child, 10, read) < patience(1)
    os.close(read)


def test_a_waiting_child_may_sleep_past_its_usual_step(child: Child, inherited: Inherited) -> None:
    child.idle()
    inherited.notifier.notify(101)
    child.wait()
    assert inherited.board.read(101).deadline > time.monotonic() + 110


def test_wakers_ring_idle_ones_only_and_not_themselves(child: Child, inherited: Inherited) -> None:
    for slot, state in ((1, State.IDLE), (101, State.IDLE), (102, State.BUSY), (103, State.IDLE)):
        inherited.board.write(Record(slot, state=state))
    child.wake_workers(3)
    assert [inherited.notifier.drain(slot) for slot in (1, 101, 102, 103)] == [0, 0, 0, 1]
    child.wake_relays()
    assert inherited.notifier.drain(1) == 1


def test_as_many_are_woken_as_there_is_work_for(child: Child, inherited: Inherited) -> None:
    for slot in (102, 103):
        inherited.board.write(Record(slot, state=State.IDLE))
    child.wake_workers(1)
    assert sum(inherited.notifier.drain(slot) for slot in (102, 103)) == 1


def test_a_second_ring_in_one_sleep_goes_on_to_another_idle_child(child: Child, inherited: Inherited) -> None:
    inherited.board.write(Record(102, state=State.IDLE))
    inherited.notifier.notify(101)
    inherited.notifier.notify(101)
    child.wait()
    assert inherited.notifier.drain(102) == 1


def test_a_ring_that_finds_its_child_busy_goes_on_to_an_idle_one(child: Child, inherited: Inherited) -> None:
    inherited.board.write(Record(103, state=State.IDLE))
    child.idle()
    inherited.notifier.notify(101)
    with child.call("task-1", 5):
        assert inherited.notifier.drain(103) == 1


def test_a_waker_looks_again_after_it_rang(child: Child, inherited: Inherited, monkeypatch: pytest.MonkeyPatch) -> None:
    for slot in (102, 103):
        inherited.board.write(Record(slot, state=State.IDLE))
    notify = inherited.notifier.notify

    def turns_busy_first(slot: int) -> None:
        if slot == 102:
            inherited.board.write(Record(102, state=State.BUSY))
        notify(slot)

    monkeypatch.setattr(inherited.notifier, "notify", turns_busy_first)
    child.wake_workers(1)
    assert inherited.notifier.drain(103) == 1


def test_a_call_shows_on_the_scoreboard(child: Child, inherited: Inherited) -> None:
    def calls() -> list[Any]:
        child.idle()
        with child.call("65f0c0ffee", 7):
            during = inherited.board.read(101)
        child.count_done(3)
        after = inherited.board.read(101)
        return [during.state.name, during.task_id, during.deadline - time.monotonic(), after.task_id, after.done]

    state, task_id, left, task_id_after, done = in_child(calls)
    assert (state, task_id, task_id_after, done) == ("BUSY", "65f0c0ffee", "", 3)
    assert 6 < left < 7


def test_the_masters_death_wakes_and_asks_to_leave(child: Child, inherited: Inherited) -> None:
    assert not child.leaving
    os.close(inherited.death_pipe_end)
    assert waits(child, 10) < patience(1)
    assert child.leaving


def test_a_draining_master_is_seen(child: Child, inherited: Inherited) -> None:
    assert not child.draining
    inherited.board.write(Record(0, state=State.DRAINING))
    assert child.draining


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_to_leave_ends_the_sleep(child: Child, signum: int) -> None:
    def sleeps() -> list[Any]:
        child.listen()
        os.kill(os.getpid(), signum)
        return [waits(child, 10) < patience(1), waits(child, 10) < patience(1), child.leaving]

    assert in_child(sleeps) == [True, True, True]


def test_a_signal_to_poll_ends_the_sleep_once(child: Child) -> None:
    def sleeps() -> list[Any]:
        child.listen()
        os.kill(os.getpid(), signal.SIGUSR1)
        return [waits(child, 10) < patience(1), waits(child, 0.2) >= 0.2, child.poll_asked, child.leaving]

    assert in_child(sleeps) == [True, True, True, False]


def test_a_term_from_anyone_lets_the_call_in_hand_end(child: Child) -> None:
    def calls() -> list[Any]:
        child.listen()
        with child.call("task-1", 60):
            os.kill(os.getpid(), signal.SIGTERM)
            ended = select.select([], [], [], 0.2)
        return [ended == ([], [], []), child.leaving]

    assert in_child(calls) == [True, True]


def test_what_a_child_allocates_copies_next_to_no_pages_of_its_master() -> None:
    def faults(*words: str) -> int:
        command = [sys.executable, "-m", "tests.process.holes", *words]
        return int(subprocess.run(command, cwd=PROJECT_ROOT, capture_output=True, text=True, check=True).stdout)

    assert faults() > 400, "there are no holes: this shows nothing"
    assert faults("shared") < 250  # half a megabyte, which stands together
