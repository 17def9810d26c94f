"""Deliveries: taken in chunks, settled alone or together, never lost, and dead only by a person's word."""

from __future__ import annotations

import pytest

from aitp.ledger.breakers import BreakerChange
from aitp.ledger.claims import Idle, IdleReason
from aitp.ledger.inbox import Poll
from aitp.ledger.outbox import Delivery, DeliveryOutcome, Fault, Nothing
from aitp.ledger.outcomes import Cause
from aitp.ledger.queue import LedgerConfig
from aitp.ledger.stats import DeadLetter
from aitp.tasks import Ending, Health, TaskStatus
from tests.ledger.conftest import Create
from tests.ledger.world import OTHER_RELAY, POLLING, RELAY, SMALL, START, World, names


def finished(world: World, *names: str, ending: Ending = Ending.SUCCEEDED) -> None:
    world.admit(*names)
    world.run(ending)


def later(world: World, *deliveries: Delivery) -> BreakerChange | None:
    """They fail, as at a task API that is out or a target that is broken; the last change of a breaker."""
    change = None
    for delivery in deliveries:
        change = world.ledger.outbox.settle(delivery, DeliveryOutcome.LATER, fault=api_fault())
    return change


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
    for tries in range(13):
        (delivery,) = world.take()
        assert delivery.tries == tries
        world.ledger.outbox.settle(delivery, DeliveryOutcome.LATER)
        nothing = world.ledger.outbox.take(RELAY, 8)
        assert isinstance(nothing, Nothing)
        assert nothing.until is not None
        waits.append(nothing.until - world.clock.now)
        world.clock.now = nothing.until

    assert waits == [*(2.0**tries for tries in range(1, 12)), 2_880.0, 2_880.0]


def test_deliveries_that_failed_come_after_all_others(world: World) -> None:
    """What the task API fails at for good must not be in front of what it takes, time and again."""
    finished(world, "bad", "worse")
    for delivery in world.take():
        world.ledger.outbox.settle(delivery, DeliveryOutcome.LATER)
    finished(world, "good", "better")
    world.clock.go(60.0)

    for _ in range(2):
        taken = world.take()
        assert [delivery.id for delivery in taken[:2]] == ["good", "better"]
        assert {delivery.id for delivery in taken[2:]} == {"bad", "worse"}  # due at one moment, in any order
        for delivery in taken:
            world.ledger.outbox.settle(delivery, DeliveryOutcome.RETURNED)


def test_waiting_for_a_delivery_survives_a_restart(world: World) -> None:
    finished(world, "a")
    world.ledger.outbox.settle(world.take()[0], DeliveryOutcome.LATER)
    world.close()
    world.open()

    assert world.ledger.outbox.take(RELAY, 8) == Nothing(START + 2.0)


def test_what_was_not_sent_is_anyone_s_at_once(world: World) -> None:
    finished(world, "a")
    (delivery,) = world.take(RELAY)
    assert isinstance(world.ledger.outbox.take(OTHER_RELAY, 8), Nothing)
    world.ledger.outbox.settle(delivery, DeliveryOutcome.RETURNED)

    assert world.take(OTHER_RELAY)[0].tries == 0


def test_deliveries_of_a_process_that_died_are_made_again(world: World) -> None:
    finished(world, "a", "b")
    world.take(RELAY)
    world.ledger.outcomes.release(RELAY, Cause.CRASHED)

    assert [delivery.id for delivery in world.take(OTHER_RELAY)] == ["a", "b"]


def test_what_had_failed_before_its_process_died_still_comes_last(world: World) -> None:
    finished(world, "bad")
    later(world, *world.take())
    finished(world, "good")
    world.clock.go(2.0)
    assert [delivery.id for delivery in world.take(RELAY)] == ["good", "bad"]
    for slot in (RELAY, OTHER_RELAY):
        world.ledger.outcomes.release(slot, Cause.CRASHED)
        taken = world.take(OTHER_RELAY)

        assert [(delivery.id, delivery.tries) for delivery in taken] == [("good", 0), ("bad", 1)]


def test_deliveries_whose_end_could_not_be_written_are_made_again(world: World) -> None:
    """A full disk at `settle`: the slot is alive, nobody will release it."""
    finished(world, "a", "b")
    world.take(RELAY)

    assert [delivery.id for delivery in world.take(RELAY)] == ["a", "b"]


def test_settling_too_late_changes_nothing(world: World) -> None:
    finished(world, "a")
    (late,) = world.take(RELAY)
    world.ledger.outcomes.release(RELAY, Cause.CRASHED)
    world.take(OTHER_RELAY)
    world.ledger.outbox.settle(late, DeliveryOutcome.DELIVERED)

    assert world.states() == {"a": "finished"}


