"""What a claim takes, what keeps it from taking, and until when."""

from __future__ import annotations

import dataclasses

import pytest

from aitp.ledger.breakers import Cooldown
from aitp.ledger.claims import Claim, ClaimOptions, Idle, IdleReason
from aitp.ledger.engine import DISK_RESERVE_BYTES
from aitp.ledger.evidence import Report
from aitp.policy.routing import Availability, Route, Why
from aitp.tasks import Ending, Health, Outcome, QueueKey
from tests.ledger.world import LARGE, OTHER_WORKER, SMALL, START, TOPICS, WORKER, World, ids, names, report, terms

# What is taken


def test_a_claim_takes_tasks_of_one_queue_oldest_first_with_all_that_a_call_needs(world: World) -> None:
    world.admit("a", "b", content=b'{"text": "hello"}')
    world.admit("c", queue=LARGE)
    claim = world.claim()

    assert ids(claim) == ["a", "b"]
    assert (claim.slot, claim.provider, claim.queue, claim.probe, claim.more) == (WORKER, "openai", SMALL, False, True)
    assert (claim.tasks[0].content, claim.tasks[0].attempts, claim.tasks[0].crashes) == (b'{"text": "hello"}', 0, 0)
    assert world.states() == {"a": "claimed", "b": "claimed", "c": "ready"}


def test_each_worker_takes_its_fair_share_and_says_whether_others_have_work(world: World) -> None:
    world.admit(*names("t", 10))
    shares = [world.claim(WORKER + number, terms(workers=4)) for number in range(4)]

    # Of 10, 7, 5, 3 that are left, a quarter each time, rounded up.
    assert [len(claim.tasks) for claim in shares] == [3, 2, 2, 1]
    assert all(claim.more for claim in shares)
    assert [name for claim in shares for name in ids(claim)] == names("t", 8)


def test_no_claim_is_larger_than_a_batch(world: World) -> None:
    world.admit(*names("t", 50))

    assert len(world.claim(terms=terms(batch=32)).tasks) == 32
    assert len(world.claim(OTHER_WORKER, terms(batch=1)).tasks) == 1


def test_the_last_claim_says_that_there_is_no_more(world: World) -> None:
    world.admit("a", "b")

    assert not world.claim().more


def test_a_batch_is_no_larger_than_its_provider_takes_in_one_call(world: World) -> None:
    world.admit(*names("t", 5), content=b"x" * 90_000)
    claim = world.claim()

    assert len(claim.tasks) == 3  # 300,000 bytes
    assert claim.more


def test_the_queue_with_the_fewest_claimed_tasks_goes_first_then_the_oldest(world: World) -> None:
    world.admit(*names("small", 40))
    world.admit("large", queue=LARGE)
    world.admit("topic", queue=TOPICS)

    queues = [world.claim(WORKER + number, terms(workers=5)).queue for number in range(4)]

    assert queues == [SMALL, LARGE, TOPICS, SMALL]


def test_tasks_of_a_refused_batch_are_only_claimed_in_smaller_ones_and_with_their_like(world: World) -> None:
    world.admit(*names("t", 8))
    world.finish(world.claim(), Ending.SPLIT)
    world.admit("late")

    half, others = world.claim(), world.claim(OTHER_WORKER)
    assert (ids(half), ids(others)) == (["t0", "t1", "t2", "t3"], ["late"])
    world.finish(half, Ending.SUCCEEDED)
    half = world.claim()
    assert ids(half) == ["t4", "t5", "t6", "t7"]
    world.finish(half, Ending.SPLIT)
    quarter = world.claim()
    assert ids(quarter) == ["t4", "t5"]
    world.finish(quarter, Ending.SUCCEEDED)
    assert ids(world.claim()) == ["t6", "t7"]


def test_halving_ends_with_the_bad_one_alone_whatever_the_shares_are(world: World) -> None:
    world.admit(*names("t", 33))
    bad, calls = {"t5", "t20"}, 0
    while not isinstance(claim := world.ledger.claims.claim(WORKER, terms(workers=3)), Idle):
        calls += 1
        refused = bad & set(ids(claim))
        alone = len(claim.tasks) == 1
        world.finish(claim, Ending.SUCCEEDED if not refused else Ending.FAILED if alone else Ending.SPLIT)

    failed = {name for (name,) in world.rows("SELECT id FROM tasks JOIN results USING (seq) WHERE status = 'failed'")}
    assert failed == bad
    assert set(world.states().values()) == {"finished"}
    assert calls < 33


