"""Whose fault is it: what claims and finishes make of a task that fails, by what befell others in the same world."""

from __future__ import annotations

import dataclasses

import pytest

from aitp.ledger.breakers import Cooldown
from aitp.ledger.claims import Idle, IdleReason
from aitp.ledger.evidence import Failure, Report
from aitp.ledger.outcomes import Cause
from aitp.ledger.queue import LedgerConfig
from aitp.policy.routing import Route
from aitp.tasks import Culprit, Ending, Health, Outcome, QueueKey
from tests.ledger.conftest import Create
from tests.ledger.failures import (
    A_MINUTE,
    ACCOUNT,
    ANSWER,
    INPUT,
    OF_TASKS,
    ONE,
    SERVICE,
    THIRD_WORKER,
    breaker,
    evidence_on,
    fail,
    fail_again,
    fail_each,
    pauses,
    serve,
    take_away,
)
from tests.ledger.world import (
    LARGE,
    OTHER_WORKER,
    SMALL,
    TOPICS,
    WORKER,
    World,
    ids,
    names,
    terms,
)

# Suspects are claimed apart


def test_suspects_and_fresh_tasks_are_never_in_one_batch_and_one_batch_of_suspects_is_in_flight(world: World) -> None:
    world.admit("a", "b", "c", "d")
    fail(world, world.claim())
    world.admit("e", "f")
    world.clock.go(2.0)

    assert ids(world.claim(WORKER)) == ["a", "b"]
    assert ids(world.claim(OTHER_WORKER)) == ["e", "f"]
    assert world.idle(THIRD_WORKER).because is IdleReason.TURN  # c and d wait until it is known what becomes of a and b
    world.ledger.outcomes.release(WORKER, Cause.STOPPED)
    assert ids(world.claim(THIRD_WORKER)) == ["a", "b"]


def test_a_suspect_of_one_queue_keeps_no_other_queue_s_from_its_turn(world: World) -> None:
    world.admit("a")
    world.admit("l", queue=LARGE)
    for _ in range(2):
        fail(world)
    world.clock.go(2.0)

    assert sorted(ids(world.claim(slot))[0] for slot in (WORKER, OTHER_WORKER)) == ["a", "l"]


def test_suspects_take_turns_with_fresh_tasks(world: World) -> None:
    world.admit(*names("s", 4))
    fail(world, world.claim())
    world.clock.go(2.0)
    world.admit(*names("fresh", 4))
    world.change("UPDATE tasks SET batch_limit = 1 WHERE is_suspect = 1")
    claimed = []
    for _ in range(8):
        claim = world.claim(terms=ONE)
        claimed += ids(claim)
        world.finish(claim)

    assert claimed == ["s0", "fresh0", "s1", "fresh1", "s2", "fresh2", "s3", "fresh3"]


def test_what_failed_least_goes_first_and_only_with_its_like(world: World) -> None:
    world.admit(*names("t", 4))
    fail(world, world.claim())
    world.clock.go(2.0)
    fail(world, first := world.claim())
    world.clock.go(4.0)

    second = world.claim()
    assert (ids(first), ids(second)) == (["t0", "t1"], ["t2", "t3"])
    take_away(world, "t2")
    fail(world, second)
    world.clock.go(2.0)
    world.change("UPDATE tasks SET batch_limit = 2, attempts = 1 WHERE id = 't3'")
    third = world.claim()
    assert ids(third) == ["t3"]
    world.finish(third)
    assert [ids(claim) for claim in (world.claim(), world.claim())] == [["t0"], ["t0"]]  # the slot's own goes back


@pytest.mark.parametrize("culprit", OF_TASKS)
def test_a_batch_that_fails_is_halved_durably_whatever_the_answer_was(world: World, culprit: Culprit) -> None:
    world.admit(*names("t", 9))
    fail(world, world.claim(), culprit)
    world.close()
    world.open()
    sizes = []
    for _ in range(4):
        world.clock.go(2.0)
        claim = world.claim()
        sizes.append(len(claim.tasks))
        take_away(world, *(set(world.states()) - set(ids(claim))))
        fail(world, claim, culprit)

    assert sizes == [4, 2, 1, 1]


