"""The whole service in front of a provider that nobody has met before: whose fault it is turns out by itself.

Breakers have their default times. Back-off is a second in the daily run; with the default one the same takes minutes
(`pytest -m slow`). By a clock that jumps, in many more worlds: tests/strangers.
"""

from __future__ import annotations

from collections.abc import Iterator

import orjson
import pytest

from tests.end_to_end.running import Service
from tests.services import a_task
from tests.strangers.server import Manner, Nature, Poison, Refusing, Stranger, Useless

QUICK = pytest.param(1, id="quick")
SLOW = pytest.param(2, id="as by default", marks=[pytest.mark.slow, pytest.mark.timeout(1800)])
backoffs = pytest.mark.parametrize("factor", [QUICK, SLOW])
TEXTS = [f"Rivers flow to the sea, number {number}" for number in range(100)]
BAD = "Mud"


@pytest.fixture
def stranger() -> Iterator[Stranger]:
    with Stranger() as server:
        yield server


def start(service: Service, stranger: Stranger, nature: Nature, *documents: object, **settings: object) -> None:
    """A service before a stranger of that nature, and these tasks."""
    world = service.open_world()
    world.add_documents(list(documents))  # type: ignore[arg-type]
    stranger.become(nature)
    own = {"OPENAI_BASE_URL": stranger.base_url, "OPENAI_API_KEY": "sk-strange", "WIKIDATA_ENABLED": "false"}
    service.configure(**own, **{"RETRY_BACKOFF_FACTOR": 1, **settings})
    service.start()


def chats(count: int, text: str = "") -> list[dict[str, object]]:
    texts = [text] if text else TEXTS[:count]
    return [a_task(type="defining_topics", content={"text": each, "model": "quelle-7b"}) for each in texts]


def embeddings(count: int) -> list[dict[str, object]]:
    return [a_task(each) for each in TEXTS[:count]]


def refusal(status: int, said: str) -> Manner:
    return Manner(status, orjson.dumps({"trouble": {"is": said}, "id": "b7"}))


@backoffs
def test_one_text_that_always_gets_500_fails_alone_and_costs_few_calls(
    service: Service, stranger: Stranger, factor: int
) -> None:
    manner = refusal(500, "the mill stood still")
    poisoned = Nature(poison=Poison(frozenset({BAD}), manner))
    # Not the last one: it takes another task that is served later to know that the service is well.
    documents = [a_task(BAD), *embeddings(19)]
    start(service, stranger, poisoned, *documents, RETRY_BACKOFF_FACTOR=factor)

    service.await_states(1500 if factor > 1 else 60, succeeded=19, failed=1)

    assert service.world.summary().wrong_results == 0
    assert len(service.said("Task processing failed")) == 1
    well = sum(seen.well for seen in stranger.seen)
    assert len(stranger.seen) - well <= 12
    assert service.said("Circuit breaker is open") == []


@backoffs
def test_a_lone_task_whose_answer_is_always_cut_is_failed_after_four_sends(
    service: Service, stranger: Stranger, factor: int
) -> None:
    cut = Nature(poison=Poison(frozenset({BAD}), Useless.CUT))
    start(service, stranger, cut, *chats(1, BAD), RETRY_BACKOFF_FACTOR=factor)

    service.await_states(120, failed=1)

    assert len(stranger.seen) <= 4
    [line] = service.said("Task processing failed")
    assert "cut" in line["reason"]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_model_that_cuts_every_answer_is_paused_and_fails_nobody(service: Service, stranger: Stranger) -> None:
    start(service, stranger, Nature(mute=Useless.CUT), *chats(50), RETRY_BACKOFF_FACTOR=2)
    service.start_metrics()

    service.wait(lambda: stranger.now > 600, 700)

    assert service.world.states() == {"pending": 50}
    assert len(stranger.seen) <= 10
    ready = service.get("/ready")
    assert ready is not None
    assert ready[0] == 503
    assert "quelle-7b" in ready[1]
    page = service.get("/")
    assert page is not None
    assert "quelle-7b" in page[1]


def test_each_parameter_that_is_refused_costs_one_send(service: Service, stranger: Stranger) -> None:
    said = {
        "encoding_format": "encoding_format: base64? We speak numbers here.",
        "dimensions": "How long a vector is, is not yours to say (dimensions).",
        "temperature": "temperature cannot be turned on this stove",
        "json_schema": "response_format json_schema: never heard of it",
    }
    nature = Nature(refused=tuple((name, refusal(400, words)) for name, words in said.items()), length=1024)
    start(service, stranger, nature, *chats(10), *embeddings(10), CONCURRENCY_LIMIT=1, EMBEDDING_BATCH_SIZE=4)

    service.await_states(succeeded=20)

    assert service.world.summary().wrong_results == 0
    refused = sorted(seen.why for seen in stranger.seen if not seen.well)
    assert refused == sorted(f"parameter {name}" for name in said)


def test_a_key_that_is_refused_as_400_in_an_unknown_form_fails_nobody(service: Service, stranger: Stranger) -> None:
    refused = Nature(account=Refusing(Manner(400, b'[{"gate": {"shut": true, "n": 4401}}]')))
    start(service, stranger, refused, *embeddings(100), CONCURRENCY_LIMIT=3)
    service.start_metrics()

    service.wait(lambda: service.snapshot().breakers["openai"].state == "open", 60, "the breaker stays closed")

    assert service.world.states() == {"pending": 100}
    assert service.said("Task processing failed") == []
    [line] = service.said("Circuit breaker is open", service="openai")
    assert "OPENAI_API_KEY" in line["reason"]
    ready = service.get("/ready")
    assert ready is not None
    assert ready[0] == 503
