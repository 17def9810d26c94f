"""The provider's chat endpoint behaves as CONTRACT section 3 says, seen through the real client."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import openai
import pytest

from aitp.demo.faults import Fault, FaultKind
from aitp.demo.openai_api import BAD_MARKER, OpenAIApi
from aitp.demo.scripts import SCRIPTS
from tests.waiting import wait_until

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"severity": {"type": "string", "enum": ["low_1", "medium_2"]}},
    "required": ["severity"],
    "additionalProperties": False,
}


@pytest.fixture
def client(openai_api: OpenAIApi) -> Iterator[openai.OpenAI]:
    """The real client, told not to retry."""
    with openai.OpenAI(api_key=openai_api.key, base_url=openai_api.base_url, max_retries=0, timeout=5) as real:
        yield real


def ask(client: openai.OpenAI, text: str = SCRIPTS[0].text, schema: Any = SCHEMA, **more: Any) -> Any:
    wanted: Any = {"type": "json_schema", "json_schema": {"name": "s", "strict": True, "schema": schema}}
    asked: dict[str, Any] = {"model": "o3-mini", "response_format": wanted, **more}
    messages: Any = [{"role": "system", "content": "Judge."}, {"role": "user", "content": json.dumps({"text": text})}]
    return client.chat.completions.create(messages=messages, **asked)


def test_a_scripted_text_gets_its_answer_and_a_bill(openai_api: OpenAIApi, client: openai.OpenAI) -> None:
    answer = ask(client)

    assert json.loads(answer.choices[0].message.content) == {"severity": "medium_2"}
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens > 0
    wait_until(lambda: openai_api.times_bought() == {SCRIPTS[0].text: 1})


def test_any_other_text_gets_one_that_fits_the_schema(client: openai.OpenAI) -> None:
    said = json.loads(ask(client, "Chove em Manaus.").choices[0].message.content)

    assert said["severity"] in ("low_1", "medium_2")


def test_a_reasoning_model_refuses_temperature_and_others_take_it(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        ask(client, temperature=0)
    assert refused.value.param == "temperature"
    ask(client, model="gpt-4o", temperature=0)


@pytest.mark.parametrize(
    "schema",
    [
        {**SCHEMA, "additionalProperties": True},
        {**SCHEMA, "required": []},
        {**SCHEMA, "title": "S"},
        {**SCHEMA, "properties": {"severity": {"$ref": "#/$defs/S"}}},
        {"type": "array", "items": SCHEMA},
    ],
)
def test_a_schema_that_is_not_strict_is_400(client: openai.OpenAI, schema: Any) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        ask(client, schema=schema)
    assert refused.value.param == "response_format"


def test_other_formats_unknown_models_and_flagged_texts_are_refused(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError):
        ask(client, response_format={"type": "json_object"})
    with pytest.raises(openai.NotFoundError):
        ask(client, model="nomic-embed-text")
    with pytest.raises(openai.BadRequestError) as flagged:
        ask(client, BAD_MARKER)
    assert flagged.value.code == "invalid_prompt"


def test_answers_are_spoilt_as_ordered(openai_api: OpenAIApi, client: openai.OpenAI) -> None:
    def spoilt(kind: FaultKind) -> Any:
        openai_api.faults.add(Fault(kind=kind, times=1))
        return ask(client).choices[0]

    assert spoilt(FaultKind.REFUSAL).message.refusal
    assert spoilt(FaultKind.CUT_ANSWER).finish_reason == "length"
    assert "```json" in spoilt(FaultKind.FENCED).message.content
    assert spoilt(FaultKind.NO_JSON).message.content.endswith(",}")
    assert spoilt(FaultKind.EMPTY).message.content == ""
    assert "apocalyptic" in spoilt(FaultKind.OUT_OF_LIST).message.content
    assert ask(client).choices[0].finish_reason == "stop"
