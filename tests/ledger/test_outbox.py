"""Deliveries: taken in chunks, settled one by one, never lost, and dead only by a person's word."""

from __future__ import annotations

import pytest

from aitp.ledger import Cause, DeadLetter, Delivery, Fault, Nothing, Verdict
from aitp.tasks import Ending, Health, TaskStatus
from tests.ledger.world import OTHER_RELAY, RELAY, SMALL, START, World


def finished(world: World, *names: str, ending: Ending = Ending.SUCCEEDED) -> None:
    world.admit(*names)
    world.run(ending)


def api_fault(health: Health = Health.FAULTY) -> Fault:
    return Fault("api", health, "503")


def test_finished_tasks_are_taken_oldest_first_in_chunks_each_by_one_relay(world: World) -> None:
    finished(world, "a", "b", "c")
    first, second = world.take(RELAY, 2), world.take(OTHER_RELAY, 2)

    assert [delivery.id for delivery in (*first, *second)] == ["a", "b", "c"]
    assert first[0] == Delivery(RELAY, 1, "a", SMALL.type, TaskStatus.SUCCEEDED, b"[0.5]", "succeeded", 0)


def test_a_failed_task_is_delivered_without_a_result(world: World) -> None:
    finished(world, "a", ending=Ending.FAILED)
    (delivery,) = world.take()

    assert (delivery.status, delivery.result) == (TaskStatus.FAILED, None)


def test_what_is_acknowledged_is_gone_but_for_a_tombstone(world: World) -> None:
    finished(world, "a")
    world.deliver_all()

    for table in ("tasks", "contents", "results"):
        assert world.value(f"SELECT COUNT(*) FROM {table}") == 0
    assert world.rows("SELECT id FROM tombstones") == [("a",)]


def test_a_delivery_that_failed_waits_longer_each_time(world: World) -> None:
    finished(world, "a")
    waits = []
    for tries in range(7):
        (delivery,) = world.take()
        assert delivery.tries == tries
        world.ledger.outbox.settle(delivery, Verdict.LATER)
        nothing = world.ledger.outbox.take(RELAY, 8)
        assert isinstance(nothing, Nothing)
        assert nothing.until is not None
        waits.append(nothing.until - world.clock.now)
        world.clock.now = nothing.until

    assert waits == [2.0, 4.0, 8.0, 16.0, 32.0, 48.0, 48.0]


def test_deliveries_that_failed_come_after_all_others(world: World) -> None:
    """What the task API fails at for good must not be in front of what it takes, time and again."""
    finished(world, "bad", "worse")
    for delivery in world.take():
        world.ledger.outbox.settle(delivery, Verdict.LATER)
    finished(world, "good", "better")
    world.clock.go(60.0)

    for _ in range(2):
        taken = world.take()
        assert [delivery.id for delivery in taken] == ["good", "better", "bad", "worse"]
        for delivery in taken:
            world.ledger.outbox.settle(delivery, Verdict.RETURNED)


def test_waiting_for_a_delivery_survives_a_restart(world: World) -> None:
    finished(world, "a")
    world.ledger.outbox.settle(world.take()[0], Verdict.LATER)
    world.close()
    world.open()

    assert world.ledger.outbox.take(RELAY, 8) == Nothing(START + 2.0)


def test_what_was_not_sent_is_anyone_s_at_once(world: World) -> None:
    finished(world, "a")
    (delivery,) = world.take(RELAY)
    assert isinstance(world.ledger.outbox.take(OTHER_RELAY, 8), Nothing)
    world.ledger.outbox.settle(delivery, Verdict.RETURNED)

    assert world.take(OTHER_RELAY)[0].tries == 0


def test_deliveries_of_a_process_that_died_are_made_again(world: World) -> None:
    finished(world, "a", "b")
    world.take(RELAY)
    world.ledger.claims.release(RELAY, Cause.CRASHED)

    assert [delivery.id for delivery in world.take(OTHER_RELAY)] == ["a", "b"]


def test_deliveries_whose_end_could_not_be_written_are_made_again(world: World) -> None:
    """A full disk at `settle`: the slot is alive, nobody will release it."""
    finished(world, "a", "b")
    world.take(RELAY)

    assert [delivery.id for delivery in world.take(RELAY)] == ["a", "b"]


def test_settling_too_late_changes_nothing(world: World) -> None:
    finished(world, "a")
    (late,) = world.take(RELAY)
    world.ledger.claims.release(RELAY, Cause.CRASHED)
    world.take(OTHER_RELAY)
    world.ledger.outbox.settle(late, Verdict.DELIVERED)

    assert world.states() == {"a": "finished"}


