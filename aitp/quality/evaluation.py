"""`aitp eval`: labelled texts through the processors, one call at a time, in this process, and a report of it.

Calls are not counted against the service's limits. Only settings of providers matter: the task API may be unknown. Each
text through each processor is a `Case`, with either a score or a failure, never a score of zero for an answer that did
not come. Whoever cannot answer at all (bad credentials, no quota, a provider that is down) ends the run: figures of an
outage say nothing. A short pause that a service asks for is taken, and the text tried once more; there are no other
retries. How long a call may take is the provider's own affair.

A row of the report is one processor's work on the texts of one language, or of `all`. Failures stand beside the
figures, and below with their reasons: a figure speaks of the answers that there are.
"""

from __future__ import annotations

import json
import select
import sys
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from itertools import groupby, product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, cast

import orjson
from click import BadParameter

from aitp import errors
from aitp.knowledge import Knowledge
from aitp.knowledge.wikidata import Wikidata
from aitp.ledger.breakers import BreakerChange
from aitp.ledger.ledger import Ledger, prepare
from aitp.ledger.queue import LedgerConfig
from aitp.logs import conceal, configure, get_logger
from aitp.policy.routing import canonical
from aitp.processors import PROCESSORS, Context
from aitp.providers import Provider, Question, Reply, build, routing_of
from aitp.quality.scoring import TRIALS, Figures, LabelledText, Score, figures, load_labels
from aitp.settings import PROJECT_ROOT, Settings, load_settings

if TYPE_CHECKING:
    from rich.console import Console

LABELS = PROJECT_ROOT / "bench" / "quality"
NO_TASK_API = {
    "api_base_url": "http://localhost",
    "oauth2_token_url": "http://localhost",
    "oauth2_client_id": "nobody",
    "oauth2_client_secret": "nothing",
}
ALL = "all"
OUTAGE = 3  # cases in a row without an answer
LONGEST_PAUSE_SECONDS = 60.0


class Failure(StrEnum):
    """Why there is no result to judge."""

    REFUSED = "refused"  # the model declined
    CUT = "cut"  # its answer came to no end
    UNUSABLE = "unusable"  # what it said could not be used, nor its repair
    UNANSWERED = "unanswered"  # no answer came at all


class EvaluationStoppedError(errors.AitpError):
    """Nothing more can be learnt from this provider now; the message says why."""


@dataclass(slots=True)
class Case:
    """One text through one processor, for which it asks the provider, and counts all replies: useless ones cost too."""

    task_type: str
    text: LabelledText
    provider: Provider
    score: Score | None = None
    error: errors.RetryableError | errors.NonRetryableError | None = None
    calls: int = 0
    replies: list[Reply] = field(default_factory=list)

    def attempt(self, context: Context, model: str | None) -> None:
        """Leaves either a score or an error."""
        processor, trial = PROCESSORS[self.task_type], TRIALS[self.task_type]
        self.error = None
        try:
            content = processor.parse({**trial.content(self.text, context), "model": model})
            (result,) = processor.run([content], cast(Provider, self), context)
            if isinstance(result, bytes):
                self.score = trial.score(orjson.loads(result), self.text)
            else:
                self.error = result
        except (errors.RetryableError, errors.NonRetryableError) as error:
            self.error = error

    def ask(self, question: Question, model: str, leave_out: Collection[str] = ()) -> Reply:
        """All that processors over a chat model want of a provider."""
        self.calls += 1
        reply = self.provider.ask(question, model, leave_out)
        self.replies.append(reply)
        return reply

    @property
    def failure(self) -> Failure | None:
        match self.error:
            case None:
                return None
            case errors.ModelRefused():
                return Failure.REFUSED
            case errors.AnswerCut():
                return Failure.CUT
            case errors.UselessAnswer() | errors.RequestRefused() | errors.NonRetryableError():
                return Failure.UNUSABLE
        return Failure.UNANSWERED

    @property
    def pause_seconds(self) -> float:
        """How long the service wants to be left alone."""
        return self.error.seconds if isinstance(self.error, errors.CooldownRequired) else 0.0


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
    for text, task_type in product(texts, task_types):
        case = Case(task_type, text, provider)
        case.attempt(context, model)
        if 0 < case.pause_seconds <= LONGEST_PAUSE_SECONDS:
            pause(case.pause_seconds)
            case.attempt(context, model)
        yield case
        unanswered = unanswered + 1 if case.failure is Failure.UNANSWERED else 0
        hopeless = isinstance(case.error, errors.CredentialsRefused) or case.pause_seconds > LONGEST_PAUSE_SECONDS
        if hopeless or unanswered == OUTAGE:
            raise EvaluationStoppedError(str(case.error)) from case.error


