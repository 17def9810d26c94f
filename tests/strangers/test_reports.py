"""What real servers were seen to answer, each as a test of its kind: the same thing done by a server with other words.

By the house's clock, so that hours pass in no time and no time-out is shortened.
"""

from __future__ import annotations

from collections.abc import Callable

import orjson
import pytest

from aitp.tasks import QueueKey, TaskStatus
from tests.services import same_vector
from tests.strangers.house import House
from tests.strangers.natures import EMBEDDINGS, TOPICS
from tests.strangers.server import (
    LENGTH,
    Dialect,
    Manner,
    Nature,
    Poison,
    Refusing,
    Stranger,
    Useless,
    expected,
)

DAY = 86_400.0
HOUR = 3600.0
Opened = Callable[..., House]

GOOD = [f"Rivers flow to the sea, number {number}" for number in range(19)]
BAD = "Mud"


def texts(count: int) -> list[str]:
    return GOOD[:count]


def succeeded(house: House) -> set[str]:
    return {text for text, ended in house.ended().items() if ended.status is TaskStatus.SUCCEEDED}


def failed(house: House) -> dict[str, str]:
    """Reasons by text."""
    return {text: ended.reason for text, ended in house.ended().items() if ended.status is TaskStatus.FAILED}


def refusals(stranger: Stranger) -> list[str]:
    return [seen.why for seen in stranger.seen if not seen.well]


def a_json(status: int, document: object, **manner: object) -> Manner:
    return Manner(status, orjson.dumps(document), **manner)  # type: ignore[arg-type]


def a_page(status: int) -> Manner:
    return Manner(status, b"<html><center><h1>No entry here</h1></center></html>", "text/html")


# Texts that a server cannot do


@pytest.mark.parametrize(
    "manner",
    [
        a_json(500, {"fault": {"kind": "overrun", "why": "row 7 spills over its tray"}}),
        a_json(503, {"detail": "tray full"}),
        a_page(502),
    ],
    ids=["json", "detail", "page"],
)
def test_one_text_that_a_server_fails_at_is_found_and_fails_alone(
    open_house: Opened, stranger: Stranger, manner: Manner
) -> None:
    with open_house(Nature(poison=Poison(frozenset({BAD}), manner)), workers=3) as house:
        house.admit([*texts(19), BAD], EMBEDDINGS)
        house.run(HOUR, house.done)

        assert succeeded(house) == set(texts(19))
        assert list(failed(house)) == [BAD]
        assert len(refusals(stranger)) <= 12
        assert house.snapshot().breakers["openai"].state == "closed"


def test_one_text_that_a_firewall_stops_is_found_and_fails_alone(open_house: Opened, stranger: Stranger) -> None:
    with open_house(Nature(poison=Poison(frozenset({BAD}), a_page(403)))) as house:
        house.admit([*texts(6), BAD], EMBEDDINGS)
        house.run(6 * HOUR, house.done)

        assert succeeded(house) == set(texts(6))
        assert list(failed(house)) == [BAD]
        assert "OPENAI_API_KEY" not in failed(house)[BAD]
        assert len(refusals(stranger)) <= 12


def test_one_text_that_is_answered_as_if_there_were_no_credit_does_not_stop_the_others_for_ever(
    open_house: Opened, stranger: Stranger
) -> None:
    with open_house(Nature(poison=Poison(frozenset({BAD}), a_page(402)))) as house:
        house.admit([*texts(6), BAD], EMBEDDINGS)
        house.run(12 * HOUR, house.done)

        assert succeeded(house) == set(texts(6))


def test_a_paused_model_is_probed_with_one_task_after_the_other(open_house: Opened, stranger: Stranger) -> None:
    """Not again and again with the one that would be refused by a model that is well."""
    manner = a_json(501, {"code": 66873, "error": "x"})
    nature = Nature(poison=Poison(frozenset({BAD}), manner), mute=Useless.EMPTY, mute_until=200.0)
    with open_house(nature, workers=4) as house:
        house.admit(texts(1), TOPICS)
        house.admit_later(5.0, [BAD], TOPICS)
        house.run(HOUR, house.done)

        assert succeeded(house) == set(texts(1))


