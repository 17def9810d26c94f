"""The memory of the limits, put together again after damage. Pure: rows and the time are passed in.

Completions are numbered without a gap, and their times never decrease: a number that is missing was once a completion
between its neighbours. It is taken to be as late as its later neighbour, so that it leaves no window too early.
"""

from __future__ import annotations

import bisect
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

# More than these missing in one place is a damaged number, not as many lost completions.
MOST_MISSING = 100_000


def mended(times: Mapping[int, float], now: float) -> list[tuple[float, int | None]]:
    """(time, number) of every completion in order, number None for those that were missing.

    `times` by number is what could be read. Of what contradicts the others, as little as possible is left out.
    """
    numbered = [(number, min(time, now)) for number, time in sorted(times.items()) if number > 0 and time >= 0]
    mended: list[tuple[float, int | None]] = []
    before: int | None = None
    for number, time in _in_order(numbered):
        missing = 0 if before is None else number - before - 1
        mended += [(time, None)] * (missing if missing <= MOST_MISSING else 0)
        mended.append((time, number))
        before = number
    return mended


def missing_since(windows: Sequence[Mapping[str, Any]], times: Sequence[float], now: float) -> int:
    """How many completions more than these there were, by the counts of `rate_limits` in the windows that hold now."""
    missing = [0]
    for window in windows:
        try:
            start, end = (_instant(window[name]) for name in ("window_start", "window_end"))
            count = int(window["current_count"])
        except (KeyError, ValueError, TypeError):
            continue  # damaged as well
        if start <= now < end:
            missing.append(count - (len(times) - bisect.bisect_left(times, start)))
    return max((more for more in missing if more <= MOST_MISSING), default=0)


def _in_order(numbered: Sequence[tuple[int, float]]) -> list[tuple[int, float]]:
    """The longest part whose times never decrease (patience sorting: n log n)."""
    ends: list[float] = []  # the earliest time with which an ordered part of that length can end
    places: list[int] = []
    back: list[int] = []
    for place, (_, time) in enumerate(numbered):
        length = bisect.bisect_right(ends, time)
        back.append(places[length - 1] if length else -1)
        if length == len(ends):
            ends.append(time)
            places.append(place)
        else:
            ends[length] = time
            places[length] = place
    ordered = []
    place = places[-1] if places else -1
    while place >= 0:
        ordered.append(numbered[place])
        place = back[place]
    return ordered[::-1]


def _instant(text: str) -> float:
    return datetime.strptime(text, "%Y-%m-%d %H:%M:%S").replace(tzinfo=UTC).timestamp()
