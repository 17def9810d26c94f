"""What polls bring in, what they leave, and what they drop."""

from __future__ import annotations

import pytest

from aitp.ledger import Rules, Unreadable, Verdict
from aitp.ledger.database import DISK_RESERVE_BYTES
from aitp.tasks import Ending, Kind, NewTask
from tests.ledger.conftest import Create
from tests.ledger.world import SMALL, START, World, ids, terms


def test_new_tasks_enter_as_ready_and_known_ones_stay_as_they_are(world: World) -> None:
    world.admit("dead", "finished", "later", "claimed", "ready")
    for _ in range(2):
        world.finish(world.claim(terms=terms(batch=1)))
    (delivery,) = world.take(most=1)
    world.ledger.outbox.settle(delivery, Verdict.REFUSED, "400: refused")
    world.finish(world.claim(terms=terms(batch=1)), Ending.RETRY)
    world.claim(terms=terms(batch=1))
    held = "SELECT id, state, slot, due_at, attempts, entered_at FROM tasks WHERE id <> 'new' ORDER BY seq"
    before = world.rows(held)
    admitted, _ = world.listing("ready", "new", *(row[0] for row in before))

    assert admitted.tasks == 1
    assert world.states() == {name: name for name, *_ in before} | {"new": "ready"}
    assert world.rows(held) == before


def test_a_page_may_come_in_parts_and_repeat_itself(world: World) -> None:
    poll = world.poll()
    for part in (["a", "b"], ["b", "c"], []):
        world.ledger.inbox.admit(poll, [NewTask(name, SMALL, b"{}") for name in part])
    world.ledger.inbox.end_poll(poll, complete=True, more_there=False, regular_at=START)

    assert list(world.states()) == ["a", "b", "c"]


def test_invalid_content_is_a_failed_task_to_be_delivered(world: World) -> None:
    poll = world.poll()
    world.ledger.inbox.admit(poll, [NewTask("bad", SMALL, b"", invalid="text: at least one character")])

    assert world.states() == {"bad": "finished"}
    (delivery,) = world.take()
    assert (delivery.status.value, delivery.result, delivery.reason) == ("failed", None, "text: at least one character")


def test_no_more_is_kept_than_the_inbox_holds(create: Create) -> None:
    world = create(Rules(inbox_limit=3))
    admitted, _ = world.listing("a", "b", "c", "d", "e")
    assert (admitted.tasks, admitted.left_out) == (3, 2)
    world.finish(world.claim(terms=terms(batch=1)))
    admitted, _ = world.listing("a", "b", "c", "d", "e")

    assert (admitted.tasks, admitted.left_out) == (1, 1)
    assert list(world.states()) == ["a", "b", "c", "d"]


