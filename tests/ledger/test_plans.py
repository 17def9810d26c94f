"""No query grows with history: what relays and workers ask all day is served by indexes, whatever the tables hold."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from aitp.ledger.engine import Fleet
from aitp.ledger.evidence import Failure, Report
from aitp.ledger.outbox import DeliveryOutcome, Fault
from aitp.ledger.outcomes import Cause
from aitp.ledger.queue import LedgerConfig
from aitp.ledger.session import numbered
from aitp.tasks import Culprit, Ending, Health, Outcome
from tests.ledger.conftest import Create
from tests.ledger.world import ALONE, LARGE, POLLING, RELAY, WORKER, World, set_limits, terms

# A walk over one of these is a walk over what is claimed, ready or waiting now: it is counted there, no row is read.
BOUNDED = tuple(f"tasks_{name}" for name in ("claimed", "ready", "later", "duplicates"))
GROWING = ("tasks", "evidence", "task_completions", "tombstones", "results", "contents")

Recorded = dict[str, Any]  # statement → what was bound to it


@contextmanager
def recorded(world: World) -> Iterator[Recorded]:
    """All statements that are executed meanwhile."""
    statements: Recorded = {}
    if isinstance(world.place, Path):
        connection = world.file.connection
        connection.exec_trace = lambda cursor, statement, bindings: not statements.update({statement: bindings})
        yield statements
        connection.exec_trace = None
        return
    made = world.postgres._statements
    execute, executemany = made.execute, made.executemany

    def remember(statement: str, bindings: Sequence[Any] = ()) -> Any:
        statements[statement] = bindings
        return execute(statement, bindings)

    def remember_many(statement: str, bindings: Iterable[Sequence[Any]]) -> Any:
        rows = list(bindings)
        if rows:
            statements[statement] = rows[0]
        return executemany(statement, rows)

    with pytest.MonkeyPatch.context() as patches:
        patches.setattr(made, "execute", remember)
        patches.setattr(made, "executemany", remember_many)
        yield statements


def scans(world: World, statements: Recorded) -> list[str]:
    """Steps of these statements' plans that walk a table which grows."""
    walks = walks_of_the_file if isinstance(world.place, Path) else walks_of_the_fleet
    return [
        f"{step}: {' '.join(statement.split())}"
        for statement, bindings in statements.items()
        if statement.split()[0] in ("SELECT", "UPDATE", "DELETE", "INSERT", "WITH")
        for step in walks(world, statement, bindings or ())
    ]


def walks_of_the_file(world: World, statement: str, bindings: Sequence[Any]) -> Iterator[str]:
    for _, _, _, step in world.rows(f"EXPLAIN QUERY PLAN {statement}", *bindings):
        words = step.split()
        is_bounded = step.endswith(tuple(f"COVERING INDEX {index}" for index in BOUNDED))
        if words[0] == "SCAN" and words[1] in GROWING and not is_bounded:
            yield step


# PostgreSQL plans by what it knows of the tables, which is always stale.


def walks_of_the_fleet(world: World, statement: str, bindings: Sequence[Any]) -> Iterator[str]:
    """Of the plan for these values, and of the one for any, which the server keeps after the fifth time."""
    prepared, execute = as_prepared("planned", statement, bindings)
    line = world.postgres._connection
    line.execute(prepared, prepare=False)
    line.execute(b"SET plan_cache_mode = force_generic_plan")
    any_s = line.execute(execute).fetchone()
    line.execute(b"RESET plan_cache_mode; DEALLOCATE planned", prepare=False)
    assert any_s is not None
    for plan in (world.value(f"EXPLAIN (FORMAT JSON) {statement}", *bindings), any_s[0]):
        yield from filter(None, walks_in(plan[0]["Plan"]))


def as_prepared(name: str, statement: str, bindings: Sequence[Any]) -> tuple[bytes, bytes]:
    """What prepares it, and what tells the plan that is kept of it."""
    types = ", ".join({int: "bigint", bool: "bigint", float: "float8"}.get(type(each), "unknown") for each in bindings)
    anything = ", ".join("NULL" for _ in bindings)
    prepared = f"PREPARE {name} {types and f'({types})'} AS {numbered(statement)}"
    return prepared.encode(), f"EXPLAIN (FORMAT JSON) EXECUTE {name}{anything and f'({anything})'}".encode()


def walks_in(plan: dict[str, Any], *, stops: bool = False) -> Iterator[str]:
    """`stops`: at the first few rows."""
    yield walk(plan, stops)
    for part in plan.get("Plans", ()):
        yield from walks_in(part, stops=plan["Node Type"] == "Limit")


def walk(step: dict[str, Any], stops: bool) -> str:
    """Which table it walks, if one that grows."""
    kind, table, index = step["Node Type"], step.get("Relation Name", ""), step.get("Index Name", "")
    bounds = step.get("Index Cond", "")
    reads_on = step.get("Filter") and re.fullmatch(r"\(\w+ IS NOT NULL\)", bounds)
    if stops and "Filter" not in step:
        return ""
    if table not in GROWING or "Scan" not in kind or "Bitmap Heap" in kind or (bounds and not reads_on):
        return ""
    return "" if index in BOUNDED else f"{kind} {table} {index}".strip()


