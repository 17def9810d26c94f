"""How attempts end: what becomes of the task, and what is counted. (Who is to blame: test_evidence.py.)"""

from __future__ import annotations

import pytest

from aitp.ledger.breakers import Cooldown
from aitp.ledger.claims import IdleReason
from aitp.ledger.evidence import Report
from aitp.ledger.outcomes import Cause
from aitp.tasks import Ending, Health, Outcome
from tests.ledger.conftest import Create
from tests.ledger.world import OTHER_WORKER, SMALL, START, WORKER, World, ids, report, terms

# ending → (state, counted as sent, attempts afterwards)
TABLE = {
    Ending.SUCCEEDED: ("finished", 1, 0),
    Ending.FAILED: ("finished", 1, 0),
    Ending.BUG: ("finished", 1, 0),
    Ending.RETRY: ("later", 1, 1),
    Ending.POSTPONED: ("later", 1, 0),
    Ending.SPLIT: ("ready", 1, 0),
    Ending.FALLBACK: ("ready", 1, 0),
    Ending.ADAPTED: ("ready", 1, 0),
    Ending.ABANDONED: ("ready", 1, 0),
    Ending.UNSENT: ("later", 0, 0),
}


def test_the_table_names_every_ending() -> None:
    assert set(TABLE) == set(Ending)


@pytest.mark.parametrize("ending", TABLE)
def test_each_ending_has_its_state_and_room_comes_back_only_if_nothing_was_sent(create: Create, ending: Ending) -> None:
    world = create(minute=10)
    world.admit("a")
    world.run(ending, Health.UNKNOWN)
    state, counted, attempts = TABLE[ending]

    assert world.states() == {"a": state}
    assert world.value("SELECT attempts FROM tasks") == attempts
    assert world.completions() == counted
    assert world.value("SELECT slot FROM tasks") is None


def test_a_result_is_stored_with_its_status(world: World) -> None:
    world.admit("good", "bad")
    claim = world.claim()
    good, bad = claim.tasks
    outcomes = [
        Outcome(good, Ending.SUCCEEDED, b"[0.25]"),
        Outcome(bad, Ending.FAILED, reason="the input is empty"),
    ]
    world.ledger.outcomes.finish(claim, Report(outcomes))

    assert world.rows("SELECT status, body, reason FROM results ORDER BY seq") == [
        ("succeeded", b"[0.25]", ""),
        ("failed", None, "the input is empty"),
    ]


def test_a_claim_can_be_finished_part_by_part(world: World) -> None:
    world.admit("a", "b", "c", "d")
    claim = world.claim()
    world.ledger.outcomes.finish(claim, report(claim.tasks[:2], Ending.SUCCEEDED))
    assert world.states() == {"a": "finished", "b": "finished", "c": "claimed", "d": "claimed"}
    settled = world.ledger.outcomes.finish(claim, report(claim.tasks, Ending.FAILED))

    assert [outcome.task.id for outcome in settled.outcomes] == ["c", "d"]
    assert world.completions() == 4
    assert world.rows("SELECT status FROM results ORDER BY seq") == [
        ("succeeded",),
        ("succeeded",),
        ("failed",),
        ("failed",),
    ]


def test_a_report_that_names_a_task_twice_is_recorded_once(world: World) -> None:
    world.admit("a")
    claim = world.claim()
    world.ledger.outcomes.finish(claim, report([*claim.tasks, *claim.tasks], Ending.SUCCEEDED))

    assert world.completions() == 1


def test_a_failure_that_is_told_again_counts_once(world: World) -> None:
    # The disk was full when the first one was committed, and nobody could say whether it was.
    world.admit("a")
    claim = world.claim()
    told = report(claim.tasks, Ending.RETRY, Health.FAULTY)
    world.ledger.outcomes.finish(claim, told)
    counted = world.rows("SELECT service, good FROM worlds")

    assert world.ledger.outcomes.finish(claim, told).outcomes == ()
    assert world.rows("SELECT service, good FROM worlds") == counted


def test_an_answer_is_taken_though_its_task_was_taken_away_meanwhile(world: World) -> None:
    world.admit("a", "b")
    claim = world.claim()
    world.ledger.outcomes.release(WORKER, Cause.STOPPED)
    other = world.claim(OTHER_WORKER, terms(batch=1))  # one of them is in another's hands by then
    settled = world.finish(claim)

    assert ids(other) == ["a"]
    assert [outcome.task.id for outcome in settled.outcomes] == ["b"]
    assert world.states() == {"a": "claimed", "b": "finished"}
    assert world.completions() == 2  # as it was sent twice: once at the release, and not again by its answer


# Retries


def test_a_batch_that_fails_keeps_one_due_time(world: World) -> None:
    world.admit("a", "b", "c")
    settled = world.run(Ending.RETRY)

    assert world.rows("SELECT DISTINCT due_at FROM tasks") == [(START + 2.0,)]
    assert settled.retry_at == START + 2.0


def test_delays_double_up_to_an_hour(world: World) -> None:
    world.admit("a")
    delays = []
    for _ in range(14):
        started = world.clock.now
        settled = world.run(Ending.RETRY, Health.FAULTY)
        assert settled.retry_at is not None
        delays.append(settled.retry_at - started)
        world.clock.now = settled.retry_at

    assert delays == [2.0**tries for tries in range(1, 12)] + [2_880.0] * 3  # an hour with the widest spread


