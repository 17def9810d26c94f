"""What only several processes can show: together they stay within what one of them promises."""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from aitp.ledger import limits
from aitp.ledger.claims import Claim, Idle, IdleReason
from aitp.ledger.evidence import Failure, Report
from aitp.ledger.inbox import Poll
from aitp.ledger.outcomes import Cause
from aitp.ledger.queue import LedgerConfig
from aitp.tasks import Culprit, Ending, Health, Outcome
from tests.ledger.conftest import Create
from tests.ledger.processes import Gate, Process
from tests.ledger.world import ALONE, POLLING, RELAY, START, WORKER, World, ids, names, terms
from tests.waiting import patience, wait_until

FOUR = range(WORKER, WORKER + 4)


def everything(slot: int, batch: int, gate: Gate | None = None) -> Any:
    """Claim and finish until nothing more can be claimed; the ids."""

    def work(world: World) -> list[str]:
        if gate:
            gate.wait()
        mine = []
        while isinstance(claim := world.ledger.claims.claim(slot, terms(workers=4, batch=batch)), Claim):
            world.finish(claim)
            mine += ids(claim)
        return mine

    return work


def test_no_task_is_claimed_by_two_processes_and_none_is_left(world: World) -> None:
    names = [f"t{number}" for number in range(400)]
    world.admit(*names)
    gate = Gate()
    processes = [Process(world, everything(slot, 3, gate), slot=slot) for slot in FOUR]
    gate.open(len(FOUR))
    claimed = [process.result() for process in processes]

    assert Counter(name for mine in claimed for name in mine) == Counter(names)
    assert all(claimed)
    assert world.completions() == 400


def test_processes_together_exceed_no_limit(create: Create) -> None:
    world = create(minute=50, hour=1_000)
    world.admit(*(f"t{number}" for number in range(200)))
    gate = Gate()
    processes = [Process(world, everything(slot, 7, gate), slot=slot) for slot in FOUR]
    gate.open(len(FOUR))

    assert sum(len(process.result()) for process in processes) == 50


def test_reservations_of_processes_that_are_still_at_it_count(create: Create) -> None:
    world = create(minute=10)
    world.admit(*(f"t{number}" for number in range(100)))

    def claim_only(slot: int) -> Any:
        def work(world: World) -> int:
            claim = world.ledger.claims.claim(slot, terms(batch=4))
            return len(claim.tasks) if isinstance(claim, Claim) else 0

        return work

    assert sorted(Process(world, claim_only(slot)).result() for slot in FOUR) == [0, 2, 4, 4]


def hold_a_claim(slot: int, told: Gate) -> Any:
    def work(world: World) -> None:
        world.claim(slot)
        told.open()
        signal.pause()

    return work


@pytest.mark.parametrize(
    ("cause", "state", "attempts", "crashes"),
    [(Cause.CRASHED, "ready", 0, 1), (Cause.DEADLINE, "later", 1, 0), (Cause.STOPPED, "ready", 0, 0)],
)
def test_claims_of_a_killed_process_are_released_by_whoever_gets_its_slot(
    world: World, cause: Cause, state: str, attempts: int, crashes: int
) -> None:
    world.admit("a")
    told = Gate()
    with Process(world, hold_a_claim(WORKER, told), slot=WORKER) as process:
        told.wait()
        # As long as it lives its slot cannot be had, so nobody can release what it owns.
        assert not world.ledger.locks.acquire(WORKER, 0)
        assert world.ledger.release_ownerless() == {}
        assert world.states() == {"a": "claimed"}
        process.kill()

    assert world.ledger.locks.acquire(WORKER, 0)
    world.ledger.outcomes.release(WORKER, cause)
    assert world.states() == {"a": state}
    assert world.rows("SELECT attempts, crashes FROM tasks") == [(attempts, crashes)]
    assert world.completions() == 1  # it may have been sent


def test_a_sweep_frees_the_slots_that_nobody_holds_and_no_others(world: World) -> None:
    world.admit("a", "b", "c")
    told = Gate()
    one = terms(batch=1)

    def hold(slot: int) -> Any:
        def work(world: World) -> None:
            world.claim(slot, one)
            told.open()
            signal.pause()

        return work

    with Process(world, hold(101), slot=101), Process(world, hold(102), slot=102) as killed:
        told.wait()
        told.wait()
        world.claim(103, one)
        world.ledger.locks.acquire(103)
        killed.kill()
        released = world.ledger.release_ownerless(causes={102: Cause.CRASHED})

        assert list(released) == [102]
        assert [outcome.ending for outcome in released[102].outcomes] == [Ending.ABANDONED]
        assert world.value("SELECT crashes FROM tasks WHERE state = 'ready'") == 1
        assert sorted(world.ledger.owners()) == [101, 103]


