"""When a poll may begin, who makes it, and how much is asked for. The decision itself: tests/policy/test_polling.py."""

from __future__ import annotations

import pytest

from aitp.ledger.claims import Idle, IdleReason
from aitp.ledger.engine import DISK_RESERVE_BYTES
from aitp.ledger.inbox import Poll
from aitp.ledger.outbox import DeliveryOutcome, Fault
from aitp.ledger.outcomes import Cause
from aitp.ledger.queue import LedgerConfig
from aitp.tasks import Ending, Health, NewTask
from tests.ledger.conftest import Create
from tests.ledger.world import OTHER_RELAY, POLLING, RELAY, SMALL, START, World, names, terms


def begin(world: World, slot: int = RELAY, *, asked: bool = False) -> Poll | Idle:
    return world.ledger.inbox.begin_poll(slot, POLLING, asked=asked)


def end(world: World, poll: Poll, *, more_there: bool = False) -> None:
    world.ledger.inbox.end_poll(poll, complete=False, more_there=more_there, regular_at=world.clock.now + 29.0)


def polled(world: World) -> Poll:
    poll = begin(world)
    assert isinstance(poll, Poll)
    return poll


def test_the_first_poll_is_due_at_once_and_the_next_at_its_time(world: World) -> None:
    end(world, polled(world))

    assert begin(world) == Idle(IdleReason.NOT_DUE, START + 29.0)
    world.clock.now = START + 28.999
    assert begin(world) == Idle(IdleReason.NOT_DUE, START + 29.0)
    world.clock.now = START + 29.0
    assert isinstance(begin(world), Poll)


def test_one_process_polls_at_a_time_and_the_others_look_again_later(world: World) -> None:
    poll = polled(world)

    assert begin(world, OTHER_RELAY, asked=True) == Idle(IdleReason.UNDERWAY, START + 30.0)
    end(world, poll)
    assert isinstance(begin(world, OTHER_RELAY, asked=True), Poll)


def test_the_next_poll_comes_at_once_while_more_is_there_but_not_within_a_second(world: World) -> None:
    end(world, polled(world), more_there=True)

    assert begin(world) == Idle(IdleReason.NOT_DUE, START + 1.0)
    world.clock.go(1.0)
    assert isinstance(begin(world), Poll)


def test_an_inbox_full_of_duplicates_is_polled_for_at_the_regular_time_only(create: Create) -> None:
    """Each page may be all that is pending, and none of it could be taken in."""
    world = create(LedgerConfig(inbox_limit=5))
    world.listing(*names("t", 5), twins=True, complete=False, more_there=True)

    assert begin(world) == Idle(IdleReason.NOT_DUE, START + 30.0)
    world.run()
    assert begin(world) == Idle(IdleReason.NOT_DUE, START + 1.0)


def test_deliveries_call_for_a_look_when_little_is_left(world: World) -> None:
    world.admit("a")
    world.clock.go(5.0)
    world.run()
    assert begin(world) == Idle(IdleReason.NOT_DUE, START + 30.0)
    world.deliver_all()

    assert isinstance(begin(world), Poll)


def test_nothing_is_polled_while_more_is_held_than_could_be_claimed(world: World) -> None:
    world.admit(*(f"t{number}" for number in range(16)))
    world.clock.go(3_000.0)

    assert begin(world) == Idle(IdleReason.NOT_DUE, START + 3_030.0)
    world.finish(world.claim(terms=terms(batch=1)))
    assert isinstance(begin(world), Poll)


def test_nothing_is_polled_while_the_limits_have_no_room_for_what_is_held(create: Create) -> None:
    world = create(hour=1)
    world.admit(*(f"t{number}" for number in range(10)))
    world.finish(world.claim(terms=terms(batch=1)))
    world.clock.go(100.0)

    answer = begin(world)
    assert isinstance(answer, Idle)
    assert answer.until == pytest.approx(START + 3_600.001)


def test_a_person_s_wish_goes_first(world: World) -> None:
    world.admit(*(f"t{number}" for number in range(16)))

    assert isinstance(begin(world, asked=True), Poll)


def test_paused_means_no_polls(world: World) -> None:
    world.ledger.pause(True)

    assert begin(world, asked=True) == Idle(IdleReason.PAUSED, None)