def test_a_clock_that_steps_back_does_not_hold_deliveries(world: World) -> None:
    finished(world, "a")
    world.ledger.outbox.settle(world.take()[0], Verdict.LATER)
    world.clock.go(-86_400.0)

    assert [delivery.id for delivery in world.take()] == ["a"]


# The breakers


def test_five_faults_in_a_row_stop_deliveries_and_nothing_is_lost(world: World) -> None:
    finished(world, *(f"t{number}" for number in range(8)))
    for number in range(5):
        (delivery,) = world.take(most=1)
        change = world.ledger.outbox.settle(delivery, Verdict.LATER, fault=api_fault())
        assert (change is None) is (number < 4)

    assert world.ledger.outbox.take(RELAY, 8) == Nothing(START + 60.0)
    assert set(world.states().values()) == {"finished"}


def test_refused_credentials_stop_deliveries_at_once(world: World) -> None:
    finished(world, "a")
    change = world.ledger.outbox.settle(world.take()[0], Verdict.LATER, fault=api_fault(Health.REFUSED))

    assert change is not None
    assert change.state == "open"


@pytest.mark.parametrize(
    ("verdict", "fault", "state"),
    [
        (Verdict.DELIVERED, None, "closed"),
        (Verdict.REFUSED, None, "closed"),  # it answered
        (Verdict.LATER, api_fault(), "open"),
        (Verdict.RETURNED, None, "open"),  # nothing was said: another probe soon
    ],
)
def test_one_delivery_is_the_probe_and_ends_it(world: World, verdict: Verdict, fault: Fault | None, state: str) -> None:
    finished(world, "a", "b", "c")
    world.ledger.outbox.judge(RELAY, api_fault(Health.REFUSED))
    world.clock.go(60.0)
    probe = world.take(RELAY)
    assert len(probe) == 1
    assert world.ledger.outbox.take(OTHER_RELAY, 8) == Nothing(None)
    world.ledger.outbox.settle(probe[0], verdict, fault=fault)

    assert world.value("SELECT state FROM breakers WHERE service = 'api'") == state


def test_a_probe_that_finds_nothing_to_deliver_is_not_begun(world: World) -> None:
    world.ledger.outbox.judge(RELAY, api_fault(Health.REFUSED))
    world.clock.go(60.0)

    assert world.ledger.outbox.take(RELAY, 8) == Nothing(None)
    assert world.value("SELECT state FROM breakers WHERE service = 'api'") == "open"


def test_a_probe_can_be_left_to_a_poll(world: World) -> None:
    finished(world, "a")
    world.ledger.outbox.judge(RELAY, api_fault(Health.REFUSED))
    world.clock.go(60.0)

    assert world.ledger.outbox.take(RELAY, 8, may_probe=False) == Nothing(None, probe_left=True)
    assert world.value("SELECT state FROM breakers WHERE service = 'api'") == "open"
    assert len(world.take(RELAY)) == 1


# Dead letters


def dead(world: World, *names: str) -> None:
    finished(world, *names)
    for delivery in world.take():
        world.ledger.outbox.settle(delivery, Verdict.REFUSED, refusal="400: not an embedding")


def test_a_refused_result_is_kept_with_its_reason(world: World) -> None:
    dead(world, "a")
    letter = world.ledger.dead.show("a")

    assert letter == DeadLetter(
        "a", SMALL.type, SMALL.model, TaskStatus.SUCCEEDED, "400: not an embedding", START, START, b"[0.5]"
    )
    assert [listed.result for listed in world.ledger.dead.list()] == [None]
    assert isinstance(world.ledger.outbox.take(RELAY, 8), Nothing)


def test_a_dead_letter_stays_though_polls_list_its_task_or_do_not(world: World) -> None:
    dead(world, "a")
    world.clock.go(100.0)
    for page in (["a"], [], []):
        world.listing(*page)

    assert world.states() == {"a": "dead"}


def test_a_dead_letter_can_be_delivered_once_more(world: World) -> None:
    dead(world, "a", "b")

    assert world.ledger.dead.retry("a")
    assert world.deliver_all() == ["a"]
    assert [letter.id for letter in world.ledger.dead.list()] == ["b"]


def test_a_dropped_dead_letter_is_gone_and_a_lagging_list_does_not_bring_it_back(world: World) -> None:
    dead(world, "a")

    assert world.ledger.dead.drop("a")
    assert world.listing("a")[0].tasks == 0
    assert world.value("SELECT COUNT(*) FROM results") == 0


@pytest.mark.parametrize("name", ["unknown", "alive"])
def test_what_is_no_dead_letter_is_left_alone(world: World, name: str) -> None:
    finished(world, "alive")

    assert world.ledger.dead.show(name) is None
    assert not world.ledger.dead.retry(name)
    assert not world.ledger.dead.drop(name)
    assert world.states() == {"alive": "finished"}
