"""What was lately: the last hour, day and week, the last errors; bounded, and nothing is decided by it."""

from __future__ import annotations

from pathlib import Path

import pytest

from aitp.errors import LedgerError
from aitp.ledger.evidence import Report
from aitp.ledger.outbox import DeliveryOutcome, Fault
from aitp.ledger.outcomes import Cause
from aitp.ledger.stats import (
    DEAD_LISTED,
    ERRORS_KEPT,
    LONGEST_REASON,
    SPANS,
    Bar,
    History,
    RecentError,
    fold_minutes,
    note_call,
    note_waiting,
    read_history,
)
from aitp.tasks import Ending, Health, NewTask, Outcome
from tests.ledger.world import LARGE, OTHER_WORKER, RELAY, SMALL, START, WORKER, World, report, terms

FIRST_MINUTE = START // 60 * 60


def look(world: World, span: str = "hour") -> History:
    return read_history(world.place, span, world.clock.now)


def calls(world: World) -> list[Bar]:
    """The minutes in which there were any."""
    return [minute._replace(waiting=None) for minute in look(world).minutes if minute.calls]


def finish(world: World, ending: Ending, seconds: float, batch: int = 1, reason: str = "") -> None:
    claim = world.claim(terms=terms(batch=batch))
    outcomes = [Outcome(task, ending, b"[1]" if ending is Ending.SUCCEEDED else None, reason) for task in claim.tasks]
    world.ledger.outcomes.finish(claim, Report(outcomes, seconds=seconds))


def test_an_hour_without_calls_is_sixty_empty_minutes(world: World) -> None:
    seen = look(world)

    assert [minute.at for minute in seen.minutes] == [FIRST_MINUTE - 60.0 * back for back in range(59, -1, -1)]
    assert calls(world) == []
    assert seen.errors == ()


def test_calls_and_what_came_of_their_tasks_are_counted_by_the_minute(world: World) -> None:
    world.admit(*"abcdefgh")
    finish(world, Ending.SUCCEEDED, 2.0, batch=4)
    finish(world, Ending.FAILED, 0.5)
    finish(world, Ending.BUG, 0.5)
    world.clock.go(60.0)
    finish(world, Ending.RETRY, 60.0)

    assert calls(world) == [
        Bar(FIRST_MINUTE, calls=3, succeeded=4, failed=2, returned=0, seconds=3.0, slowest=2.0),
        Bar(FIRST_MINUTE + 60, calls=1, succeeded=0, failed=0, returned=1, seconds=60.0, slowest=60.0),
    ]


def test_what_is_blamed_on_the_task_counts_as_failed(world: World) -> None:
    world.admit("a")
    for _ in range(world.rules.max_retries + 1):
        world.run(Ending.RETRY)  # a useless answer
        world.clock.go(100.0)

    assert [(minute.failed, minute.returned) for minute in calls(world)] == [(0, 1), (0, 1), (0, 1), (1, 0)]
    assert look(world).errors[0].ending == "failed"


def test_a_late_answer_counts_when_it_is_taken(world: World) -> None:
    world.admit("a")
    claim = world.claim()
    world.ledger.outcomes.release(WORKER, Cause.STOPPED)
    world.finish(claim)

    assert [(minute.calls, minute.succeeded, minute.returned) for minute in calls(world)] == [(1, 1, 0)]


def test_an_answer_to_a_task_that_another_is_at_meanwhile_counts_no_call(world: World) -> None:
    world.admit("a")
    claim = world.claim()
    world.ledger.outcomes.release(WORKER, Cause.STOPPED)
    world.claim(OTHER_WORKER)
    world.finish(claim)

    assert calls(world) == []


def test_what_is_of_a_clock_set_back_is_forgotten(world: World) -> None:
    world.admit("a", "b")
    finish(world, Ending.SUCCEEDED, 1.0)
    world.clock.go(10_000.0)
    finish(world, Ending.SUCCEEDED, 1.0)
    world.clock.step(-3_000.0)
    world.listing()

    folded, present = START // 1_200 * 20, (START + 7_000) // 60
    assert world.rows("SELECT DISTINCT minute FROM minutes") == [(folded,), (present,)]


