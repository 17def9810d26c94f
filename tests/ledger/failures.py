"""Calls that fail, and what is to be seen of it: for tests of suspects, worlds and requests."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

from aitp.ledger.claims import Claim
from aitp.ledger.evidence import Failure, Report, Settled
from aitp.tasks import Culprit, Ending, Outcome
from tests.ledger.world import (
    OTHER_WORKER,
    SMALL,
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
    return world.ledger.outcomes.finish(claim, failed(claim, culprit, **about))  # type: ignore[arg-type]


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


def fail_at_next_probe(world: World, culprit: Culprit) -> Outcome:
    world.clock.go(AN_HOUR)
    [outcome] = fail(world, culprit=culprit).outcomes
    return outcome


def pause_world(world: World) -> None:
    """Its tasks wait, of which there are five."""
    fail_each(world, 5, ANSWER, prefix=f"w{next(NUMBERS)}-")
    assert pauses(world) == [SMALL.model]
