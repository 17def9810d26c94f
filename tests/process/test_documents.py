"""A document of the pending list becomes a task, or a reason that is safe to log; never an exception."""

from __future__ import annotations

import json
from typing import Any

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aitp.ledger.inbox import Malformed
from aitp.process.relay import read_document
from aitp.processors import PROCESSORS
from aitp.settings import load_settings
from aitp.tasks import NewTask, QueueKey
from tests.services import a_task
from tests.settings.complete import COMPLETE

ID = "65f000000000000000000001"
PRIVATE = "a private sentence"
JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text()),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.text(), inner, max_size=4)),
    max_leaves=10,
)


def read(**fields: Any) -> NewTask | Malformed:
    return read_document(json.dumps(a_task(_id=ID) | fields).encode())


def test_a_document_becomes_a_task() -> None:
    task = read(content={"text": "O café é bom.", "model": "nomic-embed-text", "more": 1}, more={"at": "any time"})
    assert isinstance(task, NewTask)
    assert (task.id, task.queue, task.invalid) == (ID, QueueKey("text_embedding", "nomic-embed-text"), None)
    assert orjson.loads(task.content) == {"text": "O café é bom.", "model": "nomic-embed-text"}


def test_a_bare_string_is_a_text_for_the_default_model() -> None:
    task = read(content="O café é bom.")
    assert isinstance(task, NewTask)
    assert task.queue.model == "text-embedding-3-small"


def test_the_settings_name_the_models_of_tasks_that_name_none() -> None:
    told = load_settings({**COMPLETE, "DEFAULT_EMBEDDING_MODEL": "bge-m3", "DEFAULT_CHAT_MODEL": "mine"})
    for type_ in PROCESSORS:
        for content in ("O café é bom.", {"text": "O café é bom.", "model": None}, {"text": "x", "model": "its-own"}):
            task = read_document(orjson.dumps({"_id": ID, "type": type_, "content": content}), told)
            assert isinstance(task, NewTask)
            expected = "bge-m3" if type_ == "text_embedding" else "mine"
            assert task.queue.model == ("its-own" if "its-own" in str(content) else expected)
            assert PROCESSORS[type_].load(task.content).model == task.queue.model


def test_old_documents_may_lack_what_is_not_needed() -> None:
    raw = orjson.dumps({"_id": ID, "type": "text_embedding", "content": "text"})
    assert isinstance(read_document(raw), NewTask)


def test_the_stored_content_is_what_a_worker_can_load() -> None:
    for content in ("text", {"text": "té\n\u2028😀", "model": "m"}):
        task = read(content=content)
        assert isinstance(task, NewTask)
        loaded = PROCESSORS["text_embedding"].load(task.content)
        assert loaded == PROCESSORS["text_embedding"].parse(content)


@pytest.mark.parametrize(
    "content",
    [None, "", "   ", 7, [], {}, {"text": None}, {"text": ""}, {"text": "x" * 10_001}, {"text": "x", "model": "a b"}],
)
def test_invalid_content_of_a_known_type_is_a_task_that_fails(content: object) -> None:
    task = read(content=content)
    assert isinstance(task, NewTask)
    assert task.invalid
    assert task.content == b""


def test_missing_content_is_invalid_too() -> None:
    task = read_document(orjson.dumps({"_id": ID, "type": "text_embedding"}))
    assert isinstance(task, NewTask)
    assert task.invalid


HALVES = {
    "high": rb"cut \ud83d",
    "low": rb"\ude00 cut",
    "both, the wrong way round": rb"\ude00\ud83d",
    "raw": b"cut \xed\xa0\xbd",
    "beside a whole one": rb"cut \ud83d, whole \ud83d\ude00",
}


@pytest.mark.parametrize("text", HALVES.values(), ids=HALVES)
def test_half_an_emoji_is_replaced_and_costs_its_task_nothing(text: bytes) -> None:
    """JavaScript cuts texts so."""
    raw = b'{"_id":"%s","type":"text_embedding","content":{"text":"%s","model":"m"}}' % (ID.encode(), text)
    task = read_document(raw)
    assert isinstance(task, NewTask)
    assert task.invalid is None
    assert task.fingerprint is not None
    loaded = PROCESSORS["text_embedding"].load(task.content)
    assert "\ufffd" in loaded.text
    assert ("\U0001f600" in loaded.text) is ("whole" in text.decode(errors="replace"))
    assert orjson.dumps(loaded.text)  # as a provider gets it


def test_an_id_with_half_an_emoji_is_no_id() -> None:
    assert read_document(rb'{"_id":"\ud83d","type":"text_embedding"}') == Malformed(None, "it has no usable _id")


