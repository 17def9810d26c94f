"""No query grows with history: what relays and workers ask all day is served by indexes, whatever the tables hold."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from aitp.ledger import Cause, DeliveryOutcome, Failure, Fault, LedgerConfig, Report
from aitp.tasks import Culprit, Ending, Health, Outcome
from tests.ledger.conftest import Create
from tests.ledger.world import ALONE, LARGE, POLLING, RELAY, WORKER, World, terms

# A walk over one of these is a walk over what is claimed, ready or waiting now: it is counted there, no row is read.
BOUNDED = tuple(f"COVERING INDEX tasks_{name}" for name in ("claimed", "ready", "later"))
GROWING = ("tasks", "evidence", "task_completions", "tombstones", "results", "contents")


Recorded = dict[str, Any]  # statement → what was bound to it


@contextmanager
def recorded(world: World) -> Iterator[Recorded]:
    """All statements that are executed meanwhile."""
    statements: Recorded = {}

    def remember(cursor: Any, statement: str, bindings: Any) -> bool:
        statements[statement] = bindings
        return True

    connection = world.database.connection
    connection.exec_trace = remember
    yield statements
    connection.exec_trace = None


def scans(world: World, statements: Recorded) -> list[str]:
    """Steps of these statements' plans that walk a table which grows."""
    found = []
    for statement, bindings in statements.items():
        if statement.split()[0] not in ("SELECT", "UPDATE", "DELETE", "INSERT", "WITH"):
            continue
        for _, _, _, step in world.rows(f"EXPLAIN QUERY PLAN {statement}", *(bindings or ())):
            words = step.split()
            if words[0] == "SCAN" and words[1] in GROWING and not step.endswith(BOUNDED):
                found.append(f"{step}: {' '.join(statement.split())}")
    return found


@pytest.fixture(params=["rolling", "fixed"])
def world(request: pytest.FixtureRequest, create: Create) -> World:
    world = create(LedgerConfig(breaker_threshold=2))
    limits = dict.fromkeys(("minute", "hour", "day", "week", "month"), 60)
    world.ledger.limits.publish(request.param, "America/Sao_Paulo", limits)
    world.admit(*(f"t{number}" for number in range(30)))
    world.admit("other", queue=LARGE)
    return world


def assert_no_scans(world: World, statements: Recorded, at_least: int) -> None:
    assert len(statements) >= at_least
    assert scans(world, statements) == []


def test_claims(world: World) -> None:
    with recorded(world) as statements:
        world.claim()
        world.claim()  # what it still had goes back
        world.ledger.claims.claim(WORKER + 1, ALONE)
        world.ledger.claims.claim(WORKER + 2, ALONE)
        world.clock.go(5_000.0)
        world.ledger.claims.release(WORKER, Cause.STOPPED)
        world.ledger.claims.claim(WORKER, ALONE)

    assert_no_scans(world, statements, 15)


@pytest.mark.parametrize("health", list(Health))
def test_finishes(world: World, health: Health) -> None:
    with recorded(world) as statements:
        for ending in Ending:
            world.finish(world.claim(terms=terms(batch=2)), ending, health)
            world.clock.go(86_400.0)  # past cooldowns, pauses, probes and limits, whatever this led to

    assert_no_scans(world, statements, 25)


@pytest.mark.parametrize("culprit", [Culprit.SERVICE, Culprit.ACCOUNT, Culprit.INPUT, Culprit.ANSWER, Culprit.MODEL])
def test_judgements(world: World, culprit: Culprit) -> None:
    def fail() -> None:
        claim = world.claim(terms=terms(batch=3))
        outcomes = [Outcome(task, Ending.RETRY, culprit=culprit) for task in claim.tasks]
        world.ledger.claims.finish(claim, Report(outcomes, Failure(culprit, "said the test"), optional=["dimensions"]))

    with recorded(world) as statements:
        for _ in range(8):
            fail()  # suspects, halves, rows, a pause or a breaker, a request that adapts, probes
            world.clock.go(3_600.0)
        world.finish(world.claim())  # and all return
    world.admit("late1", "late2")
    with recorded(world) as more:
        claims = [world.claim(slot, terms(batch=1)) for slot in (WORKER, WORKER + 1)]
        assert world.ledger.claims.again(claims[0])
        world.ledger.claims.release(WORKER, Cause.DEADLINE)

    assert_no_scans(world, statements | more, 40)


@pytest.mark.parametrize("cause", list(Cause))
def test_releases(world: World, cause: Cause) -> None:
    world.claim()
    with recorded(world) as statements:
        world.ledger.claims.release(WORKER, cause)

    assert_no_scans(world, statements, 10)


@pytest.mark.parametrize("verdict", list(DeliveryOutcome))
def test_deliveries(world: World, verdict: DeliveryOutcome) -> None:
    world.run()
    with recorded(world) as statements:
        for fault in (None, Fault("api", Health.FAULTY, "503")):
            for delivery in world.take(most=2):
                world.ledger.outbox.settle(delivery, verdict, fault=fault)
        world.clock.go(100.0)
        world.ledger.outbox.take(RELAY, 8)

    assert_no_scans(world, statements, 10)


def test_looking_for_a_poll(world: World) -> None:
    world.listing()
    with recorded(world) as statements:
        world.ledger.inbox.begin_poll(RELAY, POLLING)

    assert_no_scans(world, statements, 5)


def test_a_scan_would_be_found(world: World) -> None:
    asked = {"SELECT * FROM tasks WHERE attempts = ?": (1,), "SELECT id FROM tasks WHERE seq = ?": (1,)}

    assert scans(world, asked) == ["SCAN tasks: SELECT * FROM tasks WHERE attempts = ?"]