def test_nothing_is_taken_in_while_the_disk_is_nearly_full(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    poll = world.poll()
    monkeypatch.setattr(world.ledger._database, "free_bytes", lambda: DISK_RESERVE_BYTES - 1)
    admitted = world.ledger.inbox.admit(poll, [NewTask("a", SMALL, b"{}")])

    assert (admitted.tasks, admitted.left_out) == (0, 1)


# Dropping what somebody else dealt with


def test_a_task_that_two_complete_pages_in_a_row_do_not_list_is_dropped(world: World) -> None:
    world.listing("a", "b")
    assert world.listing("b")[1] == 0
    assert world.listing("b")[1] == 1

    assert list(world.states()) == ["b"]
    assert world.rows("SELECT COUNT(*) FROM contents") == [(1,)]


def test_missing_from_one_page_only_is_no_reason(world: World) -> None:
    world.listing("a")
    for page in ([], ["a"], [], ["a"], []):
        assert world.listing(*page)[1] == 0

    assert list(world.states()) == ["a"]


def test_an_incomplete_page_says_nothing_of_what_it_does_not_list(world: World) -> None:
    world.listing("a")
    for complete in (False, False, True, False):
        assert world.listing(complete=complete)[1] == 0

    assert list(world.states()) == ["a"]


@pytest.mark.parametrize(
    "ending", [Ending.RETRY, Ending.POSTPONED, Ending.ABANDONED, Ending.SPLIT, Ending.SUCCEEDED, Ending.UNSENT]
)
def test_what_was_attempted_is_never_dropped(world: World, ending: Ending) -> None:
    world.listing("a")
    world.run(ending)
    for _ in range(3):
        assert world.listing()[1] == 0


def test_what_is_claimed_meanwhile_is_not_dropped(world: World) -> None:
    world.listing("a")
    world.listing()
    claim = world.claim()

    assert world.listing()[1] == 0
    assert ids(claim) == ["a"]


# Tombstones


def deliver(world: World, *names: str) -> None:
    world.admit(*names)
    world.run()
    assert sorted(world.deliver_all()) == sorted(names)


def test_a_lagging_list_brings_nothing_back(world: World) -> None:
    deliver(world, "a")
    for seconds in (0.0, 1.0, 28.9):
        world.clock.now = START + seconds
        assert world.listing("a")[0].tasks == 0

    assert world.states() == {}


def test_a_task_listed_by_a_poll_that_began_well_after_its_acknowledgement_is_a_real_re_run(world: World) -> None:
    deliver(world, "a")
    world.clock.go(30.0)

    assert world.listing("a")[0].tasks == 1
    world.run()
    assert world.deliver_all() == ["a"]


def test_a_clock_that_is_set_forward_makes_no_list_newer(world: World) -> None:
    deliver(world, "a")
    for _ in range(3):  # polls forget what no later one can need
        world.clock.step(3_600.0)
        assert world.listing("a")[0].tasks == 0
    world.clock.go(30.0)

    assert world.listing("a")[0].tasks == 1


def test_after_a_restart_of_the_machine_the_wall_clock_alone_tells_how_old_a_list_may_be(world: World) -> None:
    deliver(world, "a")
    world.clock.stepped = START + 500.0  # its clocks count from the start again
    assert world.listing("a")[0].tasks == 0
    world.clock.go(30.0)

    assert world.listing("a")[0].tasks == 1


def test_a_poll_that_began_before_the_acknowledgement_never_brings_it_back_however_long_it_takes(world: World) -> None:
    world.admit("a")
    world.run()
    poll = world.poll(slot=2)
    (delivery,) = world.take(slot=1)
    world.ledger.outbox.settle(delivery, Verdict.DELIVERED)
    world.clock.go(600.0)

    assert world.ledger.inbox.admit(poll, [NewTask("a", SMALL, b"{}")]).tasks == 0


def test_which_came_first_is_told_by_the_ledger_s_sequence_not_by_clocks(world: World) -> None:
    world.admit("a")
    world.run()
    poll = world.poll(slot=2)
    world.clock.go(-3_600.0)
    (delivery,) = world.take(slot=1)
    world.ledger.outbox.settle(delivery, Verdict.DELIVERED)

    assert world.ledger.inbox.admit(poll, [NewTask("a", SMALL, b"{}")]).tasks == 0


def test_a_slow_page_is_as_old_as_its_beginning(world: World) -> None:
    deliver(world, "a")
    world.clock.go(5.0)
    poll = world.poll()
    world.clock.go(600.0)

    assert world.ledger.inbox.admit(poll, [NewTask("a", SMALL, b"{}")]).tasks == 0


def test_tombstones_are_forgotten_when_no_poll_can_need_them(world: World) -> None:
    deliver(world, "a")
    world.clock.go(29.0)
    world.listing()
    assert world.value("SELECT COUNT(*) FROM tombstones") == 1
    world.clock.go(2.0)
    world.listing()

    assert world.value("SELECT COUNT(*) FROM tombstones") == 0


def test_a_clock_that_steps_back_keeps_no_tombstone_for_long(world: World) -> None:
    deliver(world, "a")
    world.clock.go(-86_400.0)
    assert world.listing("a")[0].tasks == 0
    world.clock.go(30.0)

    assert world.listing("a")[0].tasks == 1


# Unreadable documents


def test_an_unreadable_document_is_told_once_kept_as_an_id_and_forgotten_with_the_api(world: World) -> None:
    odd = [Unreadable("x", "unknown type"), Unreadable(None, "not an object")]
    assert [document.id for document in world.listing(unreadable=odd)[0].unreadable] == ["x", None]
    assert [document.id for document in world.listing(unreadable=odd)[0].unreadable] == [None]
    assert world.rows("SELECT id FROM unreadable") == [("x",)]
    world.listing()
    world.listing()

    assert world.rows("SELECT id FROM unreadable") == []


def test_a_document_that_becomes_readable_is_a_task(world: World) -> None:
    world.listing(unreadable=[Unreadable("x", "unknown type")])

    assert world.listing("x")[0].tasks == 1
    assert world.rows("SELECT id FROM unreadable") == []


def test_ids_and_texts_may_be_anything(world: World) -> None:
    odd = "'; DROP TABLE tasks; --\n\x1b[31m"
    world.admit(odd, kind=Kind(odd, odd), content='{"text": "naïve 🦜"}'.encode())

    assert ids(world.claim()) == [odd]
