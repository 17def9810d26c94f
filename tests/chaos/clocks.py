"""Where the clock of a schedule stands as it begins, and the limits that make it matter.

Some begin a moment before the clocks of their time zone change, or before a month's end, with limits by the hour, the
day, the week or the month: the work goes on over it, and the clock is set over it and back.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

HOUR = 3_600.0
DAY = 24 * HOUR
# After so long there is room in every window, also in a day of 25 hours.
ROOM_SECONDS = {"minute": 61.0, "hour": HOUR + 1, "day": DAY + HOUR + 1, "week": 7 * DAY + HOUR + 1}
ROOM_SECONDS["month"] = 31 * DAY + HOUR + 1

# (zone, the instant): at it the zone's clocks are set forward or back (at midnight, at night, by half an hour), or a
# month begins.
EVES: tuple[tuple[str, datetime], ...] = (
    ("Europe/Lisbon", datetime(2025, 3, 30, 1, tzinfo=UTC)),
    ("Europe/Lisbon", datetime(2025, 10, 26, 1, tzinfo=UTC)),
    ("America/Sao_Paulo", datetime(2018, 11, 4, 3, tzinfo=UTC)),
    ("America/Sao_Paulo", datetime(2019, 2, 17, 2, tzinfo=UTC)),
    ("Australia/Lord_Howe", datetime(2025, 4, 5, 15, tzinfo=UTC)),
    ("America/Sao_Paulo", datetime(2024, 3, 1, 3, tzinfo=UTC)),
    ("Asia/Kathmandu", datetime(2025, 12, 31, 18, 15, tzinfo=UTC)),
)


@dataclass(frozen=True, slots=True)
class Clock:
    """`start_at`: the service's time as it begins (None: the machine's). `limits` by period, none if empty.

    `steps`: (seconds into the work, seconds by which the clock is set then).
    """

    zone: str
    limits: Mapping[str, int] = field(default_factory=dict)
    start_at: float | None = None
    steps: tuple[tuple[float, float], ...] = ()

    @property
    def room_seconds(self) -> float:
        """How far the clock has to go on for room in every window."""
        return max((ROOM_SECONDS[period] for period in self.limits), default=ROOM_SECONDS["minute"])


def draw_eve(chance: random.Random) -> Clock:
    """A clock that comes to a change or a month's end while the work goes on."""
    zone, eve = chance.choice(EVES)
    periods = chance.choice((("hour",), ("day",), ("month",), ("hour", "day"), ("day", "month"), ("hour", "week")))
    limits = {period: chance.randint(20, 30) * (number + 1) for number, period in enumerate(periods)}
    if chance.random() < 0.5:
        # It goes over it by itself; a clock that is set back has it go over it again, an hour later or at once.
        seconds, steps = chance.uniform(2.0, 6.0), chance.choice(((), (-HOUR,), (-HOUR, HOUR), (-30.0,)))
    else:
        seconds, steps = chance.uniform(60.0, 0.9 * HOUR), chance.choice(((HOUR,), (HOUR, -HOUR)))
    moments = sorted(round(chance.uniform(1.0, 8.0), 2) for _ in steps)
    return Clock(zone, limits, eve.timestamp() - seconds, tuple(zip(moments, steps, strict=True)))