def test_what_a_slot_still_had_claimed_goes_back_when_it_claims_again(world: World) -> None:
    world.admit("a", "b")
    first = world.claim()
    world.ledger.outcomes.finish(first, report(first.tasks[:1], Ending.SUCCEEDED))
    again = world.claim()

    assert ids(again) == ["b"]
    assert world.completions() == 2  # it may have been sent


def test_a_queue_is_what_tasks_are_grouped_by(world: World) -> None:
    world.admit("a", queue=QueueKey("text_embedding", "x"))
    world.admit("b", queue=QueueKey("defining_topics", "x"))

    assert len(world.claim().tasks) == 1


# What keeps a claim from taking, and until when


def test_with_nothing_ready_it_waits_for_whatever_happens(world: World) -> None:
    idle = world.idle()

    assert (idle.because, idle.until) == (IdleReason.NOTHING_READY, None)


def test_it_waits_for_the_next_due_time_to_the_moment(world: World) -> None:
    world.admit("a")
    settled = world.run(Ending.RETRY)
    idle = world.idle()

    assert settled.retry_at == START + 2.0
    assert (idle.because, idle.until) == (IdleReason.NOTHING_READY, START + 2.0)
    world.clock.now = START + 1.999
    assert world.idle().until == START + 2.0
    world.clock.now = START + 2.0
    assert ids(world.claim()) == ["a"]


def test_paused_means_nothing_is_claimed_across_restarts_until_resumed(world: World) -> None:
    world.admit("a")
    world.ledger.pause(True)
    world.close()
    world.open()

    assert world.idle().because is IdleReason.PAUSED
    world.ledger.pause(False)
    assert ids(world.claim()) == ["a"]


