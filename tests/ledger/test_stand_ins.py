"""One provider in another's stead, by that one's rules: when, how often on a day, and what no kill changes."""

from __future__ import annotations

import pytest

from aitp.errors import CooldownRequired, CredentialsRefused, ModelGone, NonRetryableError, ServiceFault, UselessAnswer
from aitp.ledger.claims import Claim, ClaimOptions, Idle, IdleReason
from aitp.ledger.evidence import Settled
from aitp.ledger.outcomes import Cause
from aitp.policy.routing import USED_UP, Mode, Routing, Rules
from aitp.process import reports
from aitp.tasks import Ending, QueueKey
from tests.ledger.conftest import Create
from tests.ledger.world import OTHER_WORKER, WORKER, World, at, ids, names

AREA = QueueKey("defining_impact_area", "jev-1.13.0")
SEVERITY = QueueKey("defining_severity", "jev-1.13.0")
WAITS = (5.0, 10.0, 20.0, 40.0, 60.0)
MIDNIGHT = at("2025-07-31 00:00:00")
OUT = ServiceFault("jev", "jev answered 503")


def options(most: int = 3, *, has_openai: bool = True) -> ClaimOptions:
    rules = {"jev": Rules(waits=WAITS, stand_in="gpt", most_per_day=most)}
    routing = Routing(Mode.OPENAI, (), {}, False, True, {"jev*": "jev"}, rules=rules, may_stand_in=has_openai)
    return ClaimOptions(2, lambda queue: routing.options(queue.model, "gpt", queue.failed_at), lambda queue: 1)


TERMS = options()


@pytest.fixture
def jev(create: Create) -> World:
    """A ledger that knows of jev, with tasks for it."""
    world = create()
    world.change("INSERT INTO breakers (service) VALUES ('jev')")
    return world


def claim(world: World, terms: ClaimOptions = TERMS, slot: int = WORKER) -> Claim:
    return world.claim(slot, terms)


def end(world: World, claim: Claim, error: Exception, terms: ClaimOptions = TERMS) -> Settled:
    """As a worker ends a claim that met `error`."""
    report = reports.report_of_failure(claim, error, sent=True)
    if claim.route.waits:
        report = reports.with_next_route(report, claim, terms.routes(claim.queue))
    return world.ledger.outcomes.finish(claim, report)


def fail_through(world: World, name: str, error: Exception = OUT, tries: int = len(WAITS) + 1) -> list[Settled]:
    """A task that fails at jev so often, with its waits in between."""
    world.admit(name, queue=AREA)
    settled = []
    for _ in range(tries):
        taken = claim(world)
        assert (ids(taken), taken.provider) == ([name], "jev")
        settled.append(end(world, taken, error))
        if settled[-1].retry_at is not None:
            world.clock.now = settled[-1].retry_at
    return settled


def open_breaker(world: World, error: Exception) -> None:
    """Tasks of both types fail until jev's breaker is open."""
    for number in range(5):
        if world.value("SELECT state FROM breakers WHERE service = 'jev'") == "open":
            break
        world.admit(f"f{number}", queue=(AREA, SEVERITY)[number % 2])
        end(world, claim(world), error)
    assert world.value("SELECT state FROM breakers WHERE service = 'jev'") == "open"


def sent(world: World) -> int:
    return int(world.value("SELECT COALESCE(SUM(sent), 0) FROM stand_ins"))


def test_a_task_waits_as_the_provider_says_and_then_goes_to_the_other_one(jev: World) -> None:
    *waits, last = fail_through(jev, "a")

    began = [settled.retry_at for settled in waits]
    assert all(at is not None for at in began)
    assert last.outcomes[0].ending is Ending.FALLBACK
    assert jev.clock() - 1_753_900_000.0 == pytest.approx(sum(WAITS))
    taken = claim(jev)
    assert (taken.route.provider, taken.route.model, taken.route.fallback_from) == ("openai", "gpt", "jev")
    assert (taken.route.reason, taken.stand_ins_left) == ("failed", 2)
    assert sent(jev) == 1


def test_a_longer_wait_that_the_service_asks_for_is_kept(jev: World) -> None:
    fault = ServiceFault("jev", "jev answered 503")
    fault.wait = 90.0
    jev.admit("a", queue=AREA)
    now = jev.clock()

    assert end(jev, claim(jev), fault).retry_at == now + 90.0


