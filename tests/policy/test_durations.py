"""Durations in OpenAI's manner."""

from __future__ import annotations

import pytest

from aitp.policy.retry import parse_duration


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("6m0s", 360.0),
        ("1s", 1.0),
        ("20ms", 0.02),
        ("1h2m3.5s", 3723.5),
        ("1d", 86_400.0),
        ("8.64s", 8.64),
        ("120", 120.0),
        ("0", 0.0),
        (" 1s ", 1.0),
    ],
)
def test_a_duration_is_the_sum_of_its_parts(text: str, seconds: float) -> None:
    assert parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "text", [None, "", "s", "-1s", "1x", "1s?", "one second", "1 s", "nan", "inf", "1e9", "9" * 400]
)
def test_anything_else_says_nothing(text: str | None) -> None:
    assert parse_duration(text) is None
