"""What comes of a call: an ending for each of its tasks, and a word about the provider. Pure; the worker acts on it."""

from __future__ import annotations

import dataclasses

from aitp.errors import (
    CooldownRequired,
    CredentialsRefused,
    DeadlineExceeded,
    GraceOver,
    InputRefused,
    LedgerError,
    ModelMissing,
    NonRetryableError,
    RetryableError,
    ServiceFault,
)
from aitp.ledger import Claim, Cooldown, Report
from aitp.processors import Answer
from aitp.tasks import Ending, Health, Outcome, Task


def report_of_answer(claim: Claim, answer: Answer) -> Report:
    """The provider answered: each task has its result, or an error of its own."""
    outcomes = [_outcome(task, result) for task, result in zip(claim.tasks, answer.results, strict=True)]
    return Report(outcomes, Health.HEALTHY)


def report_of_failure(claim: Claim, error: Exception, *, sent: bool) -> Report:
    """The call as a whole failed. `sent`: a request had gone to the provider, so that the attempt counts."""
    report = _report(claim, error)
    if sent or not any(outcome.ending in (Ending.POSTPONED, Ending.ABANDONED) for outcome in report.outcomes):
        return report
    outcomes = [outcome._replace(ending=Ending.UNSENT) for outcome in report.outcomes]
    return dataclasses.replace(report, outcomes=outcomes)


def _report(claim: Claim, error: Exception) -> Report:
    reason = str(error)
    match error:
        case GraceOver():
            return _all(claim, Ending.ABANDONED, "the service stopped before the answer came", Health.UNKNOWN)
        case DeadlineExceeded():
            return _all(claim, Ending.RETRY, reason, Health.FAULTY)
        case CooldownRequired() | ServiceFault() if error.service != claim.provider:
            # What the answer needs besides the provider (Wikidata): neither the task's fault nor the provider's.
            return _all(claim, Ending.POSTPONED, reason, Health.UNKNOWN)
        case CredentialsRefused():
            return _all(claim, Ending.POSTPONED, reason, Health.REFUSED)
        case CooldownRequired():
            pause = Cooldown(error.seconds, error.model, reason, awaited=isinstance(error, ModelMissing))
            return _all(claim, Ending.POSTPONED, reason, Health.HEALTHY, pause)
        case ServiceFault():
            return _all(claim, Ending.RETRY, reason, Health.FAULTY)
        case RetryableError():
            return _all(claim, Ending.RETRY, reason, Health.HEALTHY)
        case InputRefused():
            return _all(claim, Ending.SPLIT if len(claim.tasks) > 1 else Ending.FAILED, reason, Health.HEALTHY)
        case NonRetryableError():
            return _all(claim, Ending.FAILED, reason, Health.HEALTHY)
        case MemoryError() | OSError() | LedgerError():
            return _all(claim, Ending.POSTPONED, "this machine is in trouble", Health.UNKNOWN)
        case _:
            ending = Ending.SPLIT if len(claim.tasks) > 1 else Ending.BUG
            return _all(claim, ending, f"unexpected {type(error).__name__}", Health.UNKNOWN)


def with_fallback(report: Report) -> Report:
    """The same, but what its provider failed at goes to the next one at once instead of back to this one."""
    outcomes = [
        outcome._replace(ending=Ending.FALLBACK) if outcome.ending is Ending.RETRY else outcome
        for outcome in report.outcomes
    ]
    return dataclasses.replace(report, outcomes=outcomes)


def _outcome(task: Task, result: bytes | RetryableError | NonRetryableError) -> Outcome:
    if isinstance(result, bytes):
        return Outcome(task, Ending.SUCCEEDED, result)
    ending = Ending.RETRY if isinstance(result, RetryableError) else Ending.FAILED
    return Outcome(task, ending, reason=str(result))


def _all(claim: Claim, ending: Ending, reason: str, health: Health, cooldown: Cooldown | None = None) -> Report:
    return Report([Outcome(task, ending, reason=reason) for task in claim.tasks], health, reason, cooldown)
