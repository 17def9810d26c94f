"""Questions to a server that speaks OpenAI's protocol: what is sent, and what is made of the answer."""

from __future__ import annotations

import json
from typing import Any

import pytest

from aitp.errors import (
    AnswerCut,
    CooldownRequired,
    CredentialsRefused,
    InputRefused,
    InputTooLong,
    ModelGone,
    ModelRefused,
    RequestRefused,
    ServiceFault,
    UselessAnswer,
)
from aitp.processors.structured import schema_of
from aitp.processors.task_types import Personalities
from aitp.providers import Message, Question, Usage, build
from tests.providers.embeddings import KEY, provider_at, settings
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
    assert "temperature" not in body_of(model=model)


@pytest.mark.parametrize("model", ["gpt-4o", "gpt-4.1-mini", "openai/gpt-4o", "llama3.2", "olmo2", "qwen3/o3x"])
def test_other_models_are_asked_at_their_coldest(model: str) -> None:
    with scripted(reply(200, completion())) as server:
        provider_at(server.url).ask(QUESTION, model)

    assert server.requests[0].json()["temperature"] == 0


@pytest.mark.parametrize("reason", ["stop", "eos_token", "stop_sequence", "end_turn", None, "COMPLETE", 7])
def test_an_answer_that_came_to_its_end_is_one_whatever_that_is_called(reason: object) -> None:
    with scripted(reply(200, completion("{}", reason))) as server:
        assert provider_at(server.url).ask(QUESTION, MODEL).text == "{}"


ROWS: list[tuple[str, Answer, type[Exception], str]] = [
    ("refusal", reply(200, completion(None, refusal=f"I won't say {PLANTED}")), ModelRefused, "refused to answer"),
    ("refusal beside content", reply(200, completion("{}", refusal="No.")), ModelRefused, "refused"),
    ("cut", reply(200, completion('{"severity": "low', "length")), AnswerCut, "cut at its greatest length"),
    ("cut before the first word", reply(200, completion("", "length")), AnswerCut, "cut"),
    ("filtered", reply(200, completion("", "content_filter")), ModelRefused, "content filter"),
    ("cut, in capitals", reply(200, completion('{"severity": "low', "MAX_TOKENS")), AnswerCut, "cut"),
    ("cut, in other words", reply(200, completion('{"severity": "low', "token_limit_reached")), AnswerCut, "cut"),
    ("held back", reply(200, completion("", "guardrail_intervened")), ModelRefused, "content filter"),
    ("empty", reply(200, completion("  ")), UselessAnswer, "empty"),
    ("no content", reply(200, completion(None)), UselessAnswer, "empty"),
    ("content of another form", reply(200, completion([{"type": "text"}])), UselessAnswer, "empty"),
    ("thoughts alone", reply(200, completion([{"type": "thinking", "text": PLANTED}])), UselessAnswer, "empty"),
    ("no choices", reply(200, completion(choices=[])), ServiceFault, "without a message"),
    ("strange choices", reply(200, completion(choices=[7])), ServiceFault, "without a message"),
    ("strange message", reply(200, completion(choices=[{"message": "hi"}])), ServiceFault, "without a message"),
    ("cut, without a message", reply(200, completion(choices=[{"finish_reason": "length"}])), AnswerCut, "cut"),
    ("broken off", reply(200, completion('{"severity"', "error")), ServiceFault, "broke off"),
    ("broken off, in other words", reply(200, completion("{}", "insufficient_system_resource")), ServiceFault, "broke"),
    ("a list", reply(200, []), ServiceFault, "without a message"),
    ("no JSON", reply(200, b"<html>"), ServiceFault, "no JSON"),
    ("400", reply(400, {"error": {"code": "context_length_exceeded", "message": PLANTED}}), InputTooLong,
     "400 (context_length_exceeded)"),
    ("400 format", reply(400, {"error": {"param": "response_format"}}), RequestRefused, "takes no json_schema"),
    ("400 format, mode", reply(400, [{"error": {"message": "JSON mode is not enabled for models/o3-mini"}}]),
     RequestRefused, "takes no json_schema"),
    ("400 format, states", reply(400, {"error": "The specified schema produces a constraint that has too many states f"
     "or serving."}), RequestRefused, "takes no json_schema"),
    ("400 format, a name", reply(400, {"error": "Invalid JSON payload received. Unknown name \"additionalProperties\" a"
     "t 'generation_config.response_schema': Cannot find field."}), RequestRefused, "takes no json_schema"),
    ("400 format, its own check", reply(400, {"error": {"code": "json_validate_failed", "message": "Failed to generate "
     "JSON.", "failed_generation": "insufficient balance, api key"}}), RequestRefused, "takes no json_schema"),
    ("400 format, guided", reply(400, {"message": "Guided decoding is not enabled for this model"}), RequestRefused,
     "takes no json_schema"),
    ("500, of a gateway", reply(500, {"error": "invalid JSON response from upstream"}), ServiceFault, "500"),
    ("400 temperature, not sent", reply(400, {"error": {"param": "temperature"}}), RequestRefused, "does not name"),
    ("404", reply(404, {"error": {"code": "model_not_found"}}), ModelGone, "no model o3-mini"),
    ("400 policy", reply(400, {"error": {"code": "content_filter"}}), InputRefused, "refuses the input"),
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
    "content",
    [
        [{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}, {"type": "text", "text": "{}"}],
        [{"type": "text", "text": "{"}, {"type": "text", "text": "}"}],
        [{"type": "reasoning", "text": "hm"}, {"kind": "words", "text": "{}"}, {"odd": 1}, None, 7],
        ["{", "}"],
        {"text": "{}"},
    ],
)
def test_an_answer_in_parts_is_read_without_the_thoughts(content: object) -> None:
    with scripted(reply(200, completion(content))) as server:
        assert provider_at(server.url).ask(QUESTION, MODEL).text == "{}"


