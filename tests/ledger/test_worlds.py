"""Worlds that are ill: breakers and pauses, their probes, and what is known of a world that is new or set up anew."""

from __future__ import annotations

import dataclasses

import pytest

from aitp.errors import LedgerError
from aitp.ledger.breakers import Cooldown
from aitp.ledger.claims import Claim, ClaimOptions, Idle, IdleReason
from aitp.ledger.evidence import RETURN_SECONDS, Report
from aitp.ledger.ledger import prepare
from aitp.ledger.outcomes import Cause
from aitp.ledger.worlds import MOST_WORLDS, prune_worlds
from aitp.policy.routing import Route
from aitp.tasks import Culprit, Ending, Health, Outcome, QueueKey
from tests.ledger.failures import (
    A_DAY,
    A_MINUTE,
    ACCOUNT,
    AN_HOUR,
    ANSWER,
    INPUT,
    MODEL,
    OF_TASKS,
    ONE,
    REQUEST,
    SERVICE,
    THIRD_WORKER,
    breaker,
    evidence_on,
    fail,
    fail_again,
    fail_at_next_probe,
    fail_each,
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
    TOPICS,
    WORKER,
    World,
    ids,
    names,
    terms,
)

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


@pytest.mark.parametrize("paused_by", [ANSWER, MODEL])
def test_while_a_world_is_paused_nobody_is_failed(world: World, paused_by: Culprit) -> None:
    if paused_by is MODEL:
        world.admit("a")
        fail(world, culprit=MODEL, named=True)
    else:
        pause_world(world)
        take_away(world, *world.states())
        world.admit("a")
    culprit = SERVICE if paused_by is MODEL else ANSWER

    assert [fail_at_next_probe(world, culprit).ending for _ in range(8)] == [Ending.RETRY] * 8
    assert pauses(world) == [SMALL.model]


def test_a_useless_answer_shows_that_a_model_which_was_gone_is_there_again(world: World) -> None:
    world.admit("a")
    fail(world, culprit=MODEL, named=True)
    world.clock.go(A_MINUTE)
    settled = fail(world, culprit=ANSWER)

    assert pauses(world) == []
    assert [notice.what for notice in settled.told] == ["Tasks of this model go on"]
    assert [fail_again(world, ANSWER).ending for _ in range(3)] == [Ending.RETRY, Ending.RETRY, Ending.FAILED]
    world.admit("b")
    fail(world, culprit=MODEL, named=True)
    assert world.value("SELECT paused_until FROM worlds") == world.clock.now + 2 * A_MINUTE, "it has not served anyone"


def test_a_useless_answer_ends_no_pause_of_a_model_that_a_setting_does_not_fit(world: World) -> None:
    world.admit("a", "b")
    fail(world, world.claim(), REQUEST)
    world.clock.go(A_MINUTE)
    fail(world, culprit=ANSWER)

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


def test_a_name_that_a_server_fails_at_may_be_right(world: World) -> None:
    world.admit("a")
    settled = fail(world, culprit=MODEL, named=False, stranger=True)

    assert settled.outcomes[0].ending is Ending.POSTPONED
    assert pauses(world) == [SMALL.model]


def test_a_name_that_has_answered_here_once_is_no_stranger(world: World) -> None:
    serve(world)
    world.admit("a")
    settled = fail(world, culprit=MODEL, named=True, stranger=True)

    assert settled.outcomes[0].ending is Ending.POSTPONED
    assert pauses(world) == [SMALL.model]


# Probes of a paused world


def test_a_paused_world_is_probed_by_one_task_at_a_time_fresh_ones_first(world: World) -> None:
    pause_world(world)
    world.clock.go(A_MINUTE)
    world.admit("fresh1", "fresh2")
    probe = world.claim()
    idle = world.idle(OTHER_WORKER)

    assert ids(probe) == ["fresh1"]
    assert not probe.more
    assert (idle.because, idle.until) == (IdleReason.QUARANTINE, None)


def test_a_suspect_of_one_queue_leaves_the_probe_to_a_fresh_task_of_another(world: World) -> None:
    pause_world(world)
    world.clock.go(A_MINUTE)
    world.change("UPDATE tasks SET due_at = NULL")
    handed_over = QueueKey(SMALL.type, SMALL.model, "ollama")
    world.admit("fresh", queue=handed_over)
    world.admit("elsewhere", queue=TOPICS)

    assert ids(world.claim()) == ["fresh"]