def test_what_was_delivered_before_is_settled_with_it_as_far_as_it_is_still_ours(world: World) -> None:
    finished(world, "a", "b", "c")
    first, second, third = world.take(RELAY)
    world.ledger.outcomes.release(RELAY, Cause.CRASHED)
    [taken] = world.take(OTHER_RELAY, 1)
    assert taken.id == "a"
    world.take(RELAY)
    world.ledger.outbox.settle(third, DeliveryOutcome.DELIVERED, earlier=[first, second])

    assert world.states() == {"a": "finished"}


def test_a_fault_after_others_were_delivered_is_the_first_of_its_row(world: World) -> None:
    for number in range(3):
        finished(world, f"good {number}", f"bad {number}")
        good, bad = world.take(RELAY, 2)
        world.ledger.outbox.settle(bad, DeliveryOutcome.LATER, "out", Fault("api", Health.FAULTY, "out"), [good])

    assert world.states() == {f"bad {number}": "finished" for number in range(3)}
    [breaker] = world.rows("SELECT state, failures FROM breakers WHERE service = 'api'")
    assert tuple(breaker) == ("closed", 1)


def test_a_clock_that_steps_back_does_not_hold_deliveries(world: World) -> None:
    finished(world, "a")
    world.ledger.outbox.settle(world.take()[0], DeliveryOutcome.LATER)
    world.clock.step(-86_400.0)
    world.clock.go(2.0)

    assert [delivery.id for delivery in world.take()] == ["a"]


# Whose fault it is


def poll(world: World, fault: Fault | None = None) -> Poll | Idle:
    """A poll that is due, and what becomes of it."""
    begun = world.ledger.inbox.begin_poll(RELAY, POLLING)
    if isinstance(begun, Poll):
        if fault is None:
            world.ledger.inbox.end_poll(begun, complete=False, more_there=False, regular_at=world.clock() + 30)
        else:
            world.ledger.inbox.fail_poll(begun, fault.reason)
        world.ledger.outbox.judge(RELAY, fault)
    return begun


def breaker(world: World) -> tuple[str, int]:
    [found] = world.rows("SELECT state, failures FROM breakers WHERE service = 'api'")
    return found


def test_after_four_faults_in_a_row_deliveries_wait_for_a_poll_and_its_fault_opens_the_breaker(world: World) -> None:
    finished(world, *names("t", 8))
    world.clock.go(10.0)
    in_hand = world.take(OTHER_RELAY, most=2)
    for _ in range(4):
        assert later(world, *world.take(most=1)) is None
    assert world.ledger.outbox.take(RELAY, 8) == Nothing(world.clock() + 1.0)
    assert later(world, *in_hand) is None

    assert isinstance(poll(world, api_fault()), Poll)
    assert breaker(world) == ("open", 5)
    assert world.ledger.outbox.take(RELAY, 8) == Nothing(world.clock() + 60.0)
    assert set(world.states().values()) == {"finished"}


def test_the_poll_that_deliveries_wait_for_is_made_a_second_after_the_last(world: World) -> None:
    finished(world, *names("t", 4))
    for delivery in world.take():
        later(world, delivery)
    assert poll(world) == Idle(IdleReason.NOT_DUE, START + 1.0)
    world.clock.go(1.0)

    assert isinstance(poll(world), Poll)


def test_no_number_of_broken_targets_opens_the_breaker(world: World) -> None:
    finished(world, *names("bad", 12))
    polls = 0
    for _ in range(60):
        world.clock.go(1.0)
        taken = world.ledger.outbox.take(RELAY, 8)
        if isinstance(taken, Nothing):
            polls += isinstance(poll(world), Poll)
        else:
            later(world, *taken)
        assert breaker(world)[0] == "closed"
    finished(world, "good")

    assert world.value("SELECT MIN(deliveries) FROM results WHERE seq <= 12") >= 3
    assert polls <= 6
    assert world.take(most=1)[0].id == "good"


def test_what_failed_before_says_nothing_of_an_api_that_did_well_since(world: World) -> None:
    finished(world, "bad")
    later(world, *world.take())
    world.clock.go(2.0)
    later(world, *world.take())
    assert breaker(world) == ("closed", 2)  # nothing else was heard of it
    finished(world, "good")
    world.ledger.outbox.settle(world.take()[0], DeliveryOutcome.DELIVERED)
    world.clock.go(60.0)
    for _ in range(6):
        later(world, *world.take())
        world.clock.go(3_600.0)

    assert breaker(world) == ("closed", 0)


def test_a_suspect_that_happens_to_be_the_probe_leaves_the_next_one_to_another(world: World) -> None:
    finished(world, "bad")
    later(world, *world.take())
    world.ledger.outbox.judge(RELAY, None)
    world.ledger.outbox.judge(RELAY, api_fault(Health.REFUSED))
    world.clock.go(60.0)
    later(world, *world.take())

    assert breaker(world)[0] == "open"
    assert world.ledger.outbox.take(RELAY, 8) == Nothing(world.clock() + 5.0)


