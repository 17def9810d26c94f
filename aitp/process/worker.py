"""A worker: claims tasks, runs them through a provider, records how that ended. One call at a time, nothing else.

`step` is the life of a claim on one screen: claim, run, finish. A worker never waits for the task API, and holds none
of its secrets. Its calls to providers are metered (bounded, counted, told of, priced), whatever the processor does with
them. A price that is not known costs nothing here: while a budget is in force such a model is not called at all.
"""

from __future__ import annotations

import dataclasses
import random
import select
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import Any, TypeVar

from aitp.errors import AitpError, LedgerError, ModelGone, NonRetryableError, NoRoom
from aitp.knowledge.wikidata import Wikidata
from aitp.ledger.breakers import BreakerChange
from aitp.ledger.claims import Claim, Idle
from aitp.ledger.evidence import Report, Settled
from aitp.ledger.ledger import Ledger
from aitp.logs import get_logger
from aitp.metrics import FALLBACKS, LATE_ANSWERS, TASK_ATTEMPTS, TOKEN_TYPES, CallStatus, Metrics
from aitp.policy.costs import NANO, NOTHING, Bill, Prices
from aitp.policy.routing import Route
from aitp.process import reports
from aitp.process.child import Child
from aitp.process.dispatch import EmbeddingDimensions, claim_options, strangers_of
from aitp.process.scoreboard import SLOTS, Role
from aitp.processors import PROCESSORS, Content, Context, Processor
from aitp.providers import Embeddings, Provider, Question, Reply, build, provider_rules, routing_of
from aitp.settings import Settings
from aitp.tasks import Ending, Outcome, Service, Task, TaskStatus

LEDGER_RETRY_SECONDS = 1.0
T = TypeVar("T")
A = TypeVar("A", bound=Any)  # what a provider's verb gives: it has `usage` and `mock`
# On top of the provider's own time-outs, which bound single reads: the client must have time to say what was wrong.
MARGIN_SECONDS = 5.0

log = get_logger(__name__)


