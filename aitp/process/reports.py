"""What comes of a call: an ending for each of its tasks, and how it failed as a whole. Pure; the worker acts on it."""

from __future__ import annotations

import dataclasses

from aitp.errors import (
    CooldownRequired,
    CredentialsRefused,
    DeadlineExceeded,
    GraceOver,
    InputRefused,
    LedgerError,
    ModelGone,
    ModelMissing,
    ModelRefused,
    NonRetryableError,
    NoRoom,
    RequestRefused,
    RetryableError,
    ServiceFault,
    SettingRefused,
    UselessAnswer,
)
from aitp.ledger import Claim, Cooldown, Failure, Report
from aitp.ledger.evidence import SETTINGS
from aitp.processors import Answer
from aitp.tasks import Culprit, Ending, Outcome, Task

# Parameters that a setting puts into a request, by the setting.
PARAMETERS = {setting: name for name, setting in SETTINGS.items()}
# What another provider may stand in for.
REPLACEABLE = frozenset({Culprit.SERVICE, Culprit.ACCOUNT, Culprit.ANSWER})


def report_of_answer(claim: Claim, answer: Answer) -> Report:
    """The provider answered: each task has its result, or an error of its own."""
    outcomes = [_outcome(task, result) for task, result in zip(claim.tasks, answer.results, strict=True)]
    useless = [outcome for outcome in outcomes if outcome.ending is Ending.RETRY]
    if len(useless) < len(outcomes):
        return Report(outcomes)
    return Report(outcomes, Failure(Culprit.ANSWER, useless[0].reason))


def report_of_failure(claim: Claim, error: Exception, *, sent: bool, stranger: bool = False) -> Report:
    """The call as a whole failed. `sent`: a request had gone to the provider, so that the attempt counts.

    `stranger`: no setting names the model that was asked for.
    """
    report = _report(claim, error, stranger)
    if sent or not any(outcome.ending in (Ending.POSTPONED, Ending.ABANDONED) for outcome in report.outcomes):
        return report
    outcomes = [outcome._replace(ending=Ending.UNSENT) for outcome in report.outcomes]
    return dataclasses.replace(report, outcomes=outcomes)


def _report(claim: Claim, error: Exception, stranger: bool) -> Report:
    reason = str(error)
    match error:
        case GraceOver():
            return _all(claim, Ending.ABANDONED, "the service stopped before the answer came")
        case DeadlineExceeded():
            return _failed(claim, Failure(Culprit.SERVICE, reason))
        case CooldownRequired() | ServiceFault() if error.service != claim.provider:
            # What the answer needs besides the provider (Wikidata): neither the task's fault nor the provider's.
            return _all(claim, Ending.POSTPONED, reason)
        case CredentialsRefused():
            return _failed(claim, Failure(Culprit.ACCOUNT, reason, named=error.named))
        case CooldownRequired():
            pause = Cooldown(
                error.seconds, error.model, reason, awaited=isinstance(error, ModelMissing), guessed=not error.told
            )
            return _all(claim, Ending.POSTPONED, reason, pause)
        case ServiceFault():
            return _failed(claim, Failure(Culprit.SERVICE, reason))
        case ModelGone():
            return _failed(claim, Failure(Culprit.MODEL, reason, named=True, stranger=stranger))
        case SettingRefused():
            parameter = PARAMETERS.get(error.setting, error.setting)
            return _failed(claim, Failure(Culprit.REQUEST, reason, named=True, parameter=parameter))
        case RequestRefused():
            says_input = isinstance(error, InputRefused)
            return _failed(claim, Failure(Culprit.INPUT, reason, named=says_input, parameter=error.parameter))
        case UselessAnswer():
            says_input = isinstance(error, ModelRefused)
            return _failed(claim, Failure(Culprit.ANSWER, reason, named=says_input), times=error.answers)
        case NoRoom():
            return _all(claim, Ending.POSTPONED, reason)
        case RetryableError():
            return _failed(claim, Failure(Culprit.ANSWER, reason))
        case NonRetryableError():
            return _all(claim, Ending.FAILED, reason)
        case MemoryError() | OSError() | LedgerError():
            return _all(claim, Ending.POSTPONED, "this machine is in trouble")
        case _:
            ending = Ending.SPLIT if len(claim.tasks) > 1 else Ending.BUG
            return _all(claim, ending, f"unexpected {type(error).__name__}")


def with_fallback(report: Report) -> Report:
    """The same, but what its provider failed at goes to the next one at once instead of back to this one."""
    if report.failure is not None and report.failure.culprit not in REPLACEABLE:
        return report
    outcomes = [
        outcome._replace(ending=Ending.FALLBACK) if outcome.ending is Ending.RETRY else outcome
        for outcome in report.outcomes
    ]
    return dataclasses.replace(report, outcomes=outcomes)


def _outcome(task: Task, result: bytes | RetryableError | NonRetryableError) -> Outcome:
    if isinstance(result, bytes):
        return Outcome(task, Ending.SUCCEEDED, result)
    if isinstance(result, NonRetryableError):
        return Outcome(task, Ending.FAILED, reason=str(result))
    named = isinstance(result, InputRefused | ModelRefused)
    return Outcome(task, Ending.RETRY, reason=str(result), culprit=Culprit.ANSWER, named=named)


def _failed(claim: Claim, failure: Failure, times: int = 1) -> Report:
    outcomes = [
        Outcome(task, Ending.RETRY, reason=failure.reason, culprit=failure.culprit, times=times) for task in claim.tasks
    ]
    return Report(outcomes, failure)


def _all(claim: Claim, ending: Ending, reason: str, cooldown: Cooldown | None = None) -> Report:
    return Report([Outcome(task, ending, reason=reason) for task in claim.tasks], None, cooldown)
