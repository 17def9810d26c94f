"""The request adapts: what is left out of it, by a server's word or by a guess, and taken back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from aitp.ledger.evidence import FUTILE_SECONDS, GUESS_SECONDS, Settled
from aitp.ledger.outcomes import Cause
from aitp.ledger.worlds import PROFILE_SECONDS
from aitp.tasks import Culprit, Ending
from tests.ledger.failures import (
    A_MINUTE,
    ACCOUNT,
    AN_HOUR,
    INPUT,
    MODEL,
    NUMBERS,
    ONE,
    REQUEST,
    SERVICE,
    THIRD_WORKER,
    breaker,
    evidence_on,
    fail,
    pause_world,
    pauses,
    serve,
    take_away,
)
from tests.ledger.world import (
    LARGE,
    OTHER_WORKER,
    SMALL,
    START,
    WORKER,
    World,
    ids,
    names,
    terms,
)

# The request adapts

OPTIONAL = ("encoding_format", "dimensions")


def left_out(world: World) -> tuple[str, ...]:
    """What the next request for the small model is sent without."""
    world.admit(name := f"look{next(NUMBERS)}")
    claim = world.claim(OTHER_WORKER, ONE)
    world.ledger.outcomes.release(OTHER_WORKER, Cause.STOPPED)
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