class MeteredProvider:
    """A provider whose calls are bounded (`bound` is entered around each) and leave a trace: counted, priced, told of.

    `begin` comes before an attempt, which may make one call; before each further one `again` is asked for room. `bill`
    is what its calls cost so far; None without `prices`.

    A provider of another package may have verbs of its own: called with `model=`, they are metered as well. What else
    it has is found here as it is.
    """

    def __init__(
        self,
        provider: Provider,
        metrics: Metrics,
        bound: Callable[[], AbstractContextManager[Any]],
        prices: Prices | None = None,
    ) -> None:
        self._provider = provider
        self._metrics = metrics
        self._bound = bound
        self._prices = prices
        self.name = provider.name
        self.begin((), lambda: True)
        if meter := getattr(provider, "meter", None):
            meter(metrics)

    def __getattr__(self, name: str) -> Any:
        own = getattr(self._provider, name)
        if not callable(own):
            return own

        def metered(*arguments: Any, model: str, **named: Any) -> Any:
            with self._metered(model) as started:
                return self._answered(model, 1, started, own(*arguments, model=model, **named))

        return metered

    def begin(
        self, leave_out: Collection[str], again: Callable[[], bool], is_fresh: Callable[[], bool] = lambda: True
    ) -> None:
        """An attempt begins: its requests do without the parameters of `leave_out`. None is sent unless `is_fresh`."""
        self._leave_out, self._again, self._is_fresh = leave_out, again, is_fresh
        self.calls = 0  # of this attempt
        self.bill = None if self._prices is None else Bill(self._prices.currency)

    def optional(self, model: str, *, chat: bool) -> tuple[str, ...]:
        """What this attempt's requests for `model` hold and could do without."""
        # A provider of another package may know of no such thing.
        ask: Callable[..., tuple[str, ...]] | None = getattr(self._provider, "optional", None)
        names = () if ask is None else ask(model, chat=chat)
        return tuple(name for name in names if name not in self._leave_out)

    def embed(
        self, texts: Sequence[str], model: str, dimensions: int | None = None, leave_out: Collection[str] = ()
    ) -> Embeddings:
        with self._metered(model) as started:
            answer = self._provider.embed(texts, model, dimensions, **self._without(leave_out))
            return self._answered(model, len(texts), started, answer)

    def ask(self, question: Question, model: str, leave_out: Collection[str] = ()) -> Reply:
        with self._metered(model) as started:
            return self._answered(model, 1, started, self._provider.ask(question, model, **self._without(leave_out)))

    def close(self) -> None:
        self._provider.close()

    def ended(self, route: Route, outcome: Outcome) -> None:
        """An attempt at a task ended, which the provider, or another one in its stead, was to run."""
        if tell := getattr(self._provider, "ended", None):
            tell(route, outcome)

    def _without(self, leave_out: Collection[str]) -> dict[str, Any]:
        names = (*self._leave_out, *leave_out)
        return {"leave_out": names} if names else {}

    @contextmanager
    def _metered(self, model: str) -> Iterator[float]:
        """Around a call; when it began, for `_answered`."""
        if self.calls and not self._again():
            raise NoRoom(f"{self.name} was to be asked once more, and a limit or a budget has no room for that")
        if not self._is_fresh():  # this machine has slept, or its line is cut: others may have these tasks by now
            raise LedgerError("the ledger cannot be asked whether what is in hand is another host's by now")
        started = time.monotonic()
        try:
            with self._bound():
                self.calls += 1
                yield started
        except Exception as error:
            self._metrics.provider_request(self.name, model, CallStatus.of(error), time.monotonic() - started)
            if self.bill and not (isinstance(error, AitpError) and error.bought_nothing):
                self.bill = self.bill._replace(whole=False)  # it may have cost something, and nobody knows how much
            raise

    def _answered(self, model: str, texts: int, started: float, answer: A) -> A:
        usage, seconds = answer.usage, time.monotonic() - started
        self._metrics.provider_request(self.name, model, CallStatus.SUCCESS, seconds)
        for type_ in TOKEN_TYPES:
            self._metrics.tokens(self.name, model, type_, getattr(usage, type_))
        if self._prices and self.bill and not answer.mock:
            # By the terms of the tier that the answer names.
            price = self._prices.of(self.name, model, getattr(answer, "tier", "")) or NOTHING
            cost = price.cost(usage.prompt_tokens, usage.completion_tokens)
            currency, nano, read, written, whole = self.bill
            read, written = read + usage.prompt_tokens, written + usage.completion_tokens
            self.bill = Bill(currency, nano + cost, read, written, whole and not usage.estimated)
            self._metrics.cost(self.name, model, currency, cost / NANO)
        log.info(
            "Provider call completed",
            provider=self.name,
            model=model,
            tasks=texts,
            tokens=usage.total_tokens,
            estimated=usage.estimated,
            seconds=round(seconds, 3),
            **({"mock": True} if answer.mock else {}),
        )
        return answer