def test_a_deadline_s_victims_are_halved_like_any_batch(world: World) -> None:
    world.admit(*names("t", 8))
    world.claim()
    settled = world.ledger.outcomes.release(WORKER, Cause.DEADLINE)

    assert {outcome.ending for outcome in settled.outcomes} == {Ending.RETRY}
    world.clock.go(2.0)
    assert len(world.claim().tasks) == 4


def test_a_task_that_never_was_sent_is_no_suspect_and_not_halved(world: World) -> None:
    world.admit("a", "b")
    world.run(Ending.UNSENT, Health.UNKNOWN)
    world.clock.go(5.0)
    world.admit("c")

    assert ids(world.claim()) == ["a", "b", "c"]


def test_a_suspect_that_succeeds_is_none_any_more(world: World) -> None:
    world.admit("a")
    fail(world)
    assert evidence_on(world) == {"a"}
    world.clock.go(2.0)
    world.run()

    assert evidence_on(world) == set()
    assert world.value("SELECT is_suspect FROM tasks") == 0


def test_a_text_that_is_asked_to_wait_again_and_again_lets_others_go_first(world: World) -> None:
    world.admit("always")
    for _ in range(2):
        claim = world.claim(terms=terms(batch=1))
        assert ids(claim) == ["always"]
        pause = Cooldown(60.0, SMALL.model, "429")
        settled = world.ledger.outcomes.finish(
            claim, Report([Outcome(task, Ending.POSTPONED) for task in claim.tasks], cooldown=pause)
        )
        world.clock.go(60.0)
    world.admit("other")

    assert ids(world.claim(terms=terms(batch=1))) == ["other"]
    assert settled.retry_at == world.clock.now + 2.0


def test_with_retries_used_up_a_lone_suspect_is_sent_ever_more_seldom_whatever_the_factor(create: Create) -> None:
    world = create(LedgerConfig(backoff_factor=1.0))
    world.admit("a")
    delays = []
    for _ in range(16):
        settled = fail(world, world.claim(), Culprit.SERVICE)
        assert settled.retry_at is not None
        delays.append(settled.retry_at - world.clock.now)
        world.clock.now = settled.retry_at

    assert delays[:7] == [1.0, 1.0, 1.0, 1.0, 2.0, 4.0, 8.0]
    assert delays[-1] > 2_000.0


# A task is failed only alone, with a witness, and if so many failures are improbable


@pytest.mark.parametrize(
    ("culprit", "served", "others", "tries"),
    [
        # Others that were served since its first failure, others that failed likewise, how often it is sent alone.
        (SERVICE, 0, 0, None),
        (SERVICE, 1, 0, 7),
        (SERVICE, 5, 0, 6),  # MAX_RETRIES more, never fewer, and some for those that nobody was served between
        (SERVICE, 500, 0, 6),
        (SERVICE, 5, 5, 11),  # a flaky service needs more
        (ACCOUNT, 0, 0, None),
        (ACCOUNT, 1, 0, 5),
        (ACCOUNT, 45, 0, 4),
        (INPUT, 0, 0, None),
        (INPUT, 1, 0, 2),
        (INPUT, 20, 19, 3),
        (ANSWER, 0, 0, 4),  # the provider's own word about this very text: no witness is needed
        (ANSWER, 9, 0, 4),
        (ANSWER, 8, 8, 6),
    ],
)
def test_how_often_a_task_fails_alone_until_it_is_to_blame(
    world: World, culprit: Culprit, served: int, others: int, tries: int | None
) -> None:
    serve(world)  # the world is proven: nothing is left out
    world.admit("a")
    endings = [fail_again(world, culprit).ending]
    for number in range(max(served, others)):
        if number < others:
            world.admit(name := f"other{number}")
            fail(world, world.claim(terms=ONE), culprit)
            take_away(world, name)
        if number < served:
            serve(world)
    while endings[-1] is Ending.RETRY and len(endings) < 30:
        endings.append(fail_again(world, culprit).ending)

    expected = [Ending.RETRY] * 30 if tries is None else [Ending.RETRY] * (tries - 1) + [Ending.FAILED]
    assert endings == expected
    if tries is not None:
        assert world.rows("SELECT id, reason FROM results JOIN tasks USING (seq) WHERE status = 'failed'") == [
            ("a", f"failed {tries} times alone, last: the {culprit} said no")
        ]


