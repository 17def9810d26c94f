"""Completions that are missing: whatever was lost, no window ever counts fewer than there were."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from aitp.ledger.maintenance import MOST_MISSING, mended

NOW = 10_000.0
histories = st.lists(st.floats(0, NOW), min_size=2, max_size=40).map(sorted)


@given(histories, st.data())
def test_what_is_missing_between_others_counts_and_not_too_early(times: list[float], data: st.DataObject) -> None:
    known = dict(enumerate(times, 7))
    lost = data.draw(st.sets(st.sampled_from(sorted(known))) if len(known) > 2 else st.just(set()))
    kept = {number: time for number, time in known.items() if number not in lost or number in (7, 6 + len(times))}
    found = mended(kept, NOW)

    assert len(found) == len(times)
    assert all(time >= true for time, true in zip(found, times, strict=True))
    assert [found[number - 7] for number in kept] == list(kept.values())


@given(histories, st.floats(allow_nan=False), st.data())
def test_one_turned_over_time_spoils_no_other(times: list[float], nonsense: float, data: st.DataObject) -> None:
    known = dict(enumerate(times, 1))
    turned = data.draw(st.sampled_from(sorted(known)))
    found = mended(known | {turned: nonsense}, NOW)

    assert found == sorted(found)
    assert all(0 <= time <= NOW for time in found)
    assert (Counter(found) & Counter(times)).total() >= len(times) - 2
    assert len(found) >= len(times) - (turned in (1, len(times)))


def test_a_number_far_from_all_others_is_damage_and_not_so_many_completions() -> None:
    assert len(mended({1: 1.0, 2: 2.0, 3 + MOST_MISSING + 1: 3.0}, NOW)) == 3
