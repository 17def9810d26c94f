"""Is all well? One sentence for whoever looks for five seconds, and if not: why, and what to do. Pure, over one moment.

Three levels. BAD: the service cannot do its work. LOOK: it works, or will in a moment, but a person should know
something. WELL: neither; that it waits for a moment, because a limit or a provider wants it so, is part of its work.
Called for the page at `/`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

from aitp.ledger.stats import History, Minute, Snapshot
from aitp.prices import amount
from aitp.process.scoreboard import Role, role_of
from aitp.providers.inventory import Stage
from aitp.settings import Settings
from aitp.web.facts import Facts
from aitp.web.figures import counted, duration
from aitp.web.readiness import (
    DRAINING,
    MODELS,
    Problem,
    about_breaker,
    about_model,
    about_quarantine,
    quarantine_problem,
)

OUTBOX_SECONDS = 300.0  # a result that waits longer than its first few tries take
LONG_WAIT_SECONDS = 120.0  # for room in a limit, or for the end of a pause
FAILED_SHARE, FAILED_TASKS = 0.1, 5  # of the last hour's tasks


class Level(StrEnum):
    """How well it is."""

    WELL = "well"
    LOOK = "look"
    BAD = "bad"


@dataclass(frozen=True, slots=True)
class Verdict:
    """`sentence` changes only when the state does; `points` are the reasons, the gravest first."""

    level: Level
    sentence: str
    points: tuple[Problem, ...] = ()


def judge(
    facts: Facts, history: History, settings: Settings, health: Sequence[Problem], readiness: Sequence[Problem]
) -> Verdict:
    """What to say of this moment. `health` and `readiness`: the problems, as /health and /ready tell them."""
    remarks = tuple(_remarks(facts, history, settings, frozenset(problem.about for problem in readiness)))
    points = (*readiness, *remarks)
    if health:
        return Verdict(Level.BAD, "The service is not running." if facts.master is None else "Not well.", points)
    if any(not problem.passing for problem in readiness):
        return Verdict(Level.BAD, "Running, but it cannot do its work.", points)
    if readiness:
        return Verdict(Level.LOOK, _passing_sentence(facts, readiness), points)
    if settings.mock:
        return Verdict(Level.LOOK, "It works, but every result is invented.", points)
    if any(not remark.passing for remark in remarks):
        return Verdict(Level.LOOK, "It works, but take a look.", points)
    return Verdict(Level.WELL, "All is well.", points)


def _passing_sentence(facts: Facts, readiness: Sequence[Problem]) -> str:
    if facts.ledger is not None and facts.ledger.paused:
        return "Paused: nothing new is taken."
    if any(problem.about == DRAINING for problem in readiness):
        return "Stopping."
    return "Starting."


def _remarks(facts: Facts, history: History, settings: Settings, told: frozenset[str]) -> Iterator[Problem]:
    """`told`: what readiness has told of (see `Problem.about`)."""
    if facts.ledger is not None:
        yield from remarks_on_room(facts.ledger)
        yield from _outbox_remarks(facts.ledger)
        yield from _service_remarks(facts.ledger, told)
    yield from _failure_remarks(history)
    yield from _crew_remarks(facts, settings)
    if facts.stock is not None:
        yield from _model_remarks(facts, told)
    for each in facts.retirements:
        if each.is_near(facts.now):
            yield Problem(each.told(facts.now), f"{each.advice}, and reload (HUP).")


def remarks_on_room(ledger: Snapshot) -> Iterator[Problem]:
    """Which limits and budgets have no room, and when there is some again: for `aitp status` as well."""
    yield from _limit_remarks(ledger)
    yield from _budget_remarks(ledger)


def _limit_remarks(ledger: Snapshot) -> Iterator[Problem]:
    for period, use in ledger.limits.items():
        if use.remaining == 0:
            wait = 0.0 if use.frees_at is None else use.frees_at - ledger.taken_at
            room = "when a call ends" if use.frees_at is None else f"in {duration(wait)}"
            yield Problem(
                f"the limit per {period} is used up ({use.current:,} of {use.limit:,}): there is room again {room}",
                f"Tasks wait, none is lost. To go on now, raise RATE_LIMIT_PER_{period.upper()} and reload (HUP).",
                passing=wait < LONG_WAIT_SECONDS,
            )


def _budget_remarks(ledger: Snapshot) -> Iterator[Problem]:
    for period, use in ledger.budgets.items():
        if use.frees_at is not None and use.allowed_nano is not None:
            wait = use.frees_at - ledger.taken_at
            spent = f"{amount(use.spent_nano)} of {amount(use.allowed_nano)} {use.currency}"
            yield Problem(
                f"the budget of the {period} keeps tasks back ({spent} spent): there is room again in {duration(wait)}",
                f"Tasks wait, none is lost. To go on now, raise BUDGET_PER_{period.upper()} and reload (HUP).",
                passing=wait < LONG_WAIT_SECONDS,
            )


def _outbox_remarks(ledger: Snapshot) -> Iterator[Problem]:
    if ledger.dead:
        yield Problem(
            f"{counted(ledger.dead, 'result')} refused by the task API: dead letters",
            "`aitp dead list` says why; then `aitp dead retry` or `drop`.",
        )
    if ledger.finished and ledger.oldest_finished_age > OUTBOX_SECONDS:
        yield Problem(
            f"a result has been waiting for its delivery for {duration(ledger.oldest_finished_age)}",
            "It is tried again by itself; see the last errors and the breakers of api and oauth.",
        )
    if ledger.unreadable:
        yield Problem(
            f"{counted(ledger.unreadable, 'document')} of the task API cannot be read: left pending there",
            "The log names each once; a newer release may know their type.",
        )


def _service_remarks(ledger: Snapshot, told: frozenset[str]) -> Iterator[Problem]:
    for service, breaker in ledger.breakers.items():
        if breaker.state != "closed" and about_breaker(service) not in told:
            reason = f": {breaker.reason}" if breaker.reason else ""
            yield Problem(
                f"the circuit breaker of {service} is {breaker.state}{reason}",
                "It is probed by itself; until then another provider answers, or what needs it waits.",
            )
    for quarantine in ledger.quarantines:
        if about_quarantine(quarantine) not in told:
            yield quarantine_problem(quarantine)
    for profile in ledger.profiles:
        yield Problem(
            f"requests for {profile.model} ({profile.provider}) do without {', '.join(profile.left_out)}:"
            f" {profile.reason}",
            "Nothing needs to be done: it is tried again after a day, or with other settings.",
            passing=True,
        )
    for pause in ledger.cooldowns:
        what = f"{pause.model} of {pause.provider}" if pause.model else pause.provider
        yield Problem(
            f"calls to {what} pause: {pause.reason}",
            f"They go on in {duration(pause.until - ledger.taken_at)}; what needs them waits, and nothing is lost.",
            passing=pause.until - ledger.taken_at < LONG_WAIT_SECONDS,
        )


def many_failed(minutes: Sequence[Minute]) -> bool:
    """Whether more tasks failed than some odd ones that always do."""
    failed, ended = _ended(minutes)
    return failed >= FAILED_TASKS and failed >= FAILED_SHARE * ended


def _ended(minutes: Sequence[Minute]) -> tuple[int, int]:
    """Tasks that failed, and all that reached an end."""
    failed = sum(minute.failed for minute in minutes)
    return failed, failed + sum(minute.succeeded for minute in minutes)


def _failure_remarks(history: History) -> Iterator[Problem]:
    if many_failed(history.minutes):
        failed, ended = _ended(history.minutes)
        yield Problem(f"{failed:,} of {ended:,} tasks failed in the last hour", "The last errors below say why.")


def _crew_remarks(facts: Facts, settings: Settings) -> Iterator[Problem]:
    if not facts.children:
        return  # readiness has said so
    for role, wanted in ((Role.RELAY, settings.relay_processes), (Role.WORKER, settings.concurrency_limit)):
        there = sum(role_of(child.slot) is role for child in facts.children)
        if there < wanted:
            yield Problem(f"{there} of {counted(wanted, role.value)} are there", "The master starts the others again.")


def _model_remarks(facts: Facts, told: frozenset[str]) -> Iterator[Problem]:
    assert facts.stock is not None
    if facts.stock.problem and MODELS not in told:
        yield Problem(f"Ollama cannot be asked for its models: {facts.stock.problem}", "OpenAI answers in its place.")
    for name, state in facts.stock.models.items():
        if state.stage is Stage.FAILED and about_model(name) not in told:
            yield Problem(f"the model {name} could not be pulled: {state.reason}", "OpenAI answers in its place.")
