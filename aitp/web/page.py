"""The status page: one moment of the service as HTML, for a person with five seconds and for one with an hour.

It is whole without its script, which only asks for it again and puts the parts that changed in place; nothing is loaded
but the page itself. Style and script are files beside this one, sent within it, and named to the browser by their
hashes. The markup is `page.html`, by jinja2: every value is escaped, whoever wrote it, and made fit to be seen. What
stands here is what the markup needs beside the facts: the level and its sentence, how values are shown, the charts, and
what the models were used for. Called by `aitp.web.app`.
"""

from __future__ import annotations

import base64
import hashlib
import platform
import shlex
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from pydantic import SecretStr

from aitp import SERVICE_NAME, extensions, logs, metrics, release
from aitp.ledger.stats import SPANS, Bar, History, RecentError, Snapshot, WaitingTasks
from aitp.policy.costs import NANO, amount
from aitp.policy.windows import ROLLING_SECONDS
from aitp.process.scoreboard import MASTER, Record, Role, State, role_of
from aitp.settings import FIELDS, PLACEHOLDER, Settings
from aitp.web.health import Facts, Problem, Severity, at_work, counted, duration

STYLE = Path(__file__).with_name("page.css").read_text()
SCRIPT = Path(__file__).with_name("page.js").read_text()

LONGEST_TEXT = 300
DEFAULT = "default"  # the origin of a setting's value
PROCESSES_SHOWN = 16
IDLE_SHOWN = 4  # of a role; more are one row
QUEUES_SHOWN = 20
ROWS_SHOWN = 8  # of a list; the others are to be unfolded


class Level(StrEnum):
    """How well it is; the mark's form and colour are the template's."""

    WELL = "well"
    LOOK = "look"
    BAD = "bad"


