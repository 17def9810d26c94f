"""Whose fault a failure is by the evidence, what it asks for, and when a task is tried again."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aitp.policy.evidence import Remedy, Situation, Tally, is_at_fault, is_ill, remedy
from aitp.policy.retry import LONGEST_DELAY_SECONDS, SPREAD, pause_delay, retry_delay
from aitp.tasks import Culprit


@pytest.mark.parametrize(
    ("attempt", "factor", "spread", "seconds"),
    [
        (1, 2.0, 1.0, 2.0),
        (2, 2.0, 1.0, 4.0),
        (3, 2.0, 1.0, 8.0),
        (3, 2.0, 0.75, 6.0),
        (3, 2.0, 1.25, 10.0),
        (1, 3.0, 1.0, 3.0),
        (9, 1.0, 1.0, 1.0),
        (6, 2.0, 1.25, 80.0),
        (5_000, 10.0, 1.25, 3_600.0),
        (5_000, 10.0, 0.75, 2_160.0),
    ],
)
def test_delays_grow_by_the_factor_and_are_spread(attempt: int, factor: float, spread: float, seconds: float) -> None:
    assert retry_delay(attempt, factor, spread) == seconds


@given(st.integers(1, 10_000), st.floats(1, 100), st.floats(*SPREAD))
def test_no_delay_is_longer_than_the_longest(attempt: int, factor: float, spread: float) -> None:
    assert 0 < retry_delay(attempt, factor, spread) <= LONGEST_DELAY_SECONDS


@given(st.integers(1, 100), st.floats(1, 10))
def test_tasks_that_failed_together_never_return_together_for_certain(attempt: int, factor: float) -> None:
    assert retry_delay(attempt, factor, SPREAD[0]) < retry_delay(attempt, factor, SPREAD[1])


@pytest.mark.parametrize(
    ("culprit", "alone", "good", "others", "at_fault"),
    [
        (Culprit.SERVICE, 4, 5, 0, True),  # (1 / 7) ** 4 is improbable
        (Culprit.SERVICE, 4, 4, 0, False),
        (Culprit.SERVICE, 5, 4, 0, True),  # fewer witnesses need more tries
        (Culprit.SERVICE, 3, 99, 0, False),  # retries are left
        (Culprit.SERVICE, 99, 0, 0, False),  # nobody was served: no witness
        (Culprit.SERVICE, 4, 10, 10, False),  # a service that fails for half of the others
        (Culprit.SERVICE, 12, 10, 10, True),  # but not so often in a row
        (Culprit.ACCOUNT, 1, 99, 0, False),
        (Culprit.ACCOUNT, 2, 41, 0, True),
        (Culprit.ACCOUNT, 2, 40, 0, False),
        (Culprit.INPUT, 1, 1, 0, True),  # the provider's word about this request
        (Culprit.INPUT, 1, 0, 0, False),
        (Culprit.INPUT, 1, 5, 3, False),  # it refuses others as well
        (Culprit.ANSWER, 3, 9, 0, False),
        (Culprit.ANSWER, 4, 0, 0, True),  # its word about this very task needs no witness
        (Culprit.ANSWER, 4, 0, 8, False),  # useless for everyone
    ],
)
def test_a_task_is_failed_by_what_befell_the_others_meanwhile(
    culprit: Culprit, alone: int, good: int, others: int, at_fault: bool
) -> None:
    before = Tally(100, 7, 7, 7, 7)
    world = before.more(None, good).more(culprit, others)

    assert is_at_fault(culprit, alone, world, before, 3) is at_fault


def test_what_went_well_while_a_call_was_under_way_is_no_witness_against_it() -> None:
    """An outage ends: a call that began in it fails after others have been served already."""
    before, world = Tally(good=100), Tally(good=103, input=4)

    assert is_at_fault(Culprit.INPUT, 4, world, before, 3)
    assert not is_at_fault(Culprit.INPUT, 4, world, before, 3, witnessed=100)
    assert is_at_fault(Culprit.INPUT, 4, world, before, 3, witnessed=101)


@pytest.mark.parametrize(
    ("alone", "proven", "at_fault"), [(1, True, True), (1, False, False), (3, False, False), (4, False, True)]
)
def test_a_provider_that_names_the_text_is_believed_once_it_has_served_somebody(
    alone: int, proven: bool, at_fault: bool
) -> None:
    assert is_at_fault(Culprit.INPUT, alone, Tally(), Tally(), 3, named=True, proven=proven) is at_fault


def test_what_the_provider_says_of_the_account_is_never_the_text_s_fault() -> None:
    assert not is_at_fault(Culprit.ACCOUNT, 9, Tally(good=1_000), Tally(), 3, named=True, proven=True)


def row(*calls: str) -> list[frozenset[int]]:
    return [frozenset(map(ord, call)) for call in calls]


@pytest.mark.parametrize(
    ("culprit", "calls", "ill"),
    [
        (Culprit.SERVICE, row("a", "b", "c", "d", "e"), True),
        (Culprit.SERVICE, row("a", "b", "c", "d"), False),
        (Culprit.SERVICE, row("a", "a", "a", "a", "a"), False),  # one task alone says nothing of the others
        (Culprit.SERVICE, row("abcd", "ab", "a", "a", "a"), False),  # nor one that is in all of them
        (Culprit.SERVICE, row("abcd", "cd", "ab", "a", "b"), True),
        (Culprit.SERVICE, row("a", "a", "a", "a", "a", "b"), True),
        (Culprit.ANSWER, row("a", "b", "c", "d", "e"), True),
        (Culprit.INPUT, row("a", "b", "c", "d", "e"), True),
        (Culprit.ACCOUNT, row("a", "b", "c"), True),
        (Culprit.ACCOUNT, row("a", "b"), False),
    ],
)
def test_failures_of_different_tasks_in_a_row_are_not_their_tasks_fault(
    culprit: Culprit, calls: list[frozenset[int]], ill: bool
) -> None:
    assert is_ill(culprit, calls, 5) is ill


def test_where_one_failure_is_enough_it_is() -> None:
    assert is_ill(Culprit.SERVICE, row("a"), 1)


@pytest.mark.parametrize(
    ("situation", "asked"),
    [
        (Situation(Culprit.SERVICE), Remedy.WAIT),
        (Situation(Culprit.SERVICE, provider_is_ill=True, row_is_ill=True), Remedy.OPEN),
        (Situation(Culprit.SERVICE, row_is_ill=True), Remedy.PAUSE),  # its provider serves others meanwhile
        (Situation(Culprit.ACCOUNT), Remedy.WAIT),
        (Situation(Culprit.ACCOUNT, named=True), Remedy.OPEN),
        (Situation(Culprit.INPUT, optional=True, proven=True), Remedy.WAIT),
        (Situation(Culprit.INPUT, optional=True, proven=True, named=True), Remedy.LEAVE_OUT),
        (Situation(Culprit.INPUT, optional=True), Remedy.LEAVE_OUT),  # nobody was ever served by such a request
        (Situation(Culprit.INPUT, optional=True, proven=True, row_is_ill=True), Remedy.LEAVE_OUT),
        (Situation(Culprit.INPUT, proven=True), Remedy.WAIT),
        (Situation(Culprit.INPUT, setting=True), Remedy.PAUSE),
        (Situation(Culprit.INPUT, setting=True, proven=True), Remedy.WAIT),
        (Situation(Culprit.INPUT, row_is_ill=True), Remedy.OPEN),  # it refuses everything: perhaps it is who we are
        (Situation(Culprit.INPUT, row_is_ill=True, provider_serves=True), Remedy.PAUSE),
        (Situation(Culprit.ANSWER), Remedy.WAIT),
        (Situation(Culprit.ANSWER, row_is_ill=True), Remedy.PAUSE),
        (Situation(Culprit.MODEL), Remedy.PAUSE),
        (Situation(Culprit.REQUEST), Remedy.PAUSE),
        (Situation(Culprit.MACHINE), Remedy.WAIT),
    ],
)
def test_each_failure_asks_for_what_mends_it(situation: Situation, asked: Remedy) -> None:
    assert remedy(situation) is asked


def test_a_pause_is_doubled_by_each_probe_that_fails_up_to_an_hour() -> None:
    assert [pause_delay(pauses, 60.0) for pauses in (0, 1, 2, 5, 6, 99)] == [60.0, 120.0, 240.0, 1920.0, 3600.0, 3600.0]
