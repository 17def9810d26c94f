"""The limits, judged by brute force: every text that the providers saw, on the clock that the service was told.

A clock that is set back makes no room: what was sent after that time counts as sent at that time. One that is set
forward makes as much as the time would that it seems to skip. The service's own windows are not asked.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from zoneinfo import ZoneInfo

SECONDS = {"minute": 60.0, "hour": 3_600.0, "day": 86_400.0, "week": 604_800.0, "month": 2_592_000.0}
# On the wall, and the offset with it: an hour that the clocks repeat is two hours.
CALENDAR: Mapping[str, Callable[[datetime], object]] = {
    "minute": lambda wall: (f"{wall:%Y-%m-%d %H:%M}", wall.utcoffset()),
    "hour": lambda wall: (f"{wall:%Y-%m-%d %H}", wall.utcoffset()),
    "day": lambda wall: wall.date(),
    "week": lambda wall: wall.isocalendar()[:2],
    "month": lambda wall: (wall.year, wall.month),
}
# Between an instant noted by one process and the same seen by another.
SLACK_SECONDS = 0.005


def exceeded(
    period: str, limit: int, strategy: str, zone: str, sent: Sequence[float], steps: Sequence[float], told: Told
) -> Iterator[str]:
    """The first window of `period` in which more was sent, in words. `sent`: when; `steps`: when the clock was set."""
    stamps: list[float] = []
    for at, is_sent in sorted([*((at, False) for at in steps), *((at, True) for at in sent)]):
        now = told(at)
        stamps = [min(stamp, now) for stamp in stamps]
        if not is_sent:
            continue
        stamps.append(now)
        together = _together(period, strategy, zone, now)
        count = sum(map(together, stamps))
        if count > limit:
            until = datetime.fromtimestamp(now, ZoneInfo(zone))
            yield f"{count} texts were sent in the {strategy} {period} up to {until}, {limit} were allowed"
            return


Told = Callable[[float], float]
"""The service's time at a monotonic instant."""


def _together(period: str, strategy: str, zone: str, now: float) -> Callable[[float], bool]:
    """Whether what was sent at some time counts together with what is sent now."""
    if strategy == "rolling":
        return lambda stamp: stamp > now - SECONDS[period] + SLACK_SECONDS
    window, wall = CALENDAR[period], ZoneInfo(zone)
    present = window(datetime.fromtimestamp(now, wall))
    return lambda stamp: window(datetime.fromtimestamp(stamp, wall)) == present
