"""The provider against the demo's OpenAI API, which checks, shuffles and bills as the real one does."""

from __future__ import annotations

import struct
from collections.abc import Collection, Sequence
from typing import Any

import orjson
import pytest

from aitp.demo.callbacks import complaint
from aitp.demo.documents import TYPES, tasks_of
from aitp.demo.faults import Fault, FaultKind
from aitp.demo.openai_api import BAD_MARKER, DEMO_KEY, OpenAIApi
from aitp.demo.scripts import SCRIPTS
from aitp.errors import (
    AnswerCut,
    CooldownRequired,
    CredentialsRefused,
    InputRefused,
    ModelGone,
    ModelRefused,
    RequestRefused,
    ServiceFault,
    UselessAnswer,
)
from aitp.policy.batching import fitting
from aitp.processors import PROCESSORS, Context
from aitp.providers import Embeddings, Provider, Question, Reply, build
from tests.providers.embeddings import SMALL, settings
from tests.providers.questions import QUESTION
from tests.waiting import wait_until

EMBEDDING = PROCESSORS["text_embedding"]
CONTEXT = Context.of(settings())
CHAT_TYPES = TYPES[1:]


def provider_of(api: OpenAIApi, **values: str) -> Provider:
    return build(settings(openai_base_url=api.base_url, **{"openai_api_key": DEMO_KEY, **values}))["openai"]


def test_each_text_gets_its_own_vector_bit_by_bit(openai_api: OpenAIApi) -> None:
    texts = [f"frase {number}" for number in range(32)]

    answer = EMBEDDING.run([EMBEDDING.parse(text) for text in texts], provider_of(openai_api), CONTEXT)

    for text, result in zip(texts, answer, strict=True):
        assert isinstance(result, bytes)
        assert struct.pack("<1024f", *orjson.loads(result)) == struct.pack("<1024f", *openai_api.expected(text))
    wait_until(lambda: openai_api.times_bought().total() == 32)  # written down once the answer is out
    assert len(openai_api.exchanges) == 1


def test_without_dimensions_the_models_own_length_is_taken(openai_api: OpenAIApi) -> None:
    (vector,) = provider_of(openai_api, embedding_dimensions="").embed(["frase"], SMALL).vectors

    assert isinstance(vector, bytes)
    assert len(orjson.loads(vector)) == 1536


def test_one_bad_text_refuses_the_whole_array(openai_api: OpenAIApi) -> None:
    with pytest.raises(InputRefused):
        provider_of(openai_api).embed(["boa", f"ruim {BAD_MARKER}"], SMALL)


def test_an_unknown_model_is_named(openai_api: OpenAIApi) -> None:
    with pytest.raises(ModelGone, match="text-embedding-9"):
        provider_of(openai_api).embed(["frase"], "text-embedding-9")


def test_a_wrong_key_is_refused(openai_api: OpenAIApi) -> None:
    with pytest.raises(CredentialsRefused, match="OPENAI_API_KEY"):
        provider_of(openai_api, openai_api_key="sk-wrong").embed(["frase"], SMALL)


def test_the_longest_texts_that_fit_a_batch_are_within_the_apis_limits(openai_api: OpenAIApi) -> None:
    contents = [EMBEDDING.parse("palavra " * 1_250)] * 40
    count = fitting(len(content.to_json()) for content in contents)

    answer = EMBEDDING.run(contents[:count], provider_of(openai_api), CONTEXT)

    assert count == 29
    assert all(isinstance(result, bytes) for result in answer)


def chat(task_type: str, text: str, api: OpenAIApi, **more: object) -> Any:
    kind = PROCESSORS[task_type]
    (result,) = kind.run([kind.parse({"text": text, **more})], provider_of(api), CONTEXT)
    assert isinstance(result, bytes)
    return orjson.loads(result)


@pytest.mark.parametrize("document", list(tasks_of(CHAT_TYPES, 4 * len(SCRIPTS))), ids=lambda task: task["type"])
def test_each_type_gets_a_result_that_the_task_api_takes(openai_api: OpenAIApi, document: dict[str, Any]) -> None:
    result = chat(document["type"], api=openai_api, **document["content"])

    assert complaint(document["type"], document["content"], result) is None


def test_the_scripts_answers_come_through_whole(openai_api: OpenAIApi) -> None:
    text = "Santos Dumont voou com o 14-bis em Paris em 1906, três anos depois do voo dos irmãos Wright."
    (person,) = chat("identifying_data", text, openai_api)["personalities"]

    assert (person["name"], person["mentioned_as"]) == ("Alberto Santos-Dumont", "Santos Dumont")
    assert [topic["name"] for topic in chat("defining_topics", text, openai_api)] == ["Aviação", "14-bis"]
    assert chat("defining_severity", text, openai_api) == {"severity": "low_1"}
    wait_until(lambda: len(openai_api.purchases) == 3)
    assert openai_api.times_bought() == {text: 3}


