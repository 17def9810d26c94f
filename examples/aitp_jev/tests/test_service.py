"""The whole: aitp as a service, with this package beside it, against servers that keep count."""

from __future__ import annotations

import signal
from itertools import pairwise
from pathlib import Path
from typing import Any
from uuid import uuid4

from jev_stub import KEY, Jev

from aitp.demo.documents import tasks_of
from aitp.process.scoreboard import Role
from tests.end_to_end.running import Service

MODEL = "jev-1.13.0"
TYPES = ("defining_impact_area", "defining_severity")


def add(
    service: Service, count: int, types: tuple[str, ...] = TYPES, start: int = 0, model: str = "jev-1.13.0"
) -> None:
    """So many tasks for Jev, with options where a type needs them."""
    documents: list[dict[str, Any]] = list(tasks_of(types, count, start=start, chat_model=model))
    for document in documents:
        document["_id"] = uuid4().hex[:24]
        if document["type"] == "defining_impact_area":
            document["content"]["options"] = ["Saúde", "Política", "Economia"]
    service.world.add_documents(documents)


def test_areas_and_severities_are_bought_from_jev_and_delivered(service: Service, jev: Jev) -> None:
    add(service, 6)
    service.start()
    service.await_states(succeeded=6)

    assert len(jev.bought()) == 6
    assert service.world.purchases() == []
    assert len(service.said("Jev judged a severity", matrix=2, reach=0, digit=2, cut=False)) == 3
    assert "ts-a-key-of-the-stub" not in service.log()


def test_a_task_of_another_type_that_names_a_model_of_jevs_is_failed(service: Service, jev: Jev) -> None:
    add(service, 2, ("defining_topics", "text_embedding"))
    service.world.add_documents(list(tasks_of(("text_embedding",), 1, start=9, embedding_model=MODEL)))
    service.start()
    service.wait(lambda: service.world.states().get("failed") == 2)

    assert len(service.said("Task processing failed", reason=f"{MODEL} answers closed questions only")) == 2
    assert jev.requests == []


def test_options_rule_whether_and_what_is_asked(service: Service, jev: Jev) -> None:
    documents: list[dict[str, Any]] = list(tasks_of(("defining_impact_area",), 4, chat_model=MODEL))
    none, one, twice, many = (document["content"] for document in documents)
    none["options"] = []
    one["options"] = ["Saúde"]
    twice["options"] = ["Política", "Saúde", "Política"]
    many["options"] = [f"Área {number}" for number in range(256)]
    twice["text"] = "á" * 6_001
    service.world.add_documents(documents)
    service.start()
    service.await_states(succeeded=2, failed=2)

    assert [list(seen.body["questions"]["area"]["criteria"]) for seen in jev.requests] == [["Política", "Saúde"]]
    assert len(jev.requests[0].text) == 6_000
    assert service.said("Jev chose an impact area", cut=True, options=2, questions_version="1")
    reasons = {line["reason"] for line in service.said("Task processing failed")}
    assert reasons == {
        f"content: {MODEL} needs options",
        f"content.options: {MODEL} takes 255 at most, and not 256",
    }


def test_without_a_key_tasks_wait_and_everybody_is_told(service: Service, jev: Jev) -> None:
    add(service, 2)
    service.start(TYPESAFE_API_KEY="", CONCURRENCY_LIMIT=2)
    service.start_metrics()
    why = "TYPESAFE_API_KEY is not set"
    service.wait(lambda: why in str(service.get("/ready")) and service.snapshot().held == 2)

    assert service.get("/ready")[0] == 503  # type: ignore[index]
    assert f"1 task of {MODEL}" in str(service.get("/ready")) or f"2 tasks of {MODEL}" in str(service.get("/ready"))
    assert why in str(service.get("/"))
    assert why in service.ask("check", "--offline")[1]
    service.wait(lambda: service.said("Tasks of a model wait", model=MODEL))
    assert service.world.states() == {"pending": 2}
    service.configure(TYPESAFE_API_KEY=KEY)
    service.signal(signal.SIGHUP)
    service.await_states(succeeded=2)
    assert len(service.said("Tasks of a model wait")) == 1
    assert len(jev.bought()) == 2


def test_a_wrong_setting_of_ours_keeps_the_service_from_starting(service: Service) -> None:
    assert service.run("master", JEV_FALLBACK_MODEL="jev-2") == 78
    assert "Jev cannot stand in for itself" in service.log()


def test_the_metrics_are_there_from_the_start_and_count(service: Service, jev: Jev) -> None:
    service.start(PRICES=prices(service))
    service.start_metrics()
    before = str(service.get("/metrics"))
    assert f'jev_requests_total{{model="{MODEL}",status="retries_exhausted"}} 0.0' in before
    assert 'triage_provider_total{provider="openai_fallback",task_type="defining_severity"} 0.0' in before
    assert "aitp_jev_fallbacks_left 50.0" in before
    add(service, 2)
    jev.order(status=503, times=1)
    service.await_states(succeeded=2)

    def counted() -> str:
        return str(service.get("/metrics"))

    service.wait(lambda: f'jev_requests_total{{model="{MODEL}",status="success"}} 2.0' in counted())
    after = counted()
    assert f'jev_requests_total{{model="{MODEL}",status="retry"}} 1.0' in after
    assert f'jev_tokens_used_total{{model="{MODEL}",type="input_tokens"}} 240.0' in after
    assert f'jev_request_duration_seconds_count{{model="{MODEL}"}} 3.0' in after
    assert 'triage_provider_total{provider="jev",task_type="defining_severity"} 1.0' in after
    assert f'aitp_cost_total{{currency="USD",model="{MODEL}",provider="jev"}} 1.008e-05' in after


