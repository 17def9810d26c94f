"""Severity out of probabilities: the worked examples, and what holds for all."""

from __future__ import annotations

import pytest
from aitp_jev.rubric import reach_of, severity
from hypothesis import given
from hypothesis import strategies as st

THRESHOLDS = ((1_000_000, 1), (10_000, 0), (0, -1))
MILD = (0.05, 0.70, 0.20, 0.05)


@pytest.mark.parametrize(
    ("p", "checkable", "contestable", "expected"),
    [
        ((0.05, 0.10, 0.80, 0.05), 0.9, 0.7, "high_2"),
        ((0.10, 0.20, 0.65, 0.05), 0.9, 0.7, "high_1"),
        ((0.10, 0.20, 0.65, 0.05), 0.9, 0.3, "medium_1"),
        ((0.02, 0.03, 0.25, 0.70), 0.9, 0.9, "critical"),
        ((0.02, 0.03, 0.25, 0.70), 0.9, 0.3, "high_1"),
        ((0.70, 0.20, 0.05, 0.05), 0.9, 0.9, "low_3"),
        (MILD, 0.49, 0.9, "low_3"),
        (MILD, 0.5, 0.9, "medium_3"),
        ((0.40, 0.40, 0.10, 0.10), 0.9, 0.9, "low_3"),
    ],
)
def test_the_worked_examples(p: tuple[float, ...], checkable: float, contestable: float, expected: str) -> None:
    assert severity(p, checkable, contestable, 0).level == expected


@pytest.mark.parametrize(
    ("followers", "expected"), [(2_000_000, "high_3"), (50_000, "medium_3"), (900, "low_3"), (None, "medium_3")]
)
def test_how_far_those_concerned_reach_moves_the_band(followers: int | None, expected: str) -> None:
    assert severity(MILD, 0.9, 0.5, reach_of([followers], THRESHOLDS)).level == expected


@pytest.mark.parametrize(("level", "yes", "no"), [(0, 0, 0), (1, 1, 0), (2, 2, 1), (3, 3, 2)])
def test_the_band_by_the_likeliest_level(level: int, yes: int, no: int) -> None:
    p = [0.1] * 4
    p[level] = 0.7

    assert severity(p, 1.0, 0.5, 0).matrix == yes
    assert severity(p, 1.0, 0.4999, 0).matrix == no


def test_what_cannot_be_checked_reaches_nobody() -> None:
    assert severity(MILD, 0.1, 0.9, 1).band == 0


@pytest.mark.parametrize(
    ("followers", "thresholds", "reach"),
    [
        ([], THRESHOLDS, 0),
        ([None, 0], THRESHOLDS, 0),
        ([5, None, 3_000_000], THRESHOLDS, 1),
        ([1_000_000], THRESHOLDS, 1),
        ([999_999], THRESHOLDS, 0),
        ([7], ((10_000, 1),), 0),
        ([20_000], ((10_000, 0), (20_000, 1)), 1),  # in any order
        ([3_000_000], (), 0),
    ],
)
def test_the_greatest_known_number_of_followers_counts(
    followers: list[int | None], thresholds: tuple[tuple[int, int], ...], reach: int
) -> None:
    assert reach_of(followers, thresholds) == reach


shares = st.floats(0, 1, allow_nan=False)


@given(st.tuples(shares, shares, shares, shares).filter(any), shares, shares, st.sampled_from([-1, 0, 1]))
def test_there_is_always_one_of_ten_levels(
    p: tuple[float, ...], checkable: float, contestable: float, reach: int
) -> None:
    found = severity(p, checkable, contestable, reach)

    levels = {"critical", *(f"{band}_{digit}" for band in ("low", "medium", "high") for digit in (1, 2, 3))}
    assert found.level in levels
    assert (found.level == "critical") == (found.band == 3)
    assert p[found.harm] == max(p)