def test_a_text_whose_vector_is_all_zeros_fails_alone(open_house: Opened, stranger: Stranger) -> None:
    with open_house(Nature(poison=Poison(frozenset({BAD}), Useless.ZEROS))) as house:
        house.admit([*texts(6), BAD], EMBEDDINGS)
        house.run(HOUR, house.done)

        assert succeeded(house) == set(texts(6))
        assert list(failed(house)) == [BAD]
        assert stranger.sends()[BAD] <= 4


def test_a_text_that_is_too_long_by_a_count_in_words_is_cut(open_house: Opened, stranger: Stranger) -> None:
    said = {"error": {"message": "The entry at $.input[0] comes to 2600 tokens; no more than 1024 tokens are taken."}}
    long = "Rivers flow to the sea. " * 400
    with open_house(Nature(longest=(5000, a_json(400, said)))) as house:
        house.admit([*texts(5), long], EMBEDDINGS)
        house.run(HOUR, house.done)

        assert succeeded(house) == {*texts(5), long}


def test_a_request_above_what_a_minute_allows_is_halved(open_house: Opened, stranger: Stranger) -> None:
    """A 429 that names a day's wait: the same request would never get through, smaller ones do at once."""
    said = {"error": {"code": "429", "message": "Your parcel weighs more than the scales of a minute can hold."}}
    manner = a_json(429, said, headers=(("Retry-After", "86400"),))
    with open_house(Nature(most=(4, manner)), workers=1) as house:
        house.admit(texts(16), EMBEDDINGS)
        house.run(DAY / 2, house.done)

        assert succeeded(house) == set(texts(16))


# Parameters that a server does not take


def unwilling(parameter: str, naming: bool) -> tuple[tuple[str, Manner], ...]:
    said = f"What is {parameter}? Nobody here knows it." if naming else "This cannot be done here."
    return ((parameter, a_json(400, {"error": {"message": said, "param": None}})),)


@pytest.mark.parametrize("naming", [True, False], ids=["named", "not named"])
@pytest.mark.parametrize("parameter", ["encoding_format", "dimensions"])
def test_a_parameter_of_embeddings_that_is_refused_is_left_out(
    open_house: Opened, stranger: Stranger, parameter: str, naming: bool
) -> None:
    with open_house(Nature(refused=unwilling(parameter, naming))) as house:
        house.admit(texts(6), EMBEDDINGS)
        house.admit_later(HOUR, texts(12)[6:], EMBEDDINGS)
        house.run(3 * HOUR, house.done)

        assert succeeded(house) == set(texts(12))
        assert all(same_vector(ended.result, expected(text, EMBEDDINGS.model)) for text, ended in house.ended().items())
        refused = [seen for seen in stranger.seen if not seen.well]
        assert len(refused) <= (2 if naming else 12)  # two workers may be at it
        assert all(seen.at < HOUR for seen in refused), "it was not learned"


@pytest.mark.parametrize("naming", [True, False], ids=["named", "not named"])
@pytest.mark.parametrize("parameter", ["temperature", "json_schema"])
def test_a_parameter_of_chats_that_is_refused_is_left_out(
    open_house: Opened, stranger: Stranger, parameter: str, naming: bool
) -> None:
    with open_house(Nature(refused=unwilling(parameter, naming))) as house:
        house.admit(texts(6), TOPICS)
        house.admit_later(HOUR, texts(12)[6:], TOPICS)
        house.run(3 * HOUR, house.done)

        assert succeeded(house) == set(texts(12))
        refused = [seen for seen in stranger.seen if not seen.well]
        assert len(refused) <= (2 if naming else 12)
        assert all(seen.at < HOUR for seen in refused), "it was not learned"


def test_no_response_format_at_all_is_asked_for_in_the_end(open_house: Opened, stranger: Stranger) -> None:
    manner = a_json(422, {"detail": [{"loc": ["body", "x"], "msg": "not here", "type": "odd"}]})
    nature = Nature(refused=(("json_schema", manner), ("json_object", manner), ("temperature", manner)))
    with open_house(nature) as house:
        house.admit(texts(8), TOPICS)
        house.run(6 * HOUR, house.done)

        assert succeeded(house) == set(texts(8))


def test_without_dimensions_vectors_of_another_length_wait_for_the_setting(
    open_house: Opened, stranger: Stranger
) -> None:
    with open_house(Nature(refused=unwilling("dimensions", naming=False), length=2 * LENGTH)) as house:
        house.admit(texts(6), EMBEDDINGS)
        house.run(HOUR)

        assert house.ended() == {}
        assert len(stranger.seen) <= 80
        assert "EMBEDDING_DIMENSIONS" in told(house)


