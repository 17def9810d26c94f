"""TERM: calls in flight end and are delivered if the grace lets them; else they go back, and the log says so."""

from __future__ import annotations

import signal
import time

import pytest

from tests.end_to_end.running import Service
from tests.waiting import patience

BEYOND_GRACE = "may be bought again"


@pytest.mark.parametrize(
    ("command", "latency", "grace"),
    [
        ("master", 3.0, 8),
        pytest.param("run", 7.0, 30, marks=pytest.mark.slow),
        pytest.param("master", 7.0, 30, marks=pytest.mark.slow),
    ],
)
def test_calls_in_flight_end_and_are_delivered(service: Service, command: str, latency: float, grace: int) -> None:
    world = service.open_world(30, openai_api={"latency_seconds": latency})
    service.start(command, CONCURRENCY_LIMIT=3, EMBEDDING_BATCH_SIZE=2, SHUTDOWN_GRACE_SECONDS=grace)
    service.wait(lambda: world.summary().calls_in_flight == 3, what="not all workers are in a call")
    before = service.world.states().get("succeeded", 0)
    assert before == 0

    began = time.monotonic()
    assert service.stop() == 0

    assert time.monotonic() - began < patience(grace)
    assert world.states() == {"succeeded": 6, "pending": 24}
    assert world.summary().bought_again == 0
    state = service.snapshot()
    assert (state.ready, state.claimed, state.finished) == (24, 0, 0)
    assert service.pids() == []
    assert BEYOND_GRACE not in service.log()


@pytest.mark.parametrize(("command", "margin"), [("master", 0.5), pytest.param("run", 3.0, marks=pytest.mark.slow)])
def test_calls_beyond_the_grace_go_back_and_a_restart_makes_them_again(
    service: Service, command: str, margin: float
) -> None:
    """`margin`: supervisord looks around once a second, and stops the metrics process last."""
    grace = 2
    world = service.open_world(12, openai_api={"latency_seconds": 60})
    service.start(command, CONCURRENCY_LIMIT=3, EMBEDDING_BATCH_SIZE=2, SHUTDOWN_GRACE_SECONDS=grace)
    service.wait(lambda: world.summary().calls_in_flight == 3, what="not all workers are in a call")

    began = time.monotonic()
    assert service.stop() == 0

    assert time.monotonic() - began < patience(grace + margin)
    assert BEYOND_GRACE in service.log()
    state = service.snapshot()
    assert (state.ready, state.claimed, state.finished) == (12, 0, 0)
    assert service.pids() == []
    world.set("openai_api", latency_seconds=0.1)
    service.start(command)
    service.await_states(succeeded=12)


def test_quit_ends_at_once_and_a_restart_makes_the_calls_again(service: Service) -> None:
    world = service.open_world(6, openai_api={"latency_seconds": 60})
    service.start(EMBEDDING_BATCH_SIZE=2)
    service.wait(lambda: world.summary().calls_in_flight == 3, what="not all workers are in a call")

    began = time.monotonic()
    service.signal(signal.SIGQUIT)
    assert service.process is not None
    assert service.process.wait(10) == 0
    assert time.monotonic() - began < patience(2)

    world.set("openai_api", latency_seconds=0.1)
    service.start()
    service.await_states(succeeded=6)
    assert service.said("Task processing failed") == []


def test_results_in_the_outbox_are_delivered_before_the_end(service: Service) -> None:
    world = service.open_world(18, task_api={"latency_seconds": 0.2, "list_seconds": 0.0})
    service.start(EMBEDDING_BATCH_SIZE=6)
    service.wait(lambda: service.snapshot().finished > 9, what="no outbox")

    assert service.stop() == 0

    assert service.snapshot().finished == 0
    assert world.summary().states.get("succeeded", 0) == world.summary().texts_bought