def in_every_state(world: World) -> Iterator[str]:
    """States of what the server knows of the tables, and of the tables."""
    if isinstance(world.place, Path):
        yield "as it is"
        return
    yield "new"
    world.change(LOOK)
    yield "just looked at"
    for filling in FILLING:
        world.change(filling)
    yield "filled since it was looked at"
    world.change(LOOK)
    yield "full"
    for table in ("results", "tasks", "task_completions", "tombstones"):
        world.change(f"DELETE FROM {table}")
    yield "emptied since it was looked at"


EXPLAINED: set[str] = set()
SMALL_STATES = ("new", "just looked at", "emptied since it was looked at")
LOOK = f"ANALYZE {', '.join(GROWING)}"
FILLING = (
    "INSERT INTO tasks (id, queue, state, entered_sequence, entered_at)"
    " SELECT 'past' || n, 1, 'dead', 1, 1 FROM generate_series(1, 2000) AS n",
    "INSERT INTO results (seq, status, finished_at) SELECT seq, 'failed', 1 FROM tasks WHERE id LIKE 'past%'",
    "INSERT INTO evidence (seq, world, good_before, service_before, account_before, input_before, answer_before)"
    " SELECT seq, 1000 + seq % 100, 1, 0, 0, 0, 0 FROM tasks WHERE id LIKE 'past%'",
    "INSERT INTO task_completions (id, completed_at, task_type, task_id, is_first)"
    " SELECT n + 1000, n, 't', n, 1 FROM generate_series(1, 2000) AS n",
    "INSERT INTO tombstones SELECT 'past' || n, n, n FROM generate_series(1, 2000) AS n",
)


@pytest.fixture(params=["rolling", "fixed"])
def world(request: pytest.FixtureRequest, create: Create) -> World:
    world = create(LedgerConfig(breaker_threshold=2))
    limits = dict.fromkeys(("minute", "hour", "day", "week", "month"), 60)
    set_limits(world.ledger, request.param, "America/Sao_Paulo", limits)
    world.admit(*(f"t{number}" for number in range(30)))
    world.admit("other", queue=LARGE)
    return world


def assert_no_scans(world: World, statements: Recorded, at_least: int) -> None:
    assert len(statements) >= at_least
    if not isinstance(world.place, Path):  # each once: there are five states of the tables, and two plans in each
        statements = {each: bound for each, bound in statements.items() if each not in EXPLAINED}
        EXPLAINED.update(statements)
    for state in in_every_state(world) if statements else ():
        found = scans(world, statements)
        if state in SMALL_STATES:  # there it may walk the few rows that there are, but keeps to the indexes
            found = [each for each in found if each.startswith("Seq Scan")]
        assert (state, found) == (state, [])


def test_claims(world: World) -> None:
    with recorded(world) as statements:
        world.claim()
        world.claim()  # what it still had goes back
        world.ledger.claims.claim(WORKER + 1, ALONE)
        world.ledger.claims.claim(WORKER + 2, ALONE)
        world.clock.go(5_000.0)
        world.ledger.outcomes.release(WORKER, Cause.STOPPED)
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
        optional = {"dimensions"} - set(claim.world.left_out)
        world.ledger.outcomes.finish(claim, Report(outcomes, Failure(culprit, "said the test"), optional=[*optional]))

    with recorded(world) as statements:
        for _ in range(8):
            fail()  # suspects, halves, rows, a pause or a breaker, a request that adapts, probes
            world.clock.go(3_600.0)
        world.finish(world.claim())  # and all return
    world.admit("late1", "late2")
    with recorded(world) as more:
        claims = [world.claim(slot, terms(batch=1)) for slot in (WORKER, WORKER + 1)]
        assert world.ledger.claims.again(claims[0])
        world.ledger.outcomes.release(WORKER, Cause.DEADLINE)

    assert_no_scans(world, statements | more, 40)


@pytest.mark.parametrize("cause", list(Cause))
def test_releases(world: World, cause: Cause) -> None:
    world.claim()
    with recorded(world) as statements:
        world.ledger.outcomes.release(WORKER, cause)

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


@pytest.mark.slow
def test_plans_that_are_kept_from_the_first_completion_walk_none_of_those_that_come_later(
    folder: Path, fleet: Fleet
) -> None:
    with closing(World.create(folder, fleet, minute=60, hour=60)) as world:
        world.admit("first", "second")
        with recorded(world) as statements:
            world.finish(world.claim(terms=terms(batch=1)))
            world.run()
        world.change("DELETE FROM task_completions WHERE id > 1")
        world.change(LOOK)
        line = world.postgres._connection
        line.execute(b"SET plan_cache_mode = force_generic_plan")
        counting = {each: bound for each, bound in statements.items() if "FROM task_completions" in each}
        planned = [as_prepared(f"kept{number}", *each) for number, each in enumerate(counting.items())]
        for prepared, execute in planned:
            line.execute(prepared, prepare=False)
            line.execute(execute, prepare=False)
        for filling in FILLING:
            world.change(filling)

        assert len(planned) >= 3
        for _, execute in planned:
            plan = line.execute(execute, prepare=False).fetchone()
            assert plan is not None
            assert (execute, [*filter(None, walks_in(plan[0][0]["Plan"]))]) == (execute, [])


def test_a_scan_would_be_found(world: World) -> None:
    asked = {"SELECT * FROM tasks WHERE attempts = ?": (1,), "SELECT id FROM tasks WHERE seq = ?": (1,)}

    [found] = {said.partition(": ")[2] for said in scans(world, asked)}
    assert found == "SELECT * FROM tasks WHERE attempts = ?"