@contextmanager
def wikidata_of(settings: Settings) -> Iterator[Knowledge]:
    """Wikidata while the block lasts, as in service, over a ledger of its own: the service's is left alone.

    Single reads are bounded by REQUEST_TIMEOUT, calls as a whole by nobody.
    """
    with TemporaryDirectory(prefix="aitp-eval-") as directory:
        path = Path(directory) / "lookups.db"
        prepare(path, strategy="rolling", timezone="UTC", limits={})
        ledger = Ledger.open(path, LedgerConfig.of(settings))
        # Nobody else has this ledger open: any slot will do.
        wikidata = Wikidata(settings, ledger, 0, lambda seconds: nullcontext(), _tell)
        with closing(ledger), closing(wikidata):
            yield wikidata


def _tell(change: BreakerChange) -> None:
    get_logger(__name__).warning(f"Circuit breaker is {change.state}", service=change.service, reason=change.reason)


@dataclass(frozen=True, slots=True)
class Row:
    """`texts` that were tried, those with a score, and how many have none, by kind. `figures`: empty without any."""

    task_type: str
    language: str
    texts: int
    scored: int
    failures: Mapping[str, int]
    figures: Figures
    calls: int
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    tokens_estimated: bool


@dataclass(frozen=True, slots=True)
class Report:
    """`stopped`: why not all texts were tried; empty if they were."""

    provider: str
    model: str | None
    cases: Sequence[Case]
    stopped: str = ""

    @property
    def mock(self) -> bool:
        return any(reply.mock for case in self.cases for reply in case.replies)

    @property
    def failed(self) -> Sequence[Case]:
        return [case for case in self.cases if case.failure]

    def rows(self) -> Iterator[Row]:
        """In the order of the cases; for each processor its languages, then all of them."""
        for task_type in dict.fromkeys(case.task_type for case in self.cases):
            cases = [case for case in self.cases if case.task_type == task_type]
            for language in (*sorted({case.text.language for case in cases}), ALL):
                yield _row(task_type, language, [case for case in cases if language in (case.text.language, ALL)])

    def as_json(self) -> dict[str, Any]:
        """Everything, as values that JSON knows."""
        failures = [
            {"text": case.text.id, "task_type": case.task_type, "kind": case.failure, "reason": str(case.error)}
            for case in self.failed
        ]
        return {
            "provider": self.provider,
            "model": self.model,
            "mock": self.mock,
            "stopped": self.stopped or None,
            "rows": [asdict(row) for row in self.rows()],
            "failures": failures,
        }


def _row(task_type: str, language: str, cases: Sequence[Case]) -> Row:
    scores = [case.score for case in cases if case.score is not None]
    failures = Counter(case.failure for case in cases)
    usages = [reply.usage for case in cases for reply in case.replies]
    return Row(
        task_type,
        language,
        texts=len(cases),
        scored=len(scores),
        failures={kind.value: failures[kind] for kind in Failure},
        figures=figures(scores),
        calls=sum(case.calls for case in cases),
        prompt_tokens=sum(usage.prompt_tokens for usage in usages),
        completion_tokens=sum(usage.completion_tokens for usage in usages),
        total_tokens=sum(usage.total_tokens for usage in usages),
        tokens_estimated=any(usage.estimated for usage in usages),
    )


