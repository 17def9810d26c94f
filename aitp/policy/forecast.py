"""When a rate limit or a budget will be used up, if all goes on at one pace. Pure: callers pass counts and the time."""

from __future__ import annotations

from collections.abc import Sequence


def rolling_limit_used_up(limit: int, still_counted: Sequence[int], step_seconds: float, pace: float) -> float | None:
    """Seconds until a rolling limit is used up at `pace` tasks a second; None: never, at that pace.

    `still_counted`: how many of those counted now will still be in the window after 0, 1, 2 … steps; the last step is
    the window's length, when none of them is. From then on the window holds `pace` times its length, for good.
    """
    for step, count in enumerate(still_counted):
        begins = step * step_seconds
        if count + pace * begins >= limit:
            return begins
        if step + 1 == len(still_counted):
            return None
        # Within a step those counted now are taken to leave all at its end: the forecast is never too late.
        meets = (limit - count) / pace if pace > 0 else float("inf")
        if meets < begins + step_seconds:
            return meets
    return None


def fixed_limit_used_up(limit: int, current: int, seconds_left: float, pace: float) -> float | None:
    """Seconds until the limit of a calendar window is used up; None: not in this window.

    `limit` and `current` are tasks, or nano-units of a currency; `pace` is as many a second.
    """
    if current >= limit:
        return 0.0
    if pace <= 0:
        return None
    meets = (limit - current) / pace
    return meets if meets < seconds_left else None