@pytest.mark.parametrize("hindrance", ["paused", "no room"])
def test_faults_in_a_row_open_the_breaker_by_themselves_where_no_poll_can_be_made(
    world: World, monkeypatch: pytest.MonkeyPatch, hindrance: str
) -> None:
    finished(world, *names("t", 8))
    if hindrance == "paused":
        world.ledger.pause(True)
    else:
        monkeypatch.setattr(world.database, "short_of_disk", lambda: True)
    changes = [later(world, *world.take(most=1)) for _ in range(5)]

    assert [change is None for change in changes] == [True] * 4 + [False]


def test_a_breaker_that_opens_at_the_first_failure_waits_for_no_poll(create: Create) -> None:
    world = create(LedgerConfig(breaker_threshold=1))
    finished(world, "a")

    assert later(world, *world.take()) is not None


def test_what_failed_while_nothing_worked_is_due_when_the_api_is_back(world: World) -> None:
    finished(world, "a", "b")
    for _ in range(9):
        world.clock.go(3_600.0)
        for delivery in world.take():
            world.ledger.outbox.settle(delivery, DeliveryOutcome.LATER)
    world.ledger.outbox.judge(RELAY, api_fault(Health.REFUSED))
    world.clock.go(60.0)
    assert isinstance(poll(world), Poll)

    assert [delivery.tries for delivery in world.take()] == [9, 9]


def test_a_conflict_is_tried_again_and_says_that_the_api_is_well(world: World) -> None:
    finished(world, "a")
    world.ledger.outbox.judge(RELAY, api_fault())
    (delivery,) = world.take()
    world.ledger.outbox.settle(delivery, DeliveryOutcome.CONFLICT)
    world.clock.go(2.0)

    assert breaker(world) == ("closed", 0)
    assert [(delivery.tries, delivery.conflicts) for delivery in world.take()] == [(1, 1)]


@pytest.mark.parametrize("service", ["api", "oauth"])
def test_who_asks_to_be_left_alone_is_left_alone_by_every_relay(world: World, service: str) -> None:
    finished(world, "a")
    (delivery,) = world.take()
    world.clock.go(40.0)
    pause = Fault(service, Health.HEALTHY, "429", pause=20.0)
    world.ledger.outbox.settle(delivery, DeliveryOutcome.RETURNED, fault=pause)

    until = world.clock() + 20.0
    assert world.ledger.outbox.take(OTHER_RELAY, 8) == Nothing(until)
    assert world.ledger.inbox.begin_poll(OTHER_RELAY, POLLING, asked=True) == Idle(IdleReason.COOLDOWN, until)
    world.close()
    world.open()
    assert world.ledger.outbox.take(RELAY, 8) == Nothing(until)
    world.clock.go(20.0)
    assert [delivery.tries for delivery in world.take()] == [0]


def test_a_poll_may_be_asked_for_quiet_as_well_and_a_clock_set_back_does_not_prolong_it(world: World) -> None:
    finished(world, "a")
    world.ledger.outbox.judge(RELAY, Fault("api", Health.HEALTHY, "429", pause=20.0))
    assert isinstance(world.ledger.outbox.take(OTHER_RELAY, 8), Nothing)
    world.clock.step(-86_400.0)
    assert world.ledger.outbox.take(OTHER_RELAY, 8) == Nothing(world.clock.now + 20.0)
    world.clock.go(20.0)

    assert len(world.take(OTHER_RELAY)) == 1


# The breakers


def test_refused_credentials_stop_deliveries_at_once(world: World) -> None:
    finished(world, "a")
    change = world.ledger.outbox.settle(world.take()[0], DeliveryOutcome.LATER, fault=api_fault(Health.REFUSED))

    assert change is not None
    assert change.state == "open"


@pytest.mark.parametrize(
    ("verdict", "fault", "state"),
    [
        (DeliveryOutcome.DELIVERED, None, "closed"),
        (DeliveryOutcome.REFUSED, None, "closed"),  # it answered
        (DeliveryOutcome.CONFLICT, None, "closed"),
        (DeliveryOutcome.LATER, api_fault(), "open"),
        (DeliveryOutcome.RETURNED, None, "open"),  # nothing was said: another probe soon
    ],
)
def test_one_delivery_is_the_probe_and_ends_it(
    world: World, verdict: DeliveryOutcome, fault: Fault | None, state: str
) -> None:
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
        world.ledger.outbox.settle(delivery, DeliveryOutcome.REFUSED, refusal="400: not an embedding")


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
