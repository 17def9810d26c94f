"""The status page: one moment of the service as HTML, for a person with five seconds and for one with an hour.

It is whole without its script, which only asks for it again and puts the parts that changed in place; nothing is loaded
but the page itself. Style and script are files beside this one, sent within it, and named to the browser by their
hashes. The markup is `page.html`, by jinja2: every value is escaped, whoever wrote it, and made fit to be seen. What
stands here is what the markup needs beside the facts: the level and its sentence, the two plots of the last hour, and
what the models were used for. Called by `aitp.web.app`.
"""

from __future__ import annotations

import base64
import hashlib
import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from enum import StrEnum
from pathlib import Path
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from pydantic import SecretStr

from aitp import SERVICE_NAME, __version__
from aitp.ledger.stats import History, Minute
from aitp.logs import masked
from aitp.metrics import (
    COST,
    OLLAMA_REQUESTS,
    OLLAMA_TOKENS,
    OPENAI_REQUESTS,
    OPENAI_TOKENS,
    UNREADABLE_FILES,
    CallStatus,
)
from aitp.metrics import (
    counted as counts_in,
)
from aitp.prices import Prices, amount, nano
from aitp.process.scoreboard import MASTER, Record, Role, State, role_of
from aitp.settings import FIELDS, PLACEHOLDER_KEY, Settings
from aitp.tls import Authorities
from aitp.web.health import Facts, Problem, Severity, counted, duration, many_failed

STYLE = Path(__file__).with_name("page.css").read_text()
SCRIPT = Path(__file__).with_name("page.js").read_text()

LONGEST_TEXT = 300
PROCESSES_SHOWN = 40
PLOT_HEIGHT, PLOT_STEP = 88, 10  # a minute is a step wide


class Level(StrEnum):
    """How well it is: form and colour of the mark."""

    WELL = "well"
    LOOK = "look"
    BAD = "bad"


_COLOURS = {Level.WELL: "#1a7f4b", Level.LOOK: "#c07a00", Level.BAD: "#c0272d"}
_MARKS = {
    Level.WELL: "M4.5 8.5l2.5 2.5 4.5-5.5",
    Level.LOOK: "M8 4v5M8 11.6v.4",
    Level.BAD: "M5.2 5.2l5.6 5.6M10.8 5.2l-5.6 5.6",
}