class Worker:
    """One worker, and all that it works with; after fork. `missing` hears of an Ollama model that is not there."""

    def __init__(
        self,
        process: Child,
        ledger: Ledger,
        metrics: Metrics,
        settings: Settings,
        missing: Callable[[str], None] = lambda model: None,
    ) -> None:
        self._process = process
        self._ledger = ledger
        self._owner = ledger.owner(process.slot)
        self._metrics = metrics
        self._providers = {
            name: MeteredProvider(
                provider, metrics, partial(self._call, _call_seconds(settings, name)), settings.prices
            )
            for name, provider in build(settings, missing).items()
        }
        looks_up = settings.wikidata_enabled
        knowledge = Wikidata(settings, ledger, self._owner, self._call, self._observe) if looks_up else None
        self._context = Context.of(settings, knowledge, ledger.cache)
        self._terms = claim_options(settings, tells=process.slot == SLOTS[Role.WORKER].start)
        self._is_stranger = strangers_of(settings)
        self._lengths = EmbeddingDimensions(ledger.cache, routing_of(settings).asked_for)
        self._intake = reports.IntakeWatch(settings.ledger, "task processing")
        self._task_id = ""  # of the claim in hand, its first: for the scoreboard
        # Spread, so that workers which started together are not recycled together. 0: it never is.
        self._tasks_left = settings.worker_max_tasks * random.uniform(0.9, 1.1) or float("inf")

    @property
    def spent(self) -> bool:
        """Whether it has done as many tasks as a worker may (WORKER_MAX_TASKS)."""
        return self._tasks_left <= 0

    def step(self) -> Claim | Idle:
        """Claim, run and finish once; Idle tells until when there is nothing to claim."""
        # Before the claim, not after: who brings a task in between must see that this worker is to be woken.
        self._process.idle()
        is_fresh = self._ledger.freshness()  # before the claim, lest a line that is found anew just after it be missed
        claim = self._ledger.claims.claim(self._owner, self._terms)
        self._intake.heed(claim.because if isinstance(claim, Idle) else None, time.monotonic())
        if isinstance(claim, Idle):
            reports.warn_of_idleness(claim, self._metrics)
            return claim
        if claim.more:
            self._process.wake_workers(1)
        if fallback_from := claim.route.fallback_from:
            self._metrics.count(FALLBACKS, fallback_from, claim.provider, claim.route.reason)
        if claim.stand_ins_left == 0:
            log.warning("Calls of the day in another provider's stead are used up", instead_of=fallback_from)
        processor, provider = PROCESSORS.of(claim.queue.type, claim.provider), self._providers[claim.provider]
        readable, contents, malformed = self._load(claim, processor)
        provider.begin(claim.world.left_out, partial(self._ledger.claims.again, claim), is_fresh)
        self._task_id = claim.tasks[0].id
        started = time.monotonic()
        try:
            if processor.looks_up:
                self._context.knowledge.ready()  # before anything is bought that could not be used
            results = processor.run(contents, provider, self._context_of(claim, processor)) if contents else ()
            report = reports.report_of_results(readable, results)
            self._learn_length(claim, processor, report)
        except Exception as error:  # noqa: BLE001 (the border of a task: nothing that one does may end the worker)
            report = self._report_of(readable, provider, error)
        seconds = time.monotonic() - started
        optional = () if report.failure is None else provider.optional(claim.route.model, chat=not processor.batched)
        report = reports.with_next_route(report, claim, self._terms.routes(claim.queue))
        report = dataclasses.replace(
            report,
            outcomes=[*malformed, *report.outcomes],
            seconds=seconds,
            bill=provider.bill,
            optional=optional,
        )

        # As often as it takes: what the report holds is paid for. Once it is settled, it is seen onto the disk.
        settled = self._insist(lambda: self._ledger.outcomes.finish(claim, report))
        self._insist(self._ledger.flush)
        self._tell(claim, settled, seconds)
        self._tasks_left -= len(claim.tasks)
        return claim

    def _call(self, seconds: float) -> AbstractContextManager[Any]:
        return self._process.call(self._task_id, seconds)

    def _observe(self, change: BreakerChange) -> None:
        reports.tell_of_breaker(change)
        self._process.wake_workers()

    def _load(self, claim: Claim, processor: Processor[Any]) -> tuple[Claim, list[Content], list[Outcome]]:
        """The claim without the tasks that cannot be read, what is asked for each of the others, and what becomes of
        the former. By the name of the model that is asked."""
        tasks, contents, malformed = list[Task](), list[Content](), list[Outcome]()
        for task in claim.tasks:
            log.info("Task processing started", **_facts(claim, task), attempt=task.attempts + 1)
            try:
                content = processor.load(task.content)
            except NonRetryableError as error:  # stored by a release that took it
                malformed.append(Outcome(task, Ending.FAILED, reason=str(error)))
                continue
            as_named = claim.route.model == claim.queue.model
            tasks.append(task)
            contents.append(content if as_named else content.model_copy(update={"model": claim.route.model}))
        return claim._replace(tasks=tuple(tasks)), contents, malformed

    def _report_of(self, claim: Claim, provider: MeteredProvider, error: Exception) -> Report:
        if isinstance(error, MemoryError | OSError):
            log.error("This machine is in trouble, tasks go back", reason=type(error).__name__)
        elif not isinstance(error, AitpError):
            log.error("Unexpected error", task_ids=[task.id for task in claim.tasks][:8], exc_info=error)
        stranger = isinstance(error, ModelGone) and self._is_stranger(claim.route.model)
        return reports.report_of_failure(claim, error, sent=provider.calls > 0, stranger=stranger)

    def _context_of(self, claim: Claim, processor: Processor[Any]) -> Context:
        """A stand-in's vectors are to be as long as those of the model that it stands in for."""
        if not (claim.route.fallback_from and processor.batched):
            return self._context
        return dataclasses.replace(self._context, dimensions=self._lengths.of(claim.queue.model))

    def _learn_length(self, claim: Claim, processor: Processor[Any], report: Report) -> None:
        if claim.provider == Service.OLLAMA and processor.batched:
            vector = next((outcome.result for outcome in report.outcomes if outcome.result is not None), None)
            if vector is not None:
                self._lengths.learn(claim.queue.model, vector)

    def _insist(self, step: Callable[[], T]) -> T:
        complained = False
        while True:
            self._process.recording()
            try:
                return step()
            except LedgerError as error:
                if not complained:
                    log.error("Ledger cannot record results, they are kept in memory", reason=str(error))
                    complained = True
                # Nothing tells when a disk has room again, or when its errors have ended.
                select.select([], [], [], LEDGER_RETRY_SECONDS)

    def _tell(self, claim: Claim, settled: Settled, seconds: float) -> None:
        """Log and count what became of each task, and wake whoever has something to do now."""
        processor = PROCESSORS.of(claim.queue.type, claim.provider)
        whose = self._providers.get(claim.route.fallback_from or claim.provider)
        ended = 0
        for outcome in settled.outcomes:
            ended += self._tell_of(outcome, processor, _facts(claim, outcome.task), seconds)
            if whose is not None:
                whose.ended(claim.route, outcome)
        self._metrics.count(LATE_ANSWERS, amount=settled.late)
        reports.tell_of_reuse(settled.reused, self._metrics)
        self._process.count_done(ended)
        if change := settled.breaker:
            reports.tell_of_breaker(change)
        if settled.paused_processor:
            log.error("Processor paused after unexpected errors in a row", processor=processor.label)
        if ended:
            self._process.wake_relays(1)
        for told in settled.told:
            (log.error if told.until is not None else log.warning)(
                told.what,
                provider=told.provider,
                model=told.model,
                task_type=told.type,
                **{name: value for name, value in (("reason", told.reason), ("parameter", told.parameter)) if value},
            )
        if ended < len(settled.outcomes) or settled.breaker or settled.frees_others:
            # What the others sleep until has changed: a due time, a cooldown, a probe, room or money that came back.
            self._process.wake_workers()

    def _tell_of(self, outcome: Outcome, processor: Processor[Any], facts: dict[str, Any], seconds: float) -> int:
        self._metrics.count(TASK_ATTEMPTS, processor.task_type, outcome.ending)
        match outcome.ending:
            case Ending.SUCCEEDED:
                status = TaskStatus.SUCCEEDED
                log.info("Task processing completed", **facts, status=status.value, seconds=round(seconds, 3))
            case Ending.FAILED | Ending.BUG:
                status = TaskStatus.FAILED
                log.error("Task processing failed", **facts, status=status.value, reason=outcome.reason)
            case _:
                log.warning("Task put back", **facts, ending=outcome.ending.value, reason=outcome.reason)
                return 0
        self._metrics.task_ended(processor.task_type, status, seconds)
        return 1


def _facts(claim: Claim, task: Task) -> dict[str, Any]:
    """The provider among them, and if it only stands in for another: which one, why, and as which model."""
    route = claim.route
    facts = {
        "task_id": task.id,
        "task_type": task.queue.type,
        "processor": PROCESSORS.of(task.queue.type, route.provider).label,
        "model": task.queue.model,
        "provider": route.provider,
    }
    if route.fallback_from:
        facts |= {"fallback_from": route.fallback_from, "fallback_reason": route.reason, "fallback_model": route.model}
    return facts


def _call_seconds(settings: Settings, provider: str) -> float:
    """How long one call to a provider may take as a whole."""
    if (rules := provider_rules(settings).get(provider)) is not None:
        return rules.timeout + MARGIN_SECONDS
    return (settings.ollama_timeout if provider == Service.OLLAMA else settings.openai_timeout) + MARGIN_SECONDS
