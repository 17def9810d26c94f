"""Rate limits: what is counted, when room comes back, what is said and shown of it."""

from __future__ import annotations

import os

import pytest

from aitp.ledger.claims import IdleReason
from aitp.ledger.clock import TOLERANCE_SECONDS
from aitp.ledger.limits import use_of_limits
from aitp.ledger.outcomes import Cause
from aitp.ledger.queue import LedgerConfig
from aitp.tasks import Ending, Period
from tests.ledger.conftest import Create
from tests.ledger.world import OTHER_WORKER, START, WORKER, World, at, names, report, set_limits, terms


def use(world: World, period: str) -> tuple[int, int, int, float | None]:
    with world.database.reading() as connection:
        found = use_of_limits(connection, world.clock.now)[Period(period)]
    return found.current, found.limit, found.remaining, found.frees_at


def test_a_claim_takes_no_more_than_there_is_room_for(create: Create) -> None:
    world = create(minute=3)
    world.admit(*names("t", 10))

    assert len(world.claim().tasks) == 3
    assert use(world, "minute") == (3, 3, 0, None)


@pytest.mark.sqlite
def test_a_reservation_is_on_disk_before_its_tasks_can_be_sent(create: Create, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a power cut would take it away, and the room that it held would be given to others."""
    world = create(minute=3)
    world.admit("a", "b")
    flushed: list[int] = []
    monkeypatch.setattr(os, "fdatasync", flushed.append)

    world.claim(terms=terms(batch=1))
    assert len(flushed) == 1
    set_limits(world.ledger, "rolling", "UTC", {})
    world.claim(OTHER_WORKER)
    assert len(flushed) == 1, "with nothing to keep within, nobody waits for the disk"


def test_claimed_tasks_hold_reservations_so_that_nobody_else_takes_their_room(create: Create) -> None:
    world = create(minute=3)
    world.admit(*names("t", 10))
    world.claim(WORKER, terms(workers=3))
    world.claim(OTHER_WORKER, terms(batch=2))
    idle = world.idle(103)

    # Nothing is known of when room comes: it depends on when the calls end.
    assert (idle.because, idle.until) == (IdleReason.LIMIT, None)


def test_room_that_has_come_back_since_the_last_claim_is_used(create: Create) -> None:
    world = create(minute=10)
    world.admit(*names("t", 20))
    world.finish(world.claim(terms=terms(batch=8)))

    world.clock.go(60.001)

    assert len(world.claim(terms=terms(batch=6)).tasks) == 6


@pytest.mark.parametrize(("strategy", "zone"), [("rolling", "UTC"), ("fixed", "America/Sao_Paulo")])
def test_a_reload_that_makes_windows_begin_earlier_counts_what_was_before(
    create: Create, strategy: str, zone: str
) -> None:
    world = create(day=4)
    set_limits(world.ledger, "fixed", "UTC", {"day": 4})
    world.admit(*names("t", 20))
    before_midnight = 86_400 - world.clock.now % 86_400 - 60
    world.clock.go(before_midnight)
    world.finish(world.claim(terms=terms(batch=3)))
    world.clock.go(120)
    world.finish(world.claim(terms=terms(batch=1)))

    set_limits(world.ledger, strategy, zone, {"day": 4})

    assert world.idle(terms=terms(batch=1)).because is IdleReason.LIMIT


def test_several_limits_bind_together_and_all_must_have_room(create: Create) -> None:
    world = create(minute=2, hour=3)
    world.admit(*names("t", 10))
    first = world.claim()
    assert len(first.tasks) == 2
    world.finish(first)
    world.clock.go(60.001)
    second = world.claim()
    assert len(second.tasks) == 1  # the hour has room for one
    world.finish(second)

    # The minute would have room at once in a minute; the hour an hour after the first two.
    assert world.idle().until == pytest.approx(START + 3_600.001)


def test_room_comes_back_when_the_completion_is_a_whole_period_old(create: Create) -> None:
    world = create(minute=2)
    world.admit(*names("t", 5))
    world.finish(world.claim(terms=terms(batch=1)))
    world.clock.go(10.0)
    world.finish(world.claim(terms=terms(batch=1)))
    idle = world.idle()

    assert idle.until is not None
    assert START + 60.0 < idle.until < START + 60.002
    world.clock.now = START + 60.0 - 0.001
    assert world.idle().until == idle.until
    world.clock.now = idle.until
    assert len(world.claim().tasks) == 1


def test_only_what_was_not_sent_gives_its_room_back(create: Create) -> None:
    world = create(minute=4)
    world.admit(*names("t", 8))
    claim = world.claim()
    world.ledger.outcomes.finish(claim, report(claim.tasks[:1], Ending.UNSENT))
    world.ledger.outcomes.finish(claim, report(claim.tasks[1:], Ending.ABANDONED))

    assert len(world.claim().tasks) == 1


def test_each_attempt_counts_again_where_it_ended(create: Create) -> None:
    world = create(minute=10)
    world.admit("a")
    world.run(Ending.RETRY)
    world.clock.go(2.0)
    world.run(Ending.RETRY)
    world.clock.go(4.0)
    world.claim()
    world.ledger.outcomes.release(WORKER, Cause.CRASHED)

    assert use(world, "minute")[0] == 3
    assert [at for (at,) in world.rows("SELECT completed_at FROM task_completions")] == [START, START + 2, START + 6]


def test_completions_are_recorded_with_limits_off_and_count_once_they_are_on(world: World) -> None:
    world.admit(*names("t", 3))
    world.run()
    set_limits(world.ledger, "rolling", "UTC", {"minute": 5})

    assert use(world, "minute")[:3] == (3, 5, 2)


def test_work_in_flight_beyond_a_lowered_limit_finishes_and_remaining_stops_at_zero(create: Create) -> None:
    world = create(minute=10)
    world.admit(*names("t", 8))
    claim = world.claim()
    set_limits(world.ledger, "rolling", "UTC", {"minute": 3})

    assert use(world, "minute") == (8, 3, 0, None)
    assert len(world.finish(claim).outcomes) == 8
    assert use(world, "minute")[2] == 0


def test_published_limits_replace_those_in_force(create: Create) -> None:
    world = create(minute=10, day=100)
    set_limits(world.ledger, "fixed", "Europe/Lisbon", {"minute": 10, "hour": 50, "week": 0})

    assert world.rows("SELECT period, allowed FROM limits ORDER BY period") == [("hour", 50), ("minute", 10)]
    assert world.rows("SELECT strategy, timezone FROM ledger") == [("fixed", "Europe/Lisbon")]


# Fixed windows


def fixed(create: Create, zone: str = "UTC", **limits: int) -> World:
    world = create()
    set_limits(world.ledger, "fixed", zone, limits)
    return world


def test_a_fixed_window_has_all_its_room_back_when_the_next_one_begins(create: Create) -> None:
    world = fixed(create, minute=2)
    world.clock.now = at("2025-07-30 18:26:50")
    world.admit(*names("t", 5))
    world.run()
    idle = world.idle()

    assert idle.until == at("2025-07-30 18:27:00")
    world.clock.now = at("2025-07-30 18:27:00")
    assert len(world.claim().tasks) == 2


def test_calls_in_flight_over_a_window_s_end_count_where_they_end(create: Create) -> None:
    world = fixed(create, minute=2)
    world.clock.now = at("2025-07-30 18:26:59")
    world.admit(*names("t", 5))
    claim = world.claim()
    # All room is reserved: the end of the window changes nothing.
    assert world.idle(OTHER_WORKER).until is None
    world.clock.now = at("2025-07-30 18:27:10")
    assert world.idle(OTHER_WORKER).until is None
    world.finish(claim)

    assert world.idle(OTHER_WORKER).until == at("2025-07-30 18:28:00")


def test_days_are_those_of_the_zone(create: Create) -> None:
    world = fixed(create, "America/Sao_Paulo", day=1)
    world.clock.now = at("2018-11-04 02:30:00")  # half past eleven in the evening of the third
    world.admit(*names("t", 3))
    world.run()
    assert world.idle().until == at("2018-11-04 03:00:00")
    world.clock.now = at("2018-11-04 03:00:00")
    world.run()

    assert world.idle().until == at("2018-11-05 02:00:00")  # a day of 23 hours


# What is said


def test_one_warning_a_period_and_window(create: Create) -> None:
    world = create(minute=1, hour=1)
    world.admit(*names("t", 3))
    world.run()

    assert [*world.idle().exceeded] == ["minute", "hour"]
    assert world.idle(OTHER_WORKER).exceeded == {}
    world.clock.go(59.0)
    assert world.idle().exceeded == {}


def test_a_warning_tells_the_figures(create: Create) -> None:
    world = create(minute=1)
    world.admit("a", "b")
    world.run()
    [(period, use)] = world.idle().exceeded.items()

    assert (period, use.current, use.limit) == ("minute", 1, 1)
    assert use.frees_at == pytest.approx(START + 60.0, abs=0.002)


def test_the_next_window_is_worth_another_warning(create: Create) -> None:
    world = create(minute=1)
    world.admit(*names("t", 3))
    for _ in range(2):
        world.run()
        assert [*world.idle().exceeded] == ["minute"]
        world.clock.go(60.001)


def test_nobody_is_warned_while_nothing_waits(create: Create) -> None:
    world = create(minute=1)
    world.admit("a")
    world.run()

    assert world.idle().because is IdleReason.NOTHING_READY


def test_a_clock_set_back_does_not_silence_warnings_for_long(create: Create) -> None:
    world = create(minute=1)
    world.admit("a", "b")
    world.run()
    assert world.idle().exceeded
    world.clock.step(-86_400.0)

    assert world.idle().exceeded


# Clocks


def test_when_the_clock_steps_back_completions_of_the_future_happened_now(create: Create) -> None:
    world = create(minute=2)
    world.admit(*names("t", 5))
    world.clock.step(3_600.0)
    world.finish(world.claim(terms=terms(batch=2)))
    world.clock.step(-3_600.0)
    idle = world.idle()

    # Not 3,631 s: what stalls is a window's length, no more. And never less than counted: nothing is forgotten.
    assert idle.until == pytest.approx(START + 60.0, abs=0.002)
    assert {at for (at,) in world.rows("SELECT completed_at FROM task_completions")} == {START}


def test_times_never_decrease_with_the_id_whatever_the_clock_does(create: Create) -> None:
    world = create(LedgerConfig(), hour=1_000)
    for step in (5.0, -3.0, -0.5, 100.0, -50.0, -20.0, 0.0, 7.0):
        world.clock.step(step)
        world.admit(f"t{step}")
        world.run()
        times = [at for (at,) in world.rows("SELECT completed_at FROM task_completions ORDER BY id")]
        assert times == sorted(times)
        assert times[-1] <= world.clock.now + TOLERANCE_SECONDS


def test_when_the_clock_steps_forward_nothing_hangs(create: Create) -> None:
    world = create(minute=1)
    world.admit(*names("t", 3))
    world.run()
    assert world.idle().because is IdleReason.LIMIT
    world.clock.step(86_400.0)

    assert len(world.claim().tasks) == 1
