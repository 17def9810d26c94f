"""The status page: one moment of the service as HTML, for a person with five seconds and for one with an hour.

It is whole without its script, which only asks for it again and puts the parts that changed in place; nothing is loaded
but the page itself. Style and script are files beside this one, sent within it, and named to the browser by their
hashes. The markup is `page.html`, by jinja2: every value is escaped, whoever wrote it, and made fit to be seen. What
stands here is what the markup needs beside the facts: the level and its sentence, how values are shown, and what the
models were used for. Called by `aitp.web.app`.
"""

from __future__ import annotations

import base64
import hashlib
import platform
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from enum import StrEnum
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from pydantic import SecretStr

from aitp import SERVICE_NAME, metrics, release
from aitp.ledger.stats import History
from aitp.logs import masked
from aitp.prices import Prices, amount, nano
from aitp.process.scoreboard import MASTER, Record, Role, State, role_of
from aitp.settings import FIELDS, PLACEHOLDER_KEY, Settings
from aitp.tls import Authorities
from aitp.web.health import Facts, Phase, Problem, Severity, at_work, counted, duration, many_failed

STYLE = Path(__file__).with_name("page.css").read_text()
SCRIPT = Path(__file__).with_name("page.js").read_text()

LONGEST_TEXT = 300
PROCESSES_SHOWN = 40


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
    minutes = history.minutes
    level, sentence = judge(problems, facts, settings)
    page = _TEMPLATES.get_template("page.html").render(
        service=SERVICE_NAME,
        version=release(),
        python=platform.python_version(),
        level=level,
        sentence=sentence,
        facts=facts,
        ledger=facts.ledger,
        many_failed=many_failed(minutes),
        minutes=minutes,
        busiest=_ceiling(max((minute.succeeded + minute.failed for minute in minutes), default=0)),
        slowest=max((minute.slowest for minute in minutes), default=0.0),
        errors=history.errors,
        problems=problems,
        processes=_at_work(facts),
        uses=read_usage(settings.runtime_dir / "metrics"),
        settings=settings,
        values=list(_values(settings)),
    )
    return page.encode("utf-8", "replace")


def judge(problems: Sequence[Problem], facts: Facts, settings: Settings) -> tuple[Level, str]:
    """One sentence for whoever looks for five seconds. It changes only when the state does.

    BAD: the service cannot do its work. LOOK: it works, or will in a moment, but a person should know something. WELL:
    neither; that it waits for a moment, because a limit or a provider wants it so, is part of its work.
    """
    worst = problems[0].severity if problems else Severity.OK
    if worst is Severity.ERROR:
        return Level.BAD, _ABSENT.get(facts.phase, "Not well.") if facts.master is None else "Not well."
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


_ABSENT = {
    Phase.DOWN: "The service is not running.",
    Phase.HIDDEN: "The service is not running.",
    Phase.STOPPED: "The service is stopped.",
}


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


def _ceiling(highest: int) -> int:
    """The next of 5, 10, 20, 50, 100, …, so that the scale does not move with each task."""
    scales = (digit * 10**power for power in range(30) for digit in (5, 10, 20))
    return int(next(scale for scale in scales if scale >= highest))


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
    "call_time": call_time,
    "cost": _cost,
    "counted": counted,
    "duration": duration,
    "instant": instant,
    "sentence": _sentence,
    "shown": shown,
    "tokens": _tokens,
    "width": _width,
}
_TEMPLATES.globals |= {"style": Markup(STYLE), "script": Markup(SCRIPT), "State": State}


# ── processes, models, settings ──────────────────────────────────────────────────────────────────────────────────────
@dataclass(frozen=True, slots=True)
class Line:
    """One process. `counts`: whether its number of tasks says anything."""

    name: str
    record: Record
    overrun: bool
    counts: bool


def _at_work(facts: Facts) -> tuple[list[Line], str]:
    everyone = [record for record in (facts.master, *facts.children) if record is not None]
    shown, rest = at_work(everyone, facts.overrun, PROCESSES_SHOWN)
    lines = []
    for record in shown:
        role = None if record.slot == MASTER else role_of(record.slot)
        name = f"{role.value} {record.slot}" if role else "master"
        lines.append(Line(name, record, record in facts.overrun, role is Role.WORKER))
    return lines, rest


_FAMILIES = {
    family.name: provider
    for provider in ("openai", "ollama")
    for family in (metrics.PROVIDERS[provider].requests, metrics.PROVIDERS[provider].tokens)
}


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
        for sample in (sample for metric in metrics.counted(directory, "counter") for sample in metric.samples):
            labels, count = sample.labels, int(sample.value)
            provider = labels["provider"] if sample.name == metrics.COST.name else _FAMILIES.get(sample.name)
            if provider is None or sample.value <= 0:
                continue
            use = uses.setdefault((provider, labels["model"]), ModelUse(provider, labels["model"]))
            if sample.name == metrics.COST.name:
                use.cost[labels["currency"]] = sample.value
            elif "type" in labels:
                use.tokens[labels["type"]] = count
            else:
                use.calls += count
                use.unanswered += count if labels["status"] != metrics.CallStatus.SUCCESS else 0
    except metrics.UNREADABLE_FILES:
        return None
    return sorted(uses.values(), key=lambda use: (-use.calls, use.provider, use.model))


def _values(settings: Settings) -> Iterator[tuple[str, str, bool]]:
    """Every setting, its value, and whether it was set; of secrets, whether there is one."""
    for name, field_ in FIELDS.items():
        value = getattr(settings, name.lower())
        changed = field_.is_required() or value != field_.get_default(call_default_factory=True)
        yield name, _value(value), changed


def _value(value: Any) -> str:
    if isinstance(value, SecretStr):
        is_placeholder = value.get_secret_value() == PLACEHOLDER_KEY
        return f"{PLACEHOLDER_KEY} (mock mode)" if is_placeholder else "set, never shown"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, tuple):
        return ", ".join(map(str, value))
    if isinstance(value, Mapping):
        return ", ".join(f"{key}: {entry}" for key, entry in value.items()) or "none"
    if isinstance(value, Authorities | Prices):
        value = value.path
    return "not set" if value is None else str(value) or "empty"
