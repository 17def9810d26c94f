"""RATE_LIMIT_PER_MINUTE, judged by the provider's own record, over several workers and across a restart."""

from __future__ import annotations

import pytest

from tests.end_to_end.running import Service

LIMIT, WINDOW_SECONDS = 30, 60.0
WORKERS = 5
# Room is there when an attempt is as old as the window, and to be used within a second.
PROMPT_SECONDS = 1.0


def start(service: Service, tasks: int) -> None:
    service.open_world(tasks, openai_api={"latency_seconds": 0.1})
    # Smaller batches than a fair share would be: several workers meet at the gate.
    service.start(
        CONCURRENCY_LIMIT=WORKERS, EMBEDDING_BATCH_SIZE=4, RATE_LIMIT_ENABLED="true", RATE_LIMIT_PER_MINUTE=LIMIT
    )


def no_window_exceeds(service: Service) -> None:
    sent = sorted(purchase.received_wall for purchase in service.world.purchases())
    spans = [late - early for early, late in zip(sent, sent[LIMIT:], strict=False)]
    assert min(spans, default=WINDOW_SECONDS) >= WINDOW_SECONDS


def test_the_first_window_is_used_up_and_no_more_across_a_restart(service: Service) -> None:
    start(service, 75)
    service.await_states(succeeded=LIMIT, pending=75 - LIMIT)
    service.await_idle()
    [warning] = service.said("Rate limit exceeded, skipping task processing")
    assert (warning["period"], warning["current"], warning["limit"]) == ("minute", LIMIT, LIMIT)
    assert 50 < warning["frees_in_seconds"] <= 60

    assert service.stop() == 0
    service.start()
    service.wait(lambda: service.snapshot().last_poll_at, what="no poll")
    service.await_idle()

    assert service.world.summary().calls_in_flight == 0
    assert len(service.world.purchases()) == LIMIT
    assert service.world.states() == {"succeeded": LIMIT, "pending": 75 - LIMIT}
    assert (service.snapshot().limits["minute"].current, service.snapshot().limits["minute"].remaining) == (LIMIT, 0)
    assert len(service.said("Rate limit exceeded")) == 1  # once a window, restart or not


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("restart", [False, True])
def test_every_window_is_used_up_and_none_exceeded(service: Service, restart: bool) -> None:
    tasks = 75
    start(service, tasks)
    service.await_states(succeeded=LIMIT, pending=tasks - LIMIT)
    if restart:
        service.kill_everything()
        service.start()
    service.await_states(timeout=2.5 * WINDOW_SECONDS, succeeded=tasks)

    purchases = service.world.purchases()
    assert len(purchases) == tasks
    no_window_exceeds(service)
    ended = sorted(purchase.ended_monotonic for purchase in purchases)
    sent = sorted(purchase.received_monotonic for purchase in purchases)
    late = [late - early - WINDOW_SECONDS for early, late in zip(ended, sent[LIMIT:], strict=False)]
    assert max(late) <= PROMPT_SECONDS, sorted(late)[-5:]