def prices(service: Service) -> Path:
    path = service.directory / "prices.toml"
    path.write_text(
        f'currency = "USD"\n[jev."{MODEL}"]\ninput = 0.042\noutput = 0\n[openai."*"]\ninput = 1\noutput = 1\n'
    )
    return path


# In Jev's stead


def test_a_task_that_fails_through_all_waits_is_answered_by_openai(service: Service, jev: Jev) -> None:
    add(service, 1, ("defining_severity",))
    jev.order(status=503, times=-1)
    service.start(JEV_FALLBACK_MODEL="o3", CIRCUIT_BREAKER_THRESHOLD=100)
    service.await_states(succeeded=1)

    assert len(jev.requests) == 3  # two waits
    assert [purchase.model for purchase in service.world.purchases()] == ["o3"]
    [told] = service.said("Task processing completed")
    assert (told["fallback_from"], told["fallback_reason"], told["provider"]) == ("jev", "failed", "openai")
    waited = [later.received - earlier.received for earlier, later in pairwise(jev.requests)]
    assert all(wait >= least * 0.8 for wait, least in zip(waited, (0.2, 0.4), strict=True))


def test_while_jev_is_out_openai_answers_no_more_than_it_may_over_kills_and_restarts(
    service: Service, jev: Jev
) -> None:
    service.world.set("openai_api", latency_seconds=0.05)
    add(service, 200)
    jev.order(status=503, times=-1)
    service.start(JEV_FALLBACK_MAX_PER_DAY=50, CONCURRENCY_LIMIT=4, CIRCUIT_BREAKER_RECOVERY_SECONDS=3)
    for bought in (8, 20, 33):
        service.wait(lambda bought=bought: len(service.world.purchases()) >= bought)  # type: ignore[misc]
        service.kill_everything()
        service.start()
    service.wait(lambda: service.said("Calls of the day in another provider's stead are used up"))
    service.wait(lambda: service.snapshot().claimed == 0)

    assert service.snapshot().stand_ins == {"jev": 50}
    assert len(service.world.purchases()) <= 50
    assert service.world.states()["pending"] >= 150
    jev.get_well()
    service.await_states(succeeded=200, timeout=90)
    assert len(service.world.purchases()) <= 50


def test_a_refused_key_sends_nothing_to_openai(service: Service, jev: Jev) -> None:
    add(service, 20)
    jev.order(status=401, times=-1)
    service.start(CIRCUIT_BREAKER_RECOVERY_SECONDS=0.5)
    service.wait(lambda: len(jev.requests) >= 4)  # probes as well

    assert service.world.purchases() == []
    assert service.world.states() == {"pending": 20}
    jev.get_well()
    service.await_states(succeeded=20)
    assert service.world.purchases() == []


def test_a_worker_that_is_killed_buys_nothing_twice_but_the_call_in_flight(service: Service, jev: Jev) -> None:
    add(service, 30)
    jev.order(delay=0.1, times=-1)
    service.start()
    for _ in range(3):
        service.kill([service.busy(Role.WORKER).pid])
    service.await_states(succeeded=30)

    texts = jev.bought()
    assert len(set(texts)) == 30
    assert len(texts) <= 33


def test_mock_and_real_never_mix(service: Service, jev: Jev) -> None:
    add(service, 4)
    service.start(TYPESAFE_API_KEY="your_typesafe_api_key_here")
    service.start_metrics()
    service.await_states(succeeded=4)
    assert jev.requests == []
    assert len(service.said("Provider call completed", mock=True)) == 4
    assert service.said("Mock mode: results are invented", placeholder="TYPESAFE_API_KEY")
    assert '"mock": true' in str(service.get("/health"))
    assert "aitp_mock 1.0" in str(service.get("/metrics"))
    assert "TYPESAFE_API_KEY" in str(service.get("/"))
    assert "MOCK MODE: TYPESAFE_API_KEY is a placeholder" in service.ask("check", "--offline")[1]
    service.stop()

    service.start(TYPESAFE_API_KEY=KEY)
    add(service, 4)
    service.await_states(succeeded=8)
    assert len(jev.bought()) == 4  # nothing invented was used again
    service.configure(TYPESAFE_API_KEY="your_typesafe_api_key_here")
    service.signal(signal.SIGHUP)
    service.wait(lambda: service.said("New settings are not valid"))


def test_a_mocked_openai_never_stands_in_for_a_real_jev(service: Service, jev: Jev) -> None:
    add(service, 6)
    jev.order(status=503, times=-1)
    service.start(OPENAI_API_KEY="your_openai_api_key_here")
    service.wait(lambda: service.snapshot().breakers["jev"].state == "open")

    assert service.world.states() == {"pending": 6}
    assert not service.said("Provider call completed", mock=True)


def test_a_model_that_is_gone_is_waited_for_and_nobody_stands_in(service: Service, jev: Jev) -> None:
    add(service, 2, model="jev-0.1")
    service.start()
    service.wait(lambda: service.said("Tasks of this model wait", model="jev-0.1"))
    service.wait(lambda: service.snapshot().claimed == 0)

    assert service.world.states() == {"pending": 2}
    assert service.world.purchases() == []
    assert any("jev-0.1" in each.reason for each in service.snapshot().quarantines)
