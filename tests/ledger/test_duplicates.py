"""Twins: what is equal is bought once, waits for one another, and never gets an answer that is not its own."""

from __future__ import annotations

import pytest

from aitp.ledger.claims import Claim, IdleReason
from aitp.ledger.duplicates import Reused, fingerprint
from aitp.ledger.inbox import Admitted
from aitp.ledger.ledger import prepare
from aitp.ledger.outbox import DeliveryOutcome
from aitp.ledger.outcomes import Cause
from aitp.ledger.queue import LedgerConfig
from aitp.tasks import Ending, Health, NewTask, QueueKey
from tests.ledger.conftest import Create
from tests.ledger.world import LARGE, OTHER_WORKER, SMALL, START, TOPICS, WORKER, World, ids, terms

TEXT = b'{"text": "Bom dia"}'


def enter(world: World, *names: str, queue: QueueKey = SMALL, content: bytes = TEXT) -> Admitted:
    return world.listing(*names, queue=queue, content=content, complete=False, twins=True)[0]


def bodies(world: World) -> dict[str, bytes]:
    return {
        name: bytes(body)
        for name, body in world.rows("SELECT id, body FROM tasks JOIN results ON results.seq = tasks.seq")
    }


@pytest.mark.parametrize(
    ("queue", "content", "equal"),
    [
        (SMALL, TEXT, True),
        (LARGE, TEXT, False),
        (TOPICS, TEXT, False),
        (SMALL, b'{"text": "Bom dia!"}', False),
        (QueueKey(SMALL.type, SMALL.model, failed_at="ollama"), TEXT, True),
    ],
)
def test_equal_tasks_are_of_one_type_model_and_content(queue: QueueKey, content: bytes, equal: bool) -> None:
    assert (fingerprint(queue, content) == fingerprint(SMALL, TEXT)) is equal


def test_a_duplicate_waits_for_the_first_and_gets_its_result(world: World) -> None:
    enter(world, "a", "b")
    enter(world, "c")
    claim = world.claim()

    assert ids(claim) == ["a"]
    assert not claim.more
    assert world.idle(OTHER_WORKER).because is IdleReason.NOTHING_READY
    settled = world.finish(claim)
    assert settled.reused == (Reused("b", SMALL.type, "a"), Reused("c", SMALL.type, "a"))
    assert bodies(world) == dict.fromkeys("abc", b"[0.5]")
    assert world.completions() == 1
    assert sorted(world.deliver_all()) == ["a", "b", "c"]


def test_a_duplicate_that_is_entered_while_the_first_is_run_waits_as_well(world: World) -> None:
    enter(world, "a")
    claim = world.claim()
    enter(world, "b")

    assert world.idle(OTHER_WORKER).because is IdleReason.NOTHING_READY
    assert [task.id for task in world.finish(claim).reused] == ["b"]


@pytest.mark.parametrize("delivered", [False, True])
def test_a_recent_result_is_used_again_without_a_call(world: World, delivered: bool) -> None:
    enter(world, "a")
    world.run()
    if delivered:
        world.deliver_all()
    world.clock.go(3_600)
    admitted = enter(world, "b")

    assert admitted.reused == (Reused("b", SMALL.type, "a"),)
    assert world.idle().because is IdleReason.NOTHING_READY
    assert bodies(world)["b"] == b"[0.5]"
    assert "b" in world.deliver_all()


def test_the_duplicate_of_a_dead_letter_gets_its_result(world: World) -> None:
    enter(world, "a")
    world.run()
    (delivery,) = world.take()
    world.ledger.outbox.settle(delivery, DeliveryOutcome.REFUSED, "400")

    assert enter(world, "b").reused == (Reused("b", SMALL.type, "a"),)


def test_a_result_is_too_old_after_reuse_seconds(create: Create) -> None:
    world = create(LedgerConfig(reuse_seconds=600))
    enter(world, "a")
    world.run()
    world.deliver_all()
    world.clock.go(600)

    assert enter(world, "b").reused == ()
    assert ids(world.claim()) == ["b"]
    assert world.value("SELECT COUNT(*) FROM answers") == 0


@pytest.mark.parametrize("delivered", [False, True])
def test_a_clock_that_is_set_back_has_nothing_bought_again(world: World, delivered: bool) -> None:
    enter(world, "a")
    world.run()
    if delivered:
        world.deliver_all()
    world.clock.step(-7_200)

    assert [task.id for task in enter(world, "b").reused] == ["b"]


def test_after_a_clock_was_set_back_no_result_is_used_for_longer_than_any_other(create: Create) -> None:
    world = create(LedgerConfig(reuse_seconds=600))
    enter(world, "a")
    world.run()
    world.deliver_all()
    world.clock.step(-7_200)
    world.listing()
    world.clock.go(600)

    assert enter(world, "b").reused == ()


def test_switched_off_each_is_bought_and_nothing_is_kept(create: Create) -> None:
    world = create(LedgerConfig(reuse_seconds=0))
    enter(world, "a", "b")
    settled = world.run()
    world.deliver_all()

    assert [outcome.task.id for outcome in settled.outcomes] == ["a", "b"]
    assert world.value("SELECT COUNT(*) FROM answers") == 0


def test_a_task_that_is_listed_again_after_its_delivery_is_run_again(world: World) -> None:
    enter(world, "a")
    world.run()
    world.deliver_all()
    world.clock.go(60)

    assert enter(world, "a").reused == ()
    assert ids(world.claim()) == ["a"]