def test_one_probe_over_all_processes(world: World) -> None:
    world.fail_until_open()
    world.clock.go(60.0)
    gate = Gate()

    def knock(slot: int) -> Any:
        def work(world: World) -> str:
            gate.wait()
            found = world.ledger.claims.claim(slot, ALONE)
            return "probe" if isinstance(found, Claim) and found.probe else str(found.because)  # type: ignore[union-attr]

        return work

    processes = [Process(world, knock(slot)) for slot in range(WORKER, WORKER + 6)]
    gate.open(6)

    assert sorted(process.result() for process in processes) == [IdleReason.BREAKER] * 5 + ["probe"]


def test_a_probe_that_dies_with_its_process_is_made_by_the_next(world: World) -> None:
    world.fail_until_open()
    world.clock.go(60.0)
    told = Gate()
    with Process(world, hold_a_claim(WORKER, told), slot=WORKER) as process:
        told.wait()
        assert world.idle(WORKER + 1).because is IdleReason.BREAKER
        process.kill()
    world.ledger.outcomes.release(WORKER, Cause.CRASHED)

    assert world.claim(WORKER + 1).probe


def test_one_probe_of_a_paused_model_and_one_batch_of_suspects_over_all_processes(world: World) -> None:
    gate = Gate()

    def knock(slot: int) -> Any:
        def work(world: World) -> str:
            gate.wait()
            found = world.ledger.claims.claim(slot, terms(batch=1))
            return "claim" if isinstance(found, Claim) else str(found.because)

        return work

    def found_together() -> list[str]:
        processes = [Process(world, knock(slot)) for slot in range(WORKER, WORKER + 6)]
        gate.open(6)
        found = sorted(process.result() for process in processes)
        world.ledger.release_ownerless()  # they are all gone
        return found

    world.admit(*names("t", 8))
    claim = world.claim()
    world.finish(claim, Ending.RETRY, Health.FAULTY)
    world.clock.go(2.0)
    assert found_together() == ["claim"] + [IdleReason.TURN] * 5

    claim = world.claim()
    failure = Failure(Culprit.MODEL, "404: no such model", named=True)
    outcomes = [Outcome(task, Ending.RETRY, culprit=Culprit.MODEL) for task in claim.tasks]
    world.ledger.outcomes.finish(claim, Report(outcomes, failure))
    world.clock.go(60.0)
    assert found_together() == ["claim"] + [IdleReason.QUARANTINE] * 5
    assert world.ledger.owners() == []
    assert world.claim().tasks


def test_one_poll_over_all_processes(world: World) -> None:
    gate = Gate()

    def knock(slot: int) -> Any:
        def work(world: World) -> bool:
            gate.wait()
            return isinstance(world.ledger.inbox.begin_poll(slot, POLLING, asked=True), Poll)

        return work

    processes = [Process(world, knock(slot)) for slot in range(RELAY, RELAY + 5)]
    gate.open(5)

    assert sum(process.result() for process in processes) == 1


def test_kill_9_in_the_middle_of_a_transaction_loses_nothing_and_blocks_nobody(world: World) -> None:
    world.admit("a", "b")
    told = Gate()

    def die_in_finish(world: World) -> None:
        claim = world.claim(WORKER, terms(batch=1))
        count = limits.count

        def count_then_die(*arguments: Any) -> None:
            count(*arguments)
            told.open()
            signal.pause()

        limits.count = count_then_die  # type: ignore[assignment]
        world.finish(claim)

    with Process(world, die_in_finish, slot=WORKER) as process:
        told.wait()
        process.kill()
    # Nothing of the transaction is there, and its lock is gone with the process.
    assert world.states() == {"a": "claimed", "b": "ready"}
    assert world.completions() == 0
    assert world.ledger.locks.acquire(WORKER, 0)
    world.ledger.outcomes.release(WORKER, Cause.CRASHED)
    assert world.completions() == 1
    assert sorted(name for slot in (WORKER, WORKER + 1) for name in ids(world.claim(slot))) == ["a", "b"]


