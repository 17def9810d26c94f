"""How much one embedding call takes: never more tokens than the provider allows, never nothing."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from aitp.policy.batching import MAX_BATCH_BYTES, MAX_BATCH_TEXTS, fitting


def test_small_texts_go_together_up_to_the_number_allowed() -> None:
    assert fitting([100] * 32) == 32
    assert fitting([10] * 5_000) == MAX_BATCH_TEXTS


def test_large_texts_are_cut_where_the_request_would_be_too_large() -> None:
    assert fitting([10_000] * 32) == 30
    assert fitting([40_000] * 32) == 7
    assert fitting([150_000, 150_000]) == 2
    assert fitting([150_000, 150_001]) == 1


def test_one_task_always_goes() -> None:
    assert fitting([MAX_BATCH_BYTES * 2, 1]) == 1
    assert fitting([]) == 1


@given(st.lists(st.integers(1, 60_000), max_size=100))
def test_what_fits_is_within_the_bound_and_the_next_would_not_be(sizes: list[int]) -> None:
    count = fitting(sizes)

    assert count == 1 or sum(sizes[:count]) <= MAX_BATCH_BYTES
    assert count >= len(sizes) or sum(sizes[: count + 1]) > MAX_BATCH_BYTES


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_stored_json_is_never_shorter_than_the_utf8_that_tokens_are_made_of(text: str) -> None:
    utf8 = len(text.encode())

    assert len(json.dumps(text)) >= utf8
    assert len(json.dumps(text, ensure_ascii=False).encode()) >= utf8