@pytest.mark.parametrize(("kind", "calls"), [(FaultKind.FENCED, 1), (FaultKind.NO_JSON, 2), (FaultKind.OUT_OF_LIST, 2)])
def test_an_answer_in_a_fence_is_read_and_a_wrong_one_repaired(
    openai_api: OpenAIApi, kind: FaultKind, calls: int
) -> None:
    openai_api.faults.add(Fault(kind=kind, times=1))

    assert chat("defining_severity", SCRIPTS[3].text, openai_api) == {"severity": "critical"}
    wait_until(lambda: len(openai_api.exchanges) == calls)


@pytest.mark.parametrize(
    ("kind", "error"),
    [
        (FaultKind.REFUSAL, ModelRefused),
        (FaultKind.CUT_ANSWER, AnswerCut),
        (FaultKind.NO_JSON, UselessAnswer),
        (FaultKind.OUT_OF_LIST, UselessAnswer),
        (FaultKind.QUOTA, CooldownRequired),
        (FaultKind.GARBAGE, ServiceFault),
        (FaultKind.CUT, ServiceFault),
        (FaultKind.DROP, ServiceFault),
    ],
)
def test_what_goes_wrong_in_a_chat_is_never_a_result(
    openai_api: OpenAIApi, kind: FaultKind, error: type[Exception]
) -> None:
    openai_api.faults.add(Fault(kind=kind))
    with pytest.raises(error):
        chat("defining_topics", SCRIPTS[0].text, openai_api)


@pytest.mark.parametrize("model", ["o3", "gpt-4o"])
def test_models_that_take_a_temperature_and_models_that_refuse_it_both_answer(
    openai_api: OpenAIApi, model: str
) -> None:
    assert chat("defining_severity", "x", openai_api, model=model)["severity"]


def test_a_text_that_is_flagged_fails_alone(openai_api: OpenAIApi) -> None:
    with pytest.raises(InputRefused, match="invalid_prompt"):
        chat("defining_severity", BAD_MARKER, openai_api)


def test_an_answer_without_a_schema_to_bind_it_is_as_good(openai_api: OpenAIApi) -> None:
    provider = provider_of(openai_api)
    for left_out in ([], ["schema_bounds"], ["json_schema"], ["json_schema", "json_object"]):
        kind = PROCESSORS["defining_severity"]
        (result,) = kind.run([kind.parse("x")], LeavingOut(provider, left_out), CONTEXT)
        assert isinstance(result, bytes)
        assert orjson.loads(result)["severity"]


@pytest.mark.parametrize(
    ("parameter", "chats"),
    [("encoding_format", False), ("dimensions", False), ("temperature", True), ("json_schema", True),
     ("json_object", True), ("service_tier", True)],
)  # fmt: skip
def test_a_parameter_that_the_server_does_not_take_is_refused_in_words_of_its_own_and_left_out(
    openai_api: OpenAIApi, parameter: str, chats: bool
) -> None:
    openai_api.refuses = {parameter}
    whole = provider_of(openai_api, embedding_dimensions="1536", openai_service_tier="flex")
    for provider, refused in ((whole, True), (LeavingOut(whole, [parameter, "json_schema"]), False)):
        try:
            if chats:
                provider.ask(QUESTION, "gpt-4o")
            else:
                provider.embed(["x"], SMALL)
        except RequestRefused:
            assert refused
        else:
            assert not refused or parameter == "json_object"
    wait_until(lambda: len(openai_api.exchanges) == 2)  # one request a call, whatever comes of it


def test_the_tier_that_was_asked_for_is_told_in_the_answer(openai_api: OpenAIApi) -> None:
    assert provider_of(openai_api, openai_service_tier="flex").ask(QUESTION, "o3").tier == "flex"
    assert provider_of(openai_api).ask(QUESTION, "o3").tier == "default"


class LeavingOut:
    """A provider that is asked without some parameters, whoever asks it."""

    name = "openai"

    def __init__(self, provider: Provider, left_out: list[str]) -> None:
        self._provider, self._left_out = provider, left_out

    def optional(self, model: str, *, chat: bool) -> tuple[str, ...]:
        return self._provider.optional(model, chat=chat)

    def embed(
        self, texts: Sequence[str], model: str, dimensions: int | None = None, leave_out: Collection[str] = ()
    ) -> Embeddings:
        return self._provider.embed(texts, model, dimensions, self._left_out)

    def ask(self, question: Question, model: str, leave_out: Collection[str] = ()) -> Reply:
        return self._provider.ask(question, model, self._left_out)

    def close(self) -> None: ...