def test_evidence_against_a_task_hands_it_over_too_and_fails_it_no_earlier(jev: World) -> None:
    """Others are served between its tries: it would be to blame, and another model may well take it."""
    jev.admit("bad", queue=AREA)
    taken, number = claim(jev), 0
    for tries in range(len(WAITS) + 1):
        settled = end(jev, taken, OUT)
        assert settled.outcomes[0].ending is (Ending.FALLBACK if tries == len(WAITS) else Ending.RETRY)
        while tries < len(WAITS):
            jev.admit(f"good{number}", queue=AREA)
            number += 1
            jev.clock.now = max(jev.clock.now, settled.retry_at or 0.0)
            taken = claim(jev)
            if ids(taken) == ["bad"]:
                break
            jev.finish(taken)


@pytest.mark.parametrize(
    "error",
    [
        CredentialsRefused("jev", "no such key"),
        ModelGone("jev", "gone", model="jev-1.13.0"),
        UselessAnswer("no probabilities"),
    ],
)
def test_only_what_passes_is_handed_over(jev: World, error: Exception) -> None:
    jev.admit("a", queue=AREA)
    for _ in range(3 * len(WAITS)):
        taken = jev.ledger.claims.claim(WORKER, TERMS)
        if isinstance(taken, Claim):
            assert taken.provider == "jev"
            assert all(each.ending is not Ending.FALLBACK for each in end(jev, taken, error).outcomes)
        jev.clock.go(61.0)
    assert sent(jev) == 0


def test_a_text_that_the_service_does_not_take_is_failed_at_once(jev: World) -> None:
    jev.admit("a", queue=AREA)

    assert end(jev, claim(jev), NonRetryableError("too long")).outcomes[0].ending is Ending.FAILED


@pytest.mark.parametrize(("pauses", "handed_over"), [(14, False), (28, True)])
def test_pauses_hand_a_task_over_only_when_they_have_lasted_as_long_as_all_waits(
    jev: World, pauses: int, handed_over: bool
) -> None:
    began = jev.clock()
    for number in range(pauses):  # of 5 s each, always another task
        jev.admit(f"a{number}", queue=AREA)
        busy = CooldownRequired("jev", "jev answered 429", seconds=5.0, model=None)
        settled = end(jev, claim(jev), busy)
        jev.clock.go(5.0)

    lasted = jev.clock() - 5.0 - began >= sum(WAITS)
    assert lasted is handed_over
    assert (settled.outcomes[0].ending is Ending.FALLBACK) is handed_over


def test_a_call_that_is_served_ends_what_pauses_have_lasted(jev: World) -> None:
    busy = CooldownRequired("jev", "jev answered 429", seconds=5.0, model=None)
    for number in range(51):
        jev.admit(f"a{number}", queue=AREA)
        taken = claim(jev)
        if number == 25:
            jev.finish(taken)
        else:
            assert end(jev, taken, busy).outcomes[0].ending is Ending.POSTPONED
        jev.clock.go(5.0)


def test_an_open_breaker_hands_over_at_once_if_faults_opened_it(jev: World) -> None:
    open_breaker(jev, OUT)
    jev.admit("a", queue=AREA)

    taken = claim(jev)

    assert (taken.provider, taken.route.reason, ids(taken)) == ("openai", "blocked", ["a"])


def test_a_breaker_that_a_refusal_opened_hands_nothing_over(jev: World) -> None:
    open_breaker(jev, CredentialsRefused("jev", "no such key"))
    jev.admit("a", "b", queue=AREA)

    assert jev.idle(WORKER, TERMS).because is IdleReason.BREAKER
    assert sent(jev) == 0


def test_a_refusal_at_the_probe_closes_the_way_that_faults_had_opened(jev: World) -> None:
    open_breaker(jev, OUT)
    jev.clock.go(60.0)
    probe = claim(jev)
    assert (probe.provider, probe.probe) == ("jev", True)
    end(jev, probe, CredentialsRefused("jev", "no such key"))
    jev.admit("a", queue=AREA)

    assert jev.idle(WORKER, TERMS).because is IdleReason.BREAKER


