"""When the task API is polled, and for how much."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aitp.policy.polling import (
    SHORTEST_PAUSE_SECONDS,
    PollFacts,
    appetite,
    is_complete,
    may_hold_more,
    next_poll_at,
    page_limit,
)

# An idle service, half-way between two regular polls.
QUIET = PollFacts(
    now=1_015.0,
    interval=30.0,
    began_at=1_000.0,
    regular_at=1_029.0,
    failures=0,
    more_there=False,
    delivered_since=False,
    ready=0,
    low_water=160,
    appetite=320,
    inbox_limit=5_000,
)
REGULAR, SOON, PUT_OFF = 1_029.0, 1_001.0, 1_045.0


@pytest.mark.parametrize(
    ("facts", "due_at"),
    [
        (QUIET, REGULAR),
        (replace(QUIET, began_at=None, regular_at=None), 1_015.0),
        (replace(QUIET, regular_at=None), 1_030.0),
        (replace(QUIET, regular_at=9_999.0), 1_030.0),  # left over from before the clock was set back
        (replace(QUIET, asked=True, ready=5_000, failures=3), 1_015.0),
        # More is known to be there, and there is room for it.
        (replace(QUIET, more_there=True), SOON),
        (replace(QUIET, more_there=True, ready=319), SOON),
        (replace(QUIET, more_there=True, ready=320), PUT_OFF),
        (replace(QUIET, more_there=True, ready=4_999, appetite=9_000), SOON),
        (replace(QUIET, more_there=True, ready=5_000, appetite=9_000), PUT_OFF),
        # Deliveries make the API create the next tasks: worth a look if little is left.
        (replace(QUIET, delivered_since=True), SOON),
        (replace(QUIET, delivered_since=True, ready=159), SOON),
        (replace(QUIET, delivered_since=True, ready=160), REGULAR),
        # More is held than could be claimed before the next poll.
        (replace(QUIET, ready=320), PUT_OFF),
        (replace(QUIET, ready=320, now=1_200.0), 1_230.0),
        # The limits have no room: no hurry, and with plenty in hand not before they have.
        (replace(QUIET, full=True, room_at=1_060.0, ready=200), 1_060.0),
        (replace(QUIET, full=True, room_at=1_060.0, ready=200, more_there=True), 1_060.0),
        (replace(QUIET, full=True, room_at=1_060.0, ready=10, more_there=True), REGULAR),
        (replace(QUIET, full=True, room_at=None, ready=200, more_there=True), REGULAR),
        # After failures: 2, 4, 8 s, never more than the interval.
        (replace(QUIET, failures=1, more_there=True), 1_002.0),
        (replace(QUIET, failures=99, interval=3_600.0), 1_060.0),
        (replace(QUIET, failures=9, ready=5_000, awaited=True), SOON),
        (replace(QUIET, failures=3), 1_008.0),
        (replace(QUIET, failures=9), 1_030.0),
        (replace(QUIET, failures=1, interval=0.1), 1_001.0),
    ],
)
def test_when_the_next_poll_is_due(facts: PollFacts, due_at: float) -> None:
    assert next_poll_at(facts) == due_at


@given(
    st.builds(
        PollFacts,
        now=st.just(1_000.0),
        interval=st.floats(0.1, 600),
        began_at=st.floats(0, 1_000),
        regular_at=st.none() | st.floats(0, 5_000),
        failures=st.integers(0, 20),
        more_there=st.booleans(),
        delivered_since=st.booleans(),
        ready=st.integers(0, 6_000),
        low_water=st.integers(1, 32_000),
        appetite=st.integers(2, 64_000),
        inbox_limit=st.integers(1, 5_000),
        full=st.booleans(),
        room_at=st.none() | st.floats(1_000, 1_100),
    )
)
def test_polls_are_at_least_a_second_apart_and_never_put_off_for_ever(facts: PollFacts) -> None:
    assert facts.began_at is not None
    due_at = next_poll_at(facts)

    assert due_at >= facts.began_at + SHORTEST_PAUSE_SECONDS
    assert due_at <= max(facts.now + facts.interval, facts.began_at + SHORTEST_PAUSE_SECONDS, facts.room_at or 0.0)


@pytest.mark.parametrize(
    ("tasks_per_second", "interval", "workers", "batch_size", "tasks"),
    [
        (0.0, 30.0, 5, 32, 320),  # two rounds of everyone
        (100.0, 30.0, 5, 32, 6_000),  # twice what the next interval takes
        (1.0, 30.0, 5, 1, 60),
    ],
)
def test_appetite(tasks_per_second: float, interval: float, workers: int, batch_size: int, tasks: int) -> None:
    assert appetite(tasks_per_second, interval, workers, batch_size) == tasks


@pytest.mark.parametrize(
    ("held", "ready", "wanted", "inbox_limit", "concurrency", "limit"),
    [
        (0, 0, 320, 5_000, 5, 320),
        (100, 60, 320, 5_000, 5, 360),  # a server that honours it lists the hundred as well
        (100, 60, 9_000, 500, 5, 540),
        (400, 400, 320, 5_000, 5, 400),
        (0, 0, 2, 5_000, 5, 10),  # never less than twice the concurrency
    ],
)
def test_page_limit(held: int, ready: int, wanted: int, inbox_limit: int, concurrency: int, limit: int) -> None:
    assert page_limit(held, ready, wanted, inbox_limit, concurrency) == limit


def test_a_page_that_brings_nothing_is_followed_by_one_twice_as_long_up_to_a_bound() -> None:
    limits = [page_limit(5, 1, 4, 100, 2, barren) for barren in range(6)]

    assert limits == [8, 16, 32, 64, 128, 210]
    assert page_limit(5, 1, 4, 100, 2, 99) == 210
    assert page_limit(5_000, 0, 4_000, 100, 2, 3) == 10_200


@pytest.mark.parametrize(
    ("documents", "limit", "longest", "complete", "more"),
    [
        (0, 320, 0, True, False),
        (100, 320, 0, False, True),  # the first page: all there is, or a cap
        (100, 320, 100, False, True),  # as long as the longest so far
        (101, 320, 100, False, True),
        (99, 320, 100, True, False),
        (100, 100, 0, False, True),  # as asked for
        (100, 100, 320, False, True),
        (400, 320, 500, True, False),  # a server that ignores the limit
        (400, 320, 400, False, False),
    ],
)
def test_only_a_page_that_cannot_have_been_cut_is_complete(
    documents: int, limit: int, longest: int, complete: bool, more: bool
) -> None:
    assert is_complete(documents, limit, longest) is complete
    assert may_hold_more(documents, limit, longest, entered=documents) is more


def test_a_page_at_the_cap_that_brings_nothing_new_calls_for_no_other() -> None:
    assert not may_hold_more(100, 320, 100, entered=0)
    assert may_hold_more(320, 320, 400, entered=0)
