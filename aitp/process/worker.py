"""A worker: claims tasks, runs them through a provider, records how that ended. One call at a time, nothing else.

`step` is the life of a claim on one screen: claim, run, finish. A worker never waits for the task API, and holds none
of its secrets. `aitp once` uses the same steps without a master.
"""

from __future__ import annotations

import dataclasses
import random
import select
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from aitp.errors import (
    CooldownRequired,
    CredentialsRefused,
    DeadlineExceeded,
    GraceOver,
    InputRefused,
    LedgerError,
    NonRetryableError,
    RetryableError,
    ServiceFault,
)
from aitp.ledger import Claim, Cooldown, Idle, Ledger, Report, Settled, Terms
from aitp.logs import get_logger
from aitp.metrics import TOKEN_TYPES, CallStatus, Metrics
from aitp.process.hands import Hands
from aitp.processors import PROCESSORS, Answer, Content, Context, Processor
from aitp.providers import Provider
from aitp.tasks import Ending, Health, Outcome, Task, TaskStatus

if TYPE_CHECKING:
    from aitp.settings import Settings

# On top of the provider's own time-outs, which bound single reads: the client must have time to say what was wrong.
CALL_MARGIN_SECONDS = 5.0
LEDGER_RETRY_SECONDS = 1.0
RECORD_STEP_SECONDS = 60.0

log = get_logger(__name__)


def terms_of(settings: Settings) -> Terms:
    """What claims need of the settings. Every known model goes to OpenAI: the one provider of this release."""
    return Terms(
        workers=settings.concurrency_limit,
        provider=lambda kind: "openai",
        batch_size=lambda kind: settings.embedding_batch_size if PROCESSORS[kind.type].batched else 1,
    )


