"""How fast the limits are being used, read from a real ledger."""

from __future__ import annotations

import pytest

from aitp.ledger.pace import forecast
from tests.ledger.conftest import Create
from tests.ledger.test_budgets import EACH, PRICED, budgeted, pay
from tests.ledger.world import WORKER, World, at


def work(world: World, tasks: int, every: float) -> None:
    """One task after the other."""
    for number in range(tasks):
        world.admit(f"{world.clock()}-{number}")
        world.run()
        world.clock.go(every)


def test_the_pace_is_that_of_the_time_asked_for(create: Create) -> None:
    world = create(hour=1000)
    work(world, 60, every=10.0)

    found = forecast(world.path, 300.0, world.clock())

    assert found.pace == pytest.approx(0.1)
    assert found.limits["hour"].current == 60


def test_a_rolling_limit_is_foretold_by_what_is_in_its_window(create: Create) -> None:
    world = create(minute=20, hour=100, day=100_000)
    work(world, 60, every=10.0)

    found = forecast(world.path, 600.0, world.clock())

    assert found.used_up_at["minute"] is None  # six at a time, for ever
    # The first of the 60 leave only in fifty minutes: the forty that are left last for 400 s.
    assert found.used_up_at["hour"] == pytest.approx(world.clock() + 400.0, abs=30.0)
    assert found.used_up_at["day"] is None


def test_a_fixed_limit_is_foretold_by_what_is_left_of_its_window(world: World) -> None:
    world.ledger.limits.publish("fixed", "UTC", {"day": 100, "minute": 50})
    work(world, 60, every=10.0)

    found = forecast(world.path, 600.0, world.clock())

    assert found.strategy == "fixed"
    assert found.used_up_at["day"] == pytest.approx(world.clock() + 400.0)
    assert found.used_up_at["minute"] is None


def test_nothing_done_is_no_pace(create: Create) -> None:
    world = create(minute=20)

    found = forecast(world.path, 600.0, world.clock())

    assert (found.pace, found.used_up_at) == (0.0, {"minute": None})


# Money


def spend(world: World, nano: int, times: int, every: float) -> None:
    for number in range(times):
        world.admit(f"{world.clock()}-{number}")
        pay(world, world.claim(terms=PRICED), nano)
        world.clock.go(every)


def test_without_prices_nothing_is_foretold_of_money(world: World) -> None:
    assert forecast(world.path, 600.0, world.clock()).spending is None


def test_a_budget_is_foretold_by_what_was_spent_lately(create: Create) -> None:
    world = budgeted(create, day=100_000, month=10**9)
    world.clock.now = at("2025-07-30 09:00:00")
    spend(world, 40_000, times=1, every=7_200)  # long ago
    spend(world, 1_000, times=30, every=20)

    spending = forecast(world.path, 600.0, world.clock()).spending

    assert spending is not None
    assert spending.currency == "USD"
    assert spending.pace == pytest.approx(50)
    # Of 100,000 are 30,000 left.
    assert spending.used_up_at == {"day": pytest.approx(world.clock() + 600), "month": None}


def test_what_calls_in_hand_may_cost_is_no_longer_there(create: Create) -> None:
    world = budgeted(create, day=100_000)
    world.clock.now = at("2025-07-30 09:00:00")
    spend(world, 1_000, times=30, every=20)
    world.admit("in hand")
    world.claim(terms=PRICED)

    spending = forecast(world.path, 600.0, world.clock()).spending

    assert spending is not None
    assert spending.used_up_at["day"] == pytest.approx(world.clock() + (70_000 - EACH) / 50)
    assert spending.used_up_at["month"] is None  # there is no budget


def test_a_budget_that_keeps_tasks_back_is_used_up_now_however_little_is_left(create: Create) -> None:
    world = budgeted(create, day=EACH + 1)
    world.admit("first", "second")
    pay(world, world.claim(terms=PRICED), EACH)
    world.idle(WORKER, PRICED)

    spending = forecast(world.path, 600.0, world.clock()).spending

    assert spending is not None
    assert (spending.budgets["day"].remaining_nano, spending.used_up_at["day"]) == (1, world.clock())


def test_the_pace_of_money_is_kept_for_a_day_and_no_longer(create: Create) -> None:
    world = budgeted(create)
    spend(world, 1_000, times=3, every=86_400)
    world.listing("anything")

    assert world.rows("SELECT minute FROM spending_minutes") == [(int(world.clock() // 60) - 24 * 60,)]


def test_what_a_clock_set_back_has_put_into_the_future_is_no_pace(create: Create) -> None:
    world = budgeted(create)
    spend(world, 1_000, times=1, every=-3_600)

    spending = forecast(world.path, 600.0, world.clock()).spending

    assert spending is not None
    assert spending.pace == 0