def test_a_suspect_makes_the_probe_where_no_fresh_task_can(world: World) -> None:
    pause_world(world)
    world.clock.go(A_MINUTE)
    world.change("UPDATE tasks SET due_at = NULL")
    [suspect, *_] = world.states()
    handed_over = QueueKey(SMALL.type, SMALL.model, "ollama")
    world.admit("fresh", queue=handed_over)

    def routes(queue: QueueKey) -> tuple[Route, ...]:
        return (Route("openai", queue.model),)

    def needs(queue: QueueKey, route: Route) -> tuple[str, ...]:
        return ("wikidata",) if queue.failed_at else ()

    world.change("UPDATE breakers SET state = 'open', opened_at = ? WHERE service = 'wikidata'", world.clock.now)
    options = ClaimOptions(1, routes, lambda queue: 32, needs)

    assert ids(world.claim(terms=options)) == [suspect]


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
        due <= world.clock.now + RETURN_SECONDS for (due,) in world.rows("SELECT due_at FROM tasks WHERE due_at > 0")
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
        due <= world.clock.now + RETURN_SECONDS for (due,) in world.rows("SELECT due_at FROM tasks WHERE due_at > 0")
    )


@pytest.mark.parametrize("cause", [Cause.CRASHED, Cause.STOPPED])
def test_a_probe_whose_process_is_gone_is_made_by_another(world: World, cause: Cause) -> None:
    pause_world(world)
    world.clock.go(A_MINUTE)
    world.admit("a", "b")
    world.claim()
    assert world.ledger.owners() == [WORKER]
    world.ledger.outcomes.release(WORKER, cause)

    assert world.ledger.owners() == []
    assert len(world.claim(OTHER_WORKER).tasks) == 1


def test_a_probe_that_overran_its_deadline_has_failed(world: World) -> None:
    world.admit("a", "b")
    fail(world, culprit=MODEL, named=True)
    world.clock.go(A_MINUTE)
    world.claim()
    world.ledger.outcomes.release(WORKER, Cause.DEADLINE)
    assert world.rows("SELECT paused_until, probe_slot FROM worlds") == [(world.clock.now + 2 * A_MINUTE, None)]


def test_a_breaker_s_probe_that_overran_its_deadline_has_failed(world: World) -> None:
    world.fail_until_open()
    world.clock.go(A_MINUTE)
    world.claim()
    world.ledger.outcomes.release(WORKER, Cause.DEADLINE)
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
        world.ledger.outcomes.release(slot, Cause.STOPPED)
    for _ in range(2):
        fail(world)
    claims = [world.ledger.claims.claim(slot, ONE) for slot in range(200, 210)]

    assert [isinstance(claim, Claim) for claim in claims] == [True] * 3 + [False] * 7
    assert all(claim.because is IdleReason.TURN for claim in claims if isinstance(claim, Idle))


# Services that are set up anew


def set_up(world: World, **setups: str) -> None:
    prepare(world.place, strategy="rolling", timezone="UTC", limits={}, setups=setups, clock=world.clock)


def setup_terms(setup: str) -> ClaimOptions:
    return dataclasses.replace(ONE, setup=lambda provider: setup)


def test_a_new_set_up_is_tried_at_once_and_what_was_learned_is_forgotten(world: World) -> None:
    set_up(world, openai="old key")
    old, new = setup_terms("old key"), setup_terms("new key")
    world.admit("a", "b", "c")
    claim = world.claim(terms=old)
    fail(world, claim, INPUT, named=True, parameter="dimensions", optional=("encoding_format", "dimensions"))
    claim = world.claim(terms=old)
    pause = Cooldown(AN_HOUR, None, "quota")
    world.ledger.outcomes.finish(claim, Report([Outcome(claim.tasks[0], Ending.POSTPONED)], cooldown=pause))
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


# What remembers and forgets


def test_a_claim_that_comes_to_nothing_leaves_nothing_to_be_remembered(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The world that it made is not there: what is sent next is judged all the same."""
    world.admit("a")
    own = world.ledger.claims._own

    def fall_ill(*arguments: object) -> None:
        raise OSError("no")

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
