"""kill -9 in the middle of work: nothing lost, nothing bought again but the calls in flight, never too many calls.

Each victim once; ten times each with `pytest -m slow`.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from aitp.process.scoreboard import MASTER, Role
from tests.end_to_end.running import Service, alive

WORKERS, BATCH = 3, 4
TASKS_A_ROUND = 36
TEN_TIMES = [pytest.mark.slow, pytest.mark.timeout(900)]
TIMES = [1, pytest.param(10, marks=TEN_TIMES)]
# A service under supervisord takes as much CPU to start as all else that such a test does, ten times.
BY_HAND_OR_TEN_TIMES = [(1, "master"), pytest.param(10, "run", marks=TEN_TIMES)]


def kill_again_and_again(service: Service, times: int, kill: Callable[[], None], command: str = "run") -> None:
    """Let it work, kill in the middle, see it come back; then let it end all the work there is."""
    world = service.open_world(0, openai_api={"latency_seconds": 0.4}, task_api={"latency_seconds": 0.05})
    service.start(
        command,
        CONCURRENCY_LIMIT=WORKERS,
        EMBEDDING_BATCH_SIZE=BATCH,
        SHUTDOWN_GRACE_SECONDS=10,
        MAX_TASK_CRASHES=20,  # a task that is hit time and again is not to pass for poison
    )
    for round_ in range(times):
        world.add_tasks(TASKS_A_ROUND)
        service.await_bought(round_ * TASKS_A_ROUND + 2 * BATCH)
        kill()
        service.await_crew()
    service.await_states(timeout=50 + 10 * times, succeeded=times * TASKS_A_ROUND)


def nothing_lost(service: Service, tasks: int, bought_again: int) -> None:
    summary = service.world.summary()
    told = service.told()
    assert summary.states == {"succeeded": tasks}, told
    assert summary.wrong_results == 0, told
    assert summary.bought_after_delivery == 0, told
    assert summary.bought_again <= bought_again, told
    assert summary.most_calls_at_once <= WORKERS, told
    service.await_idle()
    assert service.snapshot().held == 0


@pytest.mark.parametrize("times", TIMES)
def test_a_worker(service: Service, times: int) -> None:
    def kill() -> None:
        service.kill([service.busy(Role.WORKER).pid])

    kill_again_and_again(service, times, kill, "master")

    nothing_lost(service, times * TASKS_A_ROUND, bought_again=times * BATCH)
    assert len(service.said("Child died", cause="crashed")) == times


@pytest.mark.parametrize("times", TIMES)
def test_a_relay(service: Service, times: int) -> None:
    def kill() -> None:
        service.kill([service.busy(Role.RELAY).pid])

    kill_again_and_again(service, times, kill, "master")

    nothing_lost(service, times * TASKS_A_ROUND, bought_again=0)


@pytest.mark.parametrize(("times", "command"), BY_HAND_OR_TEN_TIMES)
def test_the_master(service: Service, times: int, command: str) -> None:
    """Its children finish what they have in hand, and supervisord starts another one (here by hand)."""

    def kill() -> None:
        service.busy(Role.WORKER)
        master = service.board()[MASTER]
        service.kill([master.pid])
        if command == "master":
            service.start(command, wait=False)
        service.wait(lambda: service.board().get(MASTER, master).pid != master.pid, what="no new master")

    kill_again_and_again(service, times, kill, command)

    nothing_lost(service, times * TASKS_A_ROUND, bought_again=0)


@pytest.mark.parametrize("times", TIMES)
def test_supervisord(service: Service, times: int) -> None:
    """Started again at once, the new master waits for the old one, which stops as its parent is gone."""

    def kill() -> None:
        assert service.process is not None
        service.busy(Role.WORKER)
        before = service.pids()
        service.process.kill()
        service.process.wait()
        service.start("run", wait=False)
        service.wait(lambda: not any(map(alive, before)), what="orphans stay")

    kill_again_and_again(service, times, kill)

    nothing_lost(service, times * TASKS_A_ROUND, bought_again=0)


@pytest.mark.parametrize(("times", "command"), BY_HAND_OR_TEN_TIMES)
def test_everything(service: Service, times: int, command: str) -> None:
    def kill() -> None:
        service.busy(Role.WORKER)
        service.kill_everything()
        service.start(command, wait=False)

    kill_again_and_again(service, times, kill, command)

    nothing_lost(service, times * TASKS_A_ROUND, bought_again=times * WORKERS * BATCH)
