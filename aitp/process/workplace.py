"""What a worker works with: providers whose calls end in time, what may be looked up, and the ledger's memory.

Each request that leaves the process has a bound of its own. None of them is open while the ledger is written to,
because a timer that fires in a transaction could leave the writers' queue locked.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from functools import partial
from typing import TYPE_CHECKING, Any

from aitp.knowledge.wikidata import Wikidata
from aitp.ledger import BreakerChange, Ledger
from aitp.logs import get_logger
from aitp.metrics import Metrics
from aitp.process.billing import Meter
from aitp.process.calls import WatchedProvider
from aitp.process.hands import Hands
from aitp.process.worker import Worker
from aitp.processors import Context
from aitp.providers import build

if TYPE_CHECKING:
    from aitp.settings import Settings

# On top of the provider's own time-outs, which bound single reads: the client must have time to say what was wrong.
MARGIN_SECONDS = 5.0

log = get_logger(__name__)


def worker_for(
    hands: Hands,
    ledger: Ledger,
    metrics: Metrics,
    settings: Settings,
    missing: Callable[[str], None] = lambda model: None,
) -> Worker:
    """A worker and all that it works with. After fork. `missing` hears of an Ollama model that is not there."""

    def bound(seconds: float) -> AbstractContextManager[Any]:
        return hands.call(worker.task_id, seconds)

    def observe(change: BreakerChange) -> None:
        log.warning(f"Circuit breaker is {change.state}", service=change.service, reason=change.reason)
        hands.wake_workers(settings.concurrency_limit)

    seconds = _call_seconds(settings)
    providers = {
        name: WatchedProvider(provider, metrics, partial(bound, seconds(name)), Meter(name, settings.prices, metrics))
        for name, provider in build(settings, missing).items()
    }
    knowledge = Wikidata(settings, ledger, hands.slot, bound, observe) if settings.wikidata_enabled else None
    context = Context.of(settings, knowledge, ledger.cache)
    worker = Worker(hands, ledger, providers, metrics, settings, context)
    return worker


def _call_seconds(settings: Settings) -> Callable[[str], float]:
    """How long one call to a provider may take as a whole, by its name."""
    own: Mapping[str, float] = {"openai": settings.openai_timeout, "ollama": settings.ollama_timeout}
    return lambda name: own.get(name, settings.openai_timeout) + MARGIN_SECONDS
