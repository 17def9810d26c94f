"""What a scrape answers: the sums of all slots' files, and gauges of this moment, in the Prometheus text format.

Gauges are what the facts say, true by construction and kept nowhere; a family whose source cannot be read is left out:
no value is better than one of yesterday. A scrape that cannot read the files answers with the last sums that it could,
and counts that. Called by `aitp.web.app`.
"""

from __future__ import annotations

import platform
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from pathlib import Path

from prometheus_client.exposition import generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from aitp import __version__, logs, metrics, revision
from aitp.policy.costs import NANO
from aitp.process.scoreboard import State, role_of
from aitp.providers.inventory import Stage
from aitp.settings import Settings
from aitp.web import health
from aitp.web.health import Facts

BREAKER_NUMBERS = {"closed": 0, "open": 1, "half-open": 2}
_CHILD_STATES = (State.STARTING, State.WAITING, State.IDLE, State.BUSY, State.RECORDING, State.LEAVING)

log = logs.get_logger(__name__)


class Scrape:
    """Answers scrapes of one metrics directory."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._last_good = b""
        self._failures = 0

    def text(self, gauges: Iterable[Metric]) -> bytes:
        """The whole answer. Never raises for what lies in the directory."""
        try:
            self._last_good = generate_latest(_Collected(metrics.counted(self._directory)))
        except metrics.UNREADABLE_FILES as error:
            self._failures += 1
            log.warning("Metrics files cannot be read", directory=str(self._directory), error=repr(error))
        failures = metrics.reading(metrics.SCRAPE_FAILURES, {(): self._failures})
        return self._last_good + generate_latest(_Collected([*gauges, failures]))


class _Collected(Collector):
    """The library renders collectors; this one is a list."""

    def __init__(self, found: Iterable[Metric]) -> None:
        self._found = found

    def collect(self) -> Iterable[Metric]:
        return self._found


def gauges(facts: Facts, settings: Settings) -> Iterator[Metric]:
    """All gauges that this moment has a value for."""
    for family, found in chain(_of_ledger(facts, settings), _of_models(facts), _of_service(facts, settings)):
        yield metrics.reading(family, found if isinstance(found, Mapping) else {(): float(found)})


Found = Iterator[tuple[metrics.Family, float | Mapping[tuple[str, ...], float]]]
"""Families, each with its value, or with one for each tuple of label values."""


def _of_ledger(facts: Facts, settings: Settings) -> Found:
    yield metrics.LEDGER_READABLE, facts.ledger is not None
    if (ledger := facts.ledger) is None:
        return
    limits, budgets, breakers = ledger.limits.items(), ledger.budgets.items(), ledger.breakers.items()
    yield metrics.TASKS_IN_FLIGHT, ledger.claimed
    yield metrics.LIMIT_USAGE, {(period,): use.current for period, use in limits}
    yield metrics.LIMIT_MAX, {(period,): use.limit for period, use in limits}
    yield metrics.LIMIT_REMAINING, {(period,): use.remaining for period, use in limits}
    yield metrics.LIMIT_ROOM, {(period,): use.frees_at or 0 for period, use in limits}
    yield metrics.LIMIT_WINDOW_END, {(period,): use.ends_at or 0 for period, use in limits}
    # What was spent is known wherever prices are; the rest only where there is a budget.
    spending = {(period, use.currency): use for period, use in budgets}
    bound = {labels: use for labels, use in spending.items() if use.allowed_nano is not None}
    yield metrics.BUDGET_SPENT, {labels: use.spent_nano / NANO for labels, use in spending.items()}
    yield metrics.BUDGET_RESERVED, {labels: use.reserved_nano / NANO for labels, use in bound.items()}
    yield metrics.BUDGET_MAX, {labels: (use.allowed_nano or 0) / NANO for labels, use in bound.items()}
    yield metrics.BUDGET_REMAINING, {labels: (use.remaining_nano or 0) / NANO for labels, use in bound.items()}
    yield metrics.BUDGET_ROOM, {labels: use.frees_at or 0 for labels, use in bound.items()}
    yield metrics.BUDGET_WINDOW_END, {labels: use.ends_at for labels, use in spending.items()}
    yield metrics.UNPRICED_MODELS, len(ledger.unpriced)
    yield metrics.BREAKER_STATE, {(name,): BREAKER_NUMBERS[breaker.state] for name, breaker in breakers}
    yield metrics.BREAKER_FAILURES, {(name,): breaker.failures for name, breaker in breakers}
    for family, pauses in ((metrics.COOLDOWNS, ledger.cooldowns), (metrics.QUARANTINES, ledger.quarantines)):
        count = Counter(pause.provider for pause in pauses)
        yield family, {(service,): count[service] for service in ledger.breakers}
    yield metrics.QUEUE_TASKS, {("ready",): ledger.ready, ("waiting",): ledger.waiting}
    yield metrics.QUEUE_AGE, ledger.oldest_ready_age
    yield metrics.OUTBOX_RESULTS, ledger.finished
    yield metrics.OUTBOX_AGE, ledger.oldest_finished_age
    yield metrics.DEAD_LETTERS, ledger.dead
    yield metrics.UNREADABLE, ledger.unreadable
    if ledger.last_poll_at is not None:
        yield metrics.LAST_POLL, ledger.last_poll_at
    yield metrics.DISK_FREE, ledger.disk_free
    yield metrics.PAUSED, ledger.paused
    here = sum(host.is_here for host in ledger.hosts)
    yield metrics.HOSTS, {("here",): here, ("away",): len(ledger.hosts) - here} if ledger.hosts else {}
    yield metrics.HOST_INFO, {(host.name, str(host.number), host.version): 1 for host in ledger.hosts}
    yield metrics.PAUSED_PROCESSORS, len(ledger.paused_processors)
    for provider, left in health.stand_ins_left(ledger, settings).items():
        help = f"Calls that OpenAI may still make today in the stead of {provider}."
        yield metrics.Family(f"aitp_{provider}_fallbacks_left", "gauge", help), left


def _of_models(facts: Facts) -> Found:
    models = facts.inventory.models.items() if facts.inventory else ()
    yield metrics.MODEL_PRESENT, {(name,): state.stage is Stage.PRESENT for name, state in models}
    kinds = ("completed", "total")
    yield metrics.MODEL_PULL_BYTES, {(name, kind): getattr(state, kind) for name, state in models for kind in kinds}
    yield metrics.MODEL_SHUTDOWN, {(each.model,): each.at for each in facts.retirements}


def _of_service(facts: Facts, settings: Settings) -> Found:
    there = Counter((role_of(child.slot).value, child.state.name.lower()) for child in facts.children)
    known = [(role, state.name.lower()) for role in metrics.ROLES for state in _CHILD_STATES]
    yield metrics.PROCESSES, {labels: there[labels] for labels in known}
    yield metrics.MASTER_RUNNING, facts.master_ticks
    yield metrics.DEADLINES_OVERRUN, len(facts.overrun)
    yield metrics.READY, not health.worst_first(health.problems(facts, settings), health.Severity.PENDING)
    yield metrics.POLLING_INTERVAL, settings.polling_interval_seconds
    yield metrics.MOCK, bool(settings.mocks)
    yield metrics.BUILD_INFO, {(__version__, revision(), platform.python_version()): 1}
