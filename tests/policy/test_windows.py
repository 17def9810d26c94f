"""The windows of the limits, calendar ones above all, against a slow and obvious model of local time."""

from __future__ import annotations

import itertools
import math
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo, available_timezones

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aitp.policy.windows import LONGEST_WINDOW_SECONDS, ROLLING_SECONDS, Window, fixed_window, rolling_window
from aitp.tasks import Period

SAO_PAULO, LISBON, LORD_HOWE = ZoneInfo("America/Sao_Paulo"), ZoneInfo("Europe/Lisbon"), ZoneInfo("Australia/Lord_Howe")
AZORES, ST_JOHNS, APIA = ZoneInfo("Atlantic/Azores"), ZoneInfo("America/St_Johns"), ZoneInfo("Pacific/Apia")
KOLKATA, CAIRO, UTC_ZONE = ZoneInfo("Asia/Kolkata"), ZoneInfo("Africa/Cairo"), ZoneInfo("UTC")
TORONTO = ZoneInfo("America/Toronto")
ZONES = (SAO_PAULO, LISBON, LORD_HOWE, AZORES, ST_JOHNS, APIA, KOLKATA, CAIRO, UTC_ZONE)


def utc(text: str) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()


def hours(window: Window) -> float:
    return (window.end - window.start) / 3_600


@pytest.mark.parametrize(
    ("period", "zone", "now", "start", "end"),
    [
        (Period.MINUTE, UTC_ZONE, "2025-07-30 18:26:40", "2025-07-30 18:26:00", "2025-07-30 18:27:00"),
        (Period.HOUR, UTC_ZONE, "2025-07-30 18:59:59", "2025-07-30 18:00:00", "2025-07-30 19:00:00"),
        (Period.DAY, UTC_ZONE, "2025-07-30 00:00:00", "2025-07-30 00:00:00", "2025-07-31 00:00:00"),
        (Period.WEEK, UTC_ZONE, "2025-07-30 18:26:40", "2025-07-28 00:00:00", "2025-08-04 00:00:00"),
        (Period.WEEK, UTC_ZONE, "2025-08-03 23:59:59", "2025-07-28 00:00:00", "2025-08-04 00:00:00"),
        (Period.MONTH, UTC_ZONE, "2024-02-29 12:00:00", "2024-02-01 00:00:00", "2024-03-01 00:00:00"),
        (Period.MONTH, UTC_ZONE, "2025-12-31 23:59:59", "2025-12-01 00:00:00", "2026-01-01 00:00:00"),
        (Period.HOUR, KOLKATA, "2025-07-30 18:26:40", "2025-07-30 17:30:00", "2025-07-30 18:30:00"),
        (Period.DAY, KOLKATA, "2025-07-30 18:30:00", "2025-07-30 18:30:00", "2025-07-31 18:30:00"),
        (Period.DAY, SAO_PAULO, "2025-07-30 02:59:59", "2025-07-29 03:00:00", "2025-07-30 03:00:00"),
        # Sao Paulo, 4 November 2018: the clocks skip midnight, the day begins at 01:00 and has 23 hours.
        (Period.DAY, SAO_PAULO, "2018-11-04 12:00:00", "2018-11-04 03:00:00", "2018-11-05 02:00:00"),
        # Sao Paulo, 16 February 2019: at midnight the clocks go back to 23:00, the day has 25 hours.
        (Period.DAY, SAO_PAULO, "2019-02-17 02:30:00", "2019-02-16 02:00:00", "2019-02-17 03:00:00"),
        (Period.MONTH, SAO_PAULO, "2018-11-20 12:00:00", "2018-11-01 03:00:00", "2018-12-01 02:00:00"),
        # Lisbon, 26 October 2025: 01:00 to 02:00 is repeated; the hours are two windows, the day has 25 hours.
        (Period.HOUR, LISBON, "2025-10-26 00:30:00", "2025-10-26 00:00:00", "2025-10-26 01:00:00"),
        (Period.HOUR, LISBON, "2025-10-26 01:30:00", "2025-10-26 01:00:00", "2025-10-26 02:00:00"),
        (Period.DAY, LISBON, "2025-10-26 12:00:00", "2025-10-25 23:00:00", "2025-10-27 00:00:00"),
        # Lord Howe moves its clocks by half an hour: the hour in which that happens is cut there.
        (Period.HOUR, LORD_HOWE, "2025-10-04 15:40:00", "2025-10-04 15:30:00", "2025-10-04 16:00:00"),
        # Samoa had no 30 December 2011.
        (Period.DAY, APIA, "2011-12-30 09:59:59", "2011-12-29 10:00:00", "2011-12-30 10:00:00"),
        (Period.DAY, APIA, "2011-12-30 10:00:00", "2011-12-30 10:00:00", "2011-12-31 10:00:00"),
    ],
)
def test_calendar_windows(period: Period, zone: ZoneInfo, now: str, start: str, end: str) -> None:
    assert fixed_window(period, utc(now), zone) == Window(utc(start), utc(end))