def test_if_the_first_fails_the_oldest_duplicate_is_run_and_the_others_wait_for_that_one(world: World) -> None:
    enter(world, "a", "b", "c")
    assert world.run(Ending.FAILED).reused == ()
    claim = world.claim()

    assert ids(claim) == ["b"]
    assert world.idle(OTHER_WORKER).because is IdleReason.NOTHING_READY
    assert [task.id for task in world.finish(claim).reused] == ["c"]


def test_a_failure_is_not_used_again(world: World) -> None:
    enter(world, "a")
    world.run(Ending.FAILED)
    world.deliver_all()

    assert enter(world, "b").reused == ()
    assert ids(world.claim()) == ["b"]


@pytest.mark.parametrize("ending", [Ending.RETRY, Ending.POSTPONED, Ending.FALLBACK, Ending.SPLIT, Ending.UNSENT])
def test_duplicates_go_on_waiting_while_the_first_is_tried_again(world: World, ending: Ending) -> None:
    enter(world, "a", "b")
    world.run(ending, Health.UNKNOWN)
    world.clock.go(60)
    claim = world.claim()

    assert ids(claim) == ["a"]
    assert [task.id for task in world.finish(claim).reused] == ["b"]


def test_duplicates_of_poison_are_run_alone_one_after_the_other(create: Create) -> None:
    world = create(LedgerConfig(max_crashes=1))
    enter(world, "a", "b", "c")
    world.claim()
    world.ledger.outcomes.release(WORKER, Cause.CRASHED)

    assert world.states() == {"a": "finished", "b": "ready", "c": "ready"}
    assert ids(world.claim()) == ["b"]
    assert world.idle(OTHER_WORKER).because is IdleReason.NOTHING_READY


def test_if_the_first_is_dealt_with_elsewhere_the_oldest_duplicate_is_run(world: World) -> None:
    enter(world, "a", "b", "c")
    for _ in range(2):
        world.listing("b", "c", twins=True, content=TEXT)

    assert world.states() == {"b": "ready", "c": "ready"}
    assert ids(world.claim()) == ["b"]


def test_duplicates_that_go_together_leave_nobody_waiting(world: World) -> None:
    enter(world, "a", "b", "c")
    for _ in range(2):
        world.listing("c", twins=True, content=TEXT)

    assert ids(world.claim()) == ["c"]


def test_a_batch_holds_no_two_duplicates_and_finishes_those_of_each(world: World) -> None:
    for text in (b'"1"', b'"2"', b'"3"'):
        enter(world, text.decode().strip('"') + "a", text.decode().strip('"') + "b", content=text)
    claim = world.claim()

    assert ids(claim) == ["1a", "2a", "3a"]
    assert [task.id for task in world.finish(claim).reused] == ["1b", "2b", "3b"]


def test_waiting_duplicates_take_room_in_the_inbox_but_are_not_called_ready(create: Create) -> None:
    world = create(LedgerConfig(inbox_limit=3))
    enter(world, "a", "b")
    admitted = enter(world, "c", "d")

    assert (admitted.tasks, admitted.left_out) == (1, 1)
    assert world.value("SELECT COUNT(*) FROM tasks WHERE duplicate_of IS NOT NULL") == 2


def test_other_settings_use_none_of_the_results_of_before(world: World) -> None:
    enter(world, "delivered", content=b'"1"')
    world.run()
    world.deliver_all()
    enter(world, "finished", content=b'"2"')
    world.run()
    enter(world, "claimed", content=b'"3"')
    claim = world.claim()
    prepare(world.place, strategy="rolling", timezone="UTC", limits={}, reuse_scope="new", clock=world.clock)
    assert enter(world, "b", content=b'"2"').reused == ()
    world.finish(claim)
    world.deliver_all()

    for name, content in (("a", b'"1"'), ("c", b'"3"')):
        assert enter(world, name, content=content).reused == ()
    assert ids(world.claim()) == ["b", "a", "c"]


def test_the_same_settings_again_forget_nothing(world: World) -> None:
    for _ in range(2):
        prepare(world.place, strategy="rolling", timezone="UTC", limits={}, reuse_scope="same", clock=world.clock)
        enter(world, "a")
    world.run()
    world.deliver_all()
    prepare(world.place, strategy="rolling", timezone="UTC", limits={}, reuse_scope="same", clock=world.clock)

    assert [task.id for task in enter(world, "b").reused] == ["b"]


def test_a_reused_result_is_no_origin_of_others(world: World) -> None:
    """So that the age of what is reused is the age of what was bought."""
    enter(world, "a")
    world.run()
    world.deliver_all()
    world.clock.go(50_000)
    enter(world, "b")
    world.deliver_all()

    assert world.rows("SELECT task_id, finished_at FROM answers") == [("a", START)]


def test_results_are_kept_for_so_many_tasks_only(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aitp.ledger.duplicates.MOST_ANSWERS", 100)
    poll = world.poll()
    texts = [b'"%d"' % number for number in range(110)]
    tasks = [NewTask(f"t{n}", SMALL, text, fingerprint=fingerprint(SMALL, text)) for n, text in enumerate(texts)]
    world.ledger.inbox.admit(poll, tasks)
    while isinstance(claim := world.ledger.claims.claim(WORKER, terms(batch=500)), Claim):
        world.finish(claim)
    world.deliver_all()

    assert world.rows("SELECT COUNT(*), MIN(task_id) FROM answers WHERE number <= 11") == [(1, "t10")]
    assert world.value("SELECT COUNT(*) FROM answers") == 100
