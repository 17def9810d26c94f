"""Whole HTTP answers, byte for byte: whatever a server sends, a client gives a value or one of our errors."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from aitp.errors import AitpError
from aitp.knowledge.wikidata import Api
from aitp.providers import Message, Question
from aitp.providers.ollama_models import missing
from aitp.providers.ollama_models import pull as pull_model
from aitp.taskapi.client import TaskApi
from aitp.taskapi.token import Tokens
from aitp.tasks import TaskStatus
from tests.fuzz.cases import cases, likely, values
from tests.knowledge.desk import settings_for as knowledge_settings
from tests.providers.embeddings import provider_at as openai_at
from tests.providers.embeddings import settings
from tests.providers.ollama_answers import provider_at as ollama_at
from tests.providers.scripted import ScriptedServer, raw, scripted
from tests.taskapi.desk import settings_for

SECRET = "seldom-told-secret-value"
TEXT = "a text that nobody may repeat"


def framed(body: bytes, status: str, headers: bytes, said: int | None) -> bytes:
    length = b"" if said is None else b"Content-Length: %d\r\n" % max(0, len(body) + said)
    return b"HTTP/1.1 %s\r\nContent-Type: application/json\r\n%s%s\r\n%s" % (status.encode(), length, headers, body)


statuses = st.sampled_from(
    ("200 OK", "200 OK", "200 OK", "201 Created", "204 No Content", "301 Moved", "302 Found", "400 Bad", "401 No",
     "403 Forbidden", "404 Not Found", "413 Big", "422 No", "429 Wait", "500 Oops", "503 Later", "999 What", "20 X", "")
)  # fmt: skip
headers = st.sampled_from(
    (b"", b"", b"", b"Retry-After: 9999999999\r\n", b"Retry-After: \xff\r\n", b"Location: http://127.0.0.1:1/\r\n",
     b"Content-Encoding: gzip\r\n", b"Transfer-Encoding: chunked\r\n", b"Connection: close\r\n", b": \r\n", b"X\r\n",
     b"Content-Type: text/html; charset=nonsense\r\n", b"Set-Cookie: a=b\r\n", b"X: " + b"y" * 70_000 + b"\r\n")
)  # fmt: skip


def answers(shape: Any) -> st.SearchStrategy[bytes]:
    """Answers with such a body, more or less."""
    bodies = st.one_of(likely(shape), values).map(lambda value: json.dumps(value).encode())
    broken = st.builds(lambda body, cut: body[: len(body) - cut], bodies, st.integers(0, 9))
    body = st.one_of(bodies, bodies, broken, st.binary(max_size=80), st.just(b"3\r\n{}x\r\n0\r\n\r\n"))
    whole = st.builds(framed, body, statuses, headers, st.sampled_from((0, 0, 0, None, 5, -1)))
    return st.one_of(whole, whole, whole, st.binary(max_size=60))


@pytest.fixture(scope="module")
def server() -> Iterator[ScriptedServer]:
    with scripted(raw(b"")) as server:
        yield server


def assert_ours(error: AitpError) -> None:
    """It says what is wrong in one line, without secrets and texts."""
    said = str(error)
    assert said
    assert said.isprintable()
    assert SECRET not in said
    assert TEXT not in said


def attempt(server: ScriptedServer, answer: bytes, act: Any) -> None:
    server.script = [raw(answer)]
    server.requests.clear()
    try:
        act()
    except AitpError as error:
        assert_ours(error)
    for request in server.requests:
        assert request.line.split(" ")[2] == "HTTP/1.1"


DOCUMENT = {"_id": "65f0c0ffee65f0c0ffee65f0", "type": "text_embedding", "content": "x"}
QUESTION = Question("name", {"type": "object"}, [Message("user", TEXT)])


class FixedTokens(Tokens):
    """A token that is always good: what the token endpoint says is another test's."""

    def current(self) -> str:
        return SECRET

    def replace(self, refused: str) -> str:
        return SECRET


