"""What polls bring in, what they leave, and what they drop."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aitp.ledger.engine import DISK_RESERVE_BYTES, Place
from aitp.ledger.inbox import Malformed, Poll
from aitp.ledger.outbox import DeliveryOutcome
from aitp.ledger.queue import LedgerConfig
from aitp.policy.polling import is_complete, may_hold_more
from aitp.tasks import Ending, NewTask, QueueKey
from tests.ledger.conftest import Create
from tests.ledger.world import SMALL, START, World, example, examples, ids, names, terms


def test_new_tasks_enter_as_ready_and_known_ones_stay_as_they_are(world: World) -> None:
    world.admit("dead", "finished", "later", "claimed", "ready")
    for _ in range(2):
        world.finish(world.claim(terms=terms(batch=1)))
    (delivery,) = world.take(most=1)
    world.ledger.outbox.settle(delivery, DeliveryOutcome.REFUSED, "400: refused")
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
    world = create(LedgerConfig(inbox_limit=3))
    admitted, _ = world.listing("a", "b", "c", "d", "e")
    assert (admitted.tasks, admitted.left_out) == (3, 2)
    world.finish(world.claim(terms=terms(batch=1)))
    admitted, _ = world.listing("a", "b", "c", "d", "e")

    assert (admitted.tasks, admitted.left_out) == (1, 1)
    assert list(world.states()) == ["a", "b", "c", "d"]


def test_a_list_that_has_more_in_front_than_is_held_here_is_asked_for_more_and_more(world: World) -> None:
    asked = []
    for _ in range(5):
        poll = world.poll()
        asked.append(poll.limit)
        known = {"complete": False, "more_there": True, "documents": poll.limit, "regular_at": world.clock() + 30.0}
        world.ledger.inbox.end_poll(poll, barren=True, **known)  # type: ignore[arg-type]
    first = asked[0]
    assert asked == [first, first, 2 * first, 4 * first, 8 * first]

    poll = world.poll()
    world.ledger.inbox.end_poll(poll, barren=False, **known)  # type: ignore[arg-type]
    assert world.poll().limit == first


@pytest.mark.sqlite
def test_nothing_is_taken_in_while_the_disk_is_nearly_full(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    poll = world.poll()
    monkeypatch.setattr(world.file, "free_bytes", lambda: DISK_RESERVE_BYTES - 1)
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


def test_a_task_that_is_listed_in_between_is_not_missing_from_two_pages_in_a_row(world: World) -> None:
    world.listing("a", "b")
    world.listing("b")
    world.listing("a", "b", complete=False)

    assert world.listing("b")[1] == 0


def test_what_is_listed_again_shows_that_pages_have_become_shorter(world: World) -> None:
    world.listing(*names("t", 9))
    poll = world.poll()
    assert poll.longest_page == 9
    page(world, poll, names("t", 5))
    page(world, world.poll(), names("t", 6))

    assert world.poll().longest_page == 6


@dataclass
class Capped:
    """A task API that lists `cap` tasks at most, in any order, and may not heed the limit."""

    cap: int
    heeds_limit: bool
    draw: random.Random
    pending: set[str] = field(default_factory=set)

    def list(self, limit: int) -> list[str]:
        found = sorted(self.pending)
        self.draw.shuffle(found)
        return found[: min(self.cap, limit) if self.heeds_limit else self.cap]


def page(world: World, poll: Poll, listed: list[str]) -> tuple[int, bool]:
    """A page that lists these tasks, judged as a relay judges it; (what entered, whether there may be more)."""
    entered = world.ledger.inbox.admit(poll, [NewTask(name, SMALL, b"{}") for name in listed]).tasks
    more = may_hold_more(len(listed), poll.limit, poll.longest_page, entered)
    complete = is_complete(len(listed), poll.limit, poll.longest_page)
    world.ledger.inbox.end_poll(
        poll, complete=complete, more_there=more, documents=len(listed), regular_at=world.clock() + 30
    )
    return entered, more


def test_no_cap_of_pages_makes_a_pending_task_disappear_nor_keeps_one_that_is_gone(prepared_place: Place) -> None:
    @examples(prepared_place, 60)
    @given(
        api=st.builds(Capped, st.integers(1, 25), st.booleans(), st.randoms(use_true_random=False)),
        changes=st.lists(st.tuples(st.integers(0, 15), st.integers(0, 15)), max_size=12),
    )
    def holds(api: Capped, changes: list[tuple[int, int]]) -> None:
        with example(prepared_place) as world:
            added = longest = 0
            for new, gone in changes:
                api.pending |= set(names("t", added + new)[added:])
                api.pending -= set(api.draw.sample(sorted(api.pending), min(gone, len(api.pending))))
                added += new
                held, poll = set(world.states()), world.poll()
                listed = api.list(poll.limit)
                entered, more = page(world, poll, listed)
                longest = max(longest, len(listed))

                assert not (held - set(world.states())) & api.pending
                if api.heeds_limit and entered and len(listed) < len(api.pending):
                    assert more
            # Fewer than any poll asks for: a page of just as many as that would be in doubt as well.
            api.pending = set(sorted(api.pending)[: max(0, min(longest - 1, 15))])
            for _ in range(2):
                poll = world.poll()
                page(world, poll, api.list(poll.limit))

            assert set(world.states()) <= api.pending

    holds()


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
    world.close()
    world.clock.boot, world.clock.stepped = "the second", START + 500.0  # one clock counts from the start again
    world.open()
    assert world.listing("a")[0].tasks == 0
    world.clock.go(30.0)

    assert world.listing("a")[0].tasks == 1


def test_a_poll_that_began_before_the_acknowledgement_never_brings_it_back_however_long_it_takes(world: World) -> None:
    world.admit("a")
    world.run()
    poll = world.poll(slot=2)
    (delivery,) = world.take(slot=1)
    world.ledger.outbox.settle(delivery, DeliveryOutcome.DELIVERED)
    world.clock.go(600.0)

    assert world.ledger.inbox.admit(poll, [NewTask("a", SMALL, b"{}")]).tasks == 0


def test_which_came_first_is_told_by_the_ledger_s_sequence_not_by_clocks(world: World) -> None:
    world.admit("a")
    world.run()
    poll = world.poll(slot=2)
    world.clock.step(-3_600.0)
    (delivery,) = world.take(slot=1)
    world.ledger.outbox.settle(delivery, DeliveryOutcome.DELIVERED)

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
    world.clock.step(-86_400.0)
    assert world.listing("a")[0].tasks == 0
    world.clock.go(30.0)

    assert world.listing("a")[0].tasks == 1


# Malformed documents


def test_an_unreadable_document_is_told_once_kept_as_an_id_and_forgotten_with_the_api(world: World) -> None:
    odd = [Malformed("x", "unknown type"), Malformed(None, "not an object")]
    assert [document.id for document in world.listing(unreadable=odd)[0].malformed] == ["x", None]
    assert [document.id for document in world.listing(unreadable=odd)[0].malformed] == [None]
    assert world.rows("SELECT id FROM malformed") == [("x",)]
    world.listing()
    world.listing()

    assert world.rows("SELECT id FROM malformed") == []


def test_a_document_that_becomes_readable_is_a_task(world: World) -> None:
    world.listing(unreadable=[Malformed("x", "unknown type")])

    assert world.listing("x")[0].tasks == 1
    assert world.rows("SELECT id FROM malformed") == []


def test_ids_and_texts_may_be_anything(world: World) -> None:
    odd = "'; DROP TABLE tasks; --\n\x1b[31m"
    world.admit(odd, queue=QueueKey(odd, odd), content='{"text": "naïve 🦜"}'.encode())

    assert ids(world.claim()) == [odd]
