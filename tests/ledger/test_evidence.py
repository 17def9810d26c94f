"""Whose fault is it: what claims and finishes make of failures, by what befell other tasks in the same world."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from typing import Any

import apsw
import pytest

from aitp.errors import LedgerError
from aitp.ledger import (
    Cause,
    Claim,
    ClaimOptions,
    Cooldown,
    Failure,
    Idle,
    IdleReason,
    LedgerConfig,
    Report,
    Settled,
    prepare,
)
from aitp.ledger.evidence import FUTILE_SECONDS, GUESS_SECONDS, RETURN_SECONDS
from aitp.ledger.worlds import MOST_WORLDS, PROFILE_SECONDS, prune_worlds
from aitp.policy.routing import Route
from aitp.tasks import Culprit, Ending, Health, Outcome, QueueKey
from tests.ledger.conftest import Create
from tests.ledger.world import (
    LARGE,
    OTHER_WORKER,
    SMALL,
    START,
    TOPICS,
    WORKER,
    World,
    ids,
    names,
    terms,
)

SERVICE, ACCOUNT, INPUT, ANSWER = Culprit.SERVICE, Culprit.ACCOUNT, Culprit.INPUT, Culprit.ANSWER
REQUEST, MODEL = Culprit.REQUEST, Culprit.MODEL
OF_TASKS = (SERVICE, ACCOUNT, INPUT, ANSWER)
ONE = terms(batch=1)
A_MINUTE, AN_HOUR, A_DAY = 60.0, 3_600.0, 86_400.0
THIRD_WORKER = OTHER_WORKER + 1


def failed(
    claim: Claim, culprit: Culprit = SERVICE, *, optional: Sequence[str] = (), times: int = 1, **about: object
) -> Report:
    """The call failed as a whole."""
    failure = Failure(culprit, f"the {culprit} said no", **about)  # type: ignore[arg-type]
    outcomes = [
        Outcome(task, Ending.RETRY, reason=failure.reason, culprit=culprit, times=times) for task in claim.tasks
    ]
    return Report(outcomes, failure, optional=optional)


def fail(world: World, claim: Claim | None = None, culprit: Culprit = SERVICE, **about: object) -> Settled:
    """A call that fails as a whole; of the next task to be claimed, if none is given."""
    claim = claim or world.claim(terms=ONE)
    return world.ledger.claims.finish(claim, failed(claim, culprit, **about))  # type: ignore[arg-type]


def fail_each(world: World, count: int, culprit: Culprit = SERVICE, prefix: str = "f", **about: object) -> Settled:
    """So many fresh tasks fail, one after another and each alone; what came of the last."""
    for name in names(prefix, count):
        world.admit(name)
        claim = world.claim(terms=ONE)
        assert ids(claim) == [name]
        settled = fail(world, claim, culprit, **about)
    return settled


def serve(world: World, queue: Any = SMALL, slot: int = OTHER_WORKER) -> Settled:
    """Another task succeeds, in the same world. (Before any suspect of its kind is due.)"""
    world.admit(name := f"good{next(NUMBERS)}", queue=queue)
    claim = world.claim(slot, ONE)
    assert ids(claim) == [name]
    return world.finish(claim)


NUMBERS = itertools.count()


def take_away(world: World, *names: str) -> None:
    """These are to come between no more."""
    for name in names:
        seq = world.value("SELECT seq FROM tasks WHERE id = ?", name)
        for table in ("evidence", "contents", "results", "tasks"):
            world.change(f"DELETE FROM {table} WHERE seq = ?", seq)


def fail_again(world: World, culprit: Culprit = SERVICE, name: str = "a", **about: object) -> Outcome:
    """Another failure of this task alone, as soon as it is due."""
    world.clock.now = world.value("SELECT due_at FROM tasks WHERE id = ?", name) or world.clock.now
    claim = world.claim(terms=ONE)
    assert ids(claim) == [name]
    [outcome] = fail(world, claim, culprit, **about).outcomes
    return outcome


def breaker(world: World, service: str = "openai") -> str:
    return str(world.value("SELECT state FROM breakers WHERE service = ?", service))


def pauses(world: World) -> list[str]:
    """Models whose tasks wait."""
    return [model for (model,) in world.rows("SELECT model FROM worlds WHERE paused_until IS NOT NULL")]


def evidence_on(world: World) -> set[str]:
    return {name for (name,) in world.rows("SELECT id FROM tasks JOIN evidence USING (seq)")}


# Suspects are claimed apart


def test_suspects_and_fresh_tasks_are_never_in_one_batch_and_one_batch_of_suspects_is_in_flight(world: World) -> None:
    world.admit("a", "b", "c", "d")
    fail(world, world.claim())
    world.admit("e", "f")
    world.clock.go(2.0)

    assert ids(world.claim(WORKER)) == ["a", "b"]
    assert ids(world.claim(OTHER_WORKER)) == ["e", "f"]
    assert world.idle(THIRD_WORKER).because is IdleReason.TURN  # c and d wait until it is known what becomes of a and b
    world.ledger.claims.release(WORKER, Cause.STOPPED)
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
    settled = world.ledger.claims.release(WORKER, Cause.DEADLINE)

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


# A task is failed only alone, with a witness, and if so many failures are improbable


@pytest.mark.parametrize(
    ("culprit", "served", "others", "tries"),
    [
        # Others that were served since its first failure, others that failed likewise, how often it is sent alone.
        (SERVICE, 0, 0, None),
        (SERVICE, 1, 0, 7),
        (SERVICE, 5, 0, 4),  # MAX_RETRIES more, never fewer
        (SERVICE, 500, 0, 4),
        (SERVICE, 5, 5, 11),  # a flaky service needs more
        (ACCOUNT, 0, 0, None),
        (ACCOUNT, 1, 0, 5),
        (ACCOUNT, 45, 0, 2),
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

    assert tries == {SERVICE: 4, ACCOUNT: 2, INPUT: 1}[culprit]


def test_failures_of_another_sort_are_no_evidence_for_this_one(world: World) -> None:
    serve(world)
    world.admit("a")
    endings = [fail_again(world, SERVICE).ending for _ in range(3)]
    for _ in range(6):
        serve(world)
    endings += [fail_again(world, culprit).ending for culprit in (ACCOUNT, ANSWER, ANSWER, ANSWER)]

    assert endings == [Ending.RETRY] * 7
    assert fail_again(world, SERVICE).ending is Ending.FAILED


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


# The world is ill


@pytest.mark.parametrize(("culprit", "row"), [(SERVICE, 5), (ACCOUNT, 3), (INPUT, 5)])
def test_failures_of_different_tasks_in_a_row_open_the_breaker_of_a_provider_that_serves_nobody(
    world: World, culprit: Culprit, row: int
) -> None:
    serve(world)
    assert fail_each(world, row - 1, culprit).breaker is None
    assert breaker(world) == "closed"
    settled = fail_each(world, 1, culprit, prefix="last")

    assert settled.breaker is not None
    assert settled.breaker.state == "open"
    assert settled.breaker.reason.startswith(f"the {culprit} said no")
    assert ("OPENAI_API_KEY and OPENAI_BASE_URL" in settled.breaker.reason) == (culprit is not SERVICE)
    assert [outcome.ending for outcome in settled.outcomes] == [Ending.RETRY]
    world.admit("waits")
    assert world.idle().because is IdleReason.BREAKER


def test_credentials_that_the_service_itself_names_open_the_breaker_at_once(world: World) -> None:
    world.admit("a", "b", "c")
    settled = fail(world, world.claim(), ACCOUNT, named=True)

    assert settled.breaker is not None
    assert settled.breaker.state == "open"
    assert {outcome.ending for outcome in settled.outcomes} == {Ending.RETRY}


@pytest.mark.parametrize("culprit", OF_TASKS)
def test_one_task_alone_says_nothing_of_the_world_however_often_it_fails(world: World, culprit: Culprit) -> None:
    serve(world)
    world.admit("a")
    while fail_again(world, culprit).ending is Ending.RETRY and world.clock.now < START + A_DAY:
        pass

    assert breaker(world) == "closed"
    assert pauses(world) == []


@pytest.mark.parametrize("culprit", OF_TASKS)
def test_a_task_that_is_in_every_failed_batch_may_be_what_fails_them(world: World, culprit: Culprit) -> None:
    serve(world)
    world.admit(*names("t", 32))
    for _ in range(6):
        claim = world.claim()
        assert ids(claim)[0] == "t0"
        fail(world, claim, culprit)
        take_away(world, *ids(claim)[len(claim.tasks) // 2 or 1 :])
        world.clock.go(2.0)

    assert len(claim.tasks) == 1
    assert breaker(world) == "closed"
    assert pauses(world) == []


def test_suspects_whose_like_are_served_meanwhile_say_nothing_of_the_world(world: World) -> None:
    fail_each(world, 4)
    serve(world)
    fail_each(world, 1, prefix="fifth")
    serve(world)
    world.clock.go(2.0)
    for _ in range(5):
        settled = fail(world)
        assert [outcome.ending for outcome in settled.outcomes] == [Ending.RETRY]

    assert breaker(world) == "closed"


def test_a_success_between_ends_the_row(world: World) -> None:
    for prefix in ("f", "g", "h"):
        fail_each(world, 4, prefix=prefix)
        serve(world)

    assert breaker(world) == "closed"


@pytest.mark.parametrize("culprit", [SERVICE, ACCOUNT, INPUT])
def test_a_world_alone_pauses_where_its_provider_serves_another(world: World, culprit: Culprit) -> None:
    serve(world)
    serve(world, LARGE)
    for name in names("f", 4 if culprit is not ACCOUNT else 2):
        world.admit(name)
        fail(world, culprit=culprit)
        serve(world, LARGE)
    world.admit("last")
    settled = fail(world, culprit=culprit)

    assert breaker(world) == "closed"
    assert pauses(world) == [SMALL.model]
    assert [(told.what, told.provider, told.model, told.type, told.reason) for told in settled.told] == [
        ("Tasks of this model wait", "openai", SMALL.model, SMALL.type, f"the {culprit} said no")
    ]
    world.admit("waits")
    assert (world.idle().because, world.idle().service) == (IdleReason.QUARANTINE, "openai")
    take_away(world, *(name for name, state in world.states().items() if state == "later"))
    assert world.idle().until == START + A_MINUTE
    assert serve(world, LARGE).outcomes[0].ending is Ending.SUCCEEDED


def test_useless_answers_to_five_different_tasks_in_a_row_pause_their_model_and_type(world: World) -> None:
    assert fail_each(world, 4, ANSWER).told == ()
    settled = fail_each(world, 1, ANSWER, prefix="last")

    assert pauses(world) == [SMALL.model]
    assert settled.told[0].until == START + A_MINUTE
    assert breaker(world) == "closed"
    assert world.value("SELECT failures FROM breakers WHERE service = 'openai'") == 0
    world.admit("l", queue=LARGE)
    world.admit("same model, other type", queue=QueueKey("defining_topics", SMALL.model))
    assert sorted(ids(world.claim())[0] for _ in range(2)) == ["l", "l"]
    assert ids(world.claim(OTHER_WORKER)) == ["same model, other type"]


def test_while_a_world_is_paused_nobody_is_failed(world: World) -> None:
    world.admit("a")
    fail(world, culprit=MODEL, named=True)

    assert [fail_at_next_probe(world, ANSWER).ending for _ in range(8)] == [Ending.RETRY] * 8
    assert pauses(world) == [SMALL.model]


def test_while_the_breaker_is_open_nobody_is_failed(world: World) -> None:
    world.admit("a")
    fail(world)
    for _ in range(9):
        serve(world)
    world.admit("b")
    fail(world, culprit=ACCOUNT, named=True)
    take_away(world, "b")

    assert [fail_at_next_probe(world, SERVICE).ending for _ in range(8)] == [Ending.RETRY] * 8
    assert breaker(world) == "open"
    world.clock.go(AN_HOUR)
    serve(world)
    world.clock.go(RETURN_SECONDS)
    assert fail(world).outcomes[0].ending is Ending.FAILED


def fail_at_next_probe(world: World, culprit: Culprit) -> Outcome:
    world.clock.go(AN_HOUR)
    [outcome] = fail(world, culprit=culprit).outcomes
    return outcome


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
            settled = world.ledger.claims.finish(claim, Report(mixed, Failure(ANSWER, "zeros")))
        else:
            succeeded = Outcome(good, Ending.SUCCEEDED, b"[1]")
            settled = world.ledger.claims.finish(claim, Report([succeeded, *mixed]))
        world.clock.go(A_MINUTE)

    assert (attempt, settled.outcomes[0].ending) == (3, Ending.FAILED)
    assert outcomes(world) == {"good": "succeeded", "bad": "failed"}


def test_each_useless_answer_of_an_attempt_counts(world: World) -> None:
    """One that was asked to repair its answer was given two."""
    world.admit("a")
    endings = [fail_again(world, ANSWER, times=2).ending for _ in range(2)]

    assert endings == [Ending.RETRY, Ending.FAILED]
    assert outcomes(world) == {"a": "failed"}


# A model that is gone


def test_a_model_that_is_gone_has_its_tasks_wait_and_a_person_told_once(world: World) -> None:
    world.admit("a", "b")
    settled = fail(world, world.claim(), MODEL, named=True)

    assert {outcome.ending for outcome in settled.outcomes} == {Ending.POSTPONED}
    assert [(told.what, told.model, told.until) for told in settled.told] == [
        ("Tasks of this model wait", SMALL.model, START + A_MINUTE)
    ]
    assert breaker(world) == "closed"
    world.clock.go(A_MINUTE)
    probe = world.claim()
    assert len(probe.tasks) == 1
    assert fail(world, probe, MODEL, named=True).told == ()
    assert world.rows("SELECT DISTINCT attempts FROM tasks") == [(0,)]
    assert world.rows("SELECT paused_until FROM worlds") == [(world.clock.now + 2 * A_MINUTE,)]


def test_a_name_that_no_setting_has_and_that_never_answered_here_fails_its_tasks(world: World) -> None:
    world.admit("a", "b")
    settled = fail(world, world.claim(), MODEL, named=True, stranger=True)

    assert {(outcome.ending, outcome.reason) for outcome in settled.outcomes} == {
        (Ending.FAILED, "the model said no; no setting names this model, and it never answered here")
    }
    assert pauses(world) == []


def test_a_name_that_has_answered_here_once_is_no_stranger(world: World) -> None:
    serve(world)
    world.admit("a")
    settled = fail(world, culprit=MODEL, named=True, stranger=True)

    assert settled.outcomes[0].ending is Ending.POSTPONED
    assert pauses(world) == [SMALL.model]


# Probes of a paused world


def pause_world(world: World) -> None:
    """Its tasks wait, of which there are five."""
    fail_each(world, 5, ANSWER, prefix=f"w{next(NUMBERS)}-")
    assert pauses(world) == [SMALL.model]


def test_a_paused_world_is_probed_by_one_task_at_a_time_fresh_ones_first(world: World) -> None:
    pause_world(world)
    world.clock.go(A_MINUTE)
    world.admit("fresh1", "fresh2")
    probe = world.claim()
    idle = world.idle(OTHER_WORKER)

    assert ids(probe) == ["fresh1"]
    assert not probe.more
    assert (idle.because, idle.until) == (IdleReason.QUARANTINE, None)


def test_pauses_double_up_to_an_hour(world: World) -> None:
    pause_world(world)
    lasted = []
    for _ in range(9):
        until = world.value("SELECT paused_until FROM worlds")
        lasted.append(until - world.clock.now)
        world.clock.now = until - 0.001
        world.idle()
        world.clock.now = until
        world.change("UPDATE tasks SET due_at = NULL")
        fail(world, culprit=ANSWER)

    assert lasted == [60.0, 120.0, 240.0, 480.0, 960.0, 1_920.0, 3_600.0, 3_600.0, 3_600.0]
    world.clock.go(AN_HOUR)
    serve(world)
    take_away(world, *(name for name, state in world.states().items() if state != "finished"))
    pause_world(world)
    assert world.value("SELECT paused_until FROM worlds") == world.clock.now + A_MINUTE


def test_a_probe_that_succeeds_brings_back_all_that_failed_in_that_row_within_seconds(world: World) -> None:
    world.admit("earlier")
    fail(world, culprit=ANSWER)
    serve(world)
    world.change("UPDATE tasks SET due_at = ? WHERE id = 'earlier'", START + AN_HOUR)
    pause_world(world)
    world.change("UPDATE tasks SET due_at = ? WHERE state = 'ready'", START + AN_HOUR)
    world.clock.go(A_MINUTE)
    world.admit("probe")
    settled = world.run()
    due = dict(world.rows("SELECT id, due_at FROM tasks WHERE state = 'ready'"))

    assert settled.frees_others
    assert [told.what for told in settled.told] == ["Tasks of this model go on"]
    assert due.pop("earlier") == START + AN_HOUR
    assert len(due) == 5
    assert all(world.clock.now <= moment <= world.clock.now + RETURN_SECONDS for moment in due.values())
    assert pauses(world) == []


def test_a_breaker_s_probe_that_succeeds_brings_back_what_failed_at_all_models_of_its_provider(world: World) -> None:
    world.admit("l", queue=LARGE)
    fail(world)
    fail_each(world, 4)
    assert breaker(world) == "open"
    world.change("UPDATE tasks SET due_at = ? WHERE state = 'ready'", START + AN_HOUR)
    world.clock.go(A_MINUTE)
    world.admit("probe")
    world.run()

    assert breaker(world) == "closed"
    assert all(
        due <= world.clock.now + RETURN_SECONDS for (due,) in world.rows("SELECT due_at FROM tasks WHERE due_at")
    )


def test_a_probe_that_closes_the_breaker_from_a_paused_world_brings_back_all_as_well(world: World) -> None:
    pause_world(world)
    world.clock.go(1.0)
    for name in names("l", 5):
        world.admit(name, queue=LARGE)
        fail(world)
    assert breaker(world) == "open"
    world.change("UPDATE tasks SET due_at = ? WHERE state = 'ready'", START + AN_HOUR)
    world.clock.go(100.0)
    world.admit("probe")
    probe = world.claim()
    assert (probe.probe, probe.queue) == (True, SMALL)
    world.finish(probe)

    assert (breaker(world), pauses(world)) == ("closed", [])
    assert all(
        due <= world.clock.now + RETURN_SECONDS for (due,) in world.rows("SELECT due_at FROM tasks WHERE due_at")
    )


@pytest.mark.parametrize("cause", [Cause.CRASHED, Cause.STOPPED])
def test_a_probe_whose_process_is_gone_is_made_by_another(world: World, cause: Cause) -> None:
    pause_world(world)
    world.clock.go(A_MINUTE)
    world.admit("a", "b")
    world.claim()
    assert world.ledger.owners() == [WORKER]
    world.ledger.claims.release(WORKER, cause)

    assert world.ledger.owners() == []
    assert len(world.claim(OTHER_WORKER).tasks) == 1


def test_a_probe_that_overran_its_deadline_has_failed(world: World) -> None:
    world.admit("a", "b")
    fail(world, culprit=MODEL, named=True)
    world.clock.go(A_MINUTE)
    world.claim()
    world.ledger.claims.release(WORKER, Cause.DEADLINE)
    assert world.rows("SELECT paused_until, probe_slot FROM worlds") == [(world.clock.now + 2 * A_MINUTE, None)]


def test_a_breaker_s_probe_that_overran_its_deadline_has_failed(world: World) -> None:
    world.fail_until_open()
    world.clock.go(A_MINUTE)
    world.claim()
    world.ledger.claims.release(WORKER, Cause.DEADLINE)
    world.admit("b")
    take_away(world, *(name for name, state in world.states().items() if state != "ready" or name != "b"))
    idle = world.idle()

    assert (idle.because, idle.until) == (IdleReason.BREAKER, world.clock.now + A_MINUTE)


def test_a_slot_that_claims_again_has_ended_its_probe(world: World) -> None:
    pause_world(world)
    world.clock.go(A_MINUTE)
    world.admit("a")

    assert ids(world.claim()) == ids(world.claim()) == ["a"]


def test_a_probe_that_says_nothing_of_its_world_is_made_again_later(world: World) -> None:
    pause_world(world)
    world.clock.go(A_MINUTE)
    world.admit("a")
    world.run(Ending.POSTPONED, Health.UNKNOWN)

    assert world.idle().until is not None
    assert world.value("SELECT paused_until FROM worlds") == START + 2 * A_MINUTE
    world.clock.go(A_MINUTE)
    assert len(world.claim().tasks) == 1


def test_when_the_clock_is_set_back_a_pause_lasts_no_longer(world: World) -> None:
    pause_world(world)
    world.clock.step(-A_DAY)
    world.admit("a")
    assert world.value("SELECT paused_until FROM worlds") == world.clock.now + A_MINUTE
    world.clock.go(A_MINUTE)

    assert ids(world.claim()) == ["a"]


def test_no_more_calls_are_in_flight_than_it_takes_to_know_whose_fault_that_is(world: World) -> None:
    """While failures come in a row; else as many as there are workers."""
    serve(world)
    world.admit(*names("t", 20))
    for slot in range(200, 210):
        world.claim(slot, ONE)
    for slot in range(200, 210):
        world.ledger.claims.release(slot, Cause.STOPPED)
    for _ in range(2):
        fail(world)
    claims = [world.ledger.claims.claim(slot, ONE) for slot in range(200, 210)]

    assert [isinstance(claim, Claim) for claim in claims] == [True] * 3 + [False] * 7
    assert all(claim.because is IdleReason.TURN for claim in claims if isinstance(claim, Idle))


# The request adapts

OPTIONAL = ("encoding_format", "dimensions")


def left_out(world: World) -> tuple[str, ...]:
    """What the next request for the small model is sent without."""
    world.admit(name := f"look{next(NUMBERS)}")
    claim = world.claim(OTHER_WORKER, ONE)
    world.ledger.claims.release(OTHER_WORKER, Cause.STOPPED)
    take_away(world, name)
    return claim.world.left_out


def test_a_parameter_that_the_server_names_is_left_out_at_once_and_told_once(world: World) -> None:
    serve(world)
    world.admit("a", "b")
    settled = fail(world, world.claim(), INPUT, named=True, parameter="dimensions", optional=OPTIONAL)

    assert {outcome.ending for outcome in settled.outcomes} == {Ending.ADAPTED}
    assert [(told.what, told.parameter, told.reason) for told in settled.told] == [
        ("Parameter is refused and left out", "dimensions", "the input said no")
    ]
    claim = world.claim()
    assert (ids(claim), claim.world.left_out) == (["a", "b"], ("dimensions",))
    assert [task.attempts for task in claim.tasks] == [0, 0]
    assert settled.frees_others


def test_a_world_that_never_served_anyone_is_asked_for_less_at_once(world: World) -> None:
    world.admit("a")
    claim = world.claim()
    seen = [claim.world.left_out]
    for _ in range(2):
        fail(world, claim, INPUT, optional=[name for name in OPTIONAL if name not in claim.world.left_out])
        claim = world.claim()
        seen.append(claim.world.left_out)

    assert seen == [(), ("encoding_format",), ("encoding_format", "dimensions")]


def test_in_a_proven_world_it_takes_five_different_tasks_in_a_row(world: World) -> None:
    serve(world)
    for name in names("f", 4):
        world.admit(name)
        settled = fail(world, culprit=INPUT, optional=OPTIONAL)
        assert [outcome.ending for outcome in settled.outcomes] == [Ending.RETRY]
    assert left_out(world) == ()
    world.admit("fifth")
    [outcome] = fail(world, culprit=INPUT, optional=OPTIONAL).outcomes

    assert outcome.ending is Ending.ADAPTED
    assert left_out(world) == ("encoding_format",)
    assert breaker(world) == "closed"
    assert world.value("SELECT COUNT(*) FROM tasks WHERE due_at > ?", START) == 0  # what failed before
    assert evidence_on(world) == set()


def test_a_refusal_of_what_was_sent_before_says_nothing(world: World) -> None:
    world.admit(*names("t", 8))
    first, second = world.claim(WORKER, terms(workers=2)), world.claim(OTHER_WORKER, terms(workers=2))
    fail(world, first, INPUT, optional=OPTIONAL)
    settled = fail(world, second, INPUT, optional=OPTIONAL)

    assert {outcome.ending for outcome in settled.outcomes} == {Ending.ADAPTED}
    assert settled.told == ()
    assert left_out(world) == ("encoding_format",)
    assert world.value("SELECT COUNT(*) FROM tasks WHERE is_suspect = 1") == 0


@pytest.mark.parametrize("paused", [False, True])
def test_a_probe_that_was_sent_before_the_request_changed_is_over(world: World, paused: bool) -> None:
    """It says nothing, and keeps nobody waiting."""
    world.admit("in flight")
    in_flight = world.claim(THIRD_WORKER)
    world.admit("a")
    fail(world, culprit=MODEL if paused else ACCOUNT, named=True)
    assert (breaker(world), pauses(world)) == (("closed", [SMALL.model]) if paused else ("open", []))
    world.clock.go(A_MINUTE)
    world.admit("probe")
    probe = world.claim()
    fail(world, in_flight, INPUT, optional=OPTIONAL)
    fail(world, probe, INPUT, optional=OPTIONAL)

    assert world.value("SELECT COUNT(*) FROM worlds WHERE probe_slot IS NOT NULL") == 0
    assert breaker(world) != "half-open"
    world.clock.go(A_MINUTE)
    assert world.claim(OTHER_WORKER)


@pytest.mark.parametrize("about", [{"culprit": INPUT, "optional": OPTIONAL}, {"culprit": MODEL, "stranger": True}])
def test_a_probe_of_a_paused_world_is_over_whatever_is_made_of_it(world: World, about: dict[str, Any]) -> None:
    pause_world(world)
    world.clock.go(A_MINUTE)
    world.admit("probe")
    fail(world, **about)

    assert world.value("SELECT COUNT(*) FROM worlds WHERE probe_slot IS NOT NULL") == 0


def refuse_all(world: World, optional: Sequence[str]) -> Settled:
    """Different tasks are refused one after the other, until that says nothing of any of them."""
    for number in range(world.rules.breaker_threshold):
        world.admit(f"other-{number}")
        settled = fail(world, world.claim(terms=terms(batch=1)), INPUT, optional=optional)
    return settled


def test_guesses_are_taken_back_if_everything_is_refused_without_them_too(world: World) -> None:
    world.admit("a")
    for expected in ((), ("encoding_format",)):
        claim = world.claim()
        assert claim.world.left_out == expected
        fail(world, claim, INPUT, optional=[n for n in OPTIONAL if n not in expected])
    settled = refuse_all(world, ())

    assert [outcome.ending for outcome in settled.outcomes] == [Ending.ADAPTED]
    claim = world.claim()
    assert claim.world.left_out == ()
    # And are not made again.
    assert {outcome.ending for outcome in fail(world, claim, INPUT, optional=OPTIONAL).outcomes} == {Ending.RETRY}
    assert left_out(world) == ()


def test_guesses_stay_while_the_text_may_be_to_blame(world: World) -> None:
    """One good and one bad text at a server that refuses two parameters: the bad one is refused with and without."""
    world.admit("good", "bad")
    for expected in ((), ("encoding_format",)):
        fail(world, world.claim(), INPUT, optional=[n for n in OPTIONAL if n not in expected])
    fail(world, world.claim(), INPUT)
    world.clock.go(10.0)

    assert left_out(world) == OPTIONAL
    world.finish(world.claim())
    world.clock.go(10.0)
    [outcome] = fail(world, world.claim(), INPUT).outcomes
    assert outcome.ending is Ending.FAILED
    # It was one of those that were refused which is served now: the guess was right, for a day.
    world.clock.go(GUESS_SECONDS)
    world.admit("later")
    assert world.claim().world.left_out == OPTIONAL


def test_a_guess_that_serves_only_others_is_doubted_before_long(world: World) -> None:
    world.admit("bad")
    fail(world, world.claim(), INPUT, optional=["encoding_format"])
    world.admit("good")
    fail(world, world.claim(terms=terms(batch=1)), INPUT)
    world.finish(world.claim(terms=terms(batch=1)))

    assert left_out(world) == ("encoding_format",)
    world.clock.go(GUESS_SECONDS)
    world.admit("later")
    assert world.claim().world.left_out == ()


def test_a_parameter_that_makes_a_service_fail_is_found_by_the_tries_of_one_task(world: World) -> None:
    world.admit("a")
    for _ in range(world.rules.max_retries + 1):
        assert left_out(world) == ()
        settled = fail(world, world.claim(), Culprit.SERVICE, optional=["json_schema"])
        assert settled.retry_at is not None
        world.clock.now = settled.retry_at

    assert left_out(world) == ("json_schema",)
    assert [outcome.ending for outcome in settled.outcomes] == [Ending.RETRY]
    world.finish(world.claim())


def insist(world: World, optional: Sequence[str], name: str = "a") -> Settled:
    """The service fails at one task alone until it has been tried as often as it may be."""
    for _ in range(world.rules.max_retries + 1):
        world.clock.now = world.value("SELECT due_at FROM tasks WHERE id = ?", name) or world.clock.now
        settled = fail(world, world.claim(), SERVICE, optional=optional)
    return settled


def test_an_outage_takes_back_nothing_that_was_left_out_because_it_was_refused(world: World) -> None:
    """A server refuses a parameter, and goes away before it has served anyone without it."""
    world.admit("a")
    fail(world, world.claim(), INPUT, optional=["json_schema"])
    insist(world, ())
    world.clock.go(AN_HOUR)

    claim = world.claim()
    assert claim.world.left_out == ("json_schema",)
    assert world.finish(claim).outcomes[0].ending is Ending.SUCCEEDED


def test_what_an_outage_was_found_not_to_hang_on_may_still_be_refused(world: World) -> None:
    """It failed with and without the parameter; when it is back it refuses that."""
    world.admit("a")
    insist(world, ["json_schema"])
    assert left_out(world) == ("json_schema",)
    insist(world, ())
    assert left_out(world) == ()
    world.clock.go(AN_HOUR)

    assert [o.ending for o in fail(world, world.claim(), INPUT, optional=["json_schema"]).outcomes] == [Ending.ADAPTED]
    claim = world.claim()
    assert claim.world.left_out == ("json_schema",)
    assert world.finish(claim).outcomes[0].ending is Ending.SUCCEEDED


def test_a_request_that_never_left_has_nothing_to_leave_out(world: World) -> None:
    world.admit("a")
    for _ in range(world.rules.max_retries + 2):
        world.clock.now = world.value("SELECT due_at FROM tasks WHERE id = 'a'") or world.clock.now
        fail(world, world.claim(), SERVICE, optional=["json_schema"], sent=False)

    assert left_out(world) == ()


def test_guesses_that_were_in_vain_are_made_anew_within_hours(world: World) -> None:
    """Something refused every request for a while; the server behind it refuses one parameter."""
    world.admit("a")
    fail(world, world.claim(), INPUT, optional=["json_schema"])
    refuse_all(world, ())
    assert left_out(world) == ()
    world.clock.go(FUTILE_SECONDS - 1.0)
    fail(world, world.claim(), INPUT, optional=["json_schema"])
    assert left_out(world) == ()
    world.clock.go(FUTILE_SECONDS)
    fail(world, world.claim(), INPUT, optional=["json_schema"])
    assert left_out(world) == ("json_schema",)


def test_a_text_that_is_asked_to_wait_again_and_again_lets_others_go_first(world: World) -> None:
    world.admit("always")
    for _ in range(2):
        claim = world.claim(terms=terms(batch=1))
        assert ids(claim) == ["always"]
        pause = Cooldown(60.0, SMALL.model, "429")
        settled = world.ledger.claims.finish(
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


def test_what_the_server_named_is_not_taken_back_with_the_guesses(world: World) -> None:
    world.admit("a")
    fail(world, world.claim(), INPUT, named=True, parameter="dimensions", optional=OPTIONAL)
    fail(world, world.claim(), INPUT, optional=["encoding_format"])
    refuse_all(world, ())

    assert left_out(world) == ("dimensions",)


def test_when_nothing_is_left_to_leave_out_tasks_wait_and_the_settings_are_named(world: World) -> None:
    """A server that refuses `dimensions`, and has other lengths without it than EMBEDDING_DIMENSIONS says."""
    world.admit("a", "b")
    fail(world, world.claim(), INPUT, optional=["dimensions"])
    fail(world, world.claim(), REQUEST, named=True, parameter="dimensions")
    settled = fail(world, world.claim(), INPUT, optional=["dimensions"])

    assert {outcome.ending for outcome in settled.outcomes} == {Ending.RETRY}
    assert pauses(world) == [SMALL.model]
    assert "nothing is left to leave out of the request: look at EMBEDDING_DIMENSIONS" in settled.told[0].reason
    assert breaker(world) == "closed"


def test_a_guess_that_makes_answers_useless_is_taken_back(world: World) -> None:
    """A server that answers with other lengths where `dimensions` is left out: SettingRefused."""
    world.admit("a")
    fail(world, world.claim(), INPUT, optional=["dimensions"])
    assert left_out(world) == ("dimensions",)
    [outcome] = fail(world, world.claim(), REQUEST, named=True, parameter="dimensions").outcomes

    assert outcome.ending is Ending.ADAPTED
    assert left_out(world) == ()
    assert pauses(world) == []


def test_where_the_server_named_the_parameter_and_a_setting_needs_it_tasks_wait(world: World) -> None:
    world.admit("a")
    fail(world, world.claim(), INPUT, parameter="dimensions", optional=["dimensions"])
    [outcome] = fail(world, world.claim(), REQUEST, named=True, parameter="dimensions").outcomes
    assert outcome.ending is Ending.ADAPTED  # it may have been one refusal only: once more with it
    settled = fail(world, world.claim(), INPUT, parameter="dimensions", optional=["dimensions"])

    assert [outcome.ending for outcome in settled.outcomes] == [Ending.RETRY]
    assert pauses(world) == [SMALL.model]
    assert "look at EMBEDDING_DIMENSIONS" in settled.told[0].reason


def test_of_several_in_flight_one_takes_a_guess_back_and_nobody_waits(world: World) -> None:
    world.admit(*names("t", 3))
    fail(world, world.claim(terms=ONE), INPUT, optional=["dimensions"])
    claims = [world.claim(slot, ONE) for slot in (WORKER, OTHER_WORKER)]
    for claim in claims:
        settled = fail(world, claim, REQUEST, named=True, parameter="dimensions")
        assert [outcome.ending for outcome in settled.outcomes] == [Ending.ADAPTED]

    assert left_out(world) == ()
    assert pauses(world) == []


def test_what_was_learned_concerns_one_provider_and_model(world: World) -> None:
    for queue in (SMALL, LARGE):
        world.admit(queue.model, queue=queue)
    fail(world, world.claim(), INPUT, named=True, parameter="dimensions", optional=OPTIONAL)
    claims = {claim.queue.model: claim.world.left_out for claim in (world.claim(WORKER), world.claim(OTHER_WORKER))}

    assert claims == {SMALL.model: ("dimensions",), LARGE.model: ()}


def test_what_was_learned_is_forgotten_after_a_day(world: World) -> None:
    serve(world)
    world.admit("a")
    fail(world, culprit=INPUT, named=True, parameter="dimensions", optional=OPTIONAL)
    assert left_out(world) == ("dimensions",)
    world.clock.go(PROFILE_SECONDS - 1.0)
    assert left_out(world) == ("dimensions",)
    world.clock.go(1.0)
    assert left_out(world) == ()


# Services that are set up anew


def set_up(world: World, **setups: str) -> None:
    prepare(world.path, strategy="rolling", timezone="UTC", limits={}, setups=setups, clock=world.clock)


def setup_terms(setup: str) -> ClaimOptions:
    return dataclasses.replace(ONE, setup=lambda provider: setup)


def test_a_new_set_up_is_tried_at_once_and_what_was_learned_is_forgotten(world: World) -> None:
    set_up(world, openai="old key")
    old, new = setup_terms("old key"), setup_terms("new key")
    world.admit("a", "b", "c")
    claim = world.claim(terms=old)
    fail(world, claim, INPUT, named=True, parameter="dimensions", optional=OPTIONAL)
    claim = world.claim(terms=old)
    pause = Cooldown(AN_HOUR, None, "quota")
    world.ledger.claims.finish(claim, Report([Outcome(claim.tasks[0], Ending.POSTPONED)], cooldown=pause))
    set_up(world, openai="old key")
    assert world.idle(terms=old).because is IdleReason.COOLDOWN  # the same as before

    set_up(world, openai="new key")
    claim = world.claim(terms=new)
    assert claim.world.left_out == ()
    fail(world, claim, ACCOUNT, named=True)
    assert world.idle(terms=new).because is IdleReason.BREAKER
    set_up(world, openai="newest key")
    assert world.claim(terms=setup_terms("newest key")).probe


def test_a_pause_under_another_set_up_is_none(world: World) -> None:
    set_up(world, openai="old")
    world.admit("a", "b")
    fail(world, world.claim(terms=setup_terms("old")), MODEL, named=True)
    assert world.idle(terms=setup_terms("old")).because is IdleReason.QUARANTINE
    set_up(world, openai="new")

    assert ids(world.claim(terms=setup_terms("new"))) == ["b"]
    assert pauses(world) == []


def test_a_probe_in_flight_while_its_service_is_set_up_anew_is_nobody_s_any_more(world: World) -> None:
    set_up(world, openai="old")
    world.admit("a", "b")
    fail(world, world.claim(terms=setup_terms("old")), MODEL, named=True)
    world.clock.go(A_MINUTE)
    probe = world.claim(terms=setup_terms("old"))
    set_up(world, openai="new")

    assert world.value("SELECT COUNT(*) FROM worlds WHERE probe_slot IS NOT NULL") == 0
    fail(world, probe, MODEL, named=True)
    assert ids(world.claim(terms=setup_terms("new")))


def test_failures_under_another_set_up_are_no_evidence(world: World) -> None:
    world.admit("a")
    endings = []
    for setup in ("old",) * 3 + ("new",) * 4:
        world.clock.now = world.value("SELECT due_at FROM tasks WHERE id = 'a'") or world.clock.now
        endings.append(fail(world, world.claim(terms=setup_terms(setup)), ANSWER).outcomes[0].ending)

    assert endings == [Ending.RETRY] * 6 + [Ending.FAILED]


# Where nobody has been served yet


def test_where_nobody_was_served_yet_the_others_wait_for_the_first_answer(world: World) -> None:
    first = dataclasses.replace(ONE, canary_seconds=10.0)
    world.admit(*names("t", 4))
    canary = world.claim(WORKER, first)
    idle = world.idle(OTHER_WORKER, first)

    assert (idle.because, idle.until) == (IdleReason.TURN, START + 10.0)
    assert world.finish(canary).frees_others
    assert [len(world.claim(slot, first).tasks) for slot in (WORKER, OTHER_WORKER, THIRD_WORKER)] == [1, 1, 1]


def test_they_wait_for_it_no_longer_than_they_are_told(world: World) -> None:
    first = dataclasses.replace(ONE, canary_seconds=10.0)
    world.admit(*names("t", 4))
    world.claim(WORKER, first)
    world.clock.go(9.999)
    world.idle(OTHER_WORKER, first)
    world.clock.go(0.001)

    assert world.claim(OTHER_WORKER, first)
    assert world.idle(THIRD_WORKER, first).until == START + 20.0


def test_what_the_first_answer_refuses_is_refused_once(world: World) -> None:
    first = dataclasses.replace(terms(workers=4, batch=1), canary_seconds=10.0)
    world.admit(*names("t", 8))
    refused = 0
    slots = range(200, 204)
    for _ in range(30):
        found = [world.ledger.claims.claim(slot, first) for slot in slots]
        for claim in found:
            if isinstance(claim, Claim):
                if "dimensions" in claim.world.left_out:
                    world.finish(claim)
                else:
                    refused += 1
                    fail(world, claim, INPUT, optional=["dimensions"])

    assert refused == 1
    assert set(world.states().values()) == {"finished"}


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


# What remembers and forgets


def test_a_claim_that_comes_to_nothing_leaves_nothing_to_be_remembered(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The world that it made is not there: what is sent next is judged all the same."""
    world.admit("a")
    own = world.ledger.claims._own

    def fall_ill(*arguments: object) -> None:
        raise apsw.FullError

    monkeypatch.setattr(world.ledger.claims, "_own", fall_ill)
    with pytest.raises(LedgerError):
        world.ledger.claims.claim(WORKER, ONE)
    monkeypatch.setattr(world.ledger.claims, "_own", own)
    fail(world)

    assert evidence_on(world) == {"a"}
    assert world.rows("SELECT model, service FROM worlds") == [(SMALL.model, 1)]


