"""The windows of the rate limits: how long, from when, and when room comes back.

Two strategies (the seed's): *rolling* windows reach back a fixed number of seconds from now; *fixed* windows are
calendar minutes, hours, days, weeks (from Monday) and months of a time zone. Pure: callers pass the time.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import date, datetime, time, timedelta
from functools import lru_cache
from typing import NamedTuple
from zoneinfo import ZoneInfo

from aitp.tasks import Period

ROLLING_SECONDS: Mapping[Period, int] = {
    Period.MINUTE: 60,
    Period.HOUR: 3_600,
    Period.DAY: 86_400,
    Period.WEEK: 604_800,
    Period.MONTH: 2_592_000,
}

# A month of 31 days in a zone that also sets its clock back: nothing older is ever counted.
LONGEST_WINDOW_SECONDS = 32 * 86_400


class Window(NamedTuple):
    """Half open: [start, end), both UTC seconds since 1970."""

    start: float
    end: float

    def holds(self, instant: float) -> bool:
        return self.start <= instant < self.end


def fixed_window(period: Period, now: float, zone: ZoneInfo) -> Window:
    """The calendar window of `period` in `zone` that holds `now`. The windows of a period never overlap or leave gaps.

    Days, weeks and months are found by local dates, so that one with a DST change has 23 or 25 hours. Minutes and
    hours are cut on the zone's offset, and where it changes: an hour that the clocks repeat is two windows, not one of
    two hours.
    """
    # Whole seconds: rounding up a microsecond before midnight would give the next day.
    now = math.floor(now)
    if period in (Period.MINUTE, Period.HOUR):
        return _clock_window(ROLLING_SECONDS[period], now, zone)
    day = datetime.fromtimestamp(now, zone).date()
    window = _calendar_window(period, day, zone)
    while window.end <= now:
        # The clocks were set back over midnight: by its date this is yesterday again, but yesterday has ended.
        day = _bounds(period, day)[1]
        window = _calendar_window(period, day, zone)
    return window


def rolling_window(period: Period, now: float) -> Window:
    """The last seconds of `period` up to and including `now`: an event exactly one period old is outside."""
    return Window(math.nextafter(now - ROLLING_SECONDS[period], math.inf), math.nextafter(now, math.inf))


@lru_cache(maxsize=64)
def _calendar_window(period: Period, day: date, zone: ZoneInfo) -> Window:
    first, after = _bounds(period, day)
    return Window(_midnight(first, zone), _midnight(after, zone))


def _clock_window(length: int, now: int, zone: ZoneInfo) -> Window:
    offset = _offset_seconds(now, zone)
    start = (now + offset) // length * length - offset
    end = start + length
    if _offset_seconds(start, zone) != offset:
        start = _change(start, now, zone)
    if _offset_seconds(end, zone) != offset:
        end = _change(now, end, zone)
    return Window(start, end)


def _bounds(period: Period, day: date) -> tuple[date, date]:
    """The first day of the day, week or month that `day` is in, and the first day after it."""
    if period is Period.DAY:
        return day, day + timedelta(days=1)
    if period is Period.WEEK:
        monday = day - timedelta(days=day.weekday())
        return monday, monday + timedelta(days=7)
    first = day.replace(day=1)
    return first, (first + timedelta(days=32)).replace(day=1)


def _midnight(day: date, zone: ZoneInfo) -> int:
    """The UTC instant at which a local day begins: its first midnight, or the end of the gap that skips midnight."""
    wall = datetime.combine(day, time(), tzinfo=zone)
    instant = math.floor(wall.timestamp())
    if datetime.fromtimestamp(instant, zone).replace(tzinfo=None) == wall.replace(tzinfo=None):
        return instant
    # A skipped time is read with the offset from before the gap, so this instant is in or at the end of the hours
    # after it; the change itself is no more than the gap's length earlier, and no gap is longer than a day.
    return _change(instant - 86_400, instant, zone)


def _change(low: int, high: int, zone: ZoneInfo) -> int:
    """The instant in (low, high] at which the zone's offset becomes that of `high`."""
    target = _offset_seconds(high, zone)
    while high - low > 1:
        middle = (low + high) // 2
        if _offset_seconds(middle, zone) == target:
            high = middle
        else:
            low = middle
    return high


def _offset_seconds(instant: int, zone: ZoneInfo) -> int:
    return math.floor(datetime.fromtimestamp(instant, zone).utcoffset().total_seconds())  # type: ignore[union-attr]
