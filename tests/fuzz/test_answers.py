"""What providers and Wikidata may answer, as far as it is JSON, or a model's words."""

from __future__ import annotations

import base64
import json
from typing import Any

import orjson
from hypothesis import given
from hypothesis import strategies as st

from aitp.errors import AitpError
from aitp.http import Whole
from aitp.knowledge import wikidata
from aitp.policy.retry import pause_seconds
from aitp.processors.structured import objects_in
from aitp.providers import ollama, openai
from aitp.providers.failures import error_of, refusal_of
from aitp.taskapi.client import own_words
from tests.fuzz.cases import cases, likely, texts, values

VECTOR = base64.b64encode(b"\0\0\x80\x3f" * 4).decode()
COUNTS = {"prompt_tokens": 4, "total_tokens": 9, "completion_tokens": 5}
FASTAPI = {"detail": [{"loc": ["body", "input"], "msg": "retry after 5 s", "type": "x"}]}
ITEM = {
    "id": "Q5",
    "labels": {"pt": {"value": "x"}},
    "descriptions": {},
    "aliases": {"pt": [{"value": "y"}]},
    "claims": {
        "P31": [{"rank": "normal", "mainsnak": {"snaktype": "value", "datavalue": {"value": {"id": "Q5"}}}}],
        "P8687": [{"rank": "normal", "mainsnak": {"snaktype": "value", "datavalue": {"value": {"amount": "+12"}}}}],
    },
    "sitelinks": {"ptwiki": {"title": "X"}},
}


def assert_tells(error: AitpError) -> None:
    assert str(error).isprintable()


def assert_vectors(vectors: list[Any], count: int) -> None:
    assert len(vectors) == count
    for vector in vectors:
        if isinstance(vector, bytes):
            assert all(isinstance(number, (int, float)) for number in orjson.loads(vector))
        else:
            assert isinstance(vector, AitpError)
            assert str(vector).isprintable()


@cases(6_000)
@given(likely({"data": [{"index": 0, "embedding": VECTOR}], "usage": COUNTS}), st.integers(1, 3))
def test_openai_vectors(answer: Any, count: int) -> None:
    try:
        found = openai.read_embeddings(answer, ["text"] * count, None)
    except AitpError as error:
        assert_tells(error)
    else:
        assert_vectors(list(found.vectors), count)
        assert found.usage.total_tokens >= 0


@cases(6_000)
@given(likely({"embeddings": [[0.5, 1, -0.25]], "prompt_eval_count": 3}), st.integers(1, 3))
def test_ollama_vectors(answer: Any, count: int) -> None:
    try:
        found = ollama.read_embeddings(answer, ["text"] * count)
    except AitpError as error:
        assert_tells(error)
    else:
        assert_vectors(list(found.vectors), count)


@cases(6_000)
@given(likely({"choices": [{"message": {"content": "{}", "refusal": None}, "finish_reason": "stop"}], "usage": COUNTS}))
def test_openai_replies(answer: Any) -> None:
    try:
        assert openai.read_reply(answer, ["words"]).text.strip()
    except AitpError as error:
        assert_tells(error)


@cases(5_000)
@given(likely({"message": {"content": "{}"}, "done": True, "done_reason": "stop", "eval_count": 2}))
def test_ollama_replies(answer: Any) -> None:
    try:
        assert ollama.read_reply(answer, ["words"]).text.strip()
    except AitpError as error:
        assert_tells(error)


@cases(6_000)
@given(
    st.one_of(
        likely({"error": {"code": "x", "message": "tokens", "param": None, "type": "x"}}), likely(FASTAPI), values
    ),
    st.sampled_from([400, 401, 403, 404, 410, 413, 422, 429, 500, 502]),
    st.sampled_from(["application/json", "text/html"]),
)
def test_refusals(body: Any, status: int, content_type: str) -> None:
    response = Whole(status, {"content-type": content_type}, json.dumps(body, default=str).encode())
    for service in ("openai", "ollama"):
        assert_tells(error_of(refusal_of(service, response, "m", ["words"], ("dimensions", "format"))))


@cases(6_000)
@given(st.one_of(texts, values.map(json.dumps), st.text('{}[]":,\\ a1`<think>/', max_size=120)))
def test_words_of_a_model(words: str) -> None:
    assert all(isinstance(found, dict) for found in objects_in(words))


NONSENSE = (ValueError, LookupError, TypeError, AttributeError, OverflowError)  # what the client takes for it


@cases(6_000)
@given(
    likely({"search": [{"id": "Q1", "label": "x"}], "entities": {"Q5": ITEM}, "items": [{"views": 3}],
            "query": {"pages": [{"title": "Q5", "linkshere": [{}]}]}, "continue": {"lhcontinue": 1}}),
    st.sampled_from(("candidates", "items", "links", "views")),
)  # fmt: skip
def test_wikidata(answer: Any, question: str) -> None:
    body = json.dumps(answer).encode()
    try:
        match question:
            case "candidates":
                found: Any = wikidata.read_hits(body)
            case "items":
                found = wikidata.read_items(body, ["Q5"], "pt", {"ptwiki": "pt.wikipedia.org"})
            case "links":
                found = wikidata.read_links(body, ["Q5"])
            case _:
                found = wikidata.read_views(body)
    except NONSENSE:
        return
    orjson.dumps(found, option=orjson.OPT_NON_STR_KEYS)  # a cache can keep it


@cases(3_000)
@given(st.one_of(texts, st.from_regex(r"[A-Z][a-z]{2}, \d+ [A-Z][a-z]{2} \d+ \d\d:\d\d:\d\d( GMT|)", fullmatch=True)))
def test_retry_after(header: str) -> None:
    assert 0 <= pause_seconds(header, 1_753_900_000.0) <= 86_400


@cases(4_000)
@given(
    st.one_of(st.binary(max_size=200), likely({"message": "sent", "error": "x"}).map(lambda v: json.dumps(v).encode()))
)
def test_words_of_the_task_api(body: bytes) -> None:
    assert own_words(body, 400, "sent")[1].isprintable()
