"""The task API or the provider away: its breaker is open, one probe at a time, nothing is lost, failed or bought again.

For seconds, with a short CIRCUIT_BREAKER_RECOVERY_SECONDS; for a minute with the default one under `pytest -m slow`.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence

import pytest

from aitp.demo.faults import Fault, FaultKind
from aitp.demo.http import Exchange
from tests.end_to_end.running import Service

THRESHOLD = 5
SHORT = pytest.param(3.5, 1.0)
LONG = pytest.param(60.0, 60.0, marks=[pytest.mark.slow, pytest.mark.timeout(300)])
# Half of the default: two probes fail before the third one succeeds.
LONG_WITH_PROBES = pytest.param(60.0, 25.0, marks=[pytest.mark.slow, pytest.mark.timeout(300)])
outages = pytest.mark.parametrize(("away_seconds", "recovery"), [SHORT, LONG, LONG_WITH_PROBES])


def probes(exchanges: Sequence[Exchange], recovery: float) -> list[Exchange]:
    """Of the calls that failed with 503, those after the breaker opened; asserts that they are one at a time."""
    failed = sorted((e for e in exchanges if e.status == 503), key=lambda e: e.received_monotonic)
    # Calls that were in flight when the breaker opened say nothing; from the first pause on, all are probes.
    gaps = [later.received_monotonic - earlier.ended_monotonic for earlier, later in itertools.pairwise(failed)]
    first = next((number for number, gap in enumerate(gaps, 1) if gap >= recovery * 0.9), len(failed))
    assert THRESHOLD <= first <= THRESHOLD + 6, gaps
    assert all(gap >= recovery * 0.9 for gap in gaps[first - 1 :]), gaps
    return failed[first:]


@outages
def test_the_task_api_answers_503(service: Service, away_seconds: float, recovery: float) -> None:
    world = service.open_world(60, openai_api={"latency_seconds": 0.5})
    service.start(
        CONCURRENCY_LIMIT=3, EMBEDDING_BATCH_SIZE=4, RETRY_BACKOFF_FACTOR=1, CIRCUIT_BREAKER_RECOVERY_SECONDS=recovery
    )
    service.wait(lambda: world.states().get("succeeded"), what="nothing delivered")

    world.add_fault("task_api", Fault(status=503, for_seconds=away_seconds))

    service.wait(lambda: service.snapshot().breakers["api"].state == "open", what="the breaker stays closed")
    service.await_bought(60)  # workers go on with what is here
    assert service.snapshot().finished > 0
    assert service.said("Circuit breaker is open", service="api")
    service.await_states(timeout=away_seconds + 2 * recovery + 20, succeeded=60)
    summary = world.summary()
    assert (summary.bought_again, summary.delivered_again) == (0, 0)
    assert len(service.said("Circuit breaker is closed", service="api")) == 1
    failed_probes = probes(world.exchanges("task_api"), recovery)
    assert len(failed_probes) <= away_seconds / recovery
    assert failed_probes or away_seconds <= recovery


@outages
def test_the_task_api_refuses_connections(service: Service, away_seconds: float, recovery: float) -> None:
    world = service.open_world(60, openai_api={"latency_seconds": 0.5})
    service.start(
        CONCURRENCY_LIMIT=3, EMBEDDING_BATCH_SIZE=4, RETRY_BACKOFF_FACTOR=1, CIRCUIT_BREAKER_RECOVERY_SECONDS=recovery
    )
    service.wait(lambda: world.states().get("succeeded"), what="nothing delivered")

    world.down("task_api", away_seconds)

    service.wait(lambda: service.snapshot().breakers["api"].state == "open", what="the breaker stays closed")
    service.await_bought(60)
    assert service.snapshot().finished > 0
    service.await_states(timeout=away_seconds + 2 * recovery + 20, succeeded=60)
    summary = world.summary()
    # An answer may have been under way when the connections were cut: it is delivered once more, never bought.
    assert summary.bought_again == 0
    assert summary.delivered_again <= 2
    assert summary.wrong_results == 0


GATEWAYS = {
    "404": Fault(kind=FaultKind.PAGE, status=404),
    "302 to a login": Fault(kind=FaultKind.PAGE, status=302, headers={"Location": "/login"}),
    "200, a login": Fault(kind=FaultKind.PAGE, status=200),
    "502": Fault(kind=FaultKind.PAGE, status=502),
}


@pytest.mark.parametrize("gateway", GATEWAYS.values(), ids=GATEWAYS)
@pytest.mark.parametrize(
    ("away_seconds", "recovery"),
    [
        pytest.param(3.5, 1.0, marks=pytest.mark.timeout(120)),
        pytest.param(60.0, 20.0, marks=[pytest.mark.slow, pytest.mark.timeout(300)]),
    ],
)
def test_a_gateway_answers_for_the_task_api(
    service: Service, gateway: Fault, away_seconds: float, recovery: float
) -> None:
    """Afterwards all is delivered once: nothing was taken for an acknowledgement or for a refusal."""
    world = service.open_world(60, openai_api={"latency_seconds": 0.3})
    service.start(
        CONCURRENCY_LIMIT=3, EMBEDDING_BATCH_SIZE=4, RETRY_BACKOFF_FACTOR=1, CIRCUIT_BREAKER_RECOVERY_SECONDS=recovery
    )
    service.wait(lambda: world.states().get("succeeded"), what="nothing delivered")

    world.add_fault("task_api", dataclasses.replace(gateway, for_seconds=away_seconds))

    service.wait(lambda: service.snapshot().breakers["api"].state == "open", what="the breaker stays closed")
    service.await_bought(60)
    service.await_states(timeout=away_seconds + 2 * recovery + 20, succeeded=60)
    service.await_idle()
    summary = world.summary()
    assert (summary.deliveries, summary.delivered_again, summary.wrong_results) == (60, 0, 0)
    assert (summary.texts_bought, summary.bought_again) == (60, 0)
    assert (service.snapshot().dead, service.snapshot().held) == (0, 0)
    assert service.said("Result refused") == []


@outages
def test_the_provider_answers_503(service: Service, away_seconds: float, recovery: float) -> None:
    world = service.open_world(60, openai_api={"latency_seconds": 0.2})
    service.start(
        CONCURRENCY_LIMIT=4, EMBEDDING_BATCH_SIZE=2, RETRY_BACKOFF_FACTOR=1, CIRCUIT_BREAKER_RECOVERY_SECONDS=recovery
    )
    service.wait(lambda: world.states().get("succeeded"), what="nothing delivered")

    world.add_fault("openai_api", Fault(status=503, for_seconds=away_seconds))

    service.wait(lambda: service.snapshot().breakers["openai"].state == "open", what="the breaker stays closed")
    service.wait(lambda: service.said("Circuit breaker is open", service="openai"), what="it is not told")
    service.await_states(timeout=away_seconds + 2 * recovery + 30, succeeded=60)
    assert len(service.said("Circuit breaker is closed", service="openai")) == 1
    assert service.said("Task processing failed") == []
    assert world.summary().bought_again == 0
    failed_probes = probes(world.exchanges("openai_api"), recovery)
    assert len(failed_probes) <= away_seconds / recovery
    assert failed_probes or away_seconds <= recovery


def test_a_lone_task_outlives_an_outage_that_outlasts_its_retries(service: Service) -> None:
    world = service.open_world(1)
    world.add_fault("openai_api", Fault(status=500, times=4))

    service.start(
        RETRY_BACKOFF_FACTOR=1, MAX_RETRIES=1, CIRCUIT_BREAKER_THRESHOLD=3, CIRCUIT_BREAKER_RECOVERY_SECONDS=0.5
    )

    service.await_states(succeeded=1)
    assert world.summary().faults_struck == 4


def test_a_refused_key_opens_the_breaker_at_once_and_fails_no_task(service: Service) -> None:
    world = service.open_world(10)
    world.add_fault("openai_api", Fault(path="/v1/embeddings", status=401, times=1))

    service.start(CONCURRENCY_LIMIT=1, EMBEDDING_BATCH_SIZE=4, CIRCUIT_BREAKER_RECOVERY_SECONDS=1)

    service.await_states(succeeded=10)
    assert len(service.said("Circuit breaker is open", service="openai")) == 1


@pytest.mark.parametrize("status", [401, 403])
def test_an_api_that_refuses_fresh_tokens_too_is_left_alone_and_gets_everything_later(
    service: Service, status: int
) -> None:
    world = service.open_world(20)
    world.add_fault("task_api", Fault(method="PATCH", status=status))
    service.start(EMBEDDING_BATCH_SIZE=4, CIRCUIT_BREAKER_RECOVERY_SECONDS=2)
    service.start_metrics()

    service.wait(lambda: service.snapshot().breakers["api"].state == "open", what="the breaker stays closed")
    assert world.summary().faults_struck <= 8  # each relay with the old token and a fresh one, then probes
    answer = service.wait(lambda: service.get("/ready"), what="no metrics process")
    assert answer[0] == 503
    assert "refuses a fresh token" in answer[1]
    world.clear_faults()

    service.await_states(succeeded=20)
    assert service.snapshot().dead == 0
    summary = world.summary()
    assert (summary.tokens_issued, summary.bought_again) == (2, 0)


def test_a_rejected_token_is_replaced_once_and_no_result_is_lost(service: Service) -> None:
    world = service.open_world(40, openai_api={"latency_seconds": 0.2})
    service.start(EMBEDDING_BATCH_SIZE=4)
    service.wait(lambda: world.states().get("succeeded"), what="nothing delivered")

    world.revoke_tokens()

    service.await_states(succeeded=40)
    assert world.summary().tokens_issued == 2
    assert service.snapshot().dead == 0


def test_tasks_whose_target_is_broken_keep_nothing_else_from_being_done(service: Service) -> None:
    """Their results are answered with 500 on every try, as by an API that is out. Polls tell that it is not."""
    world = service.open_world()
    broken = world.add_tasks(THRESHOLD + 3)
    world.set("task_api", broken_targets=broken)
    service.start(RETRY_BACKOFF_FACTOR=1)

    def tried() -> set[str]:
        return {delivery.task_id for delivery in world.deliveries() if delivery.status == 500}

    service.wait(lambda: tried() == set(broken), what="some were never tried")

    world.add_tasks(30)

    service.await_states(succeeded=len(broken) + 30)  # the state is stored before the target is told
    service.wait(lambda: service.snapshot().finished == len(broken), what="good results wait")
    assert world.summary().deliveries == 30  # accepted ones
    assert service.said("Circuit breaker is open") == []
    world.set("task_api", broken_targets=[])
    service.wait(lambda: service.snapshot().held == 0, what="the rest is not delivered")
    assert (service.snapshot().dead, world.summary().bought_again) == (0, 0)