def told(house: House) -> str:
    """All that an operator can read of why tasks wait."""
    state = house.snapshot()
    return f"{state.breakers} {state.cooldowns} {state} {house.idles[-8:]}"


# Keys and models


@pytest.mark.parametrize(
    "manner",
    [
        a_json(400, [{"error": {"code": 400, "message": "Pass not good.", "status": "BAD_PASS"}}]),
        a_json(400, {"code": "pass-1", "error": "That api key opens nothing."}),
        a_json(418, {"problem": "who are you?"}),
    ],
    ids=["in a list", "flat", "unheard of"],
)
def test_a_key_that_is_refused_in_an_unknown_form_fails_nobody(
    open_house: Opened, stranger: Stranger, manner: Manner
) -> None:
    with open_house(Nature(account=Refusing(manner, until=2 * HOUR)), workers=3) as house:
        house.admit([f"text {number}" for number in range(100)], EMBEDDINGS)
        house.run(1.9 * HOUR)

        assert house.ended() == {}
        assert len(stranger.seen) <= 150
        assert "OPENAI_API_KEY" in told(house)

        house.run(3 * HOUR, house.done)
        assert len(succeeded(house)) == 100


@pytest.mark.parametrize(
    "manner",
    [
        a_json(404, {"error": {"message": f"{EMBEDDINGS.model}? It has left the house."}}),
        a_json(410, {"detail": "Closed."}),
        a_json(400, {"error": {"code": "model_retired", "message": f"{EMBEDDINGS.model} was laid to rest."}}),
    ],
    ids=["404", "410", "400"],
)
def test_tasks_of_a_model_that_has_gone_wait_and_others_go_on(
    open_house: Opened, stranger: Stranger, manner: Manner
) -> None:
    nature = Nature(gone=((EMBEDDINGS.model, Refusing(manner, start=60.0)),))
    with open_house(nature) as house:
        house.admit(texts(3), EMBEDDINGS)
        house.admit_later(100.0, texts(9)[3:], EMBEDDINGS)
        house.admit_later(200.0, [f"chat {number}" for number in range(6)], TOPICS)
        house.run(2 * HOUR)

        assert failed(house) == {}
        assert succeeded(house) == {*texts(3), *(f"chat {number}" for number in range(6))}
        assert EMBEDDINGS.model in told(house)


@pytest.mark.parametrize(
    "manner",
    [
        a_json(429, {"error": {"message": "Hold on.", "details": [{"@type": "retry", "retryDelay": "20s"}]}}),
        a_json(429, {"error": {"message": "Too quick. Come back some other time."}}),
    ],
    ids=["a delay in the body", "none"],
)
def test_a_429_without_a_header_is_not_asked_again_and_again(
    open_house: Opened, stranger: Stranger, manner: Manner
) -> None:
    with open_house(Nature(outages=(Refusing(manner, until=20.0),)), workers=1) as house:
        house.admit(texts(4), EMBEDDINGS)
        house.run(HOUR, house.done)

        assert succeeded(house) == set(texts(4))
        assert len(refusals(stranger)) <= 3


# Ollama's models


def ollama_with(stranger: Stranger, *models: str) -> dict[str, object]:
    return {"processing_mode": "ollama", "ollama_base_url": stranger.url, "supported_models": models}


@pytest.mark.parametrize("mode", ["ollama", "hybrid"])
@pytest.mark.parametrize(
    ("supported", "named"),
    [
        ("Mxbai-Embed-LARGE:335M", "mxbai-embed-large:335m"),
        ("registry.ollama.ai/library/bge-m3", "bge-m3"),
        ("bge-m3", "https://registry.ollama.ai/library/BGE-M3:latest"),
        ("library/granite-embedding:LATEST", "granite-embedding"),
        ("hf.co/Someone/Small-GGUF", "hf.co/someone/small-gguf:latest"),
        ("some-registry:5000/us/embed", "some-registry:5000/us/embed:latest"),
    ],
)
def test_a_model_is_the_same_however_its_name_is_written(
    open_house: Opened, stranger: Stranger, supported: str, named: str, mode: str
) -> None:
    changes = {**ollama_with(stranger, supported), "processing_mode": mode}
    with open_house(Nature(), changes=changes) as house:
        house.admit(texts(3), QueueKey("text_embedding", named))
        house.run(HOUR, house.done)

        assert succeeded(house) == set(texts(3))
        assert {seen.model for seen in stranger.seen} == {supported}, "it is asked for as the settings name it"


