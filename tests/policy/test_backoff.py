"""When a task is tried again, and when it has been tried enough."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aitp.policy.backoff import MAX_RETRY_DELAY_SECONDS, SPREAD, is_blamed, retry_delay


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
        (12, 2.0, 1.25, 3_600.0),
        (5_000, 10.0, 1.25, 3_600.0),
        (5_000, 10.0, 0.75, 2_160.0),
    ],
)
def test_delays_grow_by_the_factor_and_are_spread(attempt: int, factor: float, spread: float, seconds: float) -> None:
    assert retry_delay(attempt, factor, spread) == seconds


@given(st.integers(1, 10_000), st.floats(1, 100), st.floats(*SPREAD))
def test_no_delay_is_longer_than_the_longest(attempt: int, factor: float, spread: float) -> None:
    assert 0 < retry_delay(attempt, factor, spread) <= MAX_RETRY_DELAY_SECONDS


@given(st.integers(1, 100), st.floats(1, 10))
def test_tasks_that_failed_together_never_return_together_for_certain(attempt: int, factor: float) -> None:
    assert retry_delay(attempt, factor, SPREAD[0]) < retry_delay(attempt, factor, SPREAD[1])


@pytest.mark.parametrize(
    ("attempts", "max_retries", "first_failure", "last_success", "blamed"),
    [
        (3, 3, 10, 99, False),  # retries are left
        (4, 3, 10, 11, True),
        (4, 3, 10, 10, False),  # the success was in the same transaction as its failure
        (4, 3, 10, 9, False),  # the provider has not succeeded for anyone since
        (40, 3, 10, 0, False),
        (1, 0, 10, 11, True),  # no retries wanted
        (1, 0, 10, 9, False),  # even then an outage is not its fault
    ],
)
def test_a_task_is_blamed_if_others_succeed_where_it_fails(
    attempts: int, max_retries: int, first_failure: int, last_success: int, blamed: bool
) -> None:
    assert is_blamed(attempts, max_retries, first_failure, last_success) is blamed