def test_a_lone_suspect_costs_some_thirty_sends_a_day(world: World) -> None:
    world.admit("a")
    for _ in range(12):
        world.clock.now = world.run(Ending.RETRY, Health.FAULTY).retry_at or world.clock.now
    day, sends = world.clock.now + 86_400.0, 0
    while world.clock.now < day:
        world.clock.now = world.run(Ending.RETRY, Health.FAULTY).retry_at or day
        sends += 1

    assert 24 <= sends <= 36


def test_a_probe_that_fails_gives_no_attempts_back(world: World) -> None:
    """Else the next probe would take the same task again, and one bad text would keep the breaker open."""
    world.fail_until_open()
    seen = []
    for _ in range(4):
        world.clock.go(60.0)
        probe = world.claim()
        seen += ids(probe)
        world.finish(probe, Ending.RETRY, Health.FAULTY)

    assert len(set(seen)) == 4


# Postponed: nothing may spin


def test_a_postponed_task_that_nothing_holds_back_waits_a_moment(world: World) -> None:
    world.admit("a")
    settled = world.run(Ending.POSTPONED, Health.UNKNOWN)

    assert settled.retry_at == START + 5.0
    assert world.idle().until == START + 5.0
    assert world.value("SELECT attempts FROM tasks") == 0


def test_a_postponed_task_waits_for_its_cooldown_and_no_longer(world: World) -> None:
    world.admit("a")
    claim = world.claim()
    pause = Cooldown(7.5, SMALL.model, "429")
    settled = world.ledger.outcomes.finish(claim, Report([Outcome(claim.tasks[0], Ending.POSTPONED)], cooldown=pause))

    assert settled.retry_at is None
    assert world.idle().until == START + 7.5


@pytest.mark.parametrize("seconds", [0.0, -3.0])
def test_a_cooldown_of_no_time_is_a_second(world: World, seconds: float) -> None:
    world.admit("a")
    claim = world.claim()
    pause = Cooldown(seconds, SMALL.model, "Retry-After: 0")
    world.ledger.outcomes.finish(claim, Report([Outcome(claim.tasks[0], Ending.POSTPONED)], cooldown=pause))

    assert world.idle().until == START + 1.0


def test_a_shorter_cooldown_that_arrives_later_does_not_end_a_longer_one(world: World) -> None:
    world.admit("a", "b")
    claims = [world.claim(101, terms(batch=1)), world.claim(102, terms(batch=1))]
    for claim, seconds in zip(claims, (60.0, 5.0), strict=True):
        pause = Cooldown(seconds, SMALL.model, "429")
        world.ledger.outcomes.finish(claim, Report([Outcome(claim.tasks[0], Ending.POSTPONED)], cooldown=pause))

    assert world.idle().until == START + 60.0


def test_of_several_cooldowns_the_longest_counts_though_the_clock_is_set_back_between_them(world: World) -> None:
    world.admit("a", "b")
    claims = [world.claim(101, terms(batch=1)), world.claim(102, terms(batch=1))]
    for claim, seconds in zip(claims, (60.0, 5.0), strict=True):
        pause = Cooldown(seconds, SMALL.model, "429")
        world.ledger.outcomes.finish(claim, Report([Outcome(claim.tasks[0], Ending.POSTPONED)], cooldown=pause))
        world.clock.step(-10.0)

    assert world.idle().until == START - 20.0 + 60.0


def test_a_postponed_task_waits_for_an_open_breaker_and_no_longer(world: World) -> None:
    world.admit("a", "b")
    claims = [world.claim(slot, terms(batch=1)) for slot in (101, 102)]
    world.finish(claims[0], Ending.RETRY, Health.REFUSED)
    settled = world.finish(claims[1], Ending.POSTPONED, Health.UNKNOWN)
    world.clock.go(2.0)
    idle = world.idle()

    assert settled.retry_at is None
    assert (idle.because, idle.until) == (IdleReason.BREAKER, START + 60.0)


def test_a_probe_that_says_nothing_is_made_again_after_a_moment_not_at_once(world: World) -> None:
    world.fail_until_open()
    world.clock.go(60.0)
    world.run(Ending.POSTPONED, Health.UNKNOWN)
    idle = world.idle()

    assert (idle.because, idle.until) == (IdleReason.BREAKER, START + 65.0)
    world.clock.now = START + 65.0
    assert world.claim().probe


# Bugs


def test_five_bugs_in_a_row_pause_a_processor_until_a_restart(world: World) -> None:
    for number in range(5):
        world.admit(f"t{number}")
        paused = world.run(Ending.BUG, Health.UNKNOWN).paused_processor
        assert paused == (SMALL.type if number == 4 else None)


def test_a_success_in_between_starts_the_count_anew(world: World) -> None:
    for ending in [Ending.BUG] * 4 + [Ending.SUCCEEDED] + [Ending.BUG] * 4:
        world.admit(f"t{world.clock.now}")
        assert world.run(ending, Health.UNKNOWN).paused_processor is None
        world.clock.go(1.0)


def test_one_more_bug_after_a_pause_renews_it(world: World) -> None:
    for number in range(5):
        world.admit(f"t{number}")
        world.run(Ending.BUG, Health.UNKNOWN)
    world.admit("again")
    world.clock.go(3_600.0)

    assert world.run(Ending.BUG, Health.UNKNOWN).paused_processor == SMALL.type