@pytest.mark.parametrize("culprit", OF_TASKS)
def test_what_a_task_did_in_one_world_is_not_forgotten_in_another(world: World, culprit: Culprit) -> None:
    """As in mode hybrid, where tasks go to and fro between providers: each counts its own."""
    elsewhere = dataclasses.replace(ONE, routes=lambda queue: (Route("ollama", queue.model),))
    serve(world)
    world.admit("a")
    ending = Ending.RETRY
    for options in (ONE, elsewhere) * 8:
        if ending is Ending.RETRY:
            world.clock.now = world.value("SELECT due_at FROM tasks WHERE id = 'a'") or world.clock.now
            [outcome] = fail(world, world.claim(terms=options), culprit).outcomes
            ending = outcome.ending
            serve(world)

    assert ending is Ending.FAILED


@pytest.mark.parametrize("culprit", [SERVICE, ACCOUNT, INPUT])
def test_a_batch_that_a_task_was_in_itself_is_no_failure_of_others(world: World, culprit: Culprit) -> None:
    """Else the one that fails a batch of many would be sent the more often alone, the more it had failed before."""
    serve(world)
    world.admit(*names("t", 32))
    for _ in range(5):
        world.clock.go(2.0)
        claim = world.claim()
        take_away(world, *(set(world.states()) - set(ids(claim))))
        fail(world, claim, culprit)
    for _ in range(45):
        serve(world)
    take_away(world, "t1")
    tries = 1
    while fail_again(world, culprit, "t0").ending is Ending.RETRY:
        tries += 1

    assert tries == {SERVICE: 6, ACCOUNT: 4, INPUT: 1}[culprit]


def test_failures_of_another_sort_are_no_evidence_for_this_one(world: World) -> None:
    serve(world)
    world.admit("a")
    endings = [fail_again(world, SERVICE).ending for _ in range(3)]
    for _ in range(6):
        serve(world)
    endings += [fail_again(world, culprit).ending for culprit in (ACCOUNT, ANSWER, ANSWER, ANSWER)]

    assert endings == [Ending.RETRY] * 7
    assert [fail_again(world, SERVICE).ending for _ in range(3)] == [Ending.RETRY, Ending.RETRY, Ending.FAILED]


@pytest.mark.parametrize(("culprit", "tries"), [(SERVICE, 4), (ACCOUNT, 2)])
def test_one_that_fails_while_others_are_served_in_between_needs_no_more_tries(
    world: World, culprit: Culprit, tries: int
) -> None:
    for _ in range(45):
        serve(world)
    world.admit("a")
    endings = [fail_again(world, culprit).ending]
    while endings[-1] is Ending.RETRY:
        for _ in range(20):
            serve(world)
        endings.append(fail_again(world, culprit).ending)

    assert len(endings) == max(tries, 3)  # with others served in between, three times are enough to be no outage


def test_an_outage_that_begins_when_one_suspect_alone_is_left_does_not_fail_it(world: World) -> None:
    serve(world)
    world.admit("a")
    fail(world)
    for _ in range(16):
        serve(world)
    began = world.clock.now

    # Four tries in a row, half a minute: a server that is started anew is there again by then.
    assert [fail_again(world).ending for _ in range(4)] == [Ending.RETRY] * 4
    assert world.clock.now - began > 25.0
    world.clock.now = world.value("SELECT due_at FROM tasks WHERE id = 'a'")
    assert world.finish(world.claim(terms=ONE)).outcomes[0].ending is Ending.SUCCEEDED


