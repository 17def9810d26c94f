"""The parts of the page, each from what it shows to its HTML. Parts whose source cannot be read say so.

`figures`, `limits`, `services` and `processes` are of this moment; `usage`, `troubles` of what was; `settings` of what
the service was told.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from decimal import Decimal
from pathlib import Path

from pydantic import SecretStr

from aitp.ledger.stats import BreakerView, Minute, RecentError, Snapshot
from aitp.prices import Prices, amount, nano
from aitp.process.scoreboard import MASTER, Record, Role, State, role_of
from aitp.providers.inventory import Inventory, Stage
from aitp.settings import FIELDS, PLACEHOLDER_KEY, Settings
from aitp.tls import Authorities
from aitp.web.facts import Facts
from aitp.web.figures import duration
from aitp.web.markup import Column, Html, badge, bar, element, section, table, text
from aitp.web.usage import ModelUse
from aitp.web.verdict import many_failed

PROCESSES_SHOWN = 40
TROUBLES_SHOWN = 12
NEARLY_FULL = 0.8

_ZERO = Html("<i>0</i>")
_ENDINGS = {
    "retry": "to be tried again",
    "postponed": "put off",
    "fallback": "another provider is asked",
    "unsent": "not sent",
    "bug": "failed, by a bug",
}
_BREAKER_LEVELS = {"closed": "well", "half-open": "look", "open": "bad"}
_AT_A_STEP = (State.BUSY, State.RECORDING)
_STATE_LEVELS = {
    State.BUSY: "busy",
    State.RECORDING: "busy",
    State.STARTING: "look",
    State.WAITING: "look",
    State.DRAINING: "look",
}


def figures(ledger: Snapshot, minutes: Sequence[Minute]) -> Html:
    """The six numbers that tell how it goes."""
    succeeded, failed = sum(minute.succeeded for minute in minutes), sum(minute.failed for minute in minutes)
    waiting = f"oldest {duration(ledger.oldest_ready_age)}" if ledger.ready else ""
    later = f"{ledger.waiting:,} for another try" if ledger.waiting else ""
    outbox = f"oldest {duration(ledger.oldest_finished_age)}" if ledger.finished else ""
    shown = (
        ("waiting", ledger.ready + ledger.waiting, ", ".join(filter(None, (waiting, later))), ""),
        ("in flight", ledger.claimed, "", ""),
        ("to be delivered", ledger.finished, outbox, ""),
        ("dead letters", ledger.dead, "", "look" if ledger.dead else ""),
        ("succeeded", succeeded, "in the last hour", ""),
        ("failed", failed, "in the last hour", "look" if many_failed(minutes) else ""),
    )
    return Html(
        '<section id="figures" aria-label="Tasks now" data-live><dl>'
        + "".join(
            f'<div class="{level}"><dt>{label}</dt><dd>{number:,}<small>{text(note)}</small></dd></div>'
            for label, number, note, level in shown
        )
        + "</dl></section>"
    )


def limits(ledger: Snapshot) -> Html:
    """A bar for each limit in force, and when an exhausted one has room again."""
    if not ledger.limits:
        return section("limits", "Rate limits", element("p", "No rate limits are in force.", "none"))
    columns = (
        Column("period"),
        Column("used"),
        Column("of the limit", number=True),
        Column("left", number=True, wide=True),
        Column("room in", number=True),
    )
    rows = []
    for period, use in ledger.limits.items():
        share = use.current / use.limit
        level = "bad" if use.remaining == 0 else "look" if share >= NEARLY_FULL else "well"
        room = "" if use.remaining else "a call's end"
        if use.frees_at is not None:
            room = duration(use.frees_at - ledger.taken_at)
        rows.append((period, bar(share, level), Html(f"{use.current:,} <i>of</i> {use.limit:,}"), use.remaining, room))
    return section("limits", f"Rate limits, {ledger.strategy}", table("Rate limits", columns, rows))


def budgets(ledger: Snapshot) -> Html:
    """What was spent today and this month; a bar for each budget, and when tasks that it keeps back may go on."""
    columns = (
        Column("period"),
        Column("used"),
        Column("spent", number=True),
        Column("in hand", number=True, wide=True),
        Column("left", number=True, wide=True),
        Column("room in", number=True),
    )
    rows = []
    for period, use in ledger.budgets.items():
        spent, reserved = amount(use.spent_nano), amount(use.reserved_nano) if use.reserved_nano else _ZERO
        if use.allowed_nano is None or use.remaining_nano is None:
            rows.append((period, Html("<i>no budget</i>"), spent, reserved, "", ""))
            continue
        share = (use.spent_nano + use.reserved_nano) / use.allowed_nano
        level = "bad" if use.frees_at is not None else "look" if share >= NEARLY_FULL else "well"
        room = "" if use.frees_at is None else duration(use.frees_at - ledger.taken_at)
        of = Html(f"{text(spent)} <i>of</i> {text(amount(use.allowed_nano))}")
        rows.append((period, bar(share, level), of, reserved, amount(use.remaining_nano), room))
    currency = next(use.currency for use in ledger.budgets.values())
    return section("budgets", f"Spending, {currency}", table("Spending", columns, rows))


def services(ledger: Snapshot) -> Html:
    """Circuit breakers, and the pauses that services asked for."""
    columns = (Column("service"), Column("breaker"), Column("failures", number=True), Column("what is known"))
    breakers = [
        (
            service,
            badge(breaker.state, _BREAKER_LEVELS.get(breaker.state, "look")),
            breaker.failures or _ZERO,
            _known_of(breaker, ledger.taken_at),
        )
        for service, breaker in sorted(ledger.breakers.items())
    ]
    content = [table("Circuit breakers", columns, breakers)]
    if ledger.cooldowns:
        pauses = [
            (pause.provider, pause.model or "all models", duration(pause.until - ledger.taken_at), pause.reason)
            for pause in ledger.cooldowns
        ]
        content.append(Html("<h3>Cooldowns</h3>"))
        content.append(
            table(
                "Cooldowns",
                (Column("service"), Column("model"), Column("ends in", number=True), Column("reason")),
                pauses,
            )
        )
    if ledger.quarantines:
        waiting = [
            (each.provider, each.model, each.type, duration(max(0.0, each.until - ledger.taken_at)), each.reason)
            for each in ledger.quarantines
        ]
        content.append(Html("<h3>Models whose tasks wait</h3>"))
        content.append(
            table(
                "Models whose tasks wait",
                (
                    Column("service"),
                    Column("model"),
                    Column("type"),
                    Column("probed in", number=True),
                    Column("reason"),
                ),
                waiting,
            )
        )
    polled = "never" if ledger.last_poll_at is None else f"{duration(ledger.taken_at - ledger.last_poll_at)} ago"
    content.append(element("p", f"Last good poll of the task API: {polled}.", "note"))
    return section("services", "Services", *content)


def _known_of(breaker: BreakerView, now: float) -> str:
    if breaker.state == "closed":
        return breaker.reason if breaker.failures else ""
    probe = "" if breaker.probe_at is None else f"probe in {duration(breaker.probe_at - now)}"
    if breaker.state == "half-open":
        probe = "being probed"
    return "; ".join(filter(None, (probe, breaker.reason)))


def processes(facts: Facts) -> Html:
    """Who does what, and by when it must be over. Of very many, those that are at something come first."""
    everyone = [record for record in (facts.master, *facts.children) if record is not None]
    if not everyone:
        nobody = element("p", "There is no scoreboard: no process is known.", "none")
        return section("processes", "Processes", nobody)
    columns = (
        Column("process"),
        Column("state"),
        Column("for", number=True),
        Column("task"),
        Column("deadline in", number=True, wide=True),
        Column("done", number=True, wide=True),
    )
    shown = everyone
    if len(everyone) > PROCESSES_SHOWN:
        resting = (State.IDLE,)
        shown = sorted(everyone, key=lambda record: (record not in facts.overrun, record.state in resting, record.slot))
        shown = sorted(shown[:PROCESSES_SHOWN], key=lambda record: record.slot)
    rows = [
        (
            _name(record),
            _state(record, facts),
            duration(facts.now - record.since) if record.since > 0 else "",
            element("code", record.task_id) if record.task_id else "",
            duration(record.deadline - facts.monotonic) if record.state in _AT_A_STEP and record.deadline else "",
            record.done if record.slot != MASTER and role_of(record.slot) is Role.WORKER else "",  # others do not count
        )
        for record in shown
    ]
    left_out = Counter(record.state.name.lower() for record in everyone if record not in shown)
    rest = ", ".join(f"{number:,} {state}" for state, number in left_out.items())
    more = element("p", f"And {rest}.", "note") if rest else ""
    return section("processes", "Processes", table("Processes", columns, rows), more)


def _name(record: Record) -> str:
    return "master" if record.slot == MASTER else f"{role_of(record.slot).value} {record.slot}"


def _state(record: Record, facts: Facts) -> Html:
    if record in facts.overrun:
        return badge(f"{record.state.name.lower()}, deadline overrun", "bad")
    return badge(record.state.name.lower(), _STATE_LEVELS.get(record.state, "quiet"))


def models(uses: Sequence[ModelUse] | None, stock: Inventory | None) -> Html:
    """Calls and tokens of each model; of Ollama's, whether they are there."""
    content = []
    if uses is None:
        content.append(element("p", "The metrics files cannot be read.", "none"))
    elif not uses:
        content.append(element("p", "No model has been called yet.", "none"))
    else:
        # A phone has no room for tokens and for what they come to.
        priced = any(use.cost for use in uses)
        columns = (
            Column("model"),
            Column("provider", wide=True),
            Column("calls", number=True, wide=True),
            Column("failed", number=True),
            Column("tokens in", number=True, wide=priced),
            Column("tokens out", number=True, wide=priced),
            *((Column("cost", number=True),) if priced else ()),
        )
        rows = [
            (
                use.model,
                use.provider,
                use.calls,
                use.unanswered or _ZERO,
                _tokens(use.tokens.get("prompt_tokens", 0)),
                _tokens(use.tokens.get("completion_tokens", 0)),
                ", ".join(f"{amount(nano(Decimal(cost)))} {currency}" for currency, cost in use.cost.items()) or _ZERO,
            )[: len(columns)]
            for use in uses
        ]
        content.append(table("Calls and tokens of each model", columns, rows))
    if stock is not None and stock.models:
        states = [
            (name, _stage(state.stage), _progress(state.percent, state.stage, state.reason))
            for name, state in stock.models.items()
        ]
        known = (Column("Ollama's model"), Column("state"), Column("what is known"))
        content.append(table("Models of Ollama", known, states))
    return section("models", "Models", *content)