def test_days_of_a_clock_change_have_23_or_25_hours() -> None:
    assert hours(fixed_window(Period.DAY, utc("2025-03-30 12:00"), LISBON)) == 23
    assert hours(fixed_window(Period.DAY, utc("2025-10-26 12:00"), LISBON)) == 25
    assert hours(fixed_window(Period.WEEK, utc("2025-10-26 12:00"), LISBON)) == 7 * 24 + 1
    assert hours(fixed_window(Period.DAY, utc("2025-10-05 00:00"), LORD_HOWE)) == 23.5


def test_a_fraction_before_midnight_is_still_today() -> None:
    midnight = utc("2025-07-31 00:00:00")

    assert fixed_window(Period.DAY, math.nextafter(midnight, 0.0), UTC_ZONE).end == midnight


def model_bounds(period: Period, zone: ZoneInfo, start: float, end: float) -> list[float]:
    """Every moment in [start, end) at which a new window begins, found by looking at the clock once a minute.

    A new day begins when the calendar shows a date that it has not shown before; a new hour or minute when the clock
    shows another hour or minute, or is set.
    """
    bounds, latest, label = [], date.min, None
    moment = start
    while moment < end:
        local = datetime.fromtimestamp(moment, zone)
        latest = max(latest, local.date())
        match period:
            case Period.MINUTE:
                shown: object = (local.replace(second=0, tzinfo=None, fold=0), local.utcoffset())
            case Period.HOUR:
                shown = (local.replace(minute=0, second=0, tzinfo=None, fold=0), local.utcoffset())
            case Period.DAY:
                shown = latest
            case Period.WEEK:
                shown = latest - timedelta(days=latest.weekday())
            case _:
                shown = latest.replace(day=1)
        if shown != label:
            bounds.append(moment)
            label = shown
        moment += 60
    return bounds[1:]  # the first window began before


CHANGES = [
    (SAO_PAULO, "2018-11-04 03:00"),  # midnight skipped
    (SAO_PAULO, "2019-02-17 02:00"),  # midnight reached, then 23:00 again
    (LISBON, "2025-03-30 01:00"),
    (LISBON, "2025-10-26 01:00"),
    (LORD_HOWE, "2025-10-04 15:30"),  # half an hour forward
    (LORD_HOWE, "2025-04-05 15:00"),  # half an hour back
    (AZORES, "2025-10-26 01:00"),  # midnight repeated
    (ST_JOHNS, "2006-10-29 02:31"),  # at 00:01 back to 23:01 of the day before
    (ST_JOHNS, "2006-04-02 03:31"),
    (APIA, "2011-12-30 10:00"),  # a day skipped
    (CAIRO, "2025-10-30 21:00"),
    (TORONTO, "1919-03-31 04:30"),  # 23:30 to 00:30: midnight skipped in the middle of the gap
]


