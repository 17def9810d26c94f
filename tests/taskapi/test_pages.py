"""A page cut into its documents: the same as a JSON parser sees, however the bytes arrive, in bounded memory."""

from __future__ import annotations

import json
import tracemalloc
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aitp.taskapi.pages import KEPT_OF_OVERSIZED, ArraySplitter, NotAnArray

# Texts made of what could mislead, beside any others.
TEXTS = st.one_of(st.text(), st.text(alphabet='"\\[]{},:\n u\u2028é😀', max_size=20))
VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), TEXTS),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(TEXTS, inner, max_size=4)),
    max_leaves=12,
)
SIZES = st.lists(st.integers(1, 40), min_size=1, max_size=20)
SPACE = st.sampled_from([b"", b" ", b"\n\t \r"])


def split(data: bytes, sizes: list[int], most: int = 2**20) -> list[bytes]:
    """What the splitter makes of `data` that arrives in pieces of these sizes, over and over."""
    elements: list[bytes] = []
    splitter, at, turn = ArraySplitter(most), 0, 0
    while at < len(data):
        size = sizes[turn % len(sizes)]
        elements += splitter.feed(data[at : at + size])
        at, turn = at + size, turn + 1
    assert splitter.closed
    return elements


@given(st.lists(VALUES, max_size=6), SIZES, SPACE, st.sampled_from([None, 1]), st.booleans())
def test_the_elements_are_those_that_a_parser_sees(
    array: list[Any], sizes: list[int], space: bytes, indent: int | None, ascii_only: bool
) -> None:
    text = json.dumps(array, indent=indent, ensure_ascii=ascii_only)
    data = space + text.encode(errors="surrogatepass") + space
    assert [json.loads(element) for element in split(data, sizes)] == array


@given(st.lists(VALUES, max_size=6), SIZES, st.integers(1, 30))
def test_an_oversized_element_gives_its_beginning_and_costs_no_other(
    array: list[Any], sizes: list[int], most: int
) -> None:
    raws = [json.dumps(value).encode() for value in array]
    elements = split(b"[" + b",".join(raws) + b"]", sizes, most)
    assert elements == [raw if len(raw) <= most else raw[:most].strip() for raw in raws]


@given(st.lists(VALUES, min_size=1, max_size=4), SIZES, st.data())
def test_an_array_that_ends_too_soon_is_never_taken_for_whole(
    array: list[Any], sizes: list[int], data: st.DataObject
) -> None:
    raw = json.dumps(array).encode()
    cut = raw[: data.draw(st.integers(0, len(raw) - 1))]
    with pytest.raises(AssertionError):
        split(cut, sizes)


@given(st.binary(max_size=60), SIZES)
def test_arbitrary_bytes_end_in_elements_or_in_one_kind_of_error(data: bytes, sizes: list[int]) -> None:
    splitter = ArraySplitter(16)
    try:
        for at in range(0, len(data), sizes[0]):
            for element in splitter.feed(data[at : at + sizes[0]]):
                assert len(element) <= 16 or b"," not in data
    except NotAnArray:
        pass


@pytest.mark.parametrize(
    "data",
    [b"{}", b"x[]", b"[]x", b"[] []", b'[]"a"', b"[1]]", b"[1]}", b"[1}", b'"[]"', b",", b"]", b"[1],", b"null", b"<["],
)
@pytest.mark.parametrize("size", [1, 2, 50])
def test_what_is_no_array_is_refused(data: bytes, size: int) -> None:
    with pytest.raises(NotAnArray):
        split(data, [size])


def test_a_document_beyond_all_bounds_is_passed_over_in_little_memory() -> None:
    splitter = ArraySplitter()
    tracemalloc.start()
    try:
        elements = list(splitter.feed(b'[{"_id":"1","text":"'))
        for _ in range(200):
            elements += splitter.feed((b'\\"[{' + b"x" * 1020) * 64)
        elements += splitter.feed(b'"},{"_id":"2"}]')
        assert tracemalloc.get_traced_memory()[1] < 8_000_000
    finally:
        tracemalloc.stop()
    assert elements[0].startswith(b'{"_id":"1","text":')
    assert len(elements[0]) == KEPT_OF_OVERSIZED
    assert elements[1:] == [b'{"_id":"2"}']


def test_a_malformed_document_costs_the_others_nothing() -> None:
    data = b'[{"a":1},{"a":},,{"a":1],nonsense,{"a":1}]'
    elements = split(data, [7])
    assert elements[0] == elements[-1] == b'{"a":1}'