@pytest.mark.parametrize("field", ["reasoning_content", "reasoning"])
def test_an_answer_that_was_taken_for_thoughts_is_one(field: str) -> None:
    for thoughts, text in ((' {"severity": "low_1"}\n', True), ("Hm: {}", False), ([{}], False), (None, False)):
        message: dict[str, object] = {"content": None, field: thoughts}
        with scripted(reply(200, completion(choices=[{"message": message, "finish_reason": "stop"}]))) as server:
            provider = provider_at(server.url)
            if text:
                assert provider.ask(QUESTION, MODEL).text == thoughts
            else:
                with pytest.raises(UselessAnswer, match="empty"):
                    provider.ask(QUESTION, MODEL)


# What may be left out

NAMES = ("temperature", "reasoning_effort", "service_tier", "schema_bounds", "json_schema", "json_object")


def test_what_a_question_could_do_without_depends_on_model_and_settings() -> None:
    plain, full = provider_at("http://x"), provider_at("http://x", reasoning_effort="low", service_tier="flex")

    assert plain.optional("gpt-4o", chat=True) == ("temperature", "schema_bounds", "json_schema", "json_object")
    assert plain.optional("o3", chat=True) == ("schema_bounds", "json_schema", "json_object")
    assert plain.optional("ft:gpt-4o:us", chat=True) == ("temperature", "json_schema", "json_object")
    assert full.optional("deployment-7", chat=True) == NAMES
    assert full.optional("o3", chat=True) == NAMES[1:]
    assert full.optional("gpt-4.1", chat=True) == (NAMES[0], *NAMES[2:])


def body_of(*leave_out: str, model: str = "gpt-4o", question: Question = QUESTION, **options: object) -> Any:
    with scripted(reply(200, completion())) as server:
        provider_at(server.url, **options).ask(question, model, leave_out)
    (request,) = server.requests
    return request.json()


def test_effort_and_tier_are_sent_if_they_are_set() -> None:
    body = body_of(model="o3", reasoning_effort="low", service_tier="flex")

    assert (body["reasoning_effort"], body["service_tier"]) == ("low", "flex")
    both = "reasoning_effort", "service_tier"
    assert not {*both} & set(body_of(*both, model="o3", reasoning_effort="low", service_tier="flex"))


def test_the_default_tier_is_told_openai_alone() -> None:
    assert "service_tier" in build(settings(openai_base_url=""))["openai"].optional("o3", chat=True)
    assert "service_tier" not in build(settings(openai_base_url="http://x/v1"))["openai"].optional("o3", chat=True)
    assert "service_tier" not in build(settings(openai_service_tier=""))["openai"].optional("o3", chat=True)


def test_without_a_temperature_none_is_sent() -> None:
    assert "temperature" not in body_of("temperature")


BOUNDED = schema_of(Personalities)


def test_a_schema_goes_with_its_bounds_or_without() -> None:
    question = Question("people", BOUNDED, QUESTION.messages)
    bounded = body_of(question=question)["response_format"]["json_schema"]["schema"]
    bare = body_of("schema_bounds", question=question)["response_format"]["json_schema"]["schema"]

    assert bounded["properties"]["personalities"]["maxItems"] == 100
    assert bounded["properties"]["personalities"]["items"]["properties"]["confidence"]["maximum"] == 1
    assert "max" not in json.dumps(bare).lower()
    assert bare["required"] == bounded["required"]


def test_a_property_may_have_the_name_of_a_bound() -> None:
    schema = {"type": "object", "properties": {"pattern": {"type": "string", "pattern": "x"}}}

    bare = body_of("schema_bounds", question=Question("x", schema, QUESTION.messages))["response_format"]["json_schema"]
    assert bare["schema"] == {"type": "object", "properties": {"pattern": {"type": "string"}}}


def test_without_json_schema_an_object_is_asked_for_and_the_schema_told_in_words() -> None:
    body = body_of("json_schema")
    system, user = body["messages"]

    assert body["response_format"] == {"type": "json_object"}
    assert system["content"].startswith("Judge.\n\nAnswer with one JSON object")
    assert json.loads(system["content"].splitlines()[-1]) == SCHEMA
    assert user["content"] == QUESTION.messages[1].content
    assert "response_format" not in body_of("json_schema", "json_object")


