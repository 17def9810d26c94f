"""Calls to a server that speaks Ollama's protocol: what is sent, and what is made of the answer."""

from __future__ import annotations

import json
import subprocess
import sys
import threading

import pytest

from aitp.demo.ollama_api import OllamaApi
from aitp.errors import (
    AnswerCut,
    DeadlineExceeded,
    InputTooLong,
    ModelGone,
    RequestRefused,
    RetryableError,
    ServiceFault,
    UselessAnswer,
)
from aitp.providers import Message, Question, Usage, build
from tests.providers.embeddings import settings
from tests.providers.ollama_answers import CHAT, NOMIC, QUESTION, SCHEMA, TEXT, TOO_LONG, provider_at, said, vectors
from tests.providers.scripted import raw, reply, scripted, trickle
from tests.providers.test_openai import open_connections
from tests.waiting import wait_until

LONG = "palavra! " * 1_000  # 3,000 tokens of the demo's; the model reads 2,048
NO_PATH = raw(
    b"HTTP/1.1 404 Not Found\r\nConnection: close\r\nContent-Type: text/plain\r\nContent-Length: 18\r\n\r\n"
    b"404 page not found"
)


def test_one_request_asks_for_all_vectors() -> None:
    with scripted(reply(200, vectors([1.0, 0.5], [0.1, 0.25]))) as server:
        answered = provider_at(server).embed(["um", "dois"], NOMIC)

    (request,) = server.requests
    assert request.line == "POST /api/embed HTTP/1.1"
    assert request.json() == {"model": NOMIC, "input": ["um", "dois"], "truncate": False}
    assert request.headers["content-type"] == "application/json"
    assert request.headers["accept-encoding"] == "identity"
    assert "authorization" not in request.headers
    assert answered.vectors == [b"[1.0,0.5]", b"[0.1,0.25]"]
    assert answered.usage == Usage(7, 0, 7)


def test_keep_alive_and_options_are_passed_on() -> None:
    with scripted(reply(200, vectors([1.0])), reply(200, said("{}"))) as server:
        provider = provider_at(server, keep_alive="10m", options={"num_ctx": 2048, "top_k": 3})
        provider.embed([TEXT], NOMIC)
        provider.ask(QUESTION, CHAT)

    embed, chat = (request.json() for request in server.requests)
    assert (embed["keep_alive"], embed["options"]) == ("10m", {"num_ctx": 2048, "top_k": 3})
    assert chat["keep_alive"] == "10m"
    assert chat["options"] == {"num_ctx": 2048, "num_predict": 4096, "temperature": 0, "top_k": 3}


def test_settings_reach_the_provider(ollama_api: OllamaApi) -> None:
    given = {"processing_mode": "ollama", "ollama_base_url": ollama_api.url, "supported_models": CHAT}
    (provider,) = build(settings(**given)).values()
    assert provider.name == "ollama"
    with pytest.raises(ModelGone, match=f"{NOMIC} is no model of SUPPORTED_MODELS, which has: {CHAT}"):
        provider.embed(["um"], NOMIC)


def test_in_mode_hybrid_there_are_two_providers_and_one_without_a_key() -> None:
    assert set(build(settings(processing_mode="hybrid"))) == {"ollama", "openai"}
    assert set(build(settings(processing_mode="hybrid", openai_api_key=""))) == {"ollama"}
    assert set(build(settings(processing_mode="openai"))) == {"openai"}


@pytest.mark.parametrize("model", [NOMIC, f"{NOMIC}:latest"])
def test_latest_is_meant_where_no_tag_is_said(ollama_api: OllamaApi, model: str) -> None:
    (vector,) = provider_at(ollama_api.url).embed(["um"], model).vectors

    assert isinstance(vector, bytes)
    assert json.loads(vector) == pytest.approx(ollama_api.expected("um"), abs=1e-7)


def test_another_tag_is_another_model() -> None:
    provider = provider_at("http://127.0.0.1:1")
    with pytest.raises(ModelGone, match=f"{NOMIC}:q4 is no model of SUPPORTED_MODELS"):
        provider.embed(["um"], f"{NOMIC}:q4")
    with pytest.raises(ModelGone, match="o3 is no model"):
        provider.ask(QUESTION, "o3")


