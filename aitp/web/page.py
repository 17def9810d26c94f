"""The status page: one moment of the service as HTML, for a person with five seconds and for one with an hour.

It is whole without its script, which only asks for it again and puts the parts that changed in place; nothing is loaded
but the page itself. Style and script are files beside this one, sent within it, and named to the browser by their
hashes. Every value is escaped, whoever wrote it. Called by `aitp.web.app`.
"""

from __future__ import annotations

import base64
import hashlib
import platform
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from aitp import SERVICE_NAME, __version__
from aitp.ledger.stats import History
from aitp.settings import Settings
from aitp.web import plots, sections
from aitp.web.facts import Facts
from aitp.web.figures import duration, instant
from aitp.web.markup import Html, section, text, with_code
from aitp.web.readiness import Problem
from aitp.web.usage import ModelUse
from aitp.web.verdict import Level, Verdict, judge

STYLE = Path(__file__).with_name("page.css").read_text()
SCRIPT = Path(__file__).with_name("page.js").read_text()

_MOCK = "Mock mode: results are invented, nothing is bought. Set OPENAI_API_KEY to a real key to change that."
_REFRESH_WITHOUT_SCRIPT_SECONDS = 15
_COLOURS = {Level.WELL: "#1a7f4b", Level.LOOK: "#c07a00", Level.BAD: "#c0272d"}
_MARKS = {
    Level.WELL: '<path d="M4.5 8.5l2.5 2.5 4.5-5.5"/>',
    Level.LOOK: '<path d="M8 4v5M8 11.6v.4"/>',
    Level.BAD: '<path d="M5.2 5.2l5.6 5.6M10.8 5.2l-5.6 5.6"/>',
}


def _hash(content: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()


# What the page may do in a browser: show its own style, run its own script, ask for itself, draw the mark in its tab.
CONTENT_SECURITY_POLICY = "; ".join(
    (
        "default-src 'none'",
        f"style-src '{_hash(STYLE)}'",
        f"script-src '{_hash(SCRIPT)}'",
        "connect-src 'self'",
        "img-src data:",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)


@dataclass(frozen=True, slots=True)
class Sight:
    """All that there is to see. `health` and `readiness` are the problems, as /health and /ready tell them."""

    facts: Facts
    history: History
    usage: tuple[ModelUse, ...] | None
    settings: Settings
    health: Sequence[Problem]
    readiness: Sequence[Problem]


def render(sight: Sight) -> bytes:
    """The whole page."""
    return "".join(_document(sight)).encode("utf-8", "replace")


def _document(sight: Sight) -> Iterator[str]:
    verdict = judge(sight.facts, sight.history, sight.settings, sight.health, sight.readiness)
    yield '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
    yield '<meta name="viewport" content="width=device-width,initial-scale=1">'
    yield f"<title>{text(verdict.sentence)} {text(SERVICE_NAME)}</title>"
    yield f'<link rel="icon" href="{_icon(verdict.level)}"><style>{STYLE}</style>'
    yield f'<noscript><meta http-equiv="refresh" content="{_REFRESH_WITHOUT_SCRIPT_SECONDS}"></noscript></head><body>'
    yield _header(sight)
    yield "<main>"
    if sight.settings.mock:
        yield f'<p class="mock"><strong>{text(_MOCK)}</strong></p>'
    yield _verdict(verdict)
    yield from _parts(sight)
    yield f"</main>{_footer(sight)}<script>{SCRIPT}</script></body></html>\n"


def _header(sight: Sight) -> str:
    settings, now = sight.settings, sight.facts.now
    return (
        f"<header><h1>{text(SERVICE_NAME)}</h1><p><span>mode {text(settings.processing_mode)}</span>"
        f'<time id="now" datetime="{instant(now, "%Y-%m-%dT%H:%M:%SZ")}" data-live>{instant(now)}</time></p>'
        '<p id="lost" role="alert" hidden></p></header>'
    )


def _verdict(verdict: Verdict) -> str:
    """The sentence alone is announced to those who listen: the rest changes with every look."""
    points = "".join(
        f'<li>{text(_sentence(point))} <span class="advice">{with_code(point.advice)}</span></li>'
        for point in verdict.points
    )
    return (
        f'<div id="mark" data-live>{_mark(verdict.level)}</div>'
        f'<p id="verdict" class="{verdict.level}" role="status" data-live>{text(verdict.sentence)}</p>'
        f'<ul id="points" aria-label="Why, and what to do" data-live>{points}</ul>'
    )


def _sentence(problem: str) -> str:
    return problem[:1].upper() + problem[1:] + ("" if problem.endswith((".", "…")) else ".")


def _mark(level: Level) -> str:
    circle = '<circle cx="8" cy="8" r="8"/>'
    return f'<svg class="{level}" viewBox="0 0 16 16" aria-hidden="true">{circle}{_MARKS[level]}</svg>'


def _icon(level: Level) -> str:
    drawing = (
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 16 16">'
        f'<circle cx="8" cy="8" r="8" fill="{_COLOURS[level]}"/>'
        f'<g fill="none" stroke="#fff" stroke-width="2">{_MARKS[level]}</g></svg>'
    )
    return f"data:image/svg+xml,{quote(drawing)}"


def _parts(sight: Sight) -> Iterator[str]:
    facts, history, ledger = sight.facts, sight.history, sight.facts.ledger
    if ledger is not None:
        yield sections.figures(ledger, history.minutes)
        yield section(
            "hour",
            "Last hour",
            plots.throughput(history.minutes),
            plots.latency(history.minutes),
            classes="whole-width",
        )
        yield sections.limits(ledger)
        if ledger.budgets:
            yield sections.budgets(ledger)
        yield sections.services(ledger)
    yield sections.processes(facts)
    yield sections.models(sight.usage, facts.stock)
    if ledger is not None:
        yield sections.troubles(history.errors, facts.now)
    yield sections.settings(sight.settings)


def _footer(sight: Sight) -> str:
    facts, ledger = sight.facts, sight.facts.ledger
    told = [f"aitp {__version__}, Python {platform.python_version()}"]
    if facts.master is not None and facts.master.started > 0:
        told.append(f"up {duration(facts.now - facts.master.started)}")
    if ledger is not None:
        told.append(f"{ledger.disk_free // 2**20:,} MB free on the ledger's disk")
    links = "".join(f'<a href="{path}">{path}</a>' for path in ("/metrics", "/health", "/ready"))
    about = Html(" · ").join(map(text, told))
    return f'<footer><p id="about" data-live>{about}</p><nav aria-label="For machines">{links}</nav></footer>'