def print_report(report: Report, console: Console) -> None:
    """Tables, then failures."""
    from rich.table import Table
    from rich.text import Text

    if report.mock:
        console.print(Text("MOCK MODE: the answers are invented, the figures say nothing", style="bold red"))
    for task_type, group in groupby(report.rows(), lambda row: row.task_type):
        rows = list(group)
        names = max((list(row.figures) for row in rows), key=len)
        table = Table(title=task_type, title_justify="left", title_style="bold", box=None, pad_edge=False)
        for head in ("language", "texts", "failed", *names, "calls", "tokens"):
            table.add_column(head.replace("_", " "), justify="left" if head == "language" else "right")
        for row in rows:
            values = [row.figures.get(name) for name in names]
            shown = ["–" if value is None else f"{value:.2f}" for value in values]
            tokens = f"{'~' if row.tokens_estimated else ''}{row.total_tokens}"
            failed = str(row.texts - row.scored or "")
            table.add_row(row.language, str(row.texts), failed, *shown, str(row.calls), tokens)
        console.print(table)
        console.print()
    for case in report.failed:
        # Not markup: a reason may hold brackets.
        console.print(Text(f"{case.text.id} {case.task_type}: {case.failure}: {case.error}"))
    if report.stopped:
        console.print(Text(f"Stopped after {len(report.cases)} tasks: {report.stopped}", style="bold red"))


def run_evaluation(
    types: str, limit: int | None, model: str | None, texts: str | None, wikidata: bool, as_json: bool
) -> int:
    """0: all texts were tried, and some had an answer; else 1. ConfigurationError: it cannot begin.

    `types`: with commas between, or all; `limit`: of `texts`, which are a directory; `wikidata`: look people and
    subjects up, as the service does. None is the default of each.
    """
    from rich.console import Console

    chosen = list(TRIALS) if types == ALL else [name.strip() for name in types.split(",")]
    if unknown := [name for name in chosen if name not in TRIALS]:
        raise BadParameter(f"{unknown[0]!r} is none of all, {', '.join(TRIALS)}", param_hint="--types")
    settings = load_settings(defaults=NO_TASK_API)
    conceal(settings.openai_api_key, settings.ollama_api_key, settings.wikidata_token)
    # Standard output is the report's.
    configure("DEBUG" if settings.log_level == "DEBUG" else "WARNING", settings.log_format, stream=sys.stderr)
    labelled = load_labels(Path(texts) if texts else LABELS)[:limit]
    model = model or settings.default_chat_model
    provider, console = _configured(settings, model), Console(stderr=True)
    cases: list[Case] = []
    stopped, total = "", len(labelled) * len(chosen)
    with wikidata_of(settings) if wikidata else nullcontext(Knowledge()) as knowledge:
        try:
            for case in evaluate(labelled, chosen, provider, Context.of(settings, knowledge), model):
                cases.append(case)  # what has been paid for is shown, also if it is not all
                if console.is_terminal:
                    console.print(f"{len(cases)} of {total}: {case.text.id} {case.task_type:<24}", end="\r")
        except EvaluationStoppedError as error:
            stopped = str(error)
        except KeyboardInterrupt:
            stopped = "interrupted"
    provider.close()
    report = Report(provider.name, model, cases, stopped)
    if as_json:
        Console(soft_wrap=True, highlight=False).out(json.dumps(report.as_json(), indent=2))
    else:
        print_report(report, Console())
    return int(bool(stopped) or len(report.failed) == len(cases))


def _configured(settings: Settings, model: str) -> Provider:
    """The provider that tasks of `model` go to. ConfigurationError: there is none, so that no text could be tried."""
    providers = build(settings)
    supported = canonical(model) in map(canonical, settings.supported_models) and "ollama" in providers
    provider = providers.get(routing_of(settings).foreign_provider(model) or ("ollama" if supported else "openai"))
    if provider is None:
        ollama_alone = settings.processing_mode == "ollama"
        cannot = f"PROCESSING_MODE=ollama cannot ask {model}" if ollama_alone else "OPENAI_API_KEY: not set"
        advice = f"{model} is no model of SUPPORTED_MODELS; set a key, or name a supported chat model with --model"
        raise errors.ConfigurationError([f"{cannot}, and {advice}"])
    return provider