def test_each_text_gets_its_own_vector_bit_by_bit(ollama_api: OllamaApi) -> None:
    texts = [f"frase {number}" for number in range(32)]
    answered = provider_at(ollama_api.url).embed(texts, NOMIC)

    for text, vector in zip(texts, answered.vectors, strict=True):
        assert isinstance(vector, bytes)
        assert [pytest.approx(number, rel=1e-7) for number in ollama_api.expected(text)] == json.loads(vector)
    wait_until(lambda: ollama_api.times_bought().total() == 32)
    assert len(ollama_api.exchanges) == 1


def test_a_server_without_the_path_is_the_services_fault() -> None:
    with scripted(NO_PATH, reply(200, vectors([1.0]))) as server:
        provider = provider_at(server)
        with pytest.raises(ServiceFault, match="OLLAMA_BASE_URL"):
            provider.embed([TEXT], NOMIC)
        provider.embed([TEXT], NOMIC)

    assert len(server.requests) == 2


@pytest.mark.parametrize("texts", [["a", LONG, "b"], [LONG]])
@pytest.mark.parametrize("honours_truncate", [True, False])
def test_a_text_over_the_models_context_is_refused_in_one_request(
    ollama_api: OllamaApi, texts: list[str], honours_truncate: bool
) -> None:
    ollama_api.honours_truncate = honours_truncate
    with pytest.raises(InputTooLong, match="longer than what nomic-embed-text reads"):
        provider_at(ollama_api.url).embed(texts, NOMIC)

    wait_until(lambda: len(ollama_api.exchanges) == 1)


def test_a_runner_that_dies_fails_no_text_of_its_batch(ollama_api: OllamaApi) -> None:
    ollama_api.runner_deaths = 1
    provider = provider_at(ollama_api.url)
    with pytest.raises(ServiceFault, match="died"):
        provider.embed(["a", "b"], NOMIC)

    assert all(isinstance(vector, bytes) for vector in provider.embed(["a", "b"], NOMIC).vectors)


# Answers that are none


@pytest.mark.parametrize(
    ("answer", "complaint"),
    [
        ([], "without a list of embeddings"),
        ({"error": "x"}, "without a list of embeddings"),
        (vectors([1.0]), "1 vectors for 2 texts"),
        (vectors([1.0], [1.0], [1.0]), "3 vectors for 2 texts"),
        (vectors(None, 7), "no vector"),
    ],
)
def test_an_answer_without_vectors_is_the_services_fault(answer: object, complaint: str) -> None:
    with scripted(reply(200, answer)) as server, pytest.raises(ServiceFault, match=complaint) as raised:
        provider_at(server).embed([TEXT, "dois"], NOMIC)

    assert raised.value.__context__ is None


def test_one_unusable_vector_costs_only_its_own_text() -> None:
    with scripted(reply(200, vectors([1.0], [1e39], [0.0], [], None))) as server:
        good, *bad = provider_at(server).embed([TEXT, "dois", "3", "4", "5"], NOMIC).vectors

    assert good == b"[1.0]"
    assert [type(error) for error in bad] == [UselessAnswer] * 4


@pytest.mark.parametrize("counted", [None, 0, -1, "7", True])
def test_tokens_that_were_not_counted_are_estimated_and_marked(counted: object) -> None:
    with scripted(reply(200, vectors([1.0], prompt_eval_count=counted))) as server:
        assert provider_at(server).embed(["uma frase curta"], NOMIC).usage == Usage(4, 0, 4, estimated=True)


# Chats


def test_a_question_is_one_request_with_the_schema_as_format() -> None:
    with scripted(reply(200, said('{"name": "Ana"}'))) as server:
        answered = provider_at(server).ask(QUESTION, CHAT)

    (request,) = server.requests
    assert request.line == "POST /api/chat HTTP/1.1"
    body = request.json()
    assert body["messages"] == [{"role": "system", "content": "Diga quem."}, {"role": "user", "content": TEXT}]
    assert (body["format"], body["stream"], body["truncate"], body["shift"]) == (SCHEMA, False, False, False)
    assert (answered.text, answered.usage, answered.mock) == ('{"name": "Ana"}', Usage(11, 5, 16), False)


