"""How a text is cut that is too long for its model."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aitp.policy.batching import SHORTEST, shortened

SOLID = "a" * 1_000

TABLE = [
    ("without numbers a quarter goes", SOLID, None, 0, 750),
    ("with numbers what is beyond them goes, and a little more", SOLID, (2_000, 1_000), 0, 475),
    ("what stands around the text stays", SOLID, (2_000, 1_500), 1_000, 425),
    ("numbers that leave nothing of the text are no help", SOLID, (2_000, 1_000), 1_000, 750),
    ("nor are numbers that would take nothing away", SOLID, (1_000, 1_000), 0, 750),
    ("nor is a model that reads nothing", SOLID, (1_000, 0), 0, 750),
    ("a white space near the end is the end", "a" * 700 + " " + "a" * 299, None, 0, 700),
    ("one far from it is not", "a" * 600 + " " + "a" * 399, None, 0, 750),
    ("a text of white space is cut all the same", " " * 1_000, None, 0, 750),
]


@pytest.mark.parametrize(
    ("text", "tokens", "around", "kept"), [row[1:] for row in TABLE], ids=[row[0] for row in TABLE]
)
def test_what_is_kept(text: str, tokens: tuple[int, int] | None, around: int, kept: int) -> None:
    assert shortened(text, tokens, around) == text[:kept]


def test_a_text_too_short_to_be_the_fault_is_not_cut() -> None:
    assert shortened("a" * SHORTEST) is None


@given(
    st.text(min_size=SHORTEST + 1, max_size=10_000),
    st.none() | st.tuples(st.integers(), st.integers()),
    st.integers(0, 10_000),
)
def test_each_cut_leaves_a_beginning_that_is_shorter(text: str, tokens: tuple[int, int] | None, around: int) -> None:
    kept = shortened(text, tokens, around)

    assert kept
    assert text.startswith(kept)
    assert len(kept) < len(text)
