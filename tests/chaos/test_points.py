"""kill -9 between every two steps of a task's life: nothing is lost, nothing is bought again that was on record."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from aitp.demo.documents import TYPES
from aitp.process.scoreboard import Role
from tests.chaos.points import AT_TAKEOVER, COMMON, OF_CHATS, POINTS
from tests.chaos.run import Performance
from tests.chaos.schedule import Schedule
from tests.chaos.stage import Stage
from tests.chaos.work import Work

SETTINGS = {
    "CONCURRENCY_LIMIT": 3,
    "RELAY_PROCESSES": 2,
    "EMBEDDING_BATCH_SIZE": 2,
    "POLLING_INTERVAL_SECONDS": 0.5,
    "MAX_TASK_CRASHES": 100,
    "SHUTDOWN_GRACE_SECONDS": 5,
}
QUIET = Schedule(0, SETTINGS, {"openai_api": {"latency_seconds": 0.05}}, loads=(), acts=(), work=Work(types=TYPES))
STRIKE_SECONDS = 15.0


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    stage = Stage(tmp_path)
    try:
        yield stage
    finally:
        stage.clear()


def strike(stage: Stage, performance: Performance, point: str) -> None:
    """Have the next process that comes to `point` killed, and see to it that one comes."""
    stage.controls.arm(point)
    give_up = time.monotonic() + STRIKE_SECONDS
    fed = 0.0
    while point not in stage.controls.struck():
        assert time.monotonic() < give_up, f"nobody came to {point}"
        if time.monotonic() > fed + 0.5:
            fed = time.monotonic()
            performance.load(6)
        if point in AT_TAKEOVER:
            stage.kill([child.pid for child in stage.crew(Role.WORKER) if child.task_id][:1])
        time.sleep(0.01)


def test_tasks_whose_relay_died_before_it_rang_for_workers_do_not_wait_for_the_next_poll(stage: Stage) -> None:
    performance = Performance(stage, QUIET)
    performance.begin()
    stage.controls.arm("admit.after")

    performance.load(6)

    stage.wait(lambda: stage.controls.struck(), what="nobody came to admit.after")
    stage.await_states(timeout=STRIKE_SECONDS, succeeded=6)


def test_a_kill_between_any_two_steps(stage: Stage) -> None:
    performance = Performance(stage, QUIET)
    performance.begin()

    for point in (*COMMON, *OF_CHATS, *AT_TAKEOVER):
        strike(stage, performance, point)

    assert performance.conclude() == []
    assert set(stage.controls.struck()) == set(POINTS)