def test_the_demos_chat_answers_in_the_schema(ollama_api: OllamaApi) -> None:
    question = Question("who", SCHEMA, [Message("user", "O Banco Central decidiu.")])

    assert json.loads(provider_at(ollama_api.url).ask(question, CHAT).text) == {"name": "Banco Central"}


def test_a_chat_without_counts_is_estimated() -> None:
    with scripted(reply(200, said("uma resposta", prompt_eval_count=None))) as server:
        usage = provider_at(server).ask(QUESTION, CHAT).usage

    assert usage.estimated
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens > 0


@pytest.mark.parametrize(
    ("answer", "kind", "complaint"),
    [
        (said('{"na', done_reason="length"), AnswerCut, "num_predict"),
        (said("", done_reason="load"), UselessAnswer, "empty"),
        (said(" \n"), UselessAnswer, "empty"),
        (said("", message={"content": "", "thinking": "Hm, quem?"}), UselessAnswer, "OLLAMA_THINK"),
        (said("x", done=False), ServiceFault, "not done"),
        (said("x", message=None), ServiceFault, "without a message"),
        ([], ServiceFault, "without a message"),
    ],
)
def test_an_answer_that_is_none_is_never_a_success(answer: object, kind: type[Exception], complaint: str) -> None:
    with scripted(reply(200, answer)) as server, pytest.raises(kind, match=complaint) as raised:
        provider_at(server).ask(QUESTION, CHAT)

    assert type(raised.value) is kind


def test_an_answer_that_was_taken_for_thoughts_is_one() -> None:
    with scripted(reply(200, said("", message={"content": "", "thinking": '{"severity": "low_1"}'}))) as server:
        assert provider_at(server).ask(QUESTION, CHAT).text == '{"severity": "low_1"}'


def test_a_prompt_longer_than_the_context_is_refused() -> None:
    with scripted(reply(400, TOO_LONG)) as server, pytest.raises(InputTooLong, match=r"longer than what llama3\.2"):
        provider_at(server).ask(QUESTION, CHAT)


def test_what_a_chat_could_do_without_is_left_out() -> None:
    assert provider_at("http://x").optional(CHAT, chat=True) == ("schema_bounds", "format")
    assert provider_at("http://x").optional(NOMIC, chat=False) == ()
    with scripted(reply(200, said("{}"))) as server:
        provider = provider_at(server, think="low")
        assert provider.optional(CHAT, chat=True) == ("think", "schema_bounds", "format")
        provider.ask(QUESTION, CHAT)
        provider.ask(QUESTION, CHAT, ("think", "format"))

    held, bare = (request.json() for request in server.requests)
    assert (held["think"], held["format"]) == ("low", SCHEMA)
    assert not {"think", "format"} & set(bare)
    assert json.loads(bare["messages"][0]["content"].splitlines()[-1]) == SCHEMA
    assert bare["messages"][1]["content"] == TEXT


@pytest.mark.parametrize(
    ("words", "name"),
    [
        ('"llama3.2" does not support thinking', "think"),
        ("failed to load grammar: number of repetitions exceeds sane defaults", "schema_bounds"),
        ("no grammar for that", "format"),
    ],
)
def test_a_parameter_that_the_server_names_is_told(words: str, name: str) -> None:
    with scripted(reply(400, {"error": words})) as server, pytest.raises(RequestRefused) as raised:
        provider_at(server, think=True).ask(QUESTION, CHAT)

    assert raised.value.parameter == name


# The wire


