"""Questions to a server that speaks OpenAI's protocol: what is sent, and what is made of the answer."""

from __future__ import annotations

import pytest

from aitp.errors import (
    AnswerCut,
    CooldownRequired,
    CredentialsRefused,
    InputTooLong,
    ModelRefused,
    NonRetryableError,
    RetryableError,
    ServiceFault,
)
from aitp.providers import Usage
from aitp.providers.chat import accepts_temperature
from tests.providers.embeddings import KEY, provider_at
from tests.providers.questions import PLANTED, QUESTION, SCHEMA, completion
from tests.providers.scripted import Answer, flood, reply, scripted

MODEL = "o3-mini"


def test_a_question_is_one_request_for_strict_json() -> None:
    with scripted(reply(200, completion())) as server:
        answered = provider_at(server.url).ask(QUESTION, MODEL)

    (request,) = server.requests
    assert request.line == "POST /v1/chat/completions HTTP/1.1"
    assert request.headers["authorization"] == f"Bearer {KEY}"
    assert request.json() == {
        "model": MODEL,
        "messages": [{"role": "system", "content": "Judge."}, {"role": "user", "content": f'{{"text": "{PLANTED}"}}'}],
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "severity", "strict": True, "schema": SCHEMA},
        },
    }
    assert (answered.text, answered.mock) == ('{"severity": "low_1"}', False)
    assert answered.usage == Usage(20, 8, 28)


@pytest.mark.parametrize(
    "model",
    ["o1", "o1-preview", "o3", "o3-mini", "o3-mini-2025-01-31", "o4-mini", "gpt-5", "gpt-5-mini", "gpt-5.1",
     "openai/o3", "ft:o4-mini:us::1"],
)  # fmt: skip
def test_reasoning_models_are_sent_no_temperature(model: str) -> None:
    assert not accepts_temperature(model)


@pytest.mark.parametrize("model", ["gpt-4o", "gpt-4.1-mini", "openai/gpt-4o", "llama3.2", "olmo2", "qwen3/o3x"])
def test_other_models_are_asked_at_their_coldest(model: str) -> None:
    with scripted(reply(200, completion())) as server:
        provider_at(server.url).ask(QUESTION, model)

    assert server.requests[0].json()["temperature"] == 0


ROWS: list[tuple[str, Answer, type[Exception], str]] = [
    ("refusal", reply(200, completion(None, refusal=f"I won't say {PLANTED}")), ModelRefused, "refused to answer"),
    ("refusal beside content", reply(200, completion("{}", refusal="No.")), ModelRefused, "refused"),
    ("cut", reply(200, completion('{"severity": "low', "length")), AnswerCut, "cut at its greatest length"),
    ("cut before the first word", reply(200, completion("", "length")), AnswerCut, "cut"),
    ("filtered", reply(200, completion("", "content_filter")), ModelRefused, "content filter"),
    ("empty", reply(200, completion("  ")), RetryableError, "empty"),
    ("no content", reply(200, completion(None)), RetryableError, "empty"),
    ("content of another form", reply(200, completion([{"type": "text"}])), RetryableError, "empty"),
    ("no choices", reply(200, completion(choices=[])), ServiceFault, "without a message"),
    ("strange choices", reply(200, completion(choices=[7])), ServiceFault, "without a message"),
    ("strange message", reply(200, completion(choices=[{"message": "hi"}])), ServiceFault, "without a message"),
    ("a list", reply(200, []), ServiceFault, "without a message"),
    ("no JSON", reply(200, b"<html>"), ServiceFault, "no JSON"),
    ("400", reply(400, {"error": {"code": "context_length_exceeded", "message": PLANTED}}), InputTooLong,
     "400 (context_length_exceeded)"),
    ("400 format", reply(400, {"error": {"param": "response_format"}}), NonRetryableError,
     "o3-mini takes no response_format"),
    ("400 temperature", reply(400, {"error": {"param": "temperature"}}), NonRetryableError, "takes no temperature"),
    ("404", reply(404, {"error": {"code": "model_not_found"}}), NonRetryableError, "no model o3-mini"),
    ("401", reply(401, {"error": {"code": "invalid_api_key"}}), CredentialsRefused, "OPENAI_API_KEY"),
    ("429", reply(429, {"error": {"code": "rate_limit_exceeded"}}), CooldownRequired, "rate limit of o3-mini"),
    ("500", reply(500, {"error": {"type": "server_error"}}), ServiceFault, "500"),
]  # fmt: skip


@pytest.mark.parametrize(("answer", "kind", "said"), [row[1:] for row in ROWS], ids=[row[0] for row in ROWS])
def test_no_failure_is_an_answer(answer: Answer, kind: type[Exception], said: str) -> None:
    with scripted(answer) as server:
        provider = provider_at(server.url)
        with pytest.raises(kind) as raised:
            provider.ask(QUESTION, MODEL)
        provider.close()

    assert type(raised.value) is kind
    assert said in str(raised.value)
    assert PLANTED not in str(raised.value)
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("counted", "usage"),
    [
        ({"prompt_tokens": 5, "completion_tokens": 3}, Usage(5, 3, 8)),
        ({"prompt_tokens": 5, "completion_tokens": 3, "total_tokens": 9}, Usage(5, 3, 9)),
        ({"prompt_tokens": 5, "completion_tokens": 3, "total_tokens": 1}, Usage(5, 3, 8)),
        ({"prompt_tokens": 5}, Usage(8, 3, 11, estimated=True)),
        ({"prompt_tokens": "5", "completion_tokens": -1}, Usage(8, 3, 11, estimated=True)),
        (None, Usage(8, 3, 11, estimated=True)),
    ],
)
def test_usage_is_the_servers_count_or_an_estimate_marked_as_such(counted: object, usage: Usage) -> None:
    with scripted(reply(200, completion(usage=counted))) as server:
        assert provider_at(server.url).ask(QUESTION, MODEL).usage == usage


def test_an_answer_without_end_is_refused() -> None:
    head = b"HTTP/1.1 200 Whatever\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
    with (
        scripted(flood(head, b"10000\r\n" + b" " * 0x10000 + b"\r\n", 500)) as server,
        pytest.raises(ServiceFault, match="more than the 1048576 bytes"),
    ):
        provider_at(server.url).ask(QUESTION, MODEL)


def test_vectors_and_answers_come_over_one_connection() -> None:
    with scripted(reply(200, completion())) as server:
        provider = provider_at(server.url)
        for _ in range(2):
            provider.ask(QUESTION, MODEL)
        provider.close()

    assert [request.connection for request in server.requests] == [1, 1]
