"""`aitp eval`: how good the answers are, on labelled texts, by what people expected of them.

Labels are what the processors are expected to find: one JSON file a language (bench/quality/*.json). A file that would
make figures mean something else than they say (two people of one name in a text, a person who is not in it, an area off
the list) is refused as a whole.

Each text goes through each processor, one call at a time, in this process: a `Case`, with either a score or a failure,
never a score of zero for an answer that did not come. Whoever cannot answer at all (bad credentials, no quota, a
provider that is down) ends the run: figures of an outage say nothing. A short pause that a service asks for is taken,
and the text tried once more; there are no other retries. How long a call may take is the provider's own affair.

A row of the report is one processor's work on the texts of one language, or of `all`. Names are compared folded
(without case and accents), and a thing may go by several. Scores add up over texts, to figures; one is None where there
is nothing to divide by, which is neither 0 nor 1. Failures stand beside the figures, and below with their reasons.

Nothing here takes part in the service: no task API, no processes, no ledger of its, and no count in its limits. Only
settings of providers matter: the task API may be unknown.
"""

from __future__ import annotations

import select
import sys
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import chain, groupby, product, zip_longest
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any, Self, cast, get_args

import orjson
from click import BadParameter
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from rich.console import Console
from rich.table import Table
from rich.text import Text

from aitp import errors, logs
from aitp.knowledge import Knowledge, folded, linked, occurs
from aitp.knowledge.wikidata import Wikidata
from aitp.ledger.ledger import Ledger, prepare
from aitp.ledger.queue import LedgerConfig
from aitp.policy.routing import canonical
from aitp.processors import PROCESSORS, Context, faults_in
from aitp.processors.task_types import Level
from aitp.providers import Provider, Question, Reply, build, routing_of
from aitp.settings import PROJECT_ROOT, Settings, load_settings
from aitp.tasks import TaskType

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

# ── labels ───────────────────────────────────────────────────────────────────────────────────────────────────────────
Name = Annotated[str, Field(min_length=1, max_length=200)]
AllNames = Annotated[tuple[Name, ...], Field(min_length=1)]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class LabelledText(_Part):
    """One text. Each thing has all its names; `area`: what is expected, then what would do as well.

    What is optional may be found or not. `hard`: what is difficult about it, for people.
    """

    id: Annotated[str, Field(pattern=r"^[a-z]{2}-\d{2,3}$")]
    hard: str
    text: Annotated[str, Field(min_length=1, max_length=10_000)]
    people: tuple[AllNames, ...]
    optional_people: tuple[AllNames, ...] = ()
    topics: Annotated[tuple[AllNames, ...], Field(min_length=1)]
    optional_topics: tuple[AllNames, ...] = ()
    area: AllNames
    severity: Level
    language: str = ""
    areas: tuple[Name, ...] = ()

    @model_validator(mode="after")
    def _is_sound(self) -> Self:
        people, topics = (*self.people, *self.optional_people), (*self.topics, *self.optional_topics)
        for kind, things in (("people", people), ("topics", topics)):
            counts = Counter(chain.from_iterable({*map(folded, names)} for names in things))
            if twice := sorted(name for name, count in counts.items() if count > 1):
                raise ValueError(f"{self.id}: {kind}: two of them go by the name {twice[0]}")
        for names in people:
            if not any(occurs(name, self.text) for name in names):
                raise ValueError(f"{self.id}: people: {names[0]} is not mentioned in the text by any of the names")
        return self


