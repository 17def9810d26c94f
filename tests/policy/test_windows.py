"""Windows against a slow, obvious model: local wall-clock time looked up second by second."""

from __future__ import annotations

import itertools
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from aitp.policy.windows import LONGEST_WINDOW_SECONDS, ROLLING_SECONDS, Period, fixed_window, rolling_window

ZONES = ["UTC", "America/Sao_Paulo", "Europe/Lisbon", "Australia/Lord_Howe", "Asia/Kathmandu", "America/St_Johns"]
INSTANTS = st.floats(min_value=datetime(1990, 1, 1, tzinfo=UTC).timestamp(), max_value=2e9, allow_nan=False)
LONG = (Period.DAY, Period.WEEK, Period.MONTH)


def local_date(instant: float, zone: ZoneInfo) -> date:
    return datetime.fromtimestamp(int(instant), zone).date()


def label(period: Period, day: date) -> tuple[int, ...]:
    """What all days of one window have in common."""
    if period is Period.DAY:
        return (day.toordinal(),)
    if period is Period.WEEK:
        return tuple(day.isocalendar()[:2])
    return (day.year, day.month)


@given(INSTANTS, st.sampled_from(ZONES), st.sampled_from(list(Period)))
@settings(max_examples=300, deadline=None)
def test_a_fixed_window_holds_its_instant_and_meets_its_neighbours(now: float, name: str, period: Period) -> None:
    zone = ZoneInfo(name)
    window = fixed_window(period, now, zone)

    assert window.holds(now)
    assert fixed_window(period, window.start, zone) == window
    assert fixed_window(period, window.end - 1, zone) == window
    assert fixed_window(period, window.end, zone).start == window.end
    assert window.end - window.start <= LONGEST_WINDOW_SECONDS


@given(INSTANTS, st.sampled_from(ZONES), st.sampled_from(LONG))
@settings(max_examples=200, deadline=None)
def test_all_of_a_long_fixed_window_has_one_local_day_week_or_month(now: float, name: str, period: Period) -> None:
    zone = ZoneInfo(name)
    window = fixed_window(period, now, zone)
    inside = [window.start + (window.end - window.start) * part / 24 for part in range(24)] + [window.end - 1]

    assert {label(period, local_date(instant, zone)) for instant in inside} == {label(period, local_date(now, zone))}
    assert label(period, local_date(window.end, zone)) != label(period, local_date(now, zone))


@given(INSTANTS, st.sampled_from(ZONES))
@example(datetime(2024, 4, 6, 14, 59, tzinfo=UTC).timestamp(), "Australia/Lord_Howe")
@settings(max_examples=200, deadline=None)
def test_an_hour_has_one_wall_clock_hour_and_one_offset(now: float, name: str) -> None:
    zone = ZoneInfo(name)
    window = fixed_window(Period.HOUR, now, zone)
    inside = [datetime.fromtimestamp(window.start + minute * 60, zone) for minute in range(60)]
    inside = [moment for moment in inside if moment.timestamp() < window.end]

    assert len({(moment.date(), moment.hour, moment.utcoffset()) for moment in inside}) == 1


@pytest.mark.parametrize(
    ("zone", "day", "hours"),
    [
        ("Europe/Lisbon", datetime(2025, 3, 30, 12), 23),
        ("Europe/Lisbon", datetime(2025, 10, 26, 12), 25),
        ("America/Sao_Paulo", datetime(2018, 11, 4, 12), 23),  # midnight itself is skipped
        ("America/Sao_Paulo", datetime(2018, 2, 17, 12), 25),  # 23:00 comes twice
        ("Australia/Lord_Howe", datetime(2024, 10, 6, 12), 23.5),
        ("UTC", datetime(2025, 3, 30, 12), 24),
    ],
)
def test_a_day_is_as_long_as_the_clocks_make_it(zone: str, day: datetime, hours: float) -> None:
    here = ZoneInfo(zone)
    window = fixed_window(Period.DAY, day.replace(tzinfo=here).timestamp(), here)

    assert (window.end - window.start) / 3600 == hours


def test_weeks_begin_on_monday_and_months_on_the_first() -> None:
    now = datetime(2026, 3, 12, 15, 30, tzinfo=UTC).timestamp()

    week = fixed_window(Period.WEEK, now, ZoneInfo("UTC"))
    month = fixed_window(Period.MONTH, now, ZoneInfo("UTC"))

    assert datetime.fromtimestamp(week.start, UTC) == datetime(2026, 3, 9, tzinfo=UTC)
    assert week.end - week.start == timedelta(days=7).total_seconds()
    assert datetime.fromtimestamp(month.start, UTC) == datetime(2026, 3, 1, tzinfo=UTC)
    assert datetime.fromtimestamp(month.end, UTC) == datetime(2026, 4, 1, tzinfo=UTC)


@given(st.lists(INSTANTS, max_size=30), INSTANTS, st.sampled_from(list(Period)))
@settings(max_examples=200, deadline=None)
def test_a_rolling_window_counts_what_is_younger_than_its_period(
    events: list[float], now: float, period: Period
) -> None:
    events = [*events, now, now - ROLLING_SECONDS[period], now - ROLLING_SECONDS[period] / 2]
    window = rolling_window(period, now)

    counted = [event for event in events if window.holds(event)]

    assert counted == [event for event in events if event <= now and event > now - ROLLING_SECONDS[period]]


def test_periods_go_from_short_to_long() -> None:
    assert all(ROLLING_SECONDS[one] < ROLLING_SECONDS[other] for one, other in itertools.pairwise(Period))