def test_both_types_together_have_one_days_number_and_midnight_frees_it_again(jev: World) -> None:
    open_breaker(jev, OUT)
    jev.admit(*names("area", 3), queue=AREA)
    jev.admit(*names("severity", 3), queue=SEVERITY)

    lefts = []
    for _ in range(3):
        taken = claim(jev)
        lefts.append(taken.stand_ins_left)
        jev.finish(taken)
    refused = jev.idle(WORKER, TERMS)
    assert lefts == [2, 1, 0]
    assert {refused.because, sent(jev)} == {IdleReason.BREAKER, 3}

    jev.clock.now = MIDNIGHT - 1
    jev.change("UPDATE breakers SET opened_at = ? WHERE service = 'jev'", jev.clock())
    assert isinstance(jev.ledger.claims.claim(WORKER, TERMS), Idle)
    jev.clock.now = MIDNIGHT
    assert claim(jev).stand_ins_left == 2


def test_a_clock_that_is_set_back_makes_no_room(jev: World) -> None:
    open_breaker(jev, OUT)
    jev.admit(*names("a", 5), queue=AREA)
    for _ in range(3):
        jev.finish(claim(jev))
    jev.clock.step(-86_400.0)

    assert isinstance(jev.ledger.claims.claim(WORKER, TERMS), Idle)


@pytest.mark.parametrize("cause", Cause)
def test_a_kill_makes_no_room(jev: World, cause: Cause) -> None:
    open_breaker(jev, OUT)
    jev.admit(*names("a", 9), queue=AREA)
    taken = 0
    while isinstance(found := jev.ledger.claims.claim(OTHER_WORKER, TERMS), Claim):
        assert found.provider == "openai"
        taken += 1
        jev.ledger.outcomes.release(OTHER_WORKER, cause)

    assert taken == 3


def test_a_claim_that_was_never_sent_gives_its_part_back(jev: World) -> None:
    open_breaker(jev, OUT)
    jev.admit("a", queue=AREA)
    jev.finish(claim(jev), Ending.UNSENT)

    assert sent(jev) == 0
    jev.clock.go(6.0)
    taken = claim(jev)
    jev.change("UPDATE stand_ins SET day = day + 1, sent = 3")
    jev.finish(taken, Ending.UNSENT)
    assert sent(jev) == 3  # those of another day


def test_a_second_request_of_a_claim_counts_as_well(jev: World) -> None:
    open_breaker(jev, OUT)
    jev.admit("a", queue=AREA)
    taken = claim(jev)

    assert [jev.ledger.claims.again(taken) for _ in range(3)] == [True, True, False]
    assert sent(jev) == 3


@pytest.mark.parametrize("terms", [options(0), options(has_openai=False)])
def test_without_a_number_or_a_key_tasks_wait_for_the_provider(jev: World, terms: ClaimOptions) -> None:
    jev.admit("a", queue=AREA)
    for _ in range(2 * len(WAITS)):
        taken = claim(jev, terms)
        settled = end(jev, taken, OUT, terms)
        assert (taken.provider, settled.outcomes[0].ending) == ("jev", Ending.RETRY)
        jev.clock.now = settled.retry_at or 0.0


def test_with_the_number_used_up_what_has_failed_goes_to_the_provider_again(jev: World) -> None:
    fail_through(jev, "a")
    jev.change("INSERT INTO stand_ins VALUES ('jev', ?, 3)", int(jev.clock() // 86_400))

    taken = claim(jev)

    assert (taken.provider, taken.route.reason) == ("jev", USED_UP)
    settled = end(jev, taken, OUT)
    assert settled.outcomes[0].ending is Ending.RETRY  # and not at once again
    assert settled.retry_at == jev.clock() + WAITS[-1]


def test_a_stand_in_that_fails_tries_again_as_its_own_provider_has_it(jev: World) -> None:
    open_breaker(jev, OUT)
    jev.admit("a", queue=AREA)
    settled = end(jev, claim(jev), ServiceFault("openai", "openai answered 503"))

    assert settled.outcomes[0].ending is Ending.RETRY
    assert jev.value("SELECT failed_at FROM queues JOIN tasks ON queue = queues.id WHERE tasks.id = 'a'") == ""