def test_a_week_of_work_is_a_bounded_table_and_no_call_is_lost(world: World) -> None:
    """Polls fold it as it goes by: minutes into bars of a day, those into bars of a week."""
    sizes = []
    for hour in range(24 * 9):
        world.clock.go(3_600.0 - 20 * 60.0)
        for minute in range(20):
            with world.database.transaction() as connection:
                for type_ in ("text_embedding", "defining_topics"):
                    note_call(connection, world.clock.now, "openai", type_, 2.0 + hour / 1000, [])
                note_waiting(connection, world.clock.now, 100 * hour + minute)
            world.clock.go(60.0)
        with world.database.transaction() as connection:
            fold_minutes(connection, world.clock.now)
        sizes.append(int(str(world.value("SELECT COUNT(*) FROM minutes"))))

    hour_seen, day, week = (look(world, span) for span in SPANS)
    for seen, name, hours in ((hour_seen, "hour", 1), (day, "day", 24), (week, "week", 24 * 7)):
        assert len(seen.bars) == SPANS[name].bars
        assert {bar.at % (60 * SPANS[name].minutes) for bar in seen.bars} == {0.0}
        assert sum(bar.calls for bar in seen.bars) == pytest.approx(40 * hours, abs=40 * 3)
        assert seen.types.keys() == {"defining_topics", "text_embedding"}
        assert 2 * seen.types["defining_topics"].calls == sum(bar.calls for bar in seen.bars)
        assert seen.minutes == hour_seen.bars
    assert week.bars[-1].slowest == day.bars[-1].slowest == 2.0 + hour / 1000
    # In the last of what was folded as many waited as at its end.
    assert week.bars[20].waiting in {100 * hour + 19 for hour in range(24 * 9)}
    assert max(sizes) == max(sizes[-24:]) <= sum(span.bars + 10 for span in SPANS.values()) * 3


def test_how_many_wait_is_known_by_the_minute_and_stays_so_where_nothing_is_said(world: World) -> None:
    world.admit("a", "b", "c")
    world.clock.go(60.0)
    world.admit("d", "e")
    world.clock.go(300.0)
    world.claim(terms=terms(batch=2))

    assert [bar.waiting for bar in look(world).bars[-8:]] == [None, 0, 3, 3, 3, 3, 3, 3]


def test_what_waits_is_told_by_queue_the_most_first(world: World) -> None:
    world.admit("large", queue=LARGE)
    world.clock.go(10.0)
    world.admit("a", "b", "c")
    world.finish(world.claim(terms=terms(batch=1)), Ending.RETRY)

    seen = look(world).waiting

    assert [(each.queue, each.tasks, each.later) for each in seen] == [(SMALL, 3, 0), (LARGE, 1, 1)]
    assert [(each.since, each.due_at) for each in seen] == [(START + 10.0, None), (START, START + 12.0)]


def test_the_last_dead_letters_are_listed_with_their_reasons(world: World) -> None:
    world.admit(*(f"t{number}" for number in range(DEAD_LISTED + 5)))
    for number in range(DEAD_LISTED + 5):
        finish(world, Ending.SUCCEEDED, 1.0)
        world.clock.go(1.0)
        world.ledger.outbox.settle(world.take()[0], DeliveryOutcome.REFUSED, refusal=f"400: no {number}")

    seen = look(world).dead

    assert len(seen) == DEAD_LISTED
    assert (seen[0].id, seen[0].type, seen[0].model) == ("t24", SMALL.type, SMALL.model)
    assert (seen[0].refusal, seen[0].refused_at, seen[0].result) == ("400: no 24", START + 25.0, None)