@cases(1_500)
@given(answer=answers([DOCUMENT]), deliver=st.booleans())
def test_the_task_api(folder: Path, server: ScriptedServer, answer: bytes, deliver: bool) -> None:
    settings = settings_for(f"http://127.0.0.1:{server.port}", "http://127.0.0.1:9/token", folder, REQUEST_TIMEOUT="2")
    api = TaskApi(settings, FixedTokens(settings, lambda good: None), lambda *facts: None)

    def act() -> None:
        if deliver:
            api.deliver("65f0c0ffee65f0c0ffee65f0", TaskStatus.SUCCEEDED, orjson.dumps(TEXT))
            return
        page = api.pending(3)
        try:
            assert all(isinstance(document, bytes) for document in page)
        finally:
            page.close()

    attempt(server, answer, act)
    api.close()


@cases(1_500)
@given(answer=answers({"access_token": "abc", "expires_in": 3600, "token_type": "bearer", "error": "invalid_client"}))
def test_the_token_endpoint(folder: Path, server: ScriptedServer, answer: bytes) -> None:
    for file in folder.iterdir():
        file.unlink()
    url = f"http://127.0.0.1:{server.port}/token"
    settings = settings_for("http://127.0.0.1:9", url, folder, OAUTH2_CLIENT_SECRET=SECRET, REQUEST_TIMEOUT="2")
    tokens = Tokens(settings, lambda good: None)

    attempt(server, answer, lambda: tokens.current().encode("ascii"))


@cases(1_500)
@given(
    answer=answers(
        {
            "data": [{"index": 0, "embedding": "AACAPwAAgD8="}],
            "choices": [{"message": {"content": "{}"}, "finish_reason": "stop"}],
            "error": {"code": "x", "message": TEXT},
        }
    ),
    ask=st.booleans(),
)
def test_openai(server: ScriptedServer, answer: bytes, ask: bool) -> None:
    provider = openai_at(server.url, api_key=SecretStr(SECRET), timeout=2.0)
    attempt(server, answer, lambda: provider.ask(QUESTION, "o3") if ask else provider.embed([TEXT], "m"))
    provider.close()


@cases(1_500)
@given(
    answer=answers({"embeddings": [[0.5]], "message": {"content": "{}"}, "done": True, "error": TEXT}),
    ask=st.booleans(),
)
def test_ollama(server: ScriptedServer, answer: bytes, ask: bool) -> None:
    provider = ollama_at(server, models=["m"], timeout=2.0)
    attempt(server, answer, lambda: provider.ask(QUESTION, "m") if ask else provider.embed([TEXT], "m"))
    provider.close()


LINE = {"status": "pulling", "digest": "sha256:1", "total": 9, "completed": 3}
lines = st.lists(st.one_of(likely(LINE), st.just({"error": "no"}), st.just({"status": "success"})), max_size=5)
streams = lines.map(lambda told: b"\n".join(json.dumps(line).encode() for line in told))


@cases(1_500)
@given(answer=st.one_of(st.builds(framed, streams, statuses, headers, st.just(0)), answers({"models": [{"model": 1}]})),
       pull=st.booleans())  # fmt: skip
def test_pulls_of_models(server: ScriptedServer, answer: bytes, pull: bool) -> None:
    given = settings(ollama_base_url=f"http://127.0.0.1:{server.port}")
    told: list[object] = []

    def act() -> None:
        if pull:
            pull_model(given, "m", told.append, stall_seconds=2.0, pause_seconds=0.0)
        else:
            missing(given, ["m"], 2.0)

    attempt(server, answer, act)


@cases(1_000)
@given(answer=answers({"search": [{"id": "Q1"}], "error": {"code": "maxlag"}}))
def test_wikidata(server: ScriptedServer, answer: bytes) -> None:
    api = Api(knowledge_settings(f"http://127.0.0.1:{server.port}"), nullcontext, lambda seconds: nullcontext())
    api._wait_for_turn = lambda: None
    attempt(server, answer, lambda: api.query(lambda body: orjson.loads(body)["search"], action="wbsearchentities"))
    api.close()
