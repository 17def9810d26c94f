"""The windows of the rate limits: how long, from when, and when room comes back.

Two strategies (the seed's): *rolling* windows reach back a fixed number of seconds from now; *fixed* windows are
calendar minutes, hours, days, weeks (from Monday) and months of a time zone. Pure: callers pass the time.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from zoneinfo import ZoneInfo


class Period(StrEnum):
    """The five periods, shortest first."""

    MINUTE = "minute"
    HOUR = "hour"
    DAY = "day"
    WEEK = "week"
    MONTH = "month"


class Strategy(StrEnum):
    ROLLING = "rolling"
    FIXED = "fixed"


ROLLING_SECONDS: Mapping[Period, int] = {
    Period.MINUTE: 60,
    Period.HOUR: 3_600,
    Period.DAY: 86_400,
    Period.WEEK: 604_800,
    Period.MONTH: 2_592_000,
}

# A month of 31 days in a zone that also sets its clock back: nothing older is ever counted.
LONGEST_WINDOW_SECONDS = 31 * 86_400 + 2 * 3_600


@dataclass(frozen=True, slots=True)
class Window:
    """Half open: [start, end), both UTC seconds since 1970."""

    start: float
    end: float

    def holds(self, instant: float) -> bool:
        return self.start <= instant < self.end


def fixed_window(period: Period, now: float, zone: ZoneInfo) -> Window:
    """The calendar window of `period` in `zone` that holds `now`.

    Days, weeks and months are found by local dates, so that one with a DST change has 23 or 25 hours. Minutes and
    hours are cut on the zone's offset at `now`: an hour that the clocks repeat is two windows, not one of two hours.
    """
    local = datetime.fromtimestamp(now, zone)
    if period in (Period.MINUTE, Period.HOUR):
        length = ROLLING_SECONDS[period]
        offset = _offset_seconds(local)
        start = (now + offset) // length * length - offset
        return Window(start, start + length)
    first = local.replace(hour=0, minute=0, second=0, microsecond=0, tzinfo=None, fold=0)
    if period is Period.DAY:
        last = first + timedelta(days=1)
    elif period is Period.WEEK:
        first -= timedelta(days=first.weekday())
        last = first + timedelta(days=7)
    else:
        first = first.replace(day=1)
        last = (first + timedelta(days=32)).replace(day=1)
    return Window(_instant(first, zone), _instant(last, zone))


def rolling_window(period: Period, now: float) -> Window:
    """The last seconds of `period` up to and including `now`: an event exactly one period old is outside."""
    return Window(now - ROLLING_SECONDS[period], now)


def _offset_seconds(local: datetime) -> float:
    offset = local.utcoffset()
    return offset.total_seconds() if offset is not None else 0.0


def _instant(wall: datetime, zone: ZoneInfo) -> float:
    """The UTC instant of a local midnight. One that a DST change skips is taken as the moment the gap begins."""
    first = wall.replace(tzinfo=zone, fold=0).astimezone(UTC)
    if first.astimezone(zone).replace(tzinfo=None, fold=0) == wall:
        return first.timestamp()
    # In a gap, fold=0 uses the offset before the change: the instant lies just after it. The gap's first
    # instant is where the offset changes, which is the same wall time read with the two offsets apart.
    before = _offset_seconds(wall.replace(tzinfo=zone, fold=0))
    after = _offset_seconds(wall.replace(tzinfo=zone, fold=1))
    skipped = first.timestamp()
    return _gap_start(skipped - (after - before), skipped, zone)


def _gap_start(low: float, high: float, zone: ZoneInfo) -> float:
    """The instant in (low, high] at which the zone's offset changes, to the second."""
    target = _offset_seconds(datetime.fromtimestamp(high, zone))
    while high - low > 1:
        middle = (low + high) // 2
        if _offset_seconds(datetime.fromtimestamp(middle, zone)) == target:
            high = middle
        else:
            low = middle
    return high