@pytest.mark.parametrize(("zone", "change"), CHANGES, ids=str)
@pytest.mark.parametrize("period", [Period.HOUR, Period.DAY, Period.WEEK, Period.MONTH])
def test_windows_around_a_change_of_the_clocks_are_those_of_a_clock_on_the_wall(
    zone: ZoneInfo, change: str, period: Period
) -> None:
    days = {Period.HOUR: 1, Period.DAY: 3, Period.WEEK: 15, Period.MONTH: 63}[period]
    start = utc(change) - days * 86_400
    start -= start % 60
    bounds = model_bounds(period, zone, start, start + 2 * days * 86_400)
    assert len(bounds) > 2

    for begin, end in itertools.pairwise(bounds):
        for moment in (begin, begin + 59, begin + 1_800, (begin + end) / 2, end - 60, end - 0.001):
            if begin <= moment < end:
                assert fixed_window(period, moment, zone) == Window(begin, end)


moments = st.floats(utc("1995-01-01"), utc("2035-01-01"))


@settings(max_examples=200)
@given(st.sampled_from(ZONES), st.sampled_from(Period), moments)
def test_windows_follow_each_other_without_gap_or_overlap(zone: ZoneInfo, period: Period, now: float) -> None:
    window = fixed_window(period, now, zone)

    assert window.holds(now)
    assert fixed_window(period, window.end, zone).start == window.end
    assert fixed_window(period, window.start - 1, zone).end == window.start
    assert fixed_window(period, window.start, zone) == window
    assert window.end - window.start <= LONGEST_WINDOW_SECONDS


@given(st.sampled_from(Period), moments, st.floats(0, 3_000_000))
def test_a_rolling_window_holds_what_is_less_than_a_period_old(period: Period, now: float, age: float) -> None:
    instant = now - age

    assert rolling_window(period, now).holds(instant) is (now - ROLLING_SECONDS[period] < instant <= now)


@given(st.sampled_from(Period), moments)
def test_what_is_exactly_a_period_old_has_left_a_rolling_window(period: Period, now: float) -> None:
    window = rolling_window(period, now)

    assert not window.holds(now - ROLLING_SECONDS[period])
    assert window.holds(math.nextafter(now - ROLLING_SECONDS[period], math.inf))
    assert window.holds(now)
    assert not window.holds(math.nextafter(now, math.inf))


EVERY_ZONE = sorted(available_timezones() - {"Factory", "localtime"})


def next_change(zone: ZoneInfo, moment: float) -> float:
    """When the zone's clocks are set next, to the day; `moment` itself if they are not for a year."""
    before = datetime.fromtimestamp(moment, zone).utcoffset()
    days = (moment + number * 86_400.0 for number in range(1, 366))
    return next((day for day in days if datetime.fromtimestamp(day, zone).utcoffset() != before), moment)


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(EVERY_ZONE),
    st.integers(int(utc("1975-01-01")) // 60, int(utc("2036-01-01")) // 60),
    st.sampled_from((Period.HOUR, Period.DAY)),
    st.floats(0, 1, exclude_max=True),
)
def test_windows_of_every_zone_around_any_change_are_those_of_a_clock_on_the_wall(
    name: str, minute: int, period: Period, part: float
) -> None:
    zone = ZoneInfo(name)
    change = next_change(zone, minute * 60.0)
    days = {Period.HOUR: 1, Period.DAY: 3}[period]
    # A window that begins before is not known whole, so it is not looked at.
    bounds = model_bounds(period, zone, change - days * 86_400, change + days * 86_400)

    for begin, end in itertools.pairwise(bounds):
        within = min(begin + (end - begin) * part, math.nextafter(end, begin))  # a sum may be rounded up to the end
        assert fixed_window(period, within, zone) == Window(begin, end)
        assert fixed_window(period, begin, zone) == Window(begin, end)
