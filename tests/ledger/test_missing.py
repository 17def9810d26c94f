"""Completions that are missing: whatever was lost, no window ever counts fewer than there were."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aitp.ledger.maintenance import MOST_MISSING, mended, missing_since

NOW = 10_000.0
histories = st.lists(st.floats(0, NOW), min_size=2, max_size=40).map(sorted)


@given(histories, st.data())
def test_what_is_missing_between_others_counts_and_not_too_early(times: list[float], data: st.DataObject) -> None:
    known = dict(enumerate(times, 7))
    lost = data.draw(st.sets(st.sampled_from(sorted(known))) if len(known) > 2 else st.just(set()))
    kept = {number: time for number, time in known.items() if number not in lost or number in (7, 6 + len(times))}
    found = mended(kept, NOW)

    assert len(found) == len(times)
    assert all(time >= true for (time, _), true in zip(found, times, strict=True))
    assert [number for _, number in found if number is not None] == sorted(kept)


@given(histories, st.floats(allow_nan=False), st.data())
def test_one_turned_over_time_spoils_no_other(times: list[float], nonsense: float, data: st.DataObject) -> None:
    known = dict(enumerate(times, 1))
    known[data.draw(st.sampled_from(sorted(known)))] = nonsense
    found = [time for time, _ in mended(known, NOW)]

    assert found == sorted(found)
    assert all(0 <= time <= NOW for time in found)
    kept = {number for _, number in mended(known, NOW)}
    assert len(kept - {None}) >= len(times) - 1


def test_a_number_far_from_all_others_is_damage_and_not_so_many_completions() -> None:
    assert len(mended({1: 1.0, 2: 2.0, 3 + MOST_MISSING + 1: 3.0}, NOW)) == 3


@pytest.mark.parametrize(
    ("window", "missing"),
    [
        ({"window_start": "1970-01-01 00:00:00", "window_end": "1970-02-01 00:00:00", "current_count": 5}, 3),
        ({"window_start": "1970-01-01 00:00:02", "window_end": "1970-02-01 00:00:00", "current_count": 5}, 4),
        ({"window_start": "1970-01-01 00:00:00", "window_end": "1970-01-01 00:00:09", "current_count": 5}, None),
        ({"window_start": "1970-01-01 00:00:00", "window_end": "1970-02-01 00:00:00", "current_count": 1}, 0),
        ({"window_start": "1970-01-01 00:00:00", "window_end": "1970-02-01 00:00:00", "current_count": 2**40}, None),
        ({"window_start": "yesterday", "window_end": "1970-02-01 00:00:00", "current_count": 5}, None),
        ({"window_start": "1970-01-01 00:00:00", "window_end": None, "current_count": 5}, None),
        ({}, None),
    ],
)
def test_what_is_missing_at_the_end_is_known_from_the_mirror(window: dict[str, object], missing: int | None) -> None:
    assert missing_since([window], [1.0, 2.0], NOW) == missing
