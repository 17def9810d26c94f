"""Whose fault a failed delivery is, and when a result is given up."""

from __future__ import annotations

import pytest

from aitp.policy.evidence import awaits_poll, is_refused_for_good, is_suspect


@pytest.mark.parametrize("status", [400, 404, 413, 422, 501])
def test_what_the_api_refuses_is_given_up_at_once(status: int) -> None:
    assert is_refused_for_good(status, 0)


def test_a_conflict_is_given_up_at_the_third() -> None:
    assert [is_refused_for_good(409, conflicts) for conflicts in range(4)] == [False, False, True, True]


@pytest.mark.parametrize(
    ("tries", "witnessed", "suspect"), [(0, False, False), (0, True, False), (1, False, False), (1, True, True)]
)
def test_a_delivery_that_fails_again_while_others_do_not_is_suspect(tries: int, witnessed: bool, suspect: bool) -> None:
    assert is_suspect(tries, witnessed) is suspect


@pytest.mark.parametrize(
    ("failures", "threshold", "waits"),
    [(0, 5, False), (3, 5, False), (4, 5, True), (9, 5, True), (0, 2, False), (1, 2, True), (0, 1, False)],
)
def test_the_failure_that_would_open_the_breaker_is_left_to_a_poll(failures: int, threshold: int, waits: bool) -> None:
    assert awaits_poll(failures, threshold) is waits
