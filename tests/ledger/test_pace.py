"""How fast the limits are being used, read from a real ledger."""

from __future__ import annotations

import pytest

from aitp.ledger.pace import forecast
from tests.ledger.conftest import Create
from tests.ledger.world import World


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
