"""Models that are called by other names, replaced, or not to be had: nothing is failed for it, and nothing hammered."""

from __future__ import annotations

import signal
import time

from aitp.demo.documents import tasks_of
from tests.end_to_end.running import Service

EMBEDDINGS = ["text_embedding"]


def test_all_spellings_of_a_model_are_served(service: Service) -> None:
    world = service.open_world()
    for start, name in enumerate(("nomic-embed-text", "Nomic-Embed-Text:latest", "library/nomic-embed-text")):
        world.add_documents(list(tasks_of(EMBEDDINGS, 4, seed=start, start=4 * start, embedding_model=name)))

    service.start(PROCESSING_MODE="ollama", SUPPORTED_MODELS="registry.ollama.ai/library/Nomic-Embed-Text")

    service.await_states(40, succeeded=12)
    assert world.summary().bought_again == 0


def test_an_alias_is_asked_for_in_place_of_a_model_that_is_gone(service: Service) -> None:
    world = service.open_world()
    world.add_documents(list(tasks_of(["defining_topics"], 4, chat_model="gone")))

    service.start(PROCESSING_MODE="openai", MODEL_ALIASES='{"gone": "o3"}', LOG_LEVEL="INFO")

    service.await_states(40, succeeded=4)
    assert {purchase.model for purchase in world.purchases()} == {"o3"}
    assert {line["model"] for line in service.said("Task processing completed")} == {"gone"}


def test_a_model_that_cannot_be_had_costs_no_sends_and_hammers_nobody(service: Service) -> None:
    world = service.open_world(ollama_api={"present": ["qwen3:0.6b"], "pull_error": "pull model manifest: 503"})
    world.add_documents(list(tasks_of(EMBEDDINGS, 8, embedding_model="nomic-embed-text")))
    world.add_documents(list(tasks_of(["defining_topics"], 12, seed=1, chat_model="qwen3:0.6b")))
    began = time.monotonic()

    service.start(PROCESSING_MODE="ollama", SUPPORTED_MODELS="nomic-embed-text,qwen3:0.6b", RATE_LIMIT_PER_HOUR=25)

    service.await_states(60, pending=8, succeeded=12)
    asked = [exchange.path for exchange in world.exchanges("ollama_api")]
    # One a worker at most, before the first look has told anybody.
    assert asked.count("/api/embed") <= 5
    assert asked.count("/api/pull") <= 1 + (time.monotonic() - began) // 60
    world.set("ollama_api", present=["qwen3:0.6b", "nomic-embed-text:latest"])
    service.signal(signal.SIGUSR2)  # as a worker does that misses it: look now
    service.await_states(60, succeeded=20)