def _hash(content: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()


# What the page may do in a browser: show its own style, run its own script, ask for itself, draw the mark in its tab.
CONTENT_SECURITY_POLICY = (
    f"default-src 'none'; style-src '{_hash(STYLE)}'; script-src '{_hash(SCRIPT)}'; connect-src 'self'; "
    "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


def render(facts: Facts, history: History, settings: Settings, problems: Sequence[Problem]) -> bytes:
    """The whole page."""
    ledger = facts.ledger
    level, verdict = judge(problems, settings)
    page = _TEMPLATES.get_template("page.html").render(
        level=level,
        sentence=verdict,
        facts=facts,
        ledger=ledger,
        history=history,
        charts=_charts(history, ledger) if ledger and history.bars else [],
        waiting=history.waiting[:QUEUES_SHOWN],
        types=_by_type(history),
        times=list(_times(history)),
        problems=problems,
        processes=_at_work(facts),
        uses=read_usage(settings.runtime_dir / "metrics"),
        settings=settings,
        values=list(_values(settings)),
    )
    return page.encode("utf-8", "replace")


# What is said for whoever looks for five seconds: of a problem by its code, else of the worst one by its severity.
_BY_CODE = {
    **dict.fromkeys(("not-running", "failed-start", "other-service", "hidden"), "The service is not running."),
    "stopped": "The service is stopped.",
    "paused": "Paused: nothing new is taken.",
    "draining": "Stopping.",
}
_BY_SEVERITY = {
    Severity.ERROR: (Level.BAD, "Not well."),
    Severity.FAULT: (Level.BAD, "Running, but it cannot do its work."),
    Severity.PENDING: (Level.LOOK, "Starting."),
    Severity.WARNING: (Level.LOOK, "It works, but take a look."),
}


def judge(problems: Sequence[Problem], settings: Settings) -> tuple[Level, str]:
    """How well it is, in one sentence that changes only when the state does. `problems`: the worst first.

    BAD: the service cannot do its work. LOOK: it works, or will in a moment, but a person should know something. WELL:
    neither; that it waits for a moment, because a limit or a provider wants it so, is part of its work.
    """
    worst = problems[0].severity if problems else Severity.OK
    if settings.mocks and not worst.at_least(Severity.PENDING):
        return Level.LOOK, f"It works, but {'every result is' if settings.buys_nothing else 'results are'} invented."
    level, sentence = _BY_SEVERITY.get(worst, (Level.WELL, "All is well."))
    codes = (problem.code for problem in problems if problem.severity is worst)
    return level, next((_BY_CODE[code] for code in codes if code in _BY_CODE), sentence)


# ── how values are shown ─────────────────────────────────────────────────────────────────────────────────────────────
def shown(value: Any) -> Any:
    """What jinja2 is to escape: numbers with separators; text without registered secrets, without characters that no
    reader can see, and of a bounded length."""
    if isinstance(value, Markup):
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    text = logs.masked(str(value))
    if len(text) > LONGEST_TEXT:
        text = text[: LONGEST_TEXT - 1] + "…"
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text)


def call_time(seconds: float) -> str:
    """Seconds that a call took, to the precision that tells something."""
    if seconds < 1:
        return f"{1000 * seconds:.0f} ms"
    return f"{seconds:.1f} s" if seconds < 100 else duration(seconds)


def instant(seconds: float, form: str = "%Y-%m-%d %H:%M:%S UTC") -> str:
    """A moment in UTC; what no calendar has (a garbled file holds it) as its number."""
    try:
        return datetime.fromtimestamp(seconds, UTC).strftime(form)
    except (OverflowError, ValueError, OSError):
        return f"{seconds:.3g}"


def sentence(words: str) -> str:
    return words[:1].upper() + words[1:] + ("" if words.endswith((".", "…")) else ".")


def tokens(count: int) -> str:
    """As many as have room; of many, the millions."""
    return f"{count:,}" if count < 10_000_000 else f"{count / 1_000_000:,.0f} M"


def cost(by_currency: Mapping[str, float]) -> str:
    return ", ".join(f"{amount(round(spent * NANO))} {currency}" for currency, spent in by_currency.items())


def width(share: float) -> str:
    """Of a bar that is 100 wide: how full something is, 0 to 1."""
    return f"{100 * min(1.0, max(0.0, share)):.1f}"


def number(value: float) -> str:
    """Of a rate or of a scale: as many digits as tell something."""
    return f"{value:,.0f}" if 10 <= value < 1e9 else f"{value:.2g}"


def command(*words: str) -> str:
    """`aitp` with these, to be copied into a shell. The last may be anybody's: it is the task API that names tasks."""
    *verbs, last = words
    return shlex.join(["aitp", *verbs, *(["--"] if last.startswith("-") else []), last])


def command_about(error: RecentError) -> str:
    """What an operator would run next."""
    match error.ending:
        case "dead letter":
            return command("dead", "show", *error.task_ids[:1])
        case "poll failed":
            return command("poll")
        case "not delivered":
            return command("tasks", "--state", "finished")
    return command("tasks", "--type", error.type) if error.type else command("check")


def waits_for(tasks: WaitingTasks, now: float) -> str:
    """For what in themselves: what keeps back all, or those of a provider or model, is told among the problems."""
    due = "" if tasks.due_at is None else f" in {duration(tasks.due_at - now)}"
    kinds = (
        (tasks.tasks - tasks.later - tasks.duplicates, "their turn"),
        (tasks.later, f"another try{due}"),
        (tasks.duplicates, "the result of one like them"),
    )
    return ", ".join(f"{count:,} for {what}" for count, what in kinds if count > 0)


_TEMPLATES = Environment(
    loader=FileSystemLoader(Path(__file__).parent),
    autoescape=True,
    finalize=shown,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    auto_reload=False,
)
_FILTERS = (
    amount,
    call_time,
    command_about,
    cost,
    counted,
    duration,
    instant,
    number,
    sentence,
    shown,
    tokens,
    waits_for,
    width,
)
_TEMPLATES.filters |= {each.__name__: each for each in _FILTERS}
_TEMPLATES.globals |= {"style": Markup(STYLE), "script": Markup(SCRIPT), "command": command, "rows_shown": ROWS_SHOWN}
_TEMPLATES.globals |= {"service": SERVICE_NAME, "version": release(), "python": platform.python_version()}


# ── charts ───────────────────────────────────────────────────────────────────────────────────────────────────────────
# By span: seconds between the times below a chart, how they are written, and the first limit to compare with.
_AXES = {"hour": (600, "%H:%M", 0), "day": (14_400, "%H:%M", 1), "week": (86_400, "%a %d", 2)}
RECENT_MINUTES = 10
SHORT_QUEUE_MINUTES = 2  # what is done so soon is no arrears


@dataclass(frozen=True)
class Chart:
    """Bars of a span, in a box as wide as there are of them and 100 high, and what they come to.

    `columns`: of the table of values. `series`: class, name, a value for each bar; they stand behind one another, or
    upon. `least`: of the scale. `limit`: a line to compare with, and what it says.
    """

    id: str
    title: str
    columns: str
    series: Sequence[tuple[str, str, Sequence[float]]]
    least: float
    summary: str
    limit: tuple[float, str] | None = None
    stacked: bool = False

    @property
    def top(self) -> float:
        """What the box's height means: a limit that is near is in it."""
        bars = zip(*(values for _, _, values in self.series), strict=True)
        top = _ceiling(max(sum(bar) if self.stacked else max(bar) for bar in bars), self.least)
        return max(top, _ceiling(self.limit[0])) if self.limit and self.limit[0] <= 4 * top else top

    def outlines(self) -> Iterator[tuple[str, str]]:
        """The class of each series, and its bars as the path of an SVG; of one without any, nothing."""
        below, top = [0.0] * len(self.series[0][2]), self.top
        for kind, _, values in self.series:
            outline = ""
            for place, value in enumerate(values):
                if value > 0:
                    height = min(100.0, max(1.7, 100 * value / top))  # anything can be seen
                    outline += f"M{place}.1 {100 - below[place]:.1f}h.8v-{height:.1f}h-.8z"
                    below[place] += height * self.stacked
            if outline:
                yield kind, outline


def _charts(history: History, ledger: Snapshot) -> list[Chart]:
    """What was done, what waited, and how long calls took."""
    bars, minutes = history.bars, SPANS[history.span].minutes
    calls, seconds = sum(bar.calls for bar in bars), sum(bar.seconds for bar in bars)
    took = f"{counted(calls, 'call')}, {call_time(seconds / calls)} on average." if calls else "No calls."
    tasks = (
        ("main", "succeeded", [bar.succeeded for bar in bars]),
        ("bad", "failed", [bar.failed for bar in bars]),
        ("soft", "put back", [bar.returned for bar in bars]),
    )
    ended = ", ".join(f"{sum(counts):,} {words}" for _, words, counts in tasks) + "."
    attempts = [(kind, words, [count / minutes for count in counts]) for kind, words, counts in tasks]
    limit, least = _limit(ledger, history.span), 2 if minutes == 1 else 0.2
    queue = [("main", "", [bar.waiting or 0 for bar in bars])]
    times = [("soft", "slowest", [bar.slowest for bar in bars]), ("main", "mean", [bar.mean for bar in bars])]
    return [
        Chart("done", "Tasks a minute", "1 2 3", attempts, least, ended, limit, stacked=True),
        Chart("queue", "Tasks that wait", "4", queue, 2, outlook(history, ledger)),
        Chart("calls", "Seconds a call takes", "5 6", times, 0.01, took),
    ]


def _ceiling(highest: float, least: float = 0.0) -> float:
    """A round number that is no less, so that the scale does not move with each task; so is its half."""
    scales = (digit * 10.0**power for power in range(-3, 30) for digit in (1, 2, 4, 6))
    return next((scale for scale in scales if scale >= max(highest, least)), highest)


def _limit(ledger: Snapshot, span: str) -> tuple[float, str] | None:
    """The limit to compare with: tasks a minute, and its words. The longer the bars, the longer its period."""
    for period, seconds in list(ROLLING_SECONDS.items())[_AXES[span][2] :]:
        if use := ledger.limits.get(period):
            return 60 * use.limit / seconds, f"limit {use.limit:,} {'an' if period == 'hour' else 'a'} {period}"
    return None


def outlook(history: History, ledger: Snapshot) -> str:
    """Whether what comes is done, as the last minutes went."""
    past, waiting = history.minutes[-RECENT_MINUTES - 1 : -1], ledger.ready + ledger.waiting
    more = " The task API has more." if history.more_there else ""
    if not waiting:
        return f"Nothing waits.{more}"
    done = sum(bar.succeeded + bar.failed for bar in past) / RECENT_MINUTES
    before = past[0].waiting if past else None
    grown = 0.0 if before is None else (waiting - before) / (RECENT_MINUTES - 1)
    if not done:
        return f"{waiting:,} wait, and none was done in the last {RECENT_MINUTES} minutes.{more}"
    pace = f"{number(done)} done, {number(max(0.0, done + grown))} new a minute"
    if grown < -0.05 * done:
        return f"Catching up: {pace}; drained in {duration(-60 * waiting / grown)}.{more}"
    behind = grown > 0.05 * done and waiting > SHORT_QUEUE_MINUTES * done
    takes = f"what waits takes {duration(60 * waiting / done)}"
    return f"{'Falling behind' if behind else 'Keeping up'}: {pace}; {takes}.{more}"


def _times(history: History) -> Iterator[tuple[float, str]]:
    """What stands below the charts: how far to the right (0 to 1), and the time."""
    seconds, form, _ = _AXES[history.span]
    for place, bar in enumerate(history.bars):
        if bar.at % seconds == 0 and 0.03 < place / len(history.bars) < 0.87:
            yield place / len(history.bars), instant(bar.at, form)


# ── types, processes, models, settings ───────────────────────────────────────────────────────────────────────────────
def _by_type(history: History) -> list[tuple[str, int, Bar]]:
    """Task types, how many tasks of each wait, and what the span came to."""
    waiting: Counter[str] = Counter()
    for each in history.waiting:
        waiting[each.queue.type] += each.tasks
    return [(name, waiting[name], history.types.get(name, Bar())) for name in sorted({*waiting, *history.types})]


def _at_work(facts: Facts) -> tuple[list[tuple[str, Record]], str]:
    """Who does what, by slot: the late, then the busy, so many of them; idle ones of a role in one row."""
    free = [each for each in facts.children if each.state is State.IDLE]
    idle_of = {role: [each for each in free if role_of(each.slot) is role] for role in Role}
    folded = {role: idle for role, idle in idle_of.items() if len(idle) > IDLE_SHOWN}
    hidden = {each for idle in folded.values() for each in idle}
    others = [each for each in (facts.master, *facts.children) if each and each not in hidden]
    shown, rest = at_work(others, facts.overrun, PROCESSES_SHOWN)
    lines = [("master" if each.slot == MASTER else f"{role_of(each.slot)} {each.slot}", each) for each in shown]
    for role, idle in folded.items():
        together = replace(idle[0], since=0.0, task_id="", done=sum(each.done for each in idle))
        lines.append((f"{len(idle):,} {role}s", together))
    return lines, rest


_FAMILIES = {
    family.name: provider
    for provider in ("openai", "ollama")
    for family in (metrics.PROVIDERS[provider].requests, metrics.PROVIDERS[provider].tokens)
}


class ModelUse(NamedTuple):
    """One model at one provider, since the metrics began. `counts`: calls, those that failed, and tokens by type."""

    provider: str
    model: str
    counts: Counter[str]
    cost: dict[str, float]  # by currency


def read_usage(directory: Path) -> list[ModelUse] | None:
    """The models that were called, most called first; None if the files cannot be read.

    Of the metrics files only those of counters are read: a look must stay cheap.
    """
    uses: dict[tuple[str, str], ModelUse] = {}
    try:
        for sample in (sample for metric in metrics.counted(directory, "counter") for sample in metric.samples):
            labels, count = sample.labels, int(sample.value)
            provider = labels["provider"] if sample.name == metrics.COST.name else _FAMILIES.get(sample.name)
            if provider is None or sample.value <= 0:
                continue
            key = provider, labels["model"]
            use = uses.setdefault(key, ModelUse(*key, Counter(), {}))
            if sample.name == metrics.COST.name:
                use.cost[labels["currency"]] = sample.value
            else:
                use.counts[labels.get("type", "calls")] += count
                use.counts["failed"] += count * (labels.get("status", "success") != metrics.CallStatus.SUCCESS)
    except metrics.UNREADABLE_FILES:
        return None
    return sorted(uses.values(), key=lambda use: (-use.counts["calls"], use.provider, use.model))


def _values(settings: Settings) -> Iterator[tuple[str, str, str]]:
    """Every setting, its value (of secrets, whether there is one), and where that is from."""
    own = ((name, getattr(settings, name.lower())) for name in FIELDS)
    others = ((name, settings.extensions.get(name, "")) for name in extensions.foreign_settings())
    for name, value in (*own, *others):
        yield name, _value(value), settings.origins.get(name, DEFAULT)


def _value(value: Any) -> str:
    if isinstance(value, SecretStr):
        plain = value.get_secret_value()
        return f"{plain} (mock mode)" if PLACEHOLDER.fullmatch(plain) else "set, never shown"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, tuple):
        return ", ".join(map(str, value))
    if isinstance(value, Mapping):
        return ", ".join(f"{key}: {entry}" for key, entry in value.items()) or "none"
    value = getattr(value, "path", value)  # of what is in a file
    return "not set" if value is None else str(value) or "empty"