class Worker:
    """One worker's tools. `recycle_after`: tasks after which it leaves to be replaced (0: never)."""

    def __init__(
        self,
        hands: Hands,
        ledger: Ledger,
        providers: Mapping[str, Provider],
        metrics: Metrics,
        settings: Settings,
        context: Context,
    ) -> None:
        self._hands = hands
        self._ledger = ledger
        self._providers = providers
        self._metrics = metrics
        self._context = context
        self._terms = terms_of(settings)
        self._call_seconds = settings.openai_timeout + CALL_MARGIN_SECONDS
        self._workers = settings.concurrency_limit
        # Spread, so that workers which started together are not recycled together.
        self._tasks_left = settings.worker_max_tasks * random.uniform(0.9, 1.1) or float("inf")

    @property
    def spent(self) -> bool:
        """Whether it has done as many tasks as a worker may (WORKER_MAX_TASKS)."""
        return self._tasks_left <= 0

    def step(self) -> Claim | Idle:
        """Claim, run and finish once; Idle tells until when there is nothing to claim."""
        # Before the claim, not after: who brings a task in between must see that this worker is to be woken.
        self._hands.idle()
        claim = self._ledger.claims.claim(self._hands.slot, self._terms)
        if isinstance(claim, Idle):
            self._warn_of_limits(claim)
            return claim
        if claim.more:
            self._hands.wake_workers(1)
        started = time.monotonic()
        report = self._run(claim)
        settled = self._record(claim, report)
        self._tell(claim, settled, time.monotonic() - started)
        self._tasks_left -= len(claim.tasks)
        return claim

    def _run(self, claim: Claim) -> Report:
        """One provider call for all tasks of the claim, whatever comes of it."""
        processor = PROCESSORS[claim.kind.type]
        contents, unreadable = [], []
        for task in claim.tasks:
            log.info("Task processing started", **_facts(task, processor), attempt=task.attempts + 1)
            try:
                contents.append((task, processor.load(task.content)))
            except NonRetryableError as error:  # stored by a release that took it
                unreadable.append(Outcome(task, Ending.FAILED, reason=str(error)))
        if not contents:
            return Report(unreadable, Health.UNKNOWN)
        report = self._call(dataclasses.replace(claim, tasks=tuple(task for task, _ in contents)), processor, contents)
        return dataclasses.replace(report, outcomes=[*unreadable, *report.outcomes])

    def _call(self, claim: Claim, processor: Processor[Any], contents: Sequence[tuple[Task, Content]]) -> Report:
        started = time.monotonic()
        try:
            with self._hands.call(claim.tasks[0].id, self._call_seconds):
                provider = self._providers[claim.provider]
                answer = processor.run([content for _, content in contents], provider, self._context)
        except Exception as error:  # noqa: BLE001 (the border of a task: nothing that one does may end the worker)
            report = self._report_of_failure(claim, error)
            self._observe_call(claim, error, time.monotonic() - started)
            return report
        self._observe_call(claim, None, time.monotonic() - started)
        self._tell_of_usage(claim, answer, time.monotonic() - started)
        return Report([_outcome(*pair) for pair in zip(claim.tasks, answer.results, strict=True)], Health.HEALTHY)

    def _report_of_failure(self, claim: Claim, error: Exception) -> Report:
        """The one place where a failed call becomes an ending for its tasks and a word about its provider."""
        reason = str(error)
        match error:
            case GraceOver():
                log.warning("Call abandoned, its tasks go back and may be bought again", tasks=len(claim.tasks))
                return _all(claim, Ending.ABANDONED, "the service stopped before the answer came", Health.UNKNOWN)
            case DeadlineExceeded():
                self._providers[claim.provider].reset()
                return _all(claim, Ending.RETRY, reason, Health.FAULTY)
            case CredentialsRefused():
                return _all(claim, Ending.POSTPONED, reason, Health.REFUSED)
            case CooldownRequired():
                pause = Cooldown(error.seconds, error.model, reason)
                return _all(claim, Ending.POSTPONED, reason, Health.HEALTHY, pause)
            case ServiceFault():
                return _all(claim, Ending.RETRY, reason, Health.FAULTY)
            case RetryableError():
                return _all(claim, Ending.RETRY, reason, Health.HEALTHY)
            case InputRefused():
                ending = Ending.SPLIT if len(claim.tasks) > 1 else Ending.FAILED
                return _all(claim, ending, reason, Health.HEALTHY)
            case NonRetryableError():
                return _all(claim, Ending.FAILED, reason, Health.HEALTHY)
            case MemoryError() | OSError() | LedgerError():
                log.error("This machine is in trouble, tasks go back", reason=type(error).__name__)
                return _all(claim, Ending.POSTPONED, "this machine is in trouble", Health.UNKNOWN)
            case _:
                log.error("Unexpected error", task_ids=[task.id for task in claim.tasks][:8], exc_info=error)
                ending = Ending.SPLIT if len(claim.tasks) > 1 else Ending.BUG
                return _all(claim, ending, f"unexpected {type(error).__name__}", Health.UNKNOWN)

    def _record(self, claim: Claim, report: Report) -> Settled:
        """Finish, as often as it takes: what the report holds is paid for."""
        complained = False
        while True:
            try:
                return self._ledger.claims.finish(claim, report)
            except LedgerError as error:
                if not complained:
                    log.error("Ledger cannot record results, they are kept in memory", reason=str(error))
                    complained = True
                self._hands.working(RECORD_STEP_SECONDS)
                # Nothing tells when a disk has room again, or when its errors have ended.
                select.select([], [], [], LEDGER_RETRY_SECONDS)

    def _tell(self, claim: Claim, settled: Settled, seconds: float) -> None:
        """Log and count what became of each task, and wake whoever has something to do now."""
        processor = PROCESSORS[claim.kind.type]
        ended = 0
        for outcome in settled.outcomes:
            ended += self._tell_of(outcome, processor, claim.provider, seconds)
        self._hands.count_done(ended)
        if change := settled.breaker:
            opened = change.state == "open"
            (log.error if opened else log.info)(
                "Circuit breaker is open" if opened else f"Circuit breaker is {change.state}",
                service=change.service,
                reason=change.reason,
            )
        if settled.paused_processor:
            log.error("Processor paused after unexpected errors in a row", processor=processor.label)
        if ended:
            self._hands.wake_relays(1)
        if ended < len(settled.outcomes) or settled.breaker:
            # What the others sleep until has changed: a due time, a cooldown, a probe, room that came back.
            self._hands.wake_workers(self._workers)

    def _tell_of(self, outcome: Outcome, processor: Processor[Any], provider: str, seconds: float) -> int:
        facts = _facts(outcome.task, processor)
        self._metrics.attempt_ended(processor.task_type, outcome.ending)
        match outcome.ending:
            case Ending.SUCCEEDED:
                status = TaskStatus.SUCCEEDED
                log.info(
                    "Task processing completed",
                    **facts,
                    status=status.value,
                    provider=provider,
                    seconds=round(seconds, 3),
                )
            case Ending.FAILED | Ending.BUG:
                status = TaskStatus.FAILED
                log.error(
                    "Task processing failed", **facts, status=status.value, provider=provider, reason=outcome.reason
                )
            case _:
                log.warning("Task put back", **facts, ending=outcome.ending.value, reason=outcome.reason)
                return 0
        self._metrics.task_ended(processor.task_type, status, seconds)
        return 1

    def _observe_call(self, claim: Claim, error: Exception | None, seconds: float) -> None:
        self._metrics.provider_request(claim.provider, claim.kind.model, CallStatus.of(error), seconds)

    def _tell_of_usage(self, claim: Claim, answer: Answer, seconds: float) -> None:
        usage = answer.usage
        for type_ in TOKEN_TYPES:
            self._metrics.tokens(claim.provider, claim.kind.model, type_, getattr(usage, type_))
        log.info(
            "Provider call completed",
            provider=claim.provider,
            model=claim.kind.model,
            tasks=len(claim.tasks),
            tokens=usage.total_tokens,
            estimated=usage.estimated,
            seconds=round(seconds, 3),
            **({"mock": True} if answer.mock else {}),
        )

    def _warn_of_limits(self, idle: Idle) -> None:
        for limit in idle.exceeded:
            self._metrics.rate_limit_exceeded(limit.period)
            log.warning(
                "Rate limit exceeded, skipping task processing",
                period=limit.period,
                current=limit.current,
                limit=limit.limit,
                frees_in_seconds=None if limit.frees_at is None else round(max(0.0, limit.frees_at - time.time()), 1),
            )


def _facts(task: Task, processor: Processor[Any]) -> dict[str, Any]:
    return {
        "task_id": task.id,
        "task_type": task.kind.type,
        "processor": processor.label,
        "model": task.kind.model,
    }


def _outcome(task: Task, result: bytes | RetryableError | NonRetryableError) -> Outcome:
    if isinstance(result, bytes):
        return Outcome(task, Ending.SUCCEEDED, result)
    ending = Ending.RETRY if isinstance(result, RetryableError) else Ending.FAILED
    return Outcome(task, ending, reason=str(result))


def _all(claim: Claim, ending: Ending, reason: str, health: Health, cooldown: Cooldown | None = None) -> Report:
    outcomes: Sequence[Outcome] = [Outcome(task, ending, reason=reason) for task in claim.tasks]
    return Report(outcomes, health, reason, cooldown)
