"""Every task is delivered, and each text bought once: by the master, by supervisord with all programs, by `once`."""

from __future__ import annotations

import statistics
import time

import pytest

from aitp.demo.faults import Fault
from tests.end_to_end.running import Service, threads
from tests.waiting import patience

LATENCY = 0.1


def all_delivered_once(service: Service, tasks: int, workers: int) -> None:
    summary = service.world.summary()
    assert summary.states == {"succeeded": tasks}
    assert (summary.texts_bought, summary.bought_again) == (tasks, 0)
    assert (summary.deliveries, summary.delivered_again, summary.wrong_results) == (tasks, 0, 0)
    assert summary.most_calls_at_once <= workers


def test_every_task_is_delivered_and_each_text_bought_once(service: Service) -> None:
    service.open_world(100, openai_api={"latency_seconds": LATENCY}, task_api={"lag_seconds": 1})

    service.start(CONCURRENCY_LIMIT=4, EMBEDDING_BATCH_SIZE=8)
    service.await_states(succeeded=100)

    board = service.board()
    assert len(board) == 1 + 2 + 4
    assert {slot: threads(record.pid) for slot, record in board.items()} == dict.fromkeys(board, 1)
    assert service.stop() == 0
    all_delivered_once(service, 100, 4)
    assert service.pids() == []
    assert service.snapshot().held == 0


@pytest.mark.parametrize("honour_limit", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_a_short_page_is_followed_by_the_next(service: Service, honour_limit: bool) -> None:
    service.open_world(60, task_api={"honour_limit": honour_limit})

    # Two workers ask for no more than a few tasks at a time, and the inbox takes no more.
    service.start(CONCURRENCY_LIMIT=2, EMBEDDING_BATCH_SIZE=4, INBOX_LIMIT=20)

    service.await_states(succeeded=60)
    all_delivered_once(service, 60, 2)


def test_supervisord_runs_all_of_it(service: Service) -> None:
    service.open_world(40, openai_api={"latency_seconds": LATENCY})

    service.start("run")
    service.await_states(succeeded=40)

    service.wait(lambda: (service.get("/ready") or (0, ""))[0] == 200, what="not ready")
    assert (service.get("/health") or (0, ""))[0] == 200
    status, metrics = service.get("/metrics") or (0, "")
    assert status == 200
    assert 'ai_tasks_processed_total{status="succeeded",task_type="text_embedding"} 40.0' in metrics
    assert service.stop() == 0
    all_delivered_once(service, 40, 3)
    assert service.pids() == []


def test_once_does_all_there_is_and_ends(service: Service) -> None:
    service.open_world(50)

    assert service.run("once", EMBEDDING_BATCH_SIZE=8) == 0

    all_delivered_once(service, 50, 1)
    assert service.snapshot().held == 0


def test_once_leaves_to_the_next_run_what_waits_for_long(service: Service) -> None:
    world = service.open_world(15)

    assert service.run("once", RATE_LIMIT_ENABLED="true", RATE_LIMIT_PER_MINUTE=0, RATE_LIMIT_PER_HOUR=10) == 1

    assert world.states() == {"succeeded": 10, "pending": 5}
    [told] = service.said("Work is left for the next run")
    assert (told["done"], told["left"]) == (10, 5)


def test_once_that_may_not_poll_does_not_say_that_nothing_is_left(service: Service) -> None:
    world = service.open_world()
    assert service.run("once") == 0
    assert service.run("pause") == 0
    world.add_tasks(3)

    assert service.run("once") == 1

    [told] = service.said("Work may be left for the next run, the task API was not polled")
    assert "`aitp resume`" in told["reason"]
    assert len(service.said("Nothing is left to do")) == 1
    assert service.run("resume") == 0
    assert service.run("once") == 0
    assert world.states() == {"succeeded": 3}


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_once_gives_up_on_a_service_that_stays_away(service: Service) -> None:
    service.open_world(5).add_fault("openai_api", Fault(status=503))

    assert service.run("once", timeout=150, CIRCUIT_BREAKER_RECOVERY_SECONDS=10) == 1

    assert service.snapshot().held == 5


def test_once_told_to_stop_ends_its_call_and_delivers(service: Service) -> None:
    world = service.open_world(20, openai_api={"latency_seconds": 1})
    service.start("once", wait=False, EMBEDDING_BATCH_SIZE=4)
    service.wait(lambda: world.summary().calls_in_flight, what="no call")

    assert service.stop() == 1  # some are left

    assert world.states() == {"succeeded": 4, "pending": 16}
    assert world.summary().bought_again == 0


def test_once_keeps_out_of_a_running_services_way(service: Service) -> None:
    service.open_world()
    service.start()

    assert service.run("once") == 1
    assert "a service runs on this ledger" in service.log()

    assert len(service.said("Child left")) == 0


def test_a_new_task_for_an_idle_service_is_delivered_within_an_interval(service: Service) -> None:
    world = service.open_world(3, openai_api={"latency_seconds": LATENCY})
    service.start(POLLING_INTERVAL_SECONDS=1)
    service.await_states(succeeded=3)
    waits = []
    for count in range(4, 7):
        service.await_idle()
        added = time.monotonic()
        [task_id] = world.add_tasks(1)
        service.await_states(succeeded=count)
        [delivery] = [d for d in world.deliveries() if d.task_id == task_id]
        waits.append(delivery.received_monotonic - added)

    assert statistics.median(waits) <= patience(1.2 + LATENCY), waits
    assert max(waits) <= patience(2.0 + LATENCY), waits
