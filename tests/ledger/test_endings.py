"""How attempts end: what becomes of the task, what is counted, who is to blame."""

from __future__ import annotations

import pytest

from aitp.ledger import Because, Cause, Cooldown, Report, Rules
from aitp.tasks import Ending, Health, Outcome
from tests.ledger.conftest import Create
from tests.ledger.world import LARGE, OTHER_WORKER, SMALL, START, World, ids, report, terms

# ending → (state, counted as sent, attempts afterwards)
TABLE = {
    Ending.SUCCEEDED: ("finished", 1, 0),
    Ending.FAILED: ("finished", 1, 0),
    Ending.BUG: ("finished", 1, 0),
    Ending.RETRY: ("later", 1, 1),
    Ending.POSTPONED: ("later", 1, 0),
    Ending.SPLIT: ("ready", 1, 0),
    Ending.FALLBACK: ("ready", 1, 0),
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
    world.ledger.claims.finish(claim, Report(outcomes))

    assert world.rows("SELECT status, body, reason FROM results ORDER BY seq") == [
        ("succeeded", b"[0.25]", ""),
        ("failed", None, "the input is empty"),
    ]


def test_a_claim_can_be_finished_part_by_part(world: World) -> None:
    world.admit("a", "b", "c", "d")
    claim = world.claim()
    world.ledger.claims.finish(claim, report(claim.tasks[:2], Ending.SUCCEEDED))
    assert world.states() == {"a": "finished", "b": "finished", "c": "claimed", "d": "claimed"}
    settled = world.ledger.claims.finish(claim, report(claim.tasks, Ending.FAILED))

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
    world.ledger.claims.finish(claim, report([*claim.tasks, *claim.tasks], Ending.SUCCEEDED))

    assert world.completions() == 1


# Retries


def test_a_batch_that_fails_keeps_one_due_time(world: World) -> None:
    world.admit("a", "b", "c")
    settled = world.run(Ending.RETRY)

    assert world.rows("SELECT DISTINCT due_at FROM tasks") == [(START + 2.0,)]
    assert settled.retry_at == START + 2.0


def test_delays_double(world: World) -> None:
    world.admit("a")
    delays = []
    for _ in range(7):
        started = world.clock.now
        settled = world.run(Ending.RETRY)
        assert settled.retry_at is not None
        delays.append(settled.retry_at - started)
        world.clock.now = settled.retry_at

    assert delays == [2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0]


def succeed_elsewhere(world: World, slot: int = OTHER_WORKER) -> None:
    world.admit(f"other-{world.clock.now}", kind=LARGE)
    claim = world.claim(slot, terms(batch=1))
    assert claim.kind == LARGE
    world.finish(claim)


def fail_again(world: World) -> Outcome:
    """Another failed attempt of the only task, when it is due."""
    due_at = world.value("SELECT due_at FROM tasks WHERE id = 'a'")
    world.clock.now = due_at or world.clock.now
    (outcome,) = world.run(Ending.RETRY).outcomes
    return outcome


def test_with_retries_used_up_a_task_fails_if_its_provider_has_succeeded_for_another_since(world: World) -> None:
    world.admit("a")
    endings = [fail_again(world).ending]
    succeed_elsewhere(world)
    endings += [fail_again(world).ending for _ in range(3)]

    assert endings == [Ending.RETRY, Ending.RETRY, Ending.RETRY, Ending.FAILED]
    assert world.value("SELECT reason FROM results WHERE status = 'failed'") == "failed 4 times, last: retry"


def test_with_retries_used_up_a_task_waits_if_nobody_has_succeeded_since_its_first_failure(world: World) -> None:
    succeed_elsewhere(world)
    world.admit("a")

    assert [fail_again(world).ending for _ in range(8)] == [Ending.RETRY] * 8
    succeed_elsewhere(world)
    assert fail_again(world).ending is Ending.FAILED


def test_a_success_in_the_same_batch_is_a_success_of_another_task(world: World) -> None:
    world.admit("a", "b")
    for _ in range(3):
        claim = world.claim()
        world.finish(claim, Ending.RETRY)
        world.clock.go(60.0)
    claim = world.claim()
    a, b = claim.tasks
    settled = world.ledger.claims.finish(
        claim, Report([Outcome(a, Ending.SUCCEEDED, b"[1]"), Outcome(b, Ending.RETRY)])
    )

    assert [outcome.ending for outcome in settled.outcomes] == [Ending.SUCCEEDED, Ending.FAILED]


def test_no_retries_wanted_still_means_that_an_outage_fails_nobody(create: Create) -> None:
    world = create(Rules(max_retries=0))
    world.admit("a")

    assert fail_again(world).ending is Ending.RETRY
    succeed_elsewhere(world)
    assert fail_again(world).ending is Ending.FAILED


def test_an_opening_breaker_gives_its_tasks_all_their_attempts_back(world: World) -> None:
    world.admit("in flight", "waits")
    for _ in range(3):
        world.run(Ending.RETRY)
        world.clock.go(60.0)
    in_flight = world.claim(OTHER_WORKER, terms(batch=1))
    succeed_elsewhere(world, slot=103)
    assert in_flight.tasks[0].attempts == 3
    world.fail_until_open()

    assert world.value("SELECT attempts FROM tasks WHERE id = 'in flight'") == 0
    assert world.value("SELECT first_failure_sequence FROM tasks WHERE id = 'in flight'") is None
    # The one that was under way when the breaker opened is not to blame either.
    (outcome,) = world.finish(in_flight, Ending.RETRY, Health.FAULTY).outcomes
    assert outcome.ending is Ending.RETRY


def test_the_failure_that_opens_a_breaker_fails_nobody(create: Create) -> None:
    world = create(Rules(breaker_threshold=2, max_retries=1))
    world.admit("a")
    world.run(Ending.RETRY)
    succeed_elsewhere(world)
    world.clock.go(60.0)
    world.admit("b")
    claims = [world.claim(101, terms(batch=1)), world.claim(102, terms(batch=1))]
    world.finish(claims[1], Ending.RETRY, Health.FAULTY)
    settled = world.finish(claims[0], Ending.RETRY, Health.FAULTY)

    assert settled.breaker is not None
    assert settled.outcomes[0].ending is Ending.RETRY


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
    settled = world.ledger.claims.finish(claim, Report([Outcome(claim.tasks[0], Ending.POSTPONED)], cooldown=pause))

    assert settled.retry_at is None
    assert world.idle().until == START + 7.5


@pytest.mark.parametrize("seconds", [0.0, -3.0])
def test_a_cooldown_of_no_time_is_a_second(world: World, seconds: float) -> None:
    world.admit("a")
    claim = world.claim()
    pause = Cooldown(seconds, SMALL.model, "Retry-After: 0")
    world.ledger.claims.finish(claim, Report([Outcome(claim.tasks[0], Ending.POSTPONED)], cooldown=pause))

    assert world.idle().until == START + 1.0


def test_a_shorter_cooldown_that_arrives_later_does_not_end_a_longer_one(world: World) -> None:
    world.admit("a", "b")
    claims = [world.claim(101, terms(workers=2)), world.claim(102, terms(workers=2))]
    for claim, seconds in zip(claims, (60.0, 5.0), strict=True):
        pause = Cooldown(seconds, SMALL.model, "429")
        world.ledger.claims.finish(claim, Report([Outcome(claim.tasks[0], Ending.POSTPONED)], cooldown=pause))

    assert world.idle().until == START + 60.0


def test_a_cooldown_takes_the_place_of_one_from_before_the_clock_was_set_back(world: World) -> None:
    world.admit("a", "b")
    claims = [world.claim(101, terms(workers=2)), world.claim(102, terms(workers=2))]
    for claim, seconds in zip(claims, (60.0, 5.0), strict=True):
        pause = Cooldown(seconds, SMALL.model, "429")
        world.ledger.claims.finish(claim, Report([Outcome(claim.tasks[0], Ending.POSTPONED)], cooldown=pause))
        world.clock.go(-10.0)
    world.clock.go(10.0)

    assert world.idle().until == START - 10.0 + 5.0


def test_a_postponed_task_waits_for_the_breaker_that_refused_credentials_opened(world: World) -> None:
    world.admit("a")
    settled = world.run(Ending.POSTPONED, Health.REFUSED)
    idle = world.idle()

    assert settled.breaker is not None
    assert settled.breaker.state == "open"
    assert (idle.because, idle.until) == (Because.BREAKER, START + 60.0)


def test_a_probe_that_says_nothing_is_made_again_after_a_moment_not_at_once(world: World) -> None:
    world.fail_until_open()
    world.clock.go(60.0)
    world.run(Ending.POSTPONED, Health.UNKNOWN)
    idle = world.idle()

    assert (idle.because, idle.until) == (Because.BREAKER, START + 65.0)
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


# Crashes and blame together


def test_deadline_kills_are_blamed_like_any_failure(world: World) -> None:
    world.admit("a")
    for attempt in range(4):
        if attempt == 1:
            succeed_elsewhere(world)
        world.clock.go(60.0)
        world.claim()
        (outcome,) = world.ledger.claims.release(101, Cause.DEADLINE).outcomes

    assert outcome.ending is Ending.FAILED
