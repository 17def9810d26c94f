"""What comes of a call: an outcome for each of its tasks, and how it failed as a whole; and what is logged of it.

Reports are pure; the worker acts on them. Warnings tell why a process may not go on: a limit or a budget is used up, a
price is missing, the disk is full. Of the first three, once a window each, the ledger tells the worker that finds it
first: over all there is one line and one count. Of a full disk, on which nothing is to be noted, each process speaks
for itself.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterable, Sequence

from aitp import errors
from aitp.ledger import breakers, duplicates, engine
from aitp.ledger.claims import Claim, Idle, IdleReason
from aitp.ledger.evidence import SETTINGS, Failure, Report, Settled
from aitp.logs import get_logger
from aitp.metrics import BUDGET_EXCEEDED, LIMIT_EXCEEDED, Metrics
from aitp.policy import costs, routing
from aitp.process.scoreboard import role_of
from aitp.processors import Result
from aitp.tasks import BreakerState, Culprit, Ending, Outcome, Task

# Parameters that a setting puts into a request, by the setting.
PARAMETERS = {setting: name for name, setting in SETTINGS.items()}
# Whose fault a failed call is presumed to be; the first that fits.
CULPRITS: Sequence[tuple[type[errors.RetryableError], Culprit]] = (
    (errors.CredentialsRefused, Culprit.ACCOUNT),
    (errors.ServiceFault, Culprit.SERVICE),
    (errors.ModelGone, Culprit.MODEL),
    (errors.SettingRefused, Culprit.REQUEST),
    (errors.RequestRefused, Culprit.INPUT),
    (errors.RetryableError, Culprit.ANSWER),
)
# What another provider may stand in for.
REPLACEABLE = frozenset({Culprit.SERVICE, Culprit.ACCOUNT, Culprit.ANSWER})
# A disk may be filled and emptied again and again around the bound: one pair of lines a minute tells that as well.
QUIET_SECONDS = 60.0

log = get_logger(__name__)


def report_of_results(claim: Claim, results: Sequence[Result]) -> Report:
    """The provider answered: each task has its result, or an error of its own."""
    outcomes = [_outcome(task, result) for task, result in zip(claim.tasks, results, strict=True)]
    useless = [outcome for outcome in outcomes if outcome.ending is Ending.RETRY]
    if len(useless) < len(outcomes) or not outcomes:
        return Report(outcomes)
    return Report(outcomes, Failure(Culprit.ANSWER, useless[0].reason))


def report_of_failure(claim: Claim, error: Exception, *, sent: bool, stranger: bool = False) -> Report:
    """The call as a whole failed. `sent`: a request had gone to the provider, so that the attempt counts.

    `stranger`: no setting names the model that was asked for.
    """
    reason = str(error)
    postponed = Ending.POSTPONED if sent else Ending.UNSENT
    match error:
        case errors.CooldownRequired() | errors.ServiceFault() if error.service != claim.provider:
            # What the answer needs besides the provider (Wikidata): neither the task's fault nor the provider's.
            return _all(claim, postponed, reason)
        case errors.CooldownRequired():
            pause = breakers.Cooldown(
                error.seconds,
                error.model,
                reason,
                awaited=isinstance(error, errors.ModelMissing),
                guessed=not error.told,
                counts=bool(claim.route.waits),
            )
            return _all(claim, postponed, reason, pause)
        case errors.NoRoom():
            return _all(claim, postponed, reason)
        case errors.RetryableError():
            culprit = next(culprit for kind, culprit in CULPRITS if isinstance(error, kind))
            failure = Failure(
                culprit,
                reason,
                named=error.named,
                parameter=PARAMETERS.get(error.parameter, error.parameter),
                stranger=stranger,
                sent=error.sent,
                patience=len(claim.route.waits),
            )
            outcomes = [
                Outcome(task, Ending.RETRY, reason=reason, culprit=culprit, times=error.answers) for task in claim.tasks
            ]
            return Report(outcomes, failure, at_least=error.wait)
        case errors.NonRetryableError():
            return _all(claim, Ending.FAILED, reason)
        case MemoryError() | OSError() | errors.LedgerError():
            return _all(claim, postponed, "this machine is in trouble")
        case _:
            ending = Ending.SPLIT if len(claim.tasks) > 1 else Ending.BUG
            return _all(claim, ending, f"unexpected {type(error).__name__}")


def with_next_route(report: Report, claim: Claim, routes: Iterable[routing.Route]) -> Report:
    """The same, with who is asked next, of the `routes` of the claim's queue.

    Where the provider's own rules say how long to wait, another one takes over after all of these waits. Else what it
    failed at goes to the next one at once, if there is one, instead of back to this one.
    """
    if waits := claim.route.waits:
        stands_in = any(route.most_per_day is not None for route in routes)
        return dataclasses.replace(report, waits=waits, has_stand_in=stands_in)
    is_last = claim.route.most_per_day is not None or bool(claim.queue.failed_at)
    if is_last or all(route.provider == claim.provider for route in routes):
        return report
    if report.failure is not None and report.failure.culprit not in REPLACEABLE:
        return report
    outcomes = [
        outcome._replace(ending=Ending.FALLBACK) if outcome.ending is Ending.RETRY else outcome
        for outcome in report.outcomes
    ]
    return dataclasses.replace(report, outcomes=outcomes)


def _outcome(task: Task, result: Result) -> Outcome:
    if isinstance(result, bytes):
        return Outcome(task, Ending.SUCCEEDED, result)
    if isinstance(result, errors.NonRetryableError):
        return Outcome(task, Ending.FAILED, reason=str(result))
    return Outcome(task, Ending.RETRY, reason=str(result), culprit=Culprit.ANSWER, named=result.named)


def _all(claim: Claim, ending: Ending, reason: str, cooldown: breakers.Cooldown | None = None) -> Report:
    return Report([Outcome(task, ending, reason=reason) for task in claim.tasks], None, cooldown)


def warn_of_idleness(idle: Idle, metrics: Metrics) -> None:
    """Log and count what `idle` is to be warned about."""
    now = time.time()
    for period, use in idle.exceeded.items():
        metrics.count(LIMIT_EXCEEDED, period)
        log.warning(
            "Rate limit exceeded, skipping task processing",
            period=period.value,
            current=use.current,
            limit=use.limit,
            frees_in_seconds=None if use.frees_at is None else round(max(0.0, use.frees_at - now), 1),
        )
    for budget in idle.overspent:
        metrics.count(BUDGET_EXCEEDED, budget.period)
        log.warning(
            "Budget exceeded, skipping task processing",
            period=budget.period,
            currency=budget.use.currency,
            spent=costs.amount(budget.use.spent_nano),
            reserved=costs.amount(budget.use.reserved_nano),
            budget=costs.amount(budget.use.allowed_nano or 0),
            needed=costs.amount(budget.needed_nano),
            frees_in_seconds=round(max(0.0, budget.use.ends_at - now), 1),
        )
    for model in idle.unpriced:
        log.error(
            "Model has no price, its tasks wait: a budget is in force",
            model=model,
            provider=idle.service,
            advice="give it a price in the file that PRICES names, and reload",
        )


class IntakeWatch:
    """Says that `what` (task processing, polling) stops while the disk of `ledger` is nearly full, and that it goes on;
    or that it stops for good, because another host has brought the ledger to the next release.

    Each once, however often somebody looks meanwhile.
    """

    def __init__(self, ledger: engine.Place, what: str) -> None:
        self._ledger = ledger
        self._what = what
        self._stopped = False
        self._quiet_until = 0.0
        self._is_outdated = False

    def heed(self, because: IdleReason | None, now: float) -> None:
        """`because`: what a claim or poll was refused for; None if it was not, or is not due. `now`: monotonic."""
        if because is IdleReason.PAUSED or self._is_outdated:
            return  # a pause comes first: nobody has looked at the disk
        if because is IdleReason.UPGRADE:
            self._is_outdated = True
            text = "Ledger is of the next release, new work waits: upgrade this host"
            log.warning(text, stopped=self._what, path=str(self._ledger))
        elif because is IdleReason.DISK:
            if not self._stopped and now >= self._quiet_until:
                self._stopped, self._quiet_until = True, now + QUIET_SECONDS
                text, needed = "Ledger's disk is nearly full, new work waits", engine.DISK_RESERVE_BYTES // 10**6
                log.warning(text, stopped=self._what, path=str(self._ledger), needs_free_mb=needed)
        elif self._stopped:
            self._stopped = False
            log.info("Ledger's disk has room again", goes_on=self._what)


def tell_of_breaker(change: breakers.BreakerChange) -> None:
    """A line for a breaker that opened, closed or lets a probe through."""
    tell = log.error if change.state == BreakerState.OPEN else log.info
    tell(f"Circuit breaker is {change.state}", service=change.service, reason=change.reason)


def tell_of_reuse(reused: Iterable[duplicates.Reused], metrics: Metrics) -> None:
    """A line for each task that got the result of another, and its place in the counts."""
    for task in reused:
        metrics.result_reused(task.type)
        log.info("Result reused", task_id=task.id, task_type=task.type, duplicate_of=task.of)


def tell_of_release(owner: int, settled: Settled, host: str = "") -> None:
    """A line for each task that a former process left behind; `host`: in a fleet, which one's it was."""
    slot = owner % engine.HOST_SLOTS
    role = role_of(slot).value
    for outcome in settled.outcomes:
        log.warning(
            "Task of a former process put back, it may be bought again",
            task_id=outcome.task.id,
            task_type=outcome.task.queue.type,
            former=f"{role} {slot}",
            **({"former_host": host} if host else {}),
            ending=outcome.ending.value,
            reason=outcome.reason,
        )
