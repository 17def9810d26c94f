"""Real gateways in front of the task API and of the provider that answer by themselves for a while.

Whatever they say, it is not the task API's word: afterwards every result is delivered once, none is a dead letter, and
nothing was bought again.
"""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.end_to_end.conftest import service as service
from tests.end_to_end.running import Service
from tests.strangers.gateways import Gateway, Haproxy, Mood, Nginx

MINUTES = [pytest.mark.slow, pytest.mark.timeout(1200)]
MOODS = [mood for mood in Mood if mood is not Mood.PASSES]
BATCH = 9


@pytest.mark.parametrize(
    ("kind", "seconds", "recovery"),
    [
        pytest.param(Nginx, 0.5, 1.0, id="nginx, seconds"),
        pytest.param(Haproxy, 0.5, 1.0, id="haproxy, seconds", marks=pytest.mark.slow),
        pytest.param(Nginx, 60.0, 60.0, id="nginx, a minute", marks=MINUTES),
        pytest.param(Haproxy, 60.0, 60.0, id="haproxy, a minute", marks=MINUTES),
    ],
)
def test_a_gateway_before_the_task_api_that_answers_by_itself_costs_no_result(
    service: Service, tmp_path: Path, kind: type[Gateway], seconds: float, recovery: float
) -> None:
    world = service.open_world(openai_api={"latency_seconds": 0.3})
    with kind(tmp_path, world.environment["API_BASE_URL"]) as gateway:
        service.configure(RETRY_BACKOFF_FACTOR=1, CIRCUIT_BREAKER_RECOVERY_SECONDS=recovery)
        service.start(API_BASE_URL=gateway.url, CONCURRENCY_LIMIT=2, EMBEDDING_BATCH_SIZE=2)
        for count, mood in enumerate(MOODS):
            world.add_tasks(BATCH)
            service.wait(lambda: world.states().get("succeeded", 0) > count * BATCH, what="nothing delivered")  # noqa: B023

            gateway.become(mood)
            began = time.monotonic()
            service.await_bought((count + 1) * BATCH)
            service.wait(lambda: service.snapshot().breakers["api"].state == "open", 30, f"still closed: {mood.value}")
            service.wait(lambda: time.monotonic() - began > seconds, seconds + 10)  # noqa: B023
            gateway.become(Mood.PASSES)

            service.await_states(2 * recovery + 30, succeeded=(count + 1) * BATCH)
        assert service.snapshot().dead == 0
        summary = world.summary()
        assert (summary.bought_again, summary.delivered_again, summary.wrong_results) == (0, 0, 0)
        assert service.said("Task processing failed") == []


@pytest.mark.parametrize(
    ("kind", "moods"),
    [
        pytest.param(Haproxy, [Mood.REDIRECTS, Mood.LOGIN], id="haproxy, two moods"),
        pytest.param(Haproxy, MOODS, id="haproxy", marks=pytest.mark.slow),
        pytest.param(Nginx, MOODS, id="nginx", marks=pytest.mark.slow),
    ],
)
def test_a_gateway_before_the_provider_that_answers_by_itself_fails_no_task(
    service: Service, tmp_path: Path, kind: type[Gateway], moods: list[Mood]
) -> None:
    world = service.open_world()
    with kind(tmp_path, world.environment["OPENAI_BASE_URL"].removesuffix("/v1")) as gateway:
        service.configure(RETRY_BACKOFF_FACTOR=1, CIRCUIT_BREAKER_RECOVERY_SECONDS=1)
        service.start(OPENAI_BASE_URL=f"{gateway.url}/v1", CONCURRENCY_LIMIT=2, EMBEDDING_BATCH_SIZE=1)
        for count, mood in enumerate(moods):
            gateway.become(mood)
            world.add_tasks(BATCH)
            service.wait(lambda: service.snapshot().breakers["openai"].state == "open", 30, f"closed: {mood.value}")
            gateway.become(Mood.PASSES)

            service.await_states(60, succeeded=(count + 1) * BATCH)
        assert service.said("Task processing failed") == []
        assert world.summary().wrong_results == 0