def _hash(content: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()


# What the page may do in a browser: show its own style, run its own script, ask for itself, draw the mark in its tab.
CONTENT_SECURITY_POLICY = (
    f"default-src 'none'; style-src '{_hash(STYLE)}'; script-src '{_hash(SCRIPT)}'; connect-src 'self'; "
    "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


@dataclass(frozen=True, slots=True)
class Sight:
    """All that there is to see."""

    facts: Facts
    history: History
    settings: Settings
    problems: Sequence[Problem]


def render(sight: Sight) -> bytes:
    """The whole page."""
    facts, minutes = sight.facts, sight.history.minutes
    level, sentence = judge(sight.problems, facts, sight.settings)
    icon = (
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 16 16">'
        f'<circle cx="8" cy="8" r="8" fill="{_COLOURS[level]}"/>'
        f'<path fill="none" stroke="#fff" stroke-width="2" d="{_MARKS[level]}"/></svg>'
    )
    told = [f"aitp {__version__}, Python {platform.python_version()}"]
    if facts.master is not None and facts.master.started > 0:
        told.append(f"up {duration(facts.now - facts.master.started)}")
    if facts.ledger is not None:
        told.append(f"{facts.ledger.disk_free // 2**20:,} MB free on the ledger's disk")
    page = _TEMPLATES.get_template("page.html").render(
        service=SERVICE_NAME,
        about=" · ".join(told),
        level=level,
        sentence=sentence,
        icon=f"data:image/svg+xml,{quote(icon)}",
        mark=_MARKS[level],
        facts=facts,
        ledger=facts.ledger,
        many_failed=many_failed(minutes),
        minutes=minutes,
        plots=(throughput(minutes), latency(minutes)),
        errors=sight.history.errors,
        problems=sight.problems,
        processes=_at_work(facts),
        uses=read_usage(sight.settings.runtime_dir / "metrics"),
        settings=sight.settings,
        values=list(_values(sight.settings)),
    )
    return page.encode("utf-8", "replace")


def judge(problems: Sequence[Problem], facts: Facts, settings: Settings) -> tuple[Level, str]:
    """One sentence for whoever looks for five seconds. It changes only when the state does.

    BAD: the service cannot do its work. LOOK: it works, or will in a moment, but a person should know something. WELL:
    neither; that it waits for a moment, because a limit or a provider wants it so, is part of its work.
    """
    worst = problems[0].severity if problems else Severity.OK
    if worst is Severity.ERROR:
        return Level.BAD, "The service is not running." if facts.master is None else "Not well."
    if worst is Severity.FAULT:
        return Level.BAD, "Running, but it cannot do its work."
    if worst is Severity.PENDING:
        codes = {problem.code for problem in problems}
        phases = {"paused": "Paused: nothing new is taken.", "draining": "Stopping."}
        return Level.LOOK, next((said for code, said in phases.items() if code in codes), "Starting.")
    if settings.mock:
        return Level.LOOK, "It works, but every result is invented."
    if worst is Severity.WARNING:
        return Level.LOOK, "It works, but take a look."
    return Level.WELL, "All is well."


# ── how values are shown ─────────────────────────────────────────────────────────────────────────────────────────────
def shown(value: Any) -> Any:
    """What jinja2 is to escape: numbers with separators; text without registered secrets, without characters that no
    reader can see, and of a bounded length."""
    if isinstance(value, Markup):
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    text = masked(str(value))
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


def _sentence(words: str) -> str:
    return words[:1].upper() + words[1:] + ("" if words.endswith((".", "…")) else ".")


def _tokens(count: int) -> str:
    """As many as have room; of many, the millions."""
    return f"{count:,}" if count < 10_000_000 else f"{count / 1_000_000:,.0f} M"


def _cost(cost: Mapping[str, float]) -> str:
    return ", ".join(f"{amount(nano(Decimal(spent)))} {currency}" for currency, spent in cost.items())


def _width(share: float) -> str:
    """Of a bar that is 100 wide: how full something is, 0 to 1."""
    return f"{100 * min(1.0, max(0.0, share)):.1f}"


_TEMPLATES = Environment(
    loader=FileSystemLoader(Path(__file__).parent),
    autoescape=True,
    finalize=shown,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    auto_reload=False,
)
_TEMPLATES.filters |= {
    "amount": amount,
    "cost": _cost,
    "duration": duration,
    "instant": instant,
    "sentence": _sentence,
    "tokens": _tokens,
    "width": _width,
}
_TEMPLATES.globals |= {"style": Markup(STYLE), "script": Markup(SCRIPT), "State": State}


# ── the last hour ────────────────────────────────────────────────────────────────────────────────────────────────────
@dataclass(frozen=True, slots=True)
class Plot:
    """One of the two. `marks`: for each minute what is told under the pointer, its x, and (class, y, height) of its
    bars; `label` tells in words what it shows.
    """

    title: str
    top: str
    label: str
    marks: Sequence[tuple[str, int, Sequence[tuple[str, str, str]]]]


def throughput(minutes: Sequence[Minute]) -> Plot:
    """Tasks that ended in each minute: succeeded, and failed on top of them."""
    highest = _ceiling(max((minute.succeeded + minute.failed for minute in minutes), default=0))

    def told(minute: Minute) -> str:
        failed = f", {minute.failed:,} failed" if minute.failed else ""
        returned = f", {minute.returned:,} put back" if minute.returned else ""
        return f"{minute.succeeded:,} succeeded{failed}{returned}"

    succeeded, failed = sum(minute.succeeded for minute in minutes), sum(minute.failed for minute in minutes)
    return Plot(
        "Tasks a minute",
        f"{highest:,}",
        f"Tasks a minute in the last hour: {succeeded:,} succeeded, {failed:,} failed; the scale ends at {highest:,}",
        _marks(minutes, highest, told, lambda minute: [("done", minute.succeeded), ("failed", minute.failed)], 1),
    )


def latency(minutes: Sequence[Minute]) -> Plot:
    """How long calls took: the mean of each minute, and the slowest one behind it."""
    highest = max((minute.slowest for minute in minutes), default=0.0)

    def mean(minute: Minute) -> float:
        return minute.seconds / minute.calls if minute.calls else 0.0

    def told(minute: Minute) -> str:
        took = f"mean {call_time(mean(minute))}, slowest {call_time(minute.slowest)}"
        return f"{counted(minute.calls, 'call')}, {took}"

    took = call_time(highest)
    return Plot(
        "Duration of a call: mean, slowest",
        took,
        f"Duration of calls in the last hour: mean and slowest of each minute; the slowest took {took}",
        _marks(minutes, highest, told, lambda minute: [("slowest", minute.slowest), ("mean", mean(minute))], 0),
    )


def _marks(
    minutes: Sequence[Minute],
    highest: float,
    told: Callable[[Minute], str],
    values: Callable[[Minute], Sequence[tuple[str, float]]],
    stacked: int,
) -> list[tuple[str, int, list[tuple[str, str, str]]]]:
    marks = []
    for place, minute in enumerate(minutes):
        bottom, bars = 0.0, []
        for kind, value in values(minute):
            # Anything above 0 can be seen.
            height = max(1.5, PLOT_HEIGHT * value / highest) if value > 0 and highest > 0 else 0.0
            if height > 0:
                bars.append((kind, f"{PLOT_HEIGHT - bottom - height:.1f}", f"{height:.1f}"))
            bottom += stacked * height
        if minute.calls:
            marks.append((f"{instant(minute.at, '%H:%M')}: {told(minute)}", PLOT_STEP * place, bars))
    return marks


def _ceiling(highest: int) -> int:
    """The next of 5, 10, 20, 50, 100, …, so that the scale does not move with each task."""
    scales = (digit * 10**power for power in range(30) for digit in (5, 10, 20))
    return int(next(scale for scale in scales if scale >= highest))


# ── processes, models, settings ──────────────────────────────────────────────────────────────────────────────────────
@dataclass(frozen=True, slots=True)
class Line:
    """One process. `counts`: whether its number of tasks says anything."""

    name: str
    record: Record
    overrun: bool
    counts: bool


def _at_work(facts: Facts) -> tuple[list[Line], str]:
    """Who does what, by slot; of very many, those that are at something come first, and the others are summed up."""
    everyone = [record for record in (facts.master, *facts.children) if record is not None]
    by_work = sorted(everyone, key=lambda one: (one not in facts.overrun, one.state is State.IDLE, one.slot))
    lines = []
    for record in sorted(by_work[:PROCESSES_SHOWN], key=lambda one: one.slot):
        name = "master" if record.slot == MASTER else f"{role_of(record.slot).value} {record.slot}"
        counts = record.slot != MASTER and role_of(record.slot) is Role.WORKER
        lines.append(Line(name, record, record in facts.overrun, counts))
    rest: dict[str, int] = {}
    for record in by_work[PROCESSES_SHOWN:]:
        rest[record.state.name.lower()] = rest.get(record.state.name.lower(), 0) + 1
    return lines, ", ".join(f"{number:,} {state}" for state, number in rest.items())


_PROVIDERS = {"openai": (OPENAI_REQUESTS, OPENAI_TOKENS), "ollama": (OLLAMA_REQUESTS, OLLAMA_TOKENS)}
_FAMILIES = {family.name: provider for provider, families in _PROVIDERS.items() for family in families}


@dataclass(slots=True)
class ModelUse:
    """One model at one provider, since the metrics began. `tokens` by type, `cost` by currency."""

    provider: str
    model: str
    calls: int = 0
    unanswered: int = 0
    tokens: dict[str, int] = field(default_factory=dict)
    cost: dict[str, float] = field(default_factory=dict)


def read_usage(directory: Path) -> list[ModelUse] | None:
    """The models that were called, most called first; None if the files cannot be read.

    Of the metrics files only those of counters are read: a look must stay cheap.
    """
    uses: dict[tuple[str, str], ModelUse] = {}
    try:
        samples = [
            sample for metric in counts_in(directory, "counter") for sample in metric.samples if sample.value > 0
        ]
        for sample in samples:
            provider = sample.labels["provider"] if sample.name == COST.name else _FAMILIES.get(sample.name)
            if provider is None:
                continue
            model = sample.labels["model"]
            use = uses.setdefault((provider, model), ModelUse(provider, model))
            if sample.name == COST.name:
                use.cost[sample.labels["currency"]] = sample.value
            elif "type" in sample.labels:
                use.tokens[sample.labels["type"]] = int(sample.value)
            else:
                use.calls += int(sample.value)
                use.unanswered += int(sample.value) if sample.labels["status"] != CallStatus.SUCCESS else 0
    except UNREADABLE_FILES:
        return None
    return sorted(uses.values(), key=lambda use: (-use.calls, use.provider, use.model))


def _values(settings: Settings) -> Iterator[tuple[str, str, bool]]:
    """Every setting, its value, and whether it was set; of secrets, whether there is one."""
    for name, field_ in FIELDS.items():
        value = getattr(settings, name.lower())
        changed = field_.is_required() or value != field_.get_default(call_default_factory=True)
        yield name, _value(value), changed


def _value(value: Any) -> str:
    match value:
        case SecretStr():
            return (
                f"{PLACEHOLDER_KEY} (mock mode)" if value.get_secret_value() == PLACEHOLDER_KEY else "set, never shown"
            )
        case None:
            return "not set"
        case bool():
            return str(value).lower()
        case float():
            return f"{value:g}"
        case Authorities() | Prices():
            return str(value.path)
        case tuple():
            return ", ".join(map(str, value))
        case Mapping():
            return ", ".join(f"{key}: {entry}" for key, entry in value.items()) or "none"
        case _:
            return str(value) or "empty"