@pytest.mark.parametrize("witness", [LARGE, TOPICS])
def test_a_witness_is_served_in_the_same_world(world: World, witness: QueueKey) -> None:
    serve(world)
    world.admit("a")
    fail_again(world)
    for _ in range(9):
        serve(world, witness)

    assert [fail_again(world).ending for _ in range(9)] == [Ending.RETRY] * 9


def test_a_witness_was_served_since_the_first_failure(world: World) -> None:
    for _ in range(9):
        serve(world)
    world.admit("a")

    assert [fail_again(world).ending for _ in range(9)] == [Ending.RETRY] * 9


def test_a_call_that_began_before_the_first_failure_is_no_witness(world: World) -> None:
    """It shows what the world was like before: a moment later it may be out."""
    world.admit("a", "other")
    for name in ("a", "other"):
        claim = world.claim(WORKER if name == "a" else OTHER_WORKER, ONE)
        assert ids(claim) == [name]
        if name == "a":
            first = claim
    fail(world, first)
    world.finish(claim)
    for _ in range(20):
        assert fail_again(world).ending is Ending.RETRY

    serve(world)
    assert fail_again(world).ending is Ending.FAILED


def test_nobody_is_failed_for_what_a_batch_did(world: World) -> None:
    serve(world)
    world.admit("a", "b")
    for _ in range(2):
        fail(world, culprit=INPUT)  # alone, and nobody has been served since
    for _ in range(9):
        serve(world)
    world.clock.go(2.0)
    world.change("UPDATE tasks SET batch_limit = 2 WHERE is_suspect = 1")
    settled = fail(world, both := world.claim(), INPUT)

    assert ids(both) == ["a", "b"]
    assert [outcome.ending for outcome in settled.outcomes] == [Ending.RETRY] * 2


def test_no_suspect_makes_a_breaker_s_probe_where_a_fresh_task_of_any_type_can(world: World) -> None:
    """Two bad texts of different types, each tried again every second, would keep the breaker open for ever."""
    world.admit("bad", queue=SMALL)
    world.admit("other", queue=TOPICS)
    for name in ("bad", "other"):
        claim = world.claim(terms=ONE)
        assert ids(claim) == [name]
        fail(world, claim)
    world.admit("fresh", queue=LARGE)
    world.change("UPDATE breakers SET state = 'open', opened_at = ? WHERE service = 'openai'", world.clock.now)
    world.clock.go(3_600.0)

    claim = world.claim(terms=ONE)
    assert (ids(claim), claim.probe) == (["fresh"], True)


@pytest.mark.parametrize(("culprit", "extra"), [(SERVICE, 12), (INPUT, 12), (ACCOUNT, 12), (ANSWER, 14)])
def test_of_twenty_the_one_that_always_fails_is_found_and_nobody_else_suffers(
    world: World, culprit: Culprit, extra: int
) -> None:
    serve(world)
    calls = play(world, names("t", 20), bad={"t13"}, culprit=culprit)

    assert {name for name, status in outcomes(world).items() if status == "failed"} == {"t13"}
    assert set(world.states().values()) == {"finished"}
    assert calls <= 1 + extra


def play(world: World, tasks: list[str], bad: set[str], culprit: Culprit, batch: int = 32) -> int:
    """One worker, at a provider that fails whatever has one of `bad` in it; how many calls that takes."""
    world.admit(*tasks)
    for calls in range(1_000):
        found = world.ledger.claims.claim(WORKER, terms(batch=batch))
        while isinstance(found, Idle) and found.until is not None:
            world.clock.now = found.until
            found = world.ledger.claims.claim(WORKER, terms(batch=batch))
        if isinstance(found, Idle):
            return calls
        if bad & set(ids(found)):
            fail(world, found, culprit)
        else:
            world.finish(found)
    raise AssertionError("no end")


def outcomes(world: World) -> dict[str, str]:
    return dict(world.rows("SELECT id, status FROM results JOIN tasks USING (seq) ORDER BY seq"))


# What the provider itself names


