"""The run: each text through each processor, one call at a time, in this process; what came of it is a `Case`.

A case has either a score or a failure, never a score of zero for an answer that did not come. Whoever cannot answer at
all (bad credentials, no quota, a provider that is down) ends the run: figures of an outage say nothing. A short pause
that a service asks for is taken, and the text tried once more; there are no other retries, and no limits. How long a
call may take is the provider's own affair.
"""

from __future__ import annotations

import select
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import cast

import orjson

from aitp.errors import (
    AitpError,
    AnswerCut,
    CooldownRequired,
    CredentialsRefused,
    ModelRefused,
    NonRetryableError,
    RequestRefused,
    RetryableError,
    UselessAnswer,
)
from aitp.knowledge import Knowledge
from aitp.knowledge.wikidata import Wikidata
from aitp.ledger import BreakerChange, Ledger, LedgerConfig, prepare
from aitp.logs import get_logger
from aitp.processors import PROCESSORS, Context
from aitp.providers import Provider, Question, Reply, Usage
from aitp.quality.labels import LabelledText
from aitp.quality.scoring import TRIALS, Score
from aitp.settings import Settings

OUTAGE = 3  # cases in a row without an answer
LONGEST_PAUSE_SECONDS = 60.0
NOTHING = Usage(0, 0, 0)


class Failure(StrEnum):
    """Why there is no result to judge."""

    REFUSED = "refused"  # the model declined
    CUT = "cut"  # its answer came to no end
    UNUSABLE = "unusable"  # what it said could not be used, nor its repair
    UNANSWERED = "unanswered"  # no answer came at all


class EvaluationStoppedError(AitpError):
    """Nothing more can be learnt from this provider now; the message says why."""


@dataclass(frozen=True, slots=True)
class Case:
    """One text through one processor. `usage`: of all replies that came, also of those that could not be used."""

    task_type: str
    text: LabelledText
    score: Score | None = None
    failure: Failure | None = None
    reason: str = ""
    calls: int = 0
    usage: Usage = NOTHING
    mock: bool = False


class Meter:
    """A provider as processors of chat models know it: counts what another one is asked, and its tokens."""

    def __init__(self, provider: Provider) -> None:
        self._provider = provider
        self.name = provider.name
        self.calls = 0
        self.usage = NOTHING
        self.mock = False

    def ask(self, question: Question, model: str, leave_out: Collection[str] = ()) -> Reply:
        self.calls += 1
        reply = self._provider.ask(question, model, leave_out)
        self.usage += reply.usage
        self.mock |= reply.mock
        return reply


def wait(seconds: float) -> None:
    """Let a pause go by that somebody asked for: nothing could tell that it is over."""
    select.select([], [], [], seconds)


def evaluate(
    texts: Sequence[LabelledText],
    task_types: Sequence[str],
    provider: Provider,
    context: Context,
    model: str | None,
    pause: Callable[[float], None] = wait,
) -> Iterator[Case]:
    """A case for each text and type, as it is done. `model`: instead of each type's default.

    EvaluationStoppedError: credentials or quota are refused, or `OUTAGE` cases in a row had no answer.
    """
    unanswered = 0
    for text in texts:
        for task_type in task_types:
            case, error = _tried(text, task_type, provider, context, model)
            if isinstance(error, CooldownRequired) and error.seconds <= LONGEST_PAUSE_SECONDS:
                pause(error.seconds)
                again, error = _tried(text, task_type, provider, context, model)
                case = replace(again, calls=case.calls + again.calls, usage=case.usage + again.usage)
            yield case
            unanswered = unanswered + 1 if case.failure is Failure.UNANSWERED else 0
            no_quota = isinstance(error, CooldownRequired) and error.seconds > LONGEST_PAUSE_SECONDS
            if isinstance(error, CredentialsRefused) or no_quota or unanswered == OUTAGE:
                raise EvaluationStoppedError(case.reason) from error


def _tried(
    text: LabelledText, task_type: str, provider: Provider, context: Context, model: str | None
) -> tuple[Case, AitpError | None]:
    processor, trial, meter = PROCESSORS[task_type], TRIALS[task_type], Meter(provider)
    score: Score | None = None
    problem: RetryableError | NonRetryableError | None = None
    try:
        content = processor.parse({**trial.content(text, context), "model": model})
        (result,) = processor.run([content], cast(Provider, meter), context).results
        if isinstance(result, bytes):
            score = trial.score(orjson.loads(result), text)
        else:
            problem = result
    except (RetryableError, NonRetryableError) as error:
        problem = error
    failure, reason = (None, "") if problem is None else (_kind(problem), str(problem))
    return Case(task_type, text, score, failure, reason, meter.calls, meter.usage, meter.mock), problem


def _kind(error: RetryableError | NonRetryableError) -> Failure:
    match error:
        case ModelRefused():
            return Failure.REFUSED
        case AnswerCut():
            return Failure.CUT
        case RetryableError() if not isinstance(error, UselessAnswer | RequestRefused):
            return Failure.UNANSWERED
        case _:
            return Failure.UNUSABLE


@contextmanager
def wikidata_of(settings: Settings) -> Iterator[Knowledge]:
    """Wikidata while the block lasts, as in service, over a ledger of its own: the service's is left alone.

    Single reads are bounded by REQUEST_TIMEOUT, calls as a whole by nobody.
    """
    with TemporaryDirectory(prefix="aitp-eval-") as directory:
        path = Path(directory) / "lookups.db"
        prepare(path, strategy="rolling", timezone="UTC", limits={})
        ledger = Ledger.open(path, LedgerConfig.of(settings))
        try:
            # Nobody else has this ledger open: any slot will do.
            wikidata = Wikidata(settings, ledger, 0, lambda seconds: nullcontext(), _tell)
            yield wikidata
            wikidata.close()
        finally:
            ledger.close()


def _tell(change: BreakerChange) -> None:
    get_logger(__name__).warning(f"Circuit breaker is {change.state}", service=change.service, reason=change.reason)