def test_words_about_the_schema_stand_first_if_there_are_no_instructions() -> None:
    (told, user) = body_of("json_schema", question=Question("x", SCHEMA, (Message("user", "u"),)))["messages"]

    assert (told["role"], user) == ("system", {"role": "user", "content": "u"})


REFUSED: list[tuple[str, Answer, str]] = [
    ("param", reply(400, {"error": {"code": "unsupported_value", "param": "temperature"}}), "temperature"),
    ("words", reply(422, {"detail": "I decide on the temperature of my house"}), "temperature"),
    ("effort", reply(400, {"error": {"message": "no effort of this kind"}}), "reasoning_effort"),
    ("effort, as thoughts", reply(400, [{"error": {"message": "Budget 0 is invalid. This model only works in thinking m"
     "ode."}}]), "reasoning_effort"),
    ("tier", reply(400, [{"error": {"message": "service-tier?"}}]), "service_tier"),
    ("tier, full", reply(498, {"error": {"message": "Flex tier capacity exceeded"}}), "service_tier"),
    ("schema", reply(400, b"structured outputs are for others"), "json_schema"),
    ("schema, by param", reply(400, {"error": {"param": "response_format", "message": "must be text"}}), "json_schema"),
    ("bounds", reply(400, {"error": {"param": "response_format", "message": "maxLength is not permitted"}}),
     "schema_bounds"),
]  # fmt: skip


@pytest.mark.parametrize(("answer", "name"), [row[1:] for row in REFUSED], ids=[row[0] for row in REFUSED])
def test_a_parameter_that_the_server_names_is_told(answer: Answer, name: str) -> None:
    with scripted(answer) as server, pytest.raises(RequestRefused) as raised:
        provider_at(server.url, reasoning_effort="low", service_tier="flex").ask(QUESTION, "deployment-7")

    assert raised.value.parameter == name
    assert len(server.requests) == 1


def test_a_rate_limit_that_speaks_of_a_tier_is_not_the_one_s_that_was_asked_for() -> None:
    limit = reply(429, {"error": {"message": "You have exceeded the rate limit of your S0 pricing tier."}})
    with scripted(limit) as server, pytest.raises(CooldownRequired):
        provider_at(server.url, service_tier="flex").ask(QUESTION, "deployment-7")


def test_what_comes_after_a_parameter_was_left_out_is_the_next_one() -> None:
    refused = reply(400, {"error": {"param": "response_format"}})
    with scripted(refused) as server, pytest.raises(RequestRefused) as raised:
        provider_at(server.url).ask(QUESTION, MODEL, ("schema_bounds", "json_schema"))

    assert raised.value.parameter == "json_object"


# Tiers


@pytest.mark.parametrize(
    "body",
    [
        {"error": {"code": "resource_unavailable", "message": "Resource Unavailable"}},
        {"error": {"message": "the flex tier is full"}},
    ],
)
def test_a_tier_without_room_is_left_out_rather_than_waited_for(body: object) -> None:
    with scripted(reply(429, body)) as server:
        with pytest.raises(RequestRefused) as raised:
            provider_at(server.url, service_tier="flex").ask(QUESTION, MODEL)
        with pytest.raises(CooldownRequired):
            provider_at(server.url, service_tier="flex").ask(QUESTION, MODEL, ("service_tier",))

    assert raised.value.parameter == "service_tier"


def test_a_question_that_has_to_wait_for_a_day_waits() -> None:
    with scripted(reply(429, {}, retry_after="86400")) as server, pytest.raises(CooldownRequired) as raised:
        provider_at(server.url).ask(QUESTION, MODEL)

    assert (raised.value.model, raised.value.seconds) == (MODEL, 3600.0)


def test_a_rate_limit_of_the_flex_tier_is_a_rate_limit() -> None:
    with scripted(reply(429, {"error": {"code": "rate_limit_exceeded"}})) as server, pytest.raises(CooldownRequired):
        provider_at(server.url, service_tier="flex").ask(QUESTION, MODEL)


@pytest.mark.parametrize(("said", "tier"), [("flex", "flex"), ("default", "default"), (None, ""), (7, ""), ("A b", "")])
def test_an_answer_says_which_tier_it_came_from(said: object, tier: str) -> None:
    with scripted(reply(200, completion(service_tier=said))) as server:
        assert provider_at(server.url).ask(QUESTION, MODEL).tier == tier


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
        pytest.raises(ServiceFault, match="more than 1048576 bytes"),
    ):
        provider_at(server.url).ask(QUESTION, MODEL)


def test_vectors_and_answers_come_over_one_connection() -> None:
    with scripted(reply(200, completion())) as server:
        provider = provider_at(server.url)
        for _ in range(2):
            provider.ask(QUESTION, MODEL)
        provider.close()

    assert [request.connection for request in server.requests] == [1, 1]