@pytest.mark.parametrize("task_id", ["0B1f6f0e-54c1-4f0e-9d5e-6b1d1a2c3d4e", "a" * 64, "A-b_c.d:e", "7"])
def test_an_id_may_be_a_uuid_or_anything_safe(task_id: str) -> None:
    task = read(_id=task_id)
    assert isinstance(task, NewTask)
    assert task.id == task_id
    assert read_document(b'{"_id": "%s", "type": "te' % task_id.encode()) == Malformed(
        task_id, "it is not valid JSON, or far too long"
    )


@pytest.mark.parametrize(
    ("type_", "shown"),
    [
        ("defining_mood", "defining_mood"),
        (None, "no name of a type"),
        (7, "no name of a type"),
        (["text_embedding"], "no name of a type"),
        ("two words\n", "no name of a type"),
        ("x" * 65, "no name of a type"),
    ],
)
def test_an_unknown_type_stays_pending_under_its_id(type_: object, shown: str) -> None:
    assert read(type=type_) == Malformed(ID, f"its type is unknown to this release: {shown}")


@pytest.mark.parametrize(
    "task_id",
    [None, 7, "", ".", "..", "a/b", "a b", "x" * 65, "a\n", "é", {"$oid": ID}, "\x1b[31m", "%2e%2e"],
)
def test_without_an_id_that_fits_everywhere_nothing_is_begun(task_id: object) -> None:
    assert read(_id=task_id) == Malformed(None, "it has no usable _id")


@pytest.mark.parametrize("raw", [b"", b"{", b"nonsense", b"[1", b"[" * 100_000, b'{"a":' * 100_000, b"\xff\xfe"])
def test_what_is_no_json_is_unreadable(raw: bytes) -> None:
    assert read_document(raw) == Malformed(None, "it is not valid JSON, or far too long")


@pytest.mark.parametrize("raw", [b"1", b"null", b"[]", b'"text"', b"NaN"])
def test_what_is_no_object_is_unreadable(raw: bytes) -> None:
    assert read_document(raw) == Malformed(None, "it is not an object")


@pytest.mark.parametrize("rest", [b', "type": "text_emb', b', "content": }', b',"a":' + b"[" * 5000])
def test_a_document_of_which_only_the_beginning_is_there_keeps_its_id(rest: bytes) -> None:
    found = read_document(b'{ "_id" : "%s"' % ID.encode() + rest)
    assert found == Malformed(ID, "it is not valid JSON, or far too long")


@given(st.binary())
def test_no_bytes_are_too_odd(raw: bytes) -> None:
    assert isinstance(read_document(raw), NewTask | Malformed)


# Of four documents each; tests/fuzz/test_documents.py tries many more.
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(JSON, JSON, JSON)
def test_no_document_is_too_odd(task_id: object, type_: object, content: object) -> None:
    for document in (
        content,
        {"_id": task_id, "type": type_, "content": content},
        {"_id": ID, "type": "text_embedding", "content": content},
        {"_id": ID, "type": "text_embedding", "content": {"text": task_id, "model": content}},
    ):
        assert isinstance(read_document(json.dumps(document).encode()), NewTask | Malformed)


@pytest.mark.parametrize(
    "document",
    [
        {"_id": PRIVATE, "type": "text_embedding", "content": PRIVATE},
        {"_id": ID, "type": PRIVATE, "content": PRIVATE},
        {"_id": ID, "type": [PRIVATE], "content": PRIVATE},
        {"_id": ID, "type": "text_embedding", "content": [PRIVATE]},
        {"_id": ID, "type": "text_embedding", "content": {PRIVATE: PRIVATE}},
        {"_id": ID, "type": "text_embedding", "content": {"text": PRIVATE, "model": PRIVATE}},
        {"_id": ID, "type": "text_embedding", "content": {"text": [PRIVATE], "model": {PRIVATE: 1}}},
        {"_id": ID, "type": "text_embedding", "content": {"text": PRIVATE * 1000}},
        {"_id": ID, "type": "text_embedding", "content": {"text": (PRIVATE + "\ud83d") * 1000}},
        PRIVATE,
        [PRIVATE],
    ],
)
def test_no_reason_repeats_the_content(document: object) -> None:
    raw = json.dumps(document).encode()
    for found in (read_document(raw), read_document(raw[:-2])):
        reason = found.reason if isinstance(found, Malformed) else found.invalid
        assert reason
        assert "private" not in reason


def test_a_processor_that_stumbles_over_a_document_does_not_stop_the_page(monkeypatch: pytest.MonkeyPatch) -> None:
    def stumble(content: object, settings: object) -> None:
        raise ZeroDivisionError(str(content))

    monkeypatch.setattr(PROCESSORS["text_embedding"], "parse", stumble)
    found = read(content=PRIVATE)
    assert found == Malformed(ID, "its content cannot be read by this release (ZeroDivisionError)")