@pytest.mark.parametrize("round_", range(3))
def test_kill_9_at_any_moment_leaves_a_sound_ledger_in_which_every_task_is_accounted_for(
    world: World, round_: int
) -> None:
    names = [f"t{number}" for number in range(3_000)]
    world.admit(*names)
    gate = Gate()
    processes = [Process(world, everything(slot, 2, gate), slot=slot) for slot in (101, 102)]
    gate.open(2)
    floor = 100 * (round_ + 1)
    wait_until(lambda: world.value("SELECT COUNT(*) FROM results") > floor, every=0.001)
    for process in processes:
        process.kill()
    for slot in (101, 102):
        assert world.ledger.locks.acquire(slot, 0)
        world.ledger.outcomes.release(slot, Cause.CRASHED)

    states = Counter(world.states().values())
    assert states["finished"] + states["ready"] == len(names)
    assert states["finished"] == world.value("SELECT COUNT(*) FROM results")
    # Each finished one was counted, and of those in flight at most one batch of each process.
    assert 0 <= world.completions() - states["finished"] <= 4
    if isinstance(world.place, Path):
        assert world.value("PRAGMA integrity_check") == "ok"
    for slot in (101, 102):
        world.ledger.locks.release(slot)
    assert len(Process(world, everything(101, 32)).result()) == states["ready"]


def test_poison_is_found_by_crashes_of_real_processes(create: Create) -> None:
    world = create(LedgerConfig(max_crashes=3))
    world.admit("good1", "poison", "good2")

    def worker(world: World) -> None:
        while isinstance(claim := world.ledger.claims.claim(WORKER, terms()), Claim):
            if "poison" in ids(claim):
                os.kill(os.getpid(), signal.SIGKILL)
            world.finish(claim)

    deaths = 0
    while True:
        process = Process(world, worker, slot=WORKER)
        if process.wait() == 0:
            break
        deaths += 1
        world.ledger.locks.acquire(WORKER)
        world.ledger.outcomes.release(WORKER, Cause.CRASHED)
        world.ledger.locks.release(WORKER)

    assert deaths == 3
    failed = world.rows("SELECT id FROM tasks JOIN results USING (seq) WHERE status = 'failed'")
    assert failed == [("poison",)]
    assert set(world.states().values()) == {"finished"}


def test_writers_queue_fairly(world: World) -> None:
    """SQLite's own busy handler lets some wait for seconds while others come and go."""
    gate = Gate()

    def write(world: World) -> tuple[int, float]:
        gate.wait()
        written, longest, ends = 0, 0.0, time.monotonic() + 1.0
        while (started := time.monotonic()) < ends:
            with world.database.transaction() as connection:
                connection.execute("UPDATE ledger SET sequence = sequence + 1")
            longest = max(longest, time.monotonic() - started)
            written += 1
        return written, longest

    processes = [Process(world, write) for _ in range(6)]
    gate.open(6)
    results = [process.result() for process in processes]
    counts = [written for written, _ in results]

    assert max(longest for _, longest in results) < patience(0.5)
    assert min(counts) > 0.4 * sum(counts) / len(counts) / patience(1.0)


@pytest.mark.sqlite
def test_a_writer_outside_the_queue_is_waited_for(world: World) -> None:
    """A person's shell, say."""
    told, done = Gate(), Gate()

    def hold(world: World) -> None:
        connection = world.file.connection
        connection.execute("BEGIN IMMEDIATE")
        told.open()
        done.wait()
        connection.execute("COMMIT")

    world.admit("a")
    with Process(world, hold) as process:
        told.wait()
        waiting = Process(world, lambda world: ids(world.claim()))
        wait_until(lambda: world.ledger.locks.holder(1 << 20) == waiting.pid)
        done.open()
        assert waiting.result() == ["a"]
        process.result()


def test_idle_processes_see_room_at_the_same_moment_and_one_of_them_takes_it(create: Create) -> None:
    world = create(minute=1)
    world.admit("a", "b", "c")
    world.finish(world.claim(terms=terms(batch=1)))
    until = Process(world, lambda world: world.idle(102).until).result()
    assert until == pytest.approx(START + 60.001)
    world.clock.now = until

    def found(slot: int) -> Any:
        return Process(world, lambda world: type(world.ledger.claims.claim(slot, ALONE))).result()

    assert [found(slot) for slot in (101, 102)] == [Claim, Idle]


def test_health_of_a_service_is_shared(world: World) -> None:
    for number in range(world.rules.breaker_threshold):
        world.admit(f"t{number}")

        def fail(world: World) -> str | None:
            settled = world.finish(world.claim(terms=terms(batch=1)), Ending.RETRY, Health.FAULTY)
            return settled.breaker.state if settled.breaker else None

        state = Process(world, fail).result()

    assert state == "open"