def test_a_key_is_sent_as_a_bearer_token_if_there_is_one() -> None:
    given = {"processing_mode": "ollama", "supported_models": NOMIC, "ollama_api_key": "planted-key"}
    with scripted(reply(200, vectors([1.0]))) as server:
        url = server.url.removesuffix("/v1")
        (provider,) = build(settings(ollama_base_url=url, ollama_think="false", **given)).values()
        provider.embed([TEXT], NOMIC)

    assert server.requests[0].headers["authorization"] == "Bearer planted-key"
    assert provider.optional(NOMIC, chat=True)[0] == "think"
    assert "planted-key" not in repr(vars(provider))


def test_a_cold_load_is_waited_for(ollama_api: OllamaApi) -> None:
    ollama_api.cold_seconds = 1.0
    with pytest.raises(ServiceFault, match="OLLAMA_TIMEOUT"):
        provider_at(ollama_api.url, timeout=0.2).embed([TEXT], NOMIC)
    ollama_api.loaded.clear()

    assert isinstance(provider_at(ollama_api.url, timeout=5).embed([TEXT], NOMIC).vectors[0], bytes)


def test_a_missing_model_is_told_of(ollama_api: OllamaApi) -> None:
    ollama_api.present = set()
    told: list[str] = []
    provider = provider_at(ollama_api.url, missing=told.append)
    with pytest.raises(RetryableError):
        provider.embed([TEXT], NOMIC)
    with pytest.raises(RetryableError):
        provider.ask(QUESTION, CHAT)

    assert told == [NOMIC, CHAT]


def test_a_redirect_is_never_followed() -> None:
    with scripted(reply(200, vectors([1.0]))) as elsewhere, scripted(reply(307, location=elsewhere.url)) as server:
        with pytest.raises(ServiceFault, match="307"):
            provider_at(server).embed([TEXT], NOMIC)

        assert elsewhere.requests == []


def test_only_settings_say_where_to_go_and_as_whom(monkeypatch: pytest.MonkeyPatch) -> None:
    with scripted(reply(200, vectors([1.0]))) as elsewhere, scripted(reply(200, vectors([1.0]))) as server:
        for name in ("HTTP_PROXY", "ALL_PROXY", "OLLAMA_HOST"):
            monkeypatch.setenv(name, elsewhere.url)
        monkeypatch.setenv("OLLAMA_API_KEY", "planted")
        provider_at(server).embed([TEXT], NOMIC)

    assert elsewhere.requests == []
    assert "planted" not in str(server.requests)


def test_calls_share_one_connection_that_close_ends() -> None:
    with scripted(reply(200, vectors([1.0]))) as server:
        provider = provider_at(server)
        for _ in range(3):
            provider.embed([TEXT], NOMIC)
        provider.close()
        assert not open_connections(server.port, "01")
        provider.embed([TEXT], NOMIC)
        provider.close()
        assert not open_connections(server.port, "01")

    assert [request.connection for request in server.requests] == [1, 1, 1, 2]


def test_an_answer_that_trickles_comes_to_an_end_and_the_next_call_works(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aitp.providers.client.CALL_MARGIN_SECONDS", 0.0)
    gone = threading.Event()
    slow = trickle(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n", gone)
    with scripted(slow, reply(200, vectors([1.0]))) as server:
        provider = provider_at(server, timeout=0.3)
        with pytest.raises(DeadlineExceeded):
            provider.embed([TEXT], NOMIC)
        assert gone.wait(5), "the connection of the interrupted call stayed open"

        assert provider.embed([TEXT], NOMIC).vectors == [b"[1.0]"]
        provider.close()


def test_importing_the_package_opens_nothing_whatever_the_environment_says() -> None:
    script = """
import os
from aitp.settings import prepare_environment
prepare_environment()
opened = lambda: [os.readlink(f"/proc/self/fd/{n}") for n in range(3, 99) if os.path.lexists(f"/proc/self/fd/{n}")]
before = opened()
import aitp.providers.ollama
assert opened() == before, opened()
assert len(os.listdir("/proc/self/task")) == 1
"""
    environment = {"OLLAMA_HOST": "http://x:99999999", "ALL_PROXY": "socks5h://127.0.0.1:1"}
    subprocess.run([sys.executable, "-c", script], env=environment, check=True, timeout=60)
