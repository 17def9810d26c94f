"""Every task type through every mode: results that the task API accepts, and fallbacks that are never silent."""

from __future__ import annotations

import re

import pytest

from aitp.demo.documents import TYPES, tasks_of
from aitp.demo.world_process import WorldProcess
from aitp.settings import CHAT_MODEL, EMBEDDING_MODEL
from tests.end_to_end.running import Service

ALL = 3 * len(TYPES)


def begin(service: Service, mode: str, world: WorldProcess) -> None:
    if mode == "openai":
        documents = tasks_of(TYPES, ALL)
    else:
        documents = tasks_of(TYPES, ALL, embedding_model="nomic-embed-text", chat_model="qwen3:0.6b")
    world.add_documents(list(documents))
    service.start(PROCESSING_MODE=mode, SUPPORTED_MODELS="nomic-embed-text,qwen3:0.6b", LOG_LEVEL="INFO")


@pytest.mark.parametrize("mode", ["openai", "ollama", "hybrid"])
def test_every_type_succeeds(mode: str, service: Service) -> None:
    world = service.open_world()

    begin(service, mode, world)

    service.await_states(40, succeeded=ALL)
    summary = world.summary()
    assert (summary.bought_again, summary.wrong_results) == (0, 0)


def test_openai_stands_in_for_an_ollama_that_is_away_and_says_so(service: Service) -> None:
    world = service.open_world()
    world.down("ollama_api", 60)

    begin(service, "hybrid", world)

    service.await_states(40, succeeded=ALL)
    ended = service.said("Task processing completed")
    assert {(line["provider"], line["fallback_from"]) for line in ended} == {("openai", "ollama")}
    assert {line["fallback_reason"] for line in ended} <= {"failed", "blocked"}
    service.start_metrics()
    _, metrics = service.wait(lambda: service.get("/metrics"), what="no metrics process")
    counts = re.findall(r'ai_provider_fallbacks_total{from="ollama",reason="\w+",to="openai"} (\S+)', metrics)
    assert sum(map(float, counts)) > 0
    assert {purchase.model for purchase in world.purchases()} == {EMBEDDING_MODEL, CHAT_MODEL}
    assert world.summary().wrong_results == 0


def test_a_model_on_its_way_is_waited_for_though_openai_could_stand_in(service: Service) -> None:
    world = service.open_world(ollama_api={"present": ["qwen3:0.6b"], "pull_seconds": 3.0})

    begin(service, "hybrid", world)

    service.await_states(40, succeeded=ALL)
    assert {line["provider"] for line in service.said("Task processing completed")} == {"ollama"}
    assert world.purchases() == []
    embeddings = [line for line in service.said("Task put back") if line["task_type"] == "text_embedding"]
    assert len(embeddings) <= 3, "while it is known that the model is on its way nobody asks for it"


def test_openai_stands_in_for_a_model_that_cannot_be_had(service: Service) -> None:
    world = service.open_world(ollama_api={"present": ["qwen3:0.6b"], "pull_error": "pull model manifest: not found"})

    begin(service, "hybrid", world)

    service.await_states(40, succeeded=ALL)
    ended = service.said("Task processing completed")
    providers = {(line["task_type"] == "text_embedding", line["provider"]) for line in ended}
    assert providers == {(True, "openai"), (False, "ollama")}


def test_areas_out_of_a_list_do_not_wait_for_wikidata(service: Service) -> None:
    world = service.open_world()
    world.down("wikidata_api", 300)
    world.add_documents(list(tasks_of(["defining_impact_area"], 8)))

    service.start()

    service.await_states(40, succeeded=8)
    assert world.summary().bought_again == 0


def test_wikidata_away_makes_results_late_and_never_empty(service: Service) -> None:
    world = service.open_world()
    world.down("wikidata_api", 8)
    world.add_documents(list(tasks_of(["identifying_data"], 4)))

    service.start(CIRCUIT_BREAKER_RECOVERY_SECONDS=1)

    service.await_states(40, succeeded=4)
    assert world.summary().bought_again == 0
    assert service.said("Task put back")