def _tokens(count: int) -> str:
    """As many as have room; of many, the millions."""
    if count < 10_000_000:
        return f"{count:,}" if count else _ZERO
    return f"{count / 1_000_000:,.0f} M"


def _stage(stage: Stage) -> Html:
    return badge(stage.value, {Stage.PRESENT: "well", Stage.FAILED: "bad"}.get(stage, "look"))


def _progress(percent: int, stage: Stage, reason: str) -> str | Html:
    return Html(f"{bar(percent / 100, 'well')} {percent} %") if stage is Stage.PULLING else reason


def troubles(found: Sequence[RecentError], now: float) -> Html:
    """The last errors, the newest first."""
    if not found:
        return section("errors", "Last errors", element("p", "None.", "none"))
    columns = (
        Column("last"),
        Column("where", short=True),
        Column("what came of it", wide=True),
        Column("reason"),
        Column("times", number=True),
        Column("last task", short=True, wide=True),
    )
    rows = [
        (
            f"{duration(now - trouble.last_at)} ago",
            trouble.source,
            ", ".join(filter(None, (_ENDINGS.get(trouble.ending, trouble.ending), trouble.type))),
            trouble.reason,
            trouble.times,
            element("code", trouble.task_id) if trouble.task_id else "",
        )
        for trouble in found[:TROUBLES_SHOWN]
    ]
    return section("errors", "Last errors", table("Last errors", columns, rows), classes="whole-width")