@pytest.mark.sqlite
def test_no_polls_while_the_disk_is_nearly_full(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(world.file, "free_bytes", lambda: DISK_RESERVE_BYTES - 1)

    assert begin(world) == Idle(IdleReason.DISK, START + 5.0)


def test_failed_polls_are_made_again_after_growing_pauses(world: World) -> None:
    pauses = []
    for _ in range(7):
        poll = polled(world)
        world.ledger.inbox.fail_poll(poll, "503")
        answer = begin(world)
        assert isinstance(answer, Idle)
        assert answer.until is not None
        pauses.append(answer.until - world.clock.now)
        world.clock.now = answer.until

    assert pauses == [2.0, 4.0, 8.0, 16.0, 30.0, 30.0, 30.0]
    assert world.value("SELECT problem FROM polls") == "503"


def test_a_poll_that_works_ends_the_pauses(world: World) -> None:
    world.ledger.inbox.fail_poll(polled(world), "503")
    world.clock.go(2.0)
    end(world, polled(world))

    assert begin(world) == Idle(IdleReason.NOT_DUE, START + 31.0)
    assert world.value("SELECT problem FROM polls") is None


def test_the_poll_of_a_process_that_died_is_anyone_s(world: World) -> None:
    polled(world)
    world.clock.go(60.0)
    assert isinstance(begin(world, OTHER_RELAY), Idle)
    world.ledger.outcomes.release(RELAY, Cause.CRASHED)

    assert isinstance(begin(world, OTHER_RELAY), Poll)


def test_a_poll_whose_end_could_not_be_written_does_not_block_polling_for_ever(world: World) -> None:
    """A full disk at `end_poll`: the slot is alive, nobody will release it."""
    lost = polled(world)
    world.clock.go(60.0)
    poll = polled(world)

    assert poll.began_sequence > lost.began_sequence
    assert world.ledger.inbox.end_poll(lost, complete=True, more_there=True, regular_at=START) == 0
    assert world.value("SELECT slot FROM polls") == RELAY


def test_the_page_asked_for_has_room_for_all_that_may_fill_it(world: World) -> None:
    assert polled(world).limit == 16  # two rounds of two workers with batches of four
    world.admit(*(f"t{number}" for number in range(6)))
    world.finish(world.claim(terms=terms(batch=2)))
    world.deliver_all()
    world.finish(world.claim(terms=terms(batch=1)), Ending.RETRY)
    # Six known to the API, two of them tombstones; four are ready, twelve more are wanted.
    poll = begin(world, asked=True)

    assert isinstance(poll, Poll)
    assert poll.limit == 6 + 12


def test_a_clock_that_steps_back_does_not_stop_polling(world: World) -> None:
    end(world, polled(world))
    world.clock.step(-86_400.0)
    back = world.clock.now

    assert begin(world) == Idle(IdleReason.NOT_DUE, back + 29.0)
    world.clock.now = back + 28.0
    assert begin(world) == Idle(IdleReason.NOT_DUE, back + 29.0)
    world.clock.now = back + 29.0
    assert isinstance(begin(world), Poll)


# The task API's and the authorization server's breakers


def fault(service: str = "api", health: Health = Health.FAULTY) -> Fault:
    return Fault(service, health, "503")


def open_breaker(world: World, service: str = "api") -> None:
    for _ in range(world.rules.breaker_threshold):
        change = world.ledger.outbox.judge(RELAY, fault(service))
    assert change is not None
    assert (change.service, change.state) == (service, "open")


@pytest.mark.parametrize("service", ["api", "oauth"])
def test_no_poll_while_either_service_is_out_then_one_probe(world: World, service: str) -> None:
    open_breaker(world, service)
    assert begin(world, asked=True) == Idle(IdleReason.BREAKER, START + 60.0)
    world.clock.go(60.0)
    probe = polled(world)
    assert isinstance(begin(world, OTHER_RELAY, asked=True), Idle)
    end(world, probe)
    assert world.ledger.outbox.judge(RELAY, None) is not None

    assert world.rows("SELECT DISTINCT state FROM breakers") == [("closed",)]


def test_a_probe_is_due_whatever_else_is(world: World) -> None:
    world.admit(*(f"t{number}" for number in range(16)))
    open_breaker(world)
    world.clock.go(60.0)

    assert isinstance(begin(world), Poll)


def test_a_fault_of_the_authorization_server_ends_the_task_api_s_probe_as_well(world: World) -> None:
    open_breaker(world, "oauth")
    for _ in range(world.rules.breaker_threshold):
        with world.database.transaction() as connection:
            world.ledger.inbox.breakers.tell(connection, "api", Health.FAULTY, RELAY, START, "503")
    world.clock.go(60.0)
    probe = polled(world)
    world.ledger.inbox.fail_poll(probe, "no token")
    world.ledger.outbox.judge(RELAY, fault("oauth"))

    # Neither may stay half-open: nobody would ever end that.
    assert world.rows("SELECT service, state FROM breakers WHERE state <> 'closed' ORDER BY service") == [
        ("api", "open"),
        ("oauth", "open"),
    ]


def test_a_poll_leaves_deliveries_of_other_relays_alone(world: World) -> None:
    world.admit("a")
    world.run()
    (delivery,) = world.take(OTHER_RELAY)
    poll = begin(world, asked=True)
    assert isinstance(poll, Poll)
    world.ledger.inbox.admit(poll, [NewTask("a", SMALL, b"{}")])
    world.ledger.outbox.settle(delivery, DeliveryOutcome.DELIVERED)

    assert world.states() == {}


def test_rules_default_to_the_settings_defaults() -> None:
    assert LedgerConfig() == LedgerConfig(3, 2.0, 3, 5, 60.0, 5_000)