@pytest.mark.parametrize("model", ["tall-tales:cloud", "Tall-Tales:480B-Cloud"])
@pytest.mark.parametrize(
    "manner",
    [
        a_json(429, {"error": "that was the last one of this month"}),
        a_json(429, {"error": {"why": "spent"}}, headers=(("Retry-After", "1800"),)),
        a_json(403, {"error": "for members"}),
        a_json(402, {"message": "the larger plan has it"}),
        a_json(401, {"error": "who are you?"}),
        a_page(403),
    ],
    ids=["429", "429 with a delay", "403", "402", "401", "a page"],
)
def test_a_model_of_the_cloud_that_is_refused_stops_no_other_model(
    open_house: Opened, stranger: Stranger, manner: Manner, model: str
) -> None:
    nature = Nature(gone=((model, Refusing(manner, until=4 * HOUR)),))
    with open_house(nature, changes=ollama_with(stranger, "bge-m3", model)) as house:
        house.admit([f"of the cloud {number}" for number in range(3)], QueueKey("text_embedding", model))
        house.admit_later(5.0, texts(9), QueueKey("text_embedding", "bge-m3"))
        house.run(60.0)

        assert succeeded(house) == set(texts(9))
        assert failed(house) == {}
        assert model in told(house)
        assert len(refusals(stranger)) <= 3

        house.run(2 * DAY, house.done)
        assert len(succeeded(house)) == 12


# Answers


@pytest.mark.parametrize("queue", [TOPICS, QueueKey("defining_topics", "magistral-9")], ids=["one", "another"])
def test_content_in_parts_is_joined(open_house: Opened, stranger: Stranger, queue: QueueKey) -> None:
    with open_house(Nature(dialect=Dialect.PARTS)) as house:
        house.admit(texts(4), queue)
        house.run(HOUR, house.done)

        assert succeeded(house) == set(texts(4))
        assert len(stranger.seen) == 4


@pytest.mark.parametrize("dialect", [Dialect.NO_INDEX, Dialect.FIRST_WITHOUT_INDEX, Dialect.ALWAYS_FIRST])
def test_vectors_without_an_index_that_helps_are_taken_by_their_place(
    open_house: Opened, stranger: Stranger, dialect: Dialect
) -> None:
    with open_house(Nature(dialect=dialect), workers=1) as house:
        house.admit(texts(6), EMBEDDINGS)
        house.run(HOUR, house.done)

        assert succeeded(house) == set(texts(6))
        assert all(same_vector(ended.result, expected(text, EMBEDDINGS.model)) for text, ended in house.ended().items())
        assert len(stranger.seen) == 1


@pytest.mark.parametrize("how", [Useless.CUT, Useless.EMPTY, Useless.PROSE, Useless.OTHER_JSON])
def test_a_lone_task_whose_answer_is_always_useless_is_failed_after_its_tries(
    open_house: Opened, stranger: Stranger, how: Useless
) -> None:
    with open_house(Nature(poison=Poison(frozenset({BAD}), how)), workers=1) as house:
        house.admit([BAD], TOPICS)
        house.run(HOUR, house.done)

        assert failed(house)[BAD]
        assert stranger.sends()[BAD] <= 4


@pytest.mark.parametrize("how", [Useless.CUT, Useless.ZEROS])
def test_where_every_answer_is_useless_the_kind_pauses_and_nobody_fails(
    open_house: Opened, stranger: Stranger, how: Useless
) -> None:
    queue = EMBEDDINGS if how is Useless.ZEROS else TOPICS
    with open_house(Nature(mute=how, mute_until=600.0), workers=2, batch=4) as house:
        house.admit([f"text {number}" for number in range(50)], queue)
        house.run(599.0)

        assert failed(house) == {}
        assert len(stranger.seen) <= 10
        assert queue.model in told(house) or queue.type in told(house)

        house.run(6 * HOUR, house.done)
        assert len(succeeded(house)) == 50