def test_every_kind_of_trouble_is_noted_with_its_source(world: World) -> None:
    world.admit("a", "b", "c", "d")
    finish(world, Ending.RETRY, 1.0, reason="OpenAI answers 503")
    world.claim(terms=terms(batch=1))
    world.ledger.outcomes.release(WORKER, Cause.CRASHED)
    finish(world, Ending.SUCCEEDED, 1.0)
    (delivery,) = world.take()
    world.ledger.outbox.settle(delivery, DeliveryOutcome.LATER, fault=Fault("oauth", Health.FAULTY, "503 for a token"))
    world.clock.go(60.0)
    (delivery,) = world.take()
    world.ledger.outbox.settle(delivery, DeliveryOutcome.REFUSED, refusal="400: result is not an array")
    world.ledger.inbox.fail_poll(world.poll(), "the page is no JSON")
    world.ledger.inbox.admit(world.poll(RELAY), [NewTask("e", SMALL, b"", invalid="content has no text")])

    assert {(each.source, each.type, each.ending, each.reason, *each.task_ids) for each in look(world).errors} == {
        ("openai", "text_embedding", "retry", "OpenAI answers 503", "a"),
        ("openai", "text_embedding", "crashed", "the process that ran it crashed", "b"),
        ("oauth", "text_embedding", "not delivered", "503 for a token", delivery.id),
        ("api", "text_embedding", "dead letter", "400: result is not an array", delivery.id),
        ("api", "", "poll failed", "the page is no JSON"),
        ("api", "text_embedding", "failed", "content has no text", "e"),
    }


@pytest.mark.parametrize("ending", [Ending.SUCCEEDED, Ending.SPLIT, Ending.ABANDONED])
def test_what_is_nobodys_trouble_is_not_noted(world: World, ending: Ending) -> None:
    world.admit("a", "b")
    world.finish(world.claim(), ending)
    world.ledger.outcomes.release(WORKER, Cause.STOPPED)

    assert look(world).errors == ()


def test_the_same_trouble_again_is_counted_and_moves_to_the_front(world: World) -> None:
    world.admit("a", "b", "c", "d")
    finish(world, Ending.FAILED, 1.0, batch=2, reason="refused")
    world.clock.go(10.0)
    finish(world, Ending.FAILED, 1.0, reason="cut")
    world.clock.go(10.0)
    finish(world, Ending.FAILED, 1.0, reason="refused")

    seen = look(world).errors

    assert [error.reason for error in seen] == ["refused", "cut"]
    assert seen[0] == RecentError("openai", "text_embedding", "failed", "refused", START, START + 20, 3, "d\nb\na")


def test_of_an_error_the_last_tasks_are_named_and_none_by_half(world: World) -> None:
    for length in (24, 150):
        names = [f"{number:0{length}}" for number in range(15)]
        world.admit(*names)
        finish(world, Ending.FAILED, 1.0, batch=3, reason=f"refused {length}")
        for _ in names[3:]:
            finish(world, Ending.FAILED, 1.0, reason=f"refused {length}")

        [error] = [each for each in look(world).errors if each.reason == f"refused {length}"]

        assert error.times == 15
        assert error.task_ids == names[::-1][: 10 if length == 24 else 6]


def test_of_ever_new_troubles_the_newest_few_stay_and_none_is_long(world: World) -> None:
    world.admit(*(f"t{number}" for number in range(ERRORS_KEPT + 10)))
    for number in range(ERRORS_KEPT + 10):
        finish(world, Ending.FAILED, 1.0, reason=f"{number} " + "x" * 10_000)

    seen = look(world).errors

    assert len(seen) == world.value("SELECT COUNT(*) FROM recent_errors") == ERRORS_KEPT
    assert seen[0].reason.startswith(f"{ERRORS_KEPT + 9} ")
    assert max(len(error.reason) for error in seen) == LONGEST_REASON


def test_a_finish_that_is_rolled_back_leaves_no_trace(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.admit("a")
    claim = world.claim()

    def fail(*_: object) -> None:
        raise OSError("no")

    monkeypatch.setattr("aitp.ledger.outcomes._count_bugs", fail)
    with pytest.raises(LedgerError):
        world.ledger.outcomes.finish(claim, report(claim.tasks, Ending.SUCCEEDED, Health.HEALTHY))

    assert calls(world) == []


def test_no_ledger_and_one_of_another_version_are_said_so(world: World, tmp_path: Path) -> None:
    with pytest.raises(LedgerError):
        read_history(tmp_path / "none.db")
    world.change("UPDATE ledger SET version = 1")
    with pytest.raises(LedgerError, match="has version 1, not"):
        look(world)