def settings(told: Settings) -> Html:
    """Every setting and its value, those that were changed marked; of secrets, whether they are set."""
    columns = (Column("setting"), Column("value"), Column("origin", wide=True))
    changed = sum(_is_changed(told, name) for name in FIELDS)
    rows = [
        (element("code", name), shown, "set" if _is_changed(told, name) else "default") for name, shown in _values(told)
    ]
    return Html(
        f'<details id="settings"><summary><h2>Settings</h2> <span class="note">{changed} of {len(FIELDS)} set'
        f"</span></summary>{table('Settings', columns, rows)}</details>"
    )


def _values(told: Settings) -> Iterator[tuple[str, str]]:
    for name in FIELDS:
        value = getattr(told, name.lower())
        if isinstance(value, SecretStr):
            placeholder = value.get_secret_value() == PLACEHOLDER_KEY
            yield name, f"{PLACEHOLDER_KEY} (mock mode)" if placeholder else "set, never shown"
        elif value is None:
            yield name, "not set"
        elif isinstance(value, bool):
            yield name, str(value).lower()
        elif isinstance(value, tuple):
            yield name, ", ".join(map(str, value))
        elif isinstance(value, float):
            yield name, f"{value:g}"
        elif isinstance(value, Authorities | Prices):
            yield name, str(value.path)
        elif isinstance(value, Path | str | int | Decimal):
            yield name, str(value) or "empty"
        else:
            yield name, ", ".join(f"{key}: {entry}" for key, entry in value.items()) or "none"


def _is_changed(told: Settings, name: str) -> bool:
    field = FIELDS[name]
    return field.is_required() or getattr(told, name.lower()) != field.get_default(call_default_factory=True)
