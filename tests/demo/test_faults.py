"""Faults strike the requests they are meant for, as often as ordered, and repeat with their seed."""

from __future__ import annotations

import pytest

from aitp.demo.faults import Fault, FaultPlan
from tests.waiting import wait_until


def strikes(plan: FaultPlan, count: int, method: str = "GET", path: str = "/v1/embeddings") -> list[bool]:
    return [plan.strike(method, path) is not None for _ in range(count)]


def test_times_and_skip_count_matching_requests() -> None:
    plan = FaultPlan()
    fault = plan.add(Fault(path="/v1", skip=1, times=2))

    assert strikes(plan, 1, path="/other") == [False]
    assert strikes(plan, 5) == [False, True, True, False, False]
    assert plan.times_struck(fault) == plan.struck == 2


def test_method_and_path_choose() -> None:
    plan = FaultPlan()
    plan.add(Fault(path="/api", method="PATCH"))

    assert strikes(plan, 1, "GET", "/api/x") == [False]
    assert strikes(plan, 1, "PATCH", "/api/x") == [True]
    assert strikes(plan, 1, "PATCH", "/v1/x") == [False]


def test_a_text_chooses() -> None:
    plan = FaultPlan()
    fault = plan.add(Fault(text="<|odd|>"))

    assert plan.strike("POST", "/v1", b'{"input":["one"]}') is None
    assert plan.strike("POST", "/v1", b'{"input":["one","two <|odd|>"]}') is fault


def test_chance_repeats_with_its_seed_and_comes_near_its_rate() -> None:
    def run(seed: int) -> list[bool]:
        plan = FaultPlan(seed)
        plan.add(Fault(probability=0.2))
        return strikes(plan, 1000)

    assert run(1) == run(1) != run(2)
    assert 150 < sum(run(1)) < 250


def test_the_first_that_applies_strikes_and_a_removed_one_does_not() -> None:
    plan = FaultPlan()
    first, second = plan.add(Fault(status=500, times=1)), plan.add(Fault(status=503))

    assert [plan.strike("GET", "/"), plan.strike("GET", "/")] == [first, second]
    plan.remove(second)
    assert plan.strike("GET", "/") is None


def test_a_window_opens_and_closes() -> None:
    plan = FaultPlan()
    plan.add(Fault(start_seconds=0.05, for_seconds=0.1))

    assert strikes(plan, 1) == [False]
    wait_until(lambda: strikes(plan, 1) == [True], timeout=2)
    wait_until(lambda: strikes(plan, 1) == [False], timeout=2)


def test_a_misspelt_field_is_an_error() -> None:
    with pytest.raises(TypeError):
        Fault(time=3)  # type: ignore[call-arg]
