"""What becomes of the tasks of a process that is gone: released, blamed on it, or found to be poison."""

from __future__ import annotations

from aitp.ledger.claims import IdleReason
from aitp.ledger.outcomes import Cause
from aitp.ledger.queue import LedgerConfig
from aitp.tasks import Ending
from tests.ledger.conftest import Create
from tests.ledger.world import OTHER_WORKER, WORKER, World, ids


def test_release_frees_what_a_slot_had_claimed_and_counts_it_as_sent(world: World) -> None:
    world.admit("a", "b")
    world.claim()
    settled = world.ledger.outcomes.release(WORKER, Cause.STOPPED)

    assert [(outcome.task.id, outcome.ending) for outcome in settled.outcomes] == [
        ("a", Ending.ABANDONED),
        ("b", Ending.ABANDONED),
    ]
    assert world.states() == {"a": "ready", "b": "ready"}
    assert world.completions() == 2
    assert world.ledger.outcomes.release(WORKER, Cause.STOPPED).outcomes == ()


def test_a_deadline_kill_counts_as_a_failed_attempt(world: World) -> None:
    world.admit("a")
    world.claim()
    settled = world.ledger.outcomes.release(WORKER, Cause.DEADLINE)

    assert settled.outcomes[0].ending is Ending.RETRY
    assert world.states() == {"a": "later"}
    world.clock.go(2.0)
    assert world.claim().tasks[0].attempts == 1


def test_after_a_crash_tasks_are_claimed_alone(world: World) -> None:
    world.admit("a", "b", "c")
    world.claim()
    world.ledger.outcomes.release(WORKER, Cause.CRASHED)

    alone = world.claim()
    assert ids(alone) == ["a"]
    assert world.idle(OTHER_WORKER).because is IdleReason.TURN  # one after another
    world.finish(alone)
    alone = world.claim(OTHER_WORKER)
    assert ids(alone) == ["b"]
    assert alone.tasks[0].crashes == 1


def test_a_task_whose_processes_died_three_times_is_poison(create: Create) -> None:
    world = create(LedgerConfig(max_crashes=3))
    world.admit("poison", "fine")
    for _ in range(3):
        claimed = world.claim(WORKER)
        assert claimed.tasks[0].id == "poison"
        settled = world.ledger.outcomes.release(WORKER, Cause.CRASHED)

    assert settled.outcomes[0].ending is Ending.FAILED
    assert "poison" in settled.outcomes[0].reason
    assert world.states() == {"poison": "finished", "fine": "ready"}
    assert world.value("SELECT status FROM results") == "failed"


def test_finishing_too_late_changes_nothing(world: World) -> None:
    """Its slot was taken over and released meanwhile: the task is somebody else's."""
    world.admit("a")
    late = world.claim()
    world.ledger.outcomes.release(WORKER, Cause.CRASHED)
    world.claim(OTHER_WORKER)
    settled = world.finish(late)

    assert settled.outcomes == ()
    assert world.states() == {"a": "claimed"}
    assert world.completions() == 1  # the release counted it