@pytest.mark.sqlite
def test_nothing_is_claimed_while_the_disk_has_no_room_for_answers(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.admit("a")
    free = [DISK_RESERVE_BYTES - 1]
    monkeypatch.setattr(world.file, "free_bytes", lambda: free[0])
    idle = world.idle()

    assert (idle.because, idle.until) == (IdleReason.DISK, START + 5.0)
    free[0] = DISK_RESERVE_BYTES
    assert ids(world.claim()) == ["a"]


def test_an_open_breaker_stops_claims_until_its_probe_is_due(world: World) -> None:
    world.fail_until_open()
    world.clock.go(3.0)
    world.admit("a")
    idle = world.idle()

    assert (idle.because, idle.service, idle.until) == (IdleReason.BREAKER, "openai", START + 60.0)
    world.clock.now = START + 59.999
    assert world.idle().because is IdleReason.BREAKER
    world.clock.now = START + 60.0
    assert world.claim().probe


def test_a_probe_takes_one_task_and_all_others_wait_for_its_end(world: World) -> None:
    world.fail_until_open()
    world.clock.go(60.0)
    world.admit(*names("t", 5))
    probe = world.claim()
    idle = world.idle(OTHER_WORKER)

    assert probe.probe
    assert len(probe.tasks) == 1
    assert not probe.more
    assert (idle.because, idle.until) == (IdleReason.BREAKER, None)


def test_a_probe_takes_the_task_that_has_failed_least(world: World) -> None:
    world.fail_until_open()
    world.clock.go(60.0)
    first = world.claim()
    world.finish(first, Ending.RETRY, Health.FAULTY)
    world.clock.go(60.0)

    assert ids(world.claim()) != ids(first)


def test_a_cooldown_stops_its_model_only(world: World) -> None:
    world.admit("s1", "s2")
    claim = world.claim(terms=terms(batch=1))
    pause = Cooldown(20.0, SMALL.model, "429")
    outcome = Outcome(claim.tasks[0], Ending.POSTPONED, reason="429")
    world.ledger.outcomes.finish(claim, Report([outcome], cooldown=pause))
    idle = world.idle()

    assert (idle.because, idle.service, idle.until) == (IdleReason.COOLDOWN, "openai", START + 20.0)
    world.admit("l1", queue=LARGE)
    assert ids(world.claim()) == ["l1"]
    world.clock.go(20.0)
    assert ids(world.claim(OTHER_WORKER)) == ["s1", "s2"]


def test_a_cooldown_of_the_whole_provider_stops_all_of_its_models(world: World) -> None:
    world.admit("s1")
    world.admit("l1", queue=LARGE)
    claim = world.claim()
    pause = Cooldown(300.0, None, "insufficient_quota")
    world.ledger.outcomes.finish(claim, Report([Outcome(claim.tasks[0], Ending.POSTPONED)], cooldown=pause))

    assert world.idle().until == START + 300.0


def test_a_model_that_is_missing_is_waited_for_until_its_pull_has_failed(world: World) -> None:
    known = {"arrival": Availability.UNKNOWN}
    routes = (Route("ollama", SMALL.model), Route("openai", SMALL.model, "ollama", Why.BLOCKED))

    def arrival(route: Route) -> Availability:
        return known["arrival"] if route.provider == "ollama" else Availability.UNKNOWN

    terms = ClaimOptions(1, lambda queue: routes, lambda queue: 1, availability=arrival)
    world.admit("a")
    claim = world.claim(terms=terms)
    missing = Cooldown(10.0, SMALL.model, "no such model", awaited=True)
    outcome = Outcome(claim.tasks[0], Ending.POSTPONED)
    world.ledger.outcomes.finish(claim, Report([outcome], cooldown=missing))

    assert claim.route == routes[0]
    assert (world.idle(terms=terms).because, world.idle(terms=terms).until) == (IdleReason.MODEL, START + 10.0)
    known["arrival"] = Availability.COMING
    world.clock.go(11.0)
    assert (world.idle(terms=terms).because, world.idle(terms=terms).until) == (IdleReason.MODEL, START + 21.0)
    known["arrival"] = Availability.UNKNOWN
    claim = world.claim(terms=terms)
    assert claim.route == routes[0]
    world.ledger.outcomes.finish(claim, Report([Outcome(claim.tasks[0], Ending.POSTPONED)], cooldown=missing))
    known["arrival"] = Availability.GIVEN_UP
    assert world.claim(terms=terms).route == routes[1]


OLLAMA, OPENAI = Route("ollama", SMALL.model), Route("openai", SMALL.model, "ollama", Why.BLOCKED)

ROUTES = [
    ("nothing stands in the way", False, False, Availability.UNKNOWN, OLLAMA),
    ("its model is being pulled", False, False, Availability.COMING, None),
    ("no pull brought it", False, False, Availability.GIVEN_UP, OPENAI),
    ("it has just vanished", False, True, Availability.UNKNOWN, None),
    ("it is missing, and is being pulled", False, True, Availability.COMING, None),
    ("it is missing, and no pull brought it", False, True, Availability.GIVEN_UP, OPENAI),
    ("a breaker is open", True, False, Availability.UNKNOWN, OPENAI),
    ("the server died while it pulled", True, False, Availability.COMING, OPENAI),
    ("the server died without its model", True, True, Availability.UNKNOWN, OPENAI),
]


@pytest.mark.parametrize(
    ("blocked", "missed", "availability", "taken"), [row[1:] for row in ROUTES], ids=[row[0] for row in ROUTES]
)
def test_what_is_out_is_stood_in_for_and_a_model_on_its_way_is_waited_for(
    world: World, blocked: bool, missed: bool, availability: Availability, taken: Route | None
) -> None:
    def known(route: Route) -> Availability:
        return availability if route == OLLAMA else Availability.UNKNOWN

    options = ClaimOptions(1, lambda queue: (OLLAMA, OPENAI), lambda queue: 1, availability=known)
    world.admit("a")
    if missed:
        lacking = Cooldown(10.0, SMALL.model, "no such model", awaited=True)
        claim = world.claim(terms=dataclasses.replace(options, availability=lambda route: Availability.UNKNOWN))
        world.ledger.outcomes.finish(claim, Report([Outcome(claim.tasks[0], Ending.POSTPONED)], cooldown=lacking))
    if blocked:
        world.change("UPDATE breakers SET state = 'open', opened_at = ? WHERE service = 'ollama'", world.clock.now)
    found = world.ledger.claims.claim(WORKER, options)

    assert (found.route if isinstance(found, Claim) else None) == taken


def test_nobody_waits_at_a_stand_in(world: World) -> None:
    """Nor does a route that is free, because a later one is awaited."""
    coming = {OLLAMA: Availability.GIVEN_UP, OPENAI: Availability.COMING}
    options = ClaimOptions(1, lambda queue: (OLLAMA, OPENAI), lambda queue: 1, availability=lambda route: coming[route])
    world.admit("a")

    assert world.idle(terms=options).because is IdleReason.MODEL
    coming[OLLAMA] = Availability.UNKNOWN
    assert world.claim(terms=options).route == OLLAMA


def test_a_pause_that_was_asked_for_counts_before_a_model_that_is_awaited(world: World) -> None:
    def routes(queue: QueueKey) -> tuple[Route, ...]:
        return (Route("ollama", queue.model), Route("openai", queue.model, "ollama", Why.BLOCKED))

    terms = ClaimOptions(1, routes, lambda queue: 1)
    for queue, model, awaited in ((SMALL, SMALL.model, True), (LARGE, None, False)):
        world.admit(queue.model, queue=queue)
        claim = world.claim(terms=terms)
        pause = Cooldown(300.0, model, "", awaited=awaited)
        world.ledger.outcomes.finish(claim, Report([Outcome(claim.tasks[0], Ending.POSTPONED)], cooldown=pause))

    assert world.claim(terms=terms).route == routes(SMALL)[1]


def test_of_several_reasons_to_wait_the_one_that_ends_first_wakes(world: World) -> None:
    later = ClaimOptions(
        1, lambda queue: (Route("ollama" if queue == TOPICS else "openai", queue.model),), lambda queue: 1
    )
    world.fail_until_open()
    world.clock.go(50.0)
    world.admit("topic", queue=TOPICS)
    claim = world.claim(terms=later)
    world.ledger.outcomes.finish(claim, report(claim.tasks, Ending.RETRY))
    idle = world.idle(terms=later)

    assert (idle.because, idle.until) == (IdleReason.BREAKER, START + 52.0)  # the topic, before the probe at 60


def test_a_paused_processor_keeps_its_type_waiting_and_no_other(world: World) -> None:
    for number in range(5):
        world.admit(f"t{number}")
        settled = world.run(Ending.BUG, Health.UNKNOWN)
    assert settled.paused_processor == SMALL.type
    world.admit("waits")
    assert (world.idle().because, world.idle().until) == (IdleReason.PROCESSOR, START + 3_600.0)
    world.admit("topic", queue=TOPICS)

    assert ids(world.claim()) == ["topic"]


# A clock that is set back


def test_when_the_clock_steps_back_nothing_waits_longer_than_it_ever_may(world: World) -> None:
    world.admit("retried")
    world.run(Ending.RETRY)
    world.clock.step(-86_400.0)
    assert world.idle().until == world.clock.now + 2.0
    world.clock.go(2.0)

    assert ids(world.claim()) == ["retried"]


def test_when_the_clock_steps_back_an_hour_a_try_after_a_second_does_not_wait_for_that_hour(world: World) -> None:
    world.admit("retried")
    world.run(Ending.RETRY)
    world.clock.step(-3_600.0)
    world.clock.go(3.0)

    assert ids(world.claim()) == ["retried"]


def test_when_the_clock_steps_back_an_open_breaker_is_probed_after_its_time(world: World) -> None:
    world.fail_until_open()
    world.clock.step(-86_400.0)
    world.admit("a")
    back = world.clock.now

    assert world.idle().because is IdleReason.BREAKER
    world.clock.now = back + 59.0
    assert world.idle().until == back + 60.0
    world.clock.now = back + 60.0
    assert world.claim().probe


@pytest.mark.parametrize("model", [SMALL.model, None])
def test_when_the_clock_steps_back_a_cooldown_lasts_no_longer(world: World, model: str | None) -> None:
    world.admit("a")
    claim = world.claim()
    world.ledger.outcomes.finish(
        claim,
        Report([Outcome(claim.tasks[0], Ending.POSTPONED)], cooldown=Cooldown(9e9, model, "429")),
    )
    assert world.idle().until == START + 3_600.0  # no cooldown is believed for longer
    world.clock.step(-60.0)
    assert world.idle().until == START - 60.0 + 3_600.0
    world.clock.go(3_600.0)

    assert ids(world.claim()) == ["a"]


def test_when_the_clock_steps_back_a_paused_processor_goes_on(world: World) -> None:
    for number in range(5):
        world.admit(f"t{number}")
        world.run(Ending.BUG, Health.UNKNOWN)
    world.admit("a")
    world.clock.step(-86_400.0)
    assert world.idle().until == START - 86_400.0 + 3_600.0
    world.clock.go(3_600.0)

    assert ids(world.claim()) == ["a"]