def test_a_text_that_the_provider_names_fails_alone_at_once_where_another_was_ever_served(world: World) -> None:
    serve(world)
    world.admit("a")
    [outcome] = fail(world, culprit=INPUT, named=True, optional=("dimensions",)).outcomes

    assert (outcome.ending, outcome.reason) == (Ending.FAILED, "the input said no")
    assert world.value("SELECT COUNT(*) FROM request_profiles") == 0


def test_in_a_world_that_never_served_anyone_even_a_named_text_gets_all_its_tries(world: World) -> None:
    world.admit("a")
    endings = [fail_again(world, INPUT, named=True, optional=("dimensions",)).ending for _ in range(4)]

    assert endings == [Ending.RETRY] * 3 + [Ending.FAILED]


def test_a_key_that_is_refused_by_name_fails_no_task_though_others_were_served(world: World) -> None:
    world.admit("served", "a")
    world.finish(world.claim(terms=ONE))

    [outcome] = fail(world, culprit=ACCOUNT, named=True).outcomes

    assert outcome.ending is Ending.RETRY
    assert breaker(world) == "open"


def test_a_named_text_in_a_batch_is_found_by_halving(world: World) -> None:
    serve(world)
    world.admit(*names("t", 8))
    settled = fail(world, world.claim(), INPUT, named=True)
    world.clock.go(2.0)

    assert {outcome.ending for outcome in settled.outcomes} == {Ending.RETRY}
    assert len(world.claim().tasks) == 4


def test_one_useless_answer_among_good_ones_is_that_task_s_alone(world: World) -> None:
    world.admit("good", "bad")
    for attempt in range(4):
        claim = world.claim()
        good, bad = claim.tasks if attempt == 0 else (None, claim.tasks[0])
        mixed = [Outcome(bad, Ending.RETRY, reason="zeros", culprit=ANSWER)]
        if good is None:
            settled = world.ledger.outcomes.finish(claim, Report(mixed, Failure(ANSWER, "zeros")))
        else:
            succeeded = Outcome(good, Ending.SUCCEEDED, b"[1]")
            settled = world.ledger.outcomes.finish(claim, Report([succeeded, *mixed]))
        world.clock.go(A_MINUTE)

    assert (attempt, settled.outcomes[0].ending) == (3, Ending.FAILED)
    assert outcomes(world) == {"good": "succeeded", "bad": "failed"}


def test_each_useless_answer_of_an_attempt_counts(world: World) -> None:
    """One that was asked to repair its answer was given two."""
    world.admit("a")
    endings = [fail_again(world, ANSWER, times=2).ending for _ in range(2)]

    assert endings == [Ending.RETRY, Ending.FAILED]
    assert outcomes(world) == {"a": "failed"}


def test_a_queue_of_texts_that_the_provider_itself_names_stops_nothing(world: World) -> None:
    serve(world)
    settled = fail_each(world, 2 * world.rules.breaker_threshold, INPUT, named=True)

    assert [outcome.ending for outcome in settled.outcomes] == [Ending.FAILED]
    assert world.value("SELECT COUNT(*) FROM results WHERE status = 'failed'") == 2 * world.rules.breaker_threshold
    assert breaker(world) == "closed"
    assert pauses(world) == []


# Second sends of one claim (the model of limits sends again as well: test_limits_model.py)


def test_each_further_send_counts_for_all_its_tasks(create: Create) -> None:
    world = create(minute=10)
    world.admit("a", "b", "c")
    claim = world.claim()

    assert world.ledger.claims.again(claim)
    assert world.completions() == 3
    assert world.ledger.claims.again(claim)
    assert not world.ledger.claims.again(claim)  # 9 of 10, and it would take 3
    assert world.completions() == 6
    world.finish(claim)
    assert world.completions() == 9


def test_without_limits_a_further_send_is_counted_and_never_refused(world: World) -> None:
    world.admit("a")
    claim = world.claim()

    assert all(world.ledger.claims.again(claim) for _ in range(20))
    assert world.completions() == 20
