"""What a scrape answers: the sums of all slots' files, and gauges of this moment, in the Prometheus text format.

Gauges are what the facts say, true by construction and kept nowhere; a family whose source cannot be read is left out:
no value is better than one of yesterday. A scrape that cannot read the files answers with the last sums that it could,
and counts that. Called by `aitp.web.app`.
"""

from __future__ import annotations

import platform
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from prometheus_client.exposition import generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from aitp import __version__, metrics, revision
from aitp.ledger.budgets import BudgetUse
from aitp.ledger.stats import Snapshot
from aitp.logs import get_logger
from aitp.metrics import UNREADABLE_FILES, Family, reading
from aitp.policy.costs import NANO
from aitp.process.scoreboard import State, role_of
from aitp.providers.inventory import ModelState, Stage
from aitp.settings import Settings
from aitp.web.health import Facts, Severity, problems, stand_ins_left

BREAKER_NUMBERS = {"closed": 0, "open": 1, "half-open": 2}
_CHILD_STATES = (State.STARTING, State.WAITING, State.IDLE, State.BUSY, State.RECORDING, State.LEAVING)

log = get_logger(__name__)


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
        except UNREADABLE_FILES as error:
            self._failures += 1
            log.warning("Metrics files cannot be read", directory=str(self._directory), error=repr(error))
        failures = reading(metrics.SCRAPE_FAILURES, {(): self._failures})
        return self._last_good + generate_latest(_Collected([*gauges, failures]))


class _Collected(Collector):
    """The library renders collectors; this one is a list."""

    def __init__(self, metrics: Iterable[Metric]) -> None:
        self._metrics = metrics

    def collect(self) -> Iterable[Metric]:
        return self._metrics


def gauges(facts: Facts, settings: Settings) -> Iterator[Metric]:
    """All gauges that this moment has a value for."""
    yield _one(metrics.LEDGER_READABLE, facts.ledger is not None)
    if facts.ledger is not None:
        yield from _of_ledger(facts.ledger)
        for provider, left in stand_ins_left(facts.ledger, settings).items():
            help = f"Calls that OpenAI may still make today in the stead of {provider}."
            yield _one(Family(f"aitp_{provider}_fallbacks_left", "gauge", help), left)
    yield from _of_models(facts.inventory.models if facts.inventory else {})
    yield reading(metrics.MODEL_SHUTDOWN, {(each.model,): each.at for each in facts.retirements})
    yield from _of_processes(facts)
    yield _one(metrics.READY, not any(each.severity.at_least(Severity.PENDING) for each in problems(facts, settings)))
    yield _one(metrics.POLLING_INTERVAL, settings.polling_interval_seconds)
    yield _one(metrics.MOCK, bool(settings.mocks))
    yield reading(metrics.BUILD_INFO, {(__version__, revision(), platform.python_version()): 1})


def _of_ledger(ledger: Snapshot) -> Iterator[Metric]:
    yield _one(metrics.TASKS_IN_FLIGHT, ledger.claimed)
    yield reading(metrics.LIMIT_USAGE, {(period,): use.current for period, use in ledger.limits.items()})
    yield reading(metrics.LIMIT_MAX, {(period,): use.limit for period, use in ledger.limits.items()})
    yield reading(metrics.LIMIT_REMAINING, {(period,): use.remaining for period, use in ledger.limits.items()})
    yield reading(metrics.LIMIT_ROOM, {(period,): use.frees_at or 0 for period, use in ledger.limits.items()})
    yield reading(metrics.LIMIT_WINDOW_END, {(period,): use.ends_at or 0 for period, use in ledger.limits.items()})
    yield from _of_budgets(ledger.budgets)
    yield _one(metrics.UNPRICED_MODELS, len(ledger.unpriced))
    breakers = ledger.breakers.items()
    yield reading(metrics.BREAKER_STATE, {(name,): BREAKER_NUMBERS[breaker.state] for name, breaker in breakers})
    yield reading(metrics.BREAKER_FAILURES, {(name,): breaker.failures for name, breaker in breakers})
    cooldowns = Counter(cooldown.provider for cooldown in ledger.cooldowns)
    yield reading(metrics.COOLDOWNS, {(service,): cooldowns[service] for service in ledger.breakers})
    yield reading(metrics.QUEUE_TASKS, {("ready",): ledger.ready, ("waiting",): ledger.waiting})
    yield _one(metrics.QUEUE_AGE, ledger.oldest_ready_age)
    yield _one(metrics.OUTBOX_RESULTS, ledger.finished)
    yield _one(metrics.OUTBOX_AGE, ledger.oldest_finished_age)
    yield _one(metrics.DEAD_LETTERS, ledger.dead)
    yield _one(metrics.UNREADABLE, ledger.unreadable)
    if ledger.last_poll_at is not None:
        yield _one(metrics.LAST_POLL, ledger.last_poll_at)
    yield _one(metrics.DISK_FREE, ledger.disk_free)
    yield _one(metrics.PAUSED, ledger.paused)
    here = sum(host.is_here for host in ledger.hosts)
    yield reading(metrics.HOSTS, {("here",): here, ("away",): len(ledger.hosts) - here} if ledger.hosts else {})
    yield reading(metrics.HOST_INFO, {(host.name, str(host.number), host.version): 1 for host in ledger.hosts})
    quarantines = Counter(quarantine.provider for quarantine in ledger.quarantines)
    yield reading(metrics.QUARANTINES, {(service,): quarantines[service] for service in ledger.breakers})
    yield _one(metrics.PAUSED_PROCESSORS, len(ledger.paused_processors))


def _of_budgets(budgets: Mapping[str, BudgetUse]) -> Iterator[Metric]:
    """What was spent is known wherever prices are; the rest only where there is a budget."""
    labelled = {(period, use.currency): use for period, use in budgets.items()}
    bound = {labels: use for labels, use in labelled.items() if use.allowed_nano is not None}
    yield reading(metrics.BUDGET_SPENT, {labels: use.spent_nano / NANO for labels, use in labelled.items()})
    yield reading(metrics.BUDGET_RESERVED, {labels: use.reserved_nano / NANO for labels, use in bound.items()})
    yield reading(metrics.BUDGET_MAX, {labels: (use.allowed_nano or 0) / NANO for labels, use in bound.items()})
    yield reading(metrics.BUDGET_REMAINING, {labels: (use.remaining_nano or 0) / NANO for labels, use in bound.items()})
    yield reading(metrics.BUDGET_ROOM, {labels: use.frees_at or 0 for labels, use in bound.items()})
    yield reading(metrics.BUDGET_WINDOW_END, {labels: use.ends_at for labels, use in labelled.items()})


def _of_models(models: Mapping[str, ModelState]) -> Iterator[Metric]:
    yield reading(metrics.MODEL_PRESENT, {(name,): state.stage is Stage.PRESENT for name, state in models.items()})
    kinds = ("completed", "total")
    yield reading(
        metrics.MODEL_PULL_BYTES,
        {(name, kind): float(getattr(state, kind)) for name, state in models.items() for kind in kinds},
    )


def _of_processes(facts: Facts) -> Iterator[Metric]:
    there = Counter((role_of(child.slot).value, child.state.name.lower()) for child in facts.children)
    known = [(role, state.name.lower()) for role in metrics.ROLES for state in _CHILD_STATES]
    yield reading(metrics.PROCESSES, {labels: there[labels] for labels in known})
    yield _one(metrics.MASTER_RUNNING, facts.master_ticks)
    yield _one(metrics.DEADLINES_OVERRUN, len(facts.overrun))


def _one(family: Family, value: float) -> Metric:
    return reading(family, {(): float(value)})
