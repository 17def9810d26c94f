"""The status page: one moment of the service as plain HTML, rendered here, without scripts or anything to load.

Every value is escaped, whoever wrote it. Parts whose source cannot be read say so and leave the others alone.
Called by `aitp.web.app`; the stylesheet is a constant so that the content security policy can name its hash.
"""

from __future__ import annotations

import base64
import hashlib
import html
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime

from aitp import SERVICE_NAME, __version__
from aitp.ledger.views import Snapshot
from aitp.process.scoreboard import Record
from aitp.process.slots import MASTER, role_of
from aitp.web.facts import Facts

STYLE = (
    ":root{color-scheme:light dark}"
    "body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:1rem auto;padding:0 1rem}"
    "table{border-collapse:collapse;margin:.5rem 0 1.5rem}"
    "caption{text-align:left;font-weight:600;padding:.3rem 0}"
    "th,td{text-align:left;padding:.2rem 1.2rem .2rem 0;border-bottom:1px solid #8884}"
    "td.n{text-align:right;font-variant-numeric:tabular-nums}"
    ".mock,.bad{padding:.5rem .8rem;border-left:.4rem solid #c60;background:#c602}"
    ".bad{border-color:#c00;background:#c002}"
)
STYLE_HASH = "sha256-" + base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()

_MOCK = "Mock mode: results are invented, nothing is bought. Set OPENAI_API_KEY to a real key to change that."


def render(facts: Facts, *, mock: bool, health: Sequence[str], readiness: Sequence[str]) -> bytes:
    """The whole page. `health` and `readiness` are the problems, as /health and /ready tell them."""
    return "".join(_document(facts, mock, health, readiness)).encode("utf-8", "replace")


def _document(facts: Facts, mock: bool, health: Sequence[str], readiness: Sequence[str]) -> Iterator[str]:
    name = html.escape(SERVICE_NAME)
    yield '<!DOCTYPE html><html lang="en"><head><meta charset="utf-8">'
    yield '<meta name="viewport" content="width=device-width,initial-scale=1">'
    yield f"<title>{name}</title><style>{STYLE}</style></head><body><h1>{name} {html.escape(__version__)}</h1>"
    if mock:
        yield f'<p class="mock" role="alert"><strong>{html.escape(_MOCK)}</strong></p>'
    state = f"{'Unhealthy' if health else 'Healthy'}, {'not ready' if readiness else 'ready'}"
    yield f"<p>{state} at {_instant(facts.now)}.</p>"
    if readiness:
        yield '<ul class="bad">' + "".join(f"<li>{_text(problem)}</li>" for problem in readiness) + "</ul>"
    if facts.ledger is not None:
        yield from _ledger(facts.ledger)
    yield _processes(facts)
    yield '<p><a href="/metrics">metrics</a> · <a href="/health">health</a> · <a href="/ready">ready</a></p>'
    yield "</body></html>\n"


def _ledger(ledger: Snapshot) -> Iterator[str]:
    yield _table(
        "Tasks",
        ("", "number", "oldest"),
        [
            ("ready", ledger.ready, _duration(ledger.oldest_ready_age)),
            ("waiting for another try", ledger.waiting, ""),
            ("in flight", ledger.claimed, ""),
            ("to be delivered", ledger.finished, _duration(ledger.oldest_finished_age)),
            ("dead letters", ledger.dead, ""),
            ("unreadable documents", ledger.unreadable, ""),
        ],
    )
    limits = [
        (period, use.current, use.limit, use.remaining, _until(use.frees_at, ledger.taken_at))
        for period, use in ledger.limits.items()
    ]
    if limits:
        yield _table(f"Rate limits ({ledger.strategy})", ("period", "used", "limit", "remaining", "room in"), limits)
    else:
        yield "<p>No rate limits are in force.</p>"
    yield _table(
        "Circuit breakers",
        ("service", "state", "failures", "probe in", "reason"),
        [
            (service, breaker.state, breaker.failures, _until(breaker.probe_at, ledger.taken_at), breaker.reason)
            for service, breaker in ledger.breakers.items()
        ],
    )
    if ledger.cooldowns:
        yield _table(
            "Cooldowns",
            ("service", "model", "ends in", "reason"),
            [
                (pause.provider, pause.model or "all", _until(pause.until, ledger.taken_at), pause.reason)
                for pause in ledger.cooldowns
            ],
        )
    polled = "never" if ledger.last_poll_at is None else f"{_duration(ledger.taken_at - ledger.last_poll_at)} ago"
    yield f"<p>Last good poll: {_text(polled)}. Free on the ledger's disk: {ledger.disk_free // 2**20:,} MB.</p>"


def _processes(facts: Facts) -> str:
    shown = [record for record in (facts.master, *facts.children) if record is not None]
    if not shown:
        return "<p>There is no scoreboard: no process is known.</p>"
    return _table(
        "Processes",
        ("slot", "role", "pid", "state", "task", "since", "tasks done"),
        [
            (
                str(record.slot),
                _role(record),
                str(record.pid),
                _state(record, facts),
                record.task_id,
                _duration(facts.now - record.since) if record.since > 0 else "",
                record.done,
            )
            for record in shown
        ],
    )


def _role(record: Record) -> str:
    return "master" if record.slot == MASTER else role_of(record.slot).value


def _state(record: Record, facts: Facts) -> str:
    state = record.state.name.lower()
    return f"{state}, deadline overrun" if record in facts.overrun else state


def _table(caption: str, columns: Iterable[str], rows: Iterable[Iterable[str | int]]) -> str:
    head = "".join(f'<th scope="col">{_text(column)}</th>' for column in columns)
    body = "".join("<tr>" + "".join(map(_cell, row)) + "</tr>" for row in rows)
    return f"<table><caption>{_text(caption)}</caption><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _cell(value: str | int) -> str:
    return f'<td class="n">{value:,}</td>' if isinstance(value, int) else f"<td>{_text(value)}</td>"


def _text(value: str) -> str:
    """Escaped, and without the characters that no reader can see."""
    return html.escape(
        "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in value)
    )


def _until(instant: float | None, now: float) -> str:
    return "" if instant is None else _duration(instant - now)


def _duration(seconds: float) -> str:
    seconds = max(0.0, seconds)
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:,.0f} {unit}"
    return f"{seconds:.0f} s"


def _instant(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
