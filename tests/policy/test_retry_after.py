"""How long a service asks to be left alone."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from email.utils import format_datetime

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from aitp.policy.retry import LONGEST_PAUSE_SECONDS, SHORTEST_PAUSE_SECONDS, parse_retry_after, pause_seconds

NOW = datetime(1994, 11, 6, 8, 49, 0, tzinfo=UTC).timestamp()


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("120", 120.0),
        (" 7 ", 7.0),
        ("0", 0.0),
        ("1.5", 1.5),
        ("Sun, 06 Nov 1994 08:49:37 GMT", 37.0),
        ("Sunday, 06-Nov-94 08:49:37 GMT", 37.0),
        ("Sun Nov  6 08:49:37 1994", 37.0),
        ("Sun, 06 Nov 1994 09:49:37 +0100", 37.0),
        ("Sun, 06 Nov 1994 08:48:00 GMT", 0.0),
    ],
)
def test_seconds_and_dates_of_all_three_kinds_are_read(value: str, seconds: float) -> None:
    assert parse_retry_after(value, NOW) == seconds


@pytest.mark.parametrize(
    "value", [None, "", "soon", "-5", "1e9", "inf", "nan", "0x10", "1 2", "٣", "9" * 400, ".", ".5"]
)
def test_what_cannot_be_read_says_nothing(value: str | None) -> None:
    assert parse_retry_after(value, NOW) is None


@given(st.datetimes(min_value=datetime(1970, 1, 2), max_value=datetime(9000, 1, 1), timezones=st.just(UTC)))
def test_every_date_is_so_far_away(moment: datetime) -> None:
    expected = max(0.0, math.floor(moment.timestamp()) - NOW)
    assert parse_retry_after(format_datetime(moment, usegmt=True), NOW) == pytest.approx(expected, abs=1)


@given(st.text(), st.floats(0, 4e9))
@example("Mon, 01 Jan 0001 00:00:00 +2359", 0.0)
@example("Fri, 31 Dec 9999 23:59:59 -2359", 0.0)
@example("Mon, 99 Foo 2020 99:99:99 +9999", 0.0)
@example("Mon, , , ,", 0.0)
def test_a_pause_is_always_within_its_bounds(value: str, now: float) -> None:
    wanted = parse_retry_after(value, now)
    assert wanted is None or 0 <= wanted < math.inf
    assert SHORTEST_PAUSE_SECONDS <= pause_seconds(value, now) <= LONGEST_PAUSE_SECONDS


@pytest.mark.parametrize(
    ("value", "seconds"), [(None, 5.0), ("junk", 5.0), ("0", 1.0), ("30", 30.0), ("604800", 3600.0)]
)
def test_a_pause_is_what_is_asked_for_from_a_second_to_an_hour(value: str | None, seconds: float) -> None:
    assert pause_seconds(value, NOW) == seconds