def test_worlds_that_nothing_refers_to_are_forgotten_beyond_the_newest(world: World) -> None:
    world.admit("a")
    fail(world)
    fail_each(world, 1, prefix="gone")
    world.admit("l", queue=LARGE)
    fail(world, world.claim(OTHER_WORKER))
    take_away(world, "l")
    world.change(
        "INSERT INTO worlds (provider, model, type, setup, left_out)"
        " WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?)"
        " SELECT 'openai', i, 't', '', '' FROM n",
        MOST_WORLDS,
    )
    with world.database.transaction() as connection:
        prune_worlds(connection)
    assert world.value("SELECT COUNT(*) FROM worlds") == MOST_WORLDS + 1
    assert world.rows("SELECT model FROM worlds WHERE model LIKE 'text%'") == [(SMALL.model,)]
    assert world.value("SELECT COUNT(*) FROM failures WHERE world NOT IN (SELECT id FROM worlds)") == 0
    world.clock.go(2.0)
    assert world.claim(terms=ONE).world.id == world.value("SELECT id FROM worlds WHERE model = ?", SMALL.model)


def test_a_queue_of_texts_that_the_provider_itself_names_stops_nothing(world: World) -> None:
    serve(world)
    settled = fail_each(world, 2 * world.rules.breaker_threshold, INPUT, named=True)

    assert [outcome.ending for outcome in settled.outcomes] == [Ending.FAILED]
    assert world.value("SELECT COUNT(*) FROM results WHERE status = 'failed'") == 2 * world.rules.breaker_threshold
    assert breaker(world) == "closed"
    assert pauses(world) == []
