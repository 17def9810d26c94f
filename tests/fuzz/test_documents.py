"""What a task API may send as its pending list, and in it."""

from __future__ import annotations

import json
from pathlib import Path

import orjson
from hypothesis import given
from hypothesis import strategies as st

from aitp.ledger.inbox import Malformed
from aitp.ledger.maintenance import check
from aitp.process.relay import TASK_ID, read_document
from aitp.taskapi.pages import ArraySplitter, NotAnArray
from aitp.tasks import NewTask, TaskType
from tests.fuzz.cases import cases, likely, texts, values
from tests.ledger.world import World

SHAPES = [
    {
        "_id": "65f0c0ffee65f0c0ffee65f0",
        "type": type_.value,
        "state": "pending",
        "content": content,
        "callbackParams": {"targetId": "x", "field": "y"},
    }
    for type_ in TaskType
    for content in (
        "A text",
        {
            "text": "A text",
            "model": "o3-mini",
            "options": ["one"],
            "impactArea": {"name": "n", "language": "pt", "wikidataId": "Q1"},
            "topics": [{"name": "t", "language": "pt", "wikidataId": None}],
            "personalities": [{"name": "p", "wikidataId": "Q5"}],
        },
    )
]
documents = st.one_of(*(likely(shape) for shape in SHAPES))


def as_sent(document: object) -> bytes:
    """As Python writes it: NaN, lone surrogates and numbers without end included."""
    return json.dumps(document).encode()


def assert_usable(found: NewTask | Malformed) -> None:
    if found.id is not None:
        assert TASK_ID.fullmatch(found.id)
    if isinstance(found, Malformed):
        assert found.reason.isprintable()
        return
    assert found.id is not None
    if found.invalid is None:
        assert isinstance(orjson.loads(found.content), dict)
    else:
        assert found.invalid.isprintable()
    assert found.queue.type in set(TaskType)
    assert found.queue.model.isprintable()
    found.queue.model.encode()


@cases(14_000)
@given(documents.map(as_sent))
def test_a_document_of_any_shape_is_a_task_or_unreadable(raw: bytes) -> None:
    assert_usable(read_document(raw))


@cases(8_000)
@given(st.one_of(st.binary(max_size=200), documents.map(as_sent).flatmap(lambda raw: st.just(raw[: len(raw) // 2]))))
def test_bytes_of_any_kind_are_unreadable_at_worst(raw: bytes) -> None:
    assert_usable(read_document(raw))


@cases(6_000)
@given(st.data())
def test_any_bytes_are_cut_into_documents_or_refused_however_they_arrive(data: st.DataObject) -> None:
    array = st.lists(values, max_size=5).map(as_sent)
    raw = data.draw(st.one_of(array, st.binary(max_size=300), st.text('[]{},"\\ a1', max_size=60).map(str.encode)))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(raw)), max_size=6)))
    pieces = [raw[start:end] for start, end in zip([0, *cuts], [*cuts, len(raw)], strict=True)]

    def split(pieces: list[bytes]) -> list[bytes] | None:
        splitter = ArraySplitter(most=64)
        try:
            found = [element for piece in pieces for element in splitter.feed(piece)]
        except NotAnArray:
            return None
        return found if splitter.closed else None

    assert split(pieces) == split([raw])


@cases(1_500)
@given(parts=st.lists(documents.map(as_sent), min_size=1, max_size=30), said=texts)
def test_whatever_was_read_enters_the_ledger_and_leaves_it_sound(
    folder: Path, template: Path, parts: list[bytes], said: str
) -> None:
    path = folder / "ledger.db"
    path.unlink(missing_ok=True)
    world = World.create(folder, template)
    found = [read_document(raw) for raw in parts]
    poll = world.poll()
    world.ledger.inbox.admit(
        poll,
        [task for task in found if isinstance(task, NewTask)],
        [document for document in found if isinstance(document, Malformed)],
    )
    world.ledger.inbox.end_poll(poll, complete=True, more_there=False, regular_at=world.clock() + 30)

    assert check(path).problems == ()
    world.close()
