"""Back-off and blame."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aitp.policy.backoff import MAX_RETRY_DELAY_SECONDS, SPREAD, is_blamed, retry_delay


@pytest.mark.parametrize(("attempt", "seconds"), [(1, 2), (2, 4), (3, 8), (4, 16)])
def test_delays_double(attempt: int, seconds: float) -> None:
    assert retry_delay(attempt, 2.0, 1.0) == seconds


@given(st.integers(1, 10_000), st.floats(1, 10), st.floats(*SPREAD))
def test_no_delay_is_longer_than_a_minute_or_overflows(attempt: int, factor: float, spread: float) -> None:
    assert 0 < retry_delay(attempt, factor, spread) <= MAX_RETRY_DELAY_SECONDS


@given(st.floats(*SPREAD))
def test_tasks_that_failed_together_do_not_return_together(spread: float) -> None:
    assert retry_delay(2, 2.0, spread) == 4.0 * spread


@pytest.mark.parametrize(
    ("attempts", "first_failure", "last_success", "blamed"),
    [
        (3, 10, 11, False),  # retries are left
        (4, 10, 11, True),  # used up, and the provider did well for another task meanwhile
        (4, 10, 10, False),  # the success was in the same call: of an answer with holes
        (4, 10, 9, False),  # nobody has fared better since: the provider may be what is wrong
        (50, 10, 0, False),
    ],
)
def test_a_task_is_blamed_only_if_others_fare_better(
    attempts: int, first_failure: int, last_success: int, blamed: bool
) -> None:
    assert is_blamed(attempts, 3, first_failure, last_success) is blamed