class _Labels(_Part):
    language: Annotated[str, Field(pattern=r"^[a-z]{2}$")]
    areas: Annotated[tuple[Name, ...], Field(min_length=2)]
    texts: Annotated[tuple[LabelledText, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _areas_are_listed(self) -> Self:
        for text in self.texts:
            if unlisted := [area for area in text.area if area not in self.areas]:
                raise ValueError(f"{text.id}: area: {unlisted[0]} is none of the file's areas")
        return self


def load_labels(directory: Path) -> list[LabelledText]:
    """All texts of the files in `directory`, the languages in turn, so that the first few are of each.

    ConfigurationError: there are none, or a file cannot be used.
    """
    files = [_read(path) for path in sorted(directory.glob("*.json"))]
    if not files:
        raise errors.ConfigurationError(
            [f"{directory}: no labelled texts (*.json) there; name their directory (they come with aitp's sources)"]
        )
    languages = [
        [text.model_copy(update={"language": file.language, "areas": file.areas}) for text in file.texts]
        for file in files
    ]
    texts = [text for row in zip_longest(*languages) for text in row if text is not None]
    if twice := [id_ for id_, count in Counter(text.id for text in texts).items() if count > 1]:
        raise errors.ConfigurationError([f"{directory}: two texts are called {twice[0]}"])
    return texts


def _read(path: Path) -> _Labels:
    try:
        return _Labels.model_validate_json(path.read_bytes())
    except OSError as error:
        raise errors.ConfigurationError([f"{path}: cannot be read ({error.strerror})"]) from error
    except ValidationError as error:
        raise errors.ConfigurationError([f"{path}: {fault}" for fault in faults_in(error)]) from error


# ── scores ───────────────────────────────────────────────────────────────────────────────────────────────────────────
LEVELS: Sequence[str] = get_args(Level)
"""All severities, the most severe one first."""

Names = Sequence[str]
"""What one thing is called: any of these."""

Score = Mapping[str, tuple[int, int]]
"""Of one text, or added up over many: by figure, what is to be divided, and by what."""

Figures = Mapping[str, float | None]


def figures(scores: Iterable[Score]) -> Figures:
    """What is shown of them all together, in the order of the scores."""
    parts: dict[str, int] = {}
    wholes: Counter[str] = Counter()
    for score in scores:
        for name, (part, whole) in score.items():
            parts[name] = parts.get(name, 0) + part
            wholes[name] += whole
    return {name: part / wholes[name] if wholes[name] else None for name, part in parts.items()}


def compare_sets(found: Sequence[Names], expected: Sequence[Names], optional: Sequence[Names] = ()) -> Score:
    """One text. What is `optional` is neither missed nor held against anybody; a thing found twice is wrong once.

    `exact`: texts with all that was expected and nothing else.
    """
    matched = _pairs(found, expected)
    rest = [names for number, names in enumerate(found) if number not in matched]
    counted, hits = len(found) - len(_pairs(rest, optional)), len(matched)
    return {
        "precision": (hits, counted),
        "recall": (hits, len(expected)),
        "f1": (2 * hits, counted + len(expected)),
        "exact": (int(hits == counted == len(expected)), 1),
    }


def compare_choice(chosen: str, expected: str, others: Sequence[str] = ()) -> Score:
    """One text: the choice that was expected; that one, or another that will do."""
    agreed = folded(chosen) == folded(expected)
    return {"agreement": (int(agreed), 1), "accepted": (int(agreed or folded(chosen) in map(folded, others)), 1)}


def compare_levels(found: str, expected: str) -> Score:
    """One text. The bias is positive where the level found is more severe than expected."""
    higher = LEVELS.index(expected) - LEVELS.index(found)
    off = abs(higher)
    return {
        "agreement": (int(off == 0), 1),
        "within_one": (int(off <= 1), 1),
        "mean_distance": (off, 1),
        "mean_bias": (higher, 1),
    }


def _pairs(found: Sequence[Names], expected: Sequence[Names]) -> set[int]:
    """Which of `found` have a partner, when as many as possible have one each (augmenting paths, Kuhn)."""
    wanted = [set(map(folded, names)) for names in expected]
    fits = [[number for number, names in enumerate(wanted) if names.intersection(map(folded, each))] for each in found]
    taken: dict[int, int] = {}

    def place(finder: int, tried: set[int]) -> bool:
        for number in fits[finder]:
            if number not in tried:
                tried.add(number)
                if number not in taken or place(taken[number], tried):
                    taken[number] = finder
                    return True
        return False

    for finder in range(len(found)):
        place(finder, set())
    return set(taken.values())


@dataclass(frozen=True, slots=True)
class Trial:
    """`content`: the task's content for a text; it may ask Wikidata. `score`: of a result (parsed JSON) for a text."""

    content: Callable[[LabelledText, Context], dict[str, Any]]
    score: Callable[[Any, LabelledText], Score]


def _all_that_is_expected(labelled: LabelledText, context: Context) -> dict[str, Any]:
    """Severity is given what was expected, not what was found: its figures speak of itself alone, whatever the other
    processors do. Where there is knowledge, people and subjects get their Wikidata ids as in service."""
    topics, people = [[names[0] for names in things] for things in (labelled.topics, labelled.people)]
    area = labelled.area[0]
    ids: dict[str, str] = {}
    if context.knowledge.available:
        subjects = linked([area, *topics], context.knowledge, labelled.language)
        persons = linked(people, context.knowledge, labelled.language, context.personality_classes)
        ids = {name: entity.id for name, entity in {**subjects, **persons}.items() if entity}

    def touched(name: str) -> dict[str, Any]:
        return {"name": name, "wikidataId": ids.get(name), "language": labelled.language}

    return {
        "text": labelled.text,
        "impactArea": touched(area),
        "topics": [touched(topic) for topic in topics],
        "personalities": [touched(person) for person in people],
    }


def _people(result: Any, labelled: LabelledText) -> Score:
    found: list[Names] = []
    for person in result["personalities"]:
        # Not `mentioned_as`: whoever takes the right words for the wrong person is wrong.
        known = person["wikidata"] or {"label": "", "aliases": []}
        found.append([name for name in (person["name"], known["label"], *known["aliases"]) if name])
    return compare_sets(found, labelled.people, labelled.optional_people)


def _topics(result: Any, labelled: LabelledText) -> Score:
    return compare_sets([[topic["name"]] for topic in result], labelled.topics, labelled.optional_topics)


TRIALS: Mapping[str, Trial] = {
    TaskType.IDENTIFYING_DATA.value: Trial(lambda labelled, _: {"text": labelled.text}, _people),
    TaskType.DEFINING_TOPICS.value: Trial(lambda labelled, _: {"text": labelled.text}, _topics),
    TaskType.DEFINING_IMPACT_AREA.value: Trial(
        lambda labelled, _: {"text": labelled.text, "options": list(labelled.areas)},
        lambda result, labelled: compare_choice(result["name"], labelled.area[0], labelled.area[1:]),
    ),
    TaskType.DEFINING_SEVERITY.value: Trial(
        _all_that_is_expected, lambda result, labelled: compare_levels(result["severity"], labelled.severity)
    ),
}


# ── trying ──────────────────────────────────────────────────────────────────────────────────────────────────────────
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
        wikidata = Wikidata(settings, ledger, 0, lambda seconds: nullcontext(), lambda change: None)
        with closing(ledger), closing(wikidata):
            yield wikidata


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
        """Everything, as values that orjson knows."""
        failures = [
            {"text": case.text.id, "task_type": case.task_type, "kind": case.failure, "reason": str(case.error)}
            for case in self.failed
        ]
        return {
            "provider": self.provider,
            "model": self.model,
            "mock": self.mock,
            "stopped": self.stopped or None,
            "rows": list(self.rows()),
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
    chosen = list(TRIALS) if types == ALL else [name.strip() for name in types.split(",")]
    if unknown := [name for name in chosen if name not in TRIALS]:
        raise BadParameter(f"{unknown[0]!r} is none of all, {', '.join(TRIALS)}", param_hint="--types")
    settings = load_settings(defaults=NO_TASK_API)
    logs.conceal(settings.openai_api_key, settings.ollama_api_key, settings.wikidata_token)
    # Standard output is the report's.
    logs.configure("DEBUG" if settings.log_level == "DEBUG" else "WARNING", settings.log_format, stream=sys.stderr)
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
        Console(soft_wrap=True, highlight=False).out(
            orjson.dumps(report.as_json(), option=orjson.OPT_INDENT_2).decode()
        )
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
