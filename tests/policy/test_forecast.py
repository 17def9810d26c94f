"""When a limit will be used up, at one pace."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aitp.policy.forecast import fixed_limit_used_up, rolling_limit_used_up

STEP = 15.0  # four of them are a minute


@pytest.mark.parametrize(
    ("limit", "still_counted", "pace", "expected"),
    [
        (20, [0, 0, 0, 0, 0], 1.0, 20.0),  # nothing counted yet
        (20, [0, 0, 0, 0, 0], 0.3, None),  # 18 in a minute: never
        (20, [0, 0, 0, 0, 0], 20 / 60, 60.0),  # just
        (20, [20, 20, 20, 20, 0], 0.0, 0.0),  # it is
        (20, [10, 10, 10, 10, 0], 0.0, None),
        (20, [10, 10, 10, 10, 0], 0.5, 20.0),  # those counted now stay long enough
        (20, [15, 0, 0, 0, 0], 0.3, None),  # they leave before
        (20, [15, 0, 0, 0, 0], 0.5, 10.0),
        (20, [15, 10, 5, 0, 0], 0.4, 12.5),
    ],
)
def test_rolling(limit: int, still_counted: list[int], pace: float, expected: float | None) -> None:
    assert rolling_limit_used_up(limit, still_counted, STEP, pace) == expected


@given(
    still=st.lists(st.integers(0, 30), min_size=4, max_size=4).map(lambda counts: [*sorted(counts, reverse=True), 0]),
    pace=st.floats(0, 5),
)
def test_a_rolling_limit_has_no_room_at_the_moment_that_is_foretold_and_had_room_before(
    still: list[int], pace: float
) -> None:
    limit = 31

    def counted(seconds: float) -> float:
        """A window whose tasks leave at the end of each step."""
        return still[min(int(seconds / STEP), len(still) - 1)] + pace * seconds

    at = rolling_limit_used_up(limit, still, STEP, pace)

    steps = [number / 10 * STEP for number in range(40)]
    before = steps if at is None else [moment for moment in steps if moment < at - 1e-6]
    assert all(counted(moment) < limit + 1e-6 for moment in before)
    if at is not None:
        assert counted(at) >= limit - 1e-6


@pytest.mark.parametrize(
    ("current", "seconds_left", "pace", "expected"),
    [(0, 60.0, 1.0, 20.0), (10, 60.0, 1.0, 10.0), (10, 5.0, 1.0, None), (20, 5.0, 0.0, 0.0), (10, 60.0, 0.0, None)],
)
def test_fixed(current: int, seconds_left: float, pace: float, expected: float | None) -> None:
    assert fixed_limit_used_up(20, current, seconds_left, pace) == expected
