"""/metrics: the sums of all slots' files, and whatever gauges are handed in, in the Prometheus text format.

A scrape that cannot read the files answers with the last sums that it could, and counts that; the gauges beside them
are always of now. Used by `aitp.web.app`, one object a process.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from pathlib import Path

from prometheus_client.exposition import generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from aitp.logs import get_logger
from aitp.metrics import FAMILIES, SCRAPE_FAILURES, Family, reading

log = get_logger(__name__)

# All that a file which is missing, half-written or garbled makes the library raise.
_UNREADABLE = (OSError, struct.error, ValueError, TypeError, AttributeError, KeyError, RuntimeError)


class Scrape:
    """Answers scrapes of one metrics directory."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._last_good = b""
        self._failures = 0

    def text(self, gauges: Iterable[Metric]) -> bytes:
        """The whole answer. Never raises for what lies in the directory."""
        sums = self._sums()
        failures = reading(SCRAPE_FAILURES, {(): self._failures})
        return sums + _exposition([*gauges, failures])

    def _sums(self) -> bytes:
        try:
            self._last_good = _exposition(_read(self._directory))
        except _UNREADABLE as error:
            self._failures += 1
            log.warning("Metrics files cannot be read", directory=str(self._directory), error=repr(error))
        return self._last_good


def _read(directory: Path) -> list[Metric]:
    """The sums over all slots, in the order of declaration. What an older release has left there is not shown."""
    collector = MultiProcessCollector(None, path=str(directory))  # type: ignore[no-untyped-call]
    found: dict[str, Metric] = {metric.name: metric for metric in collector.collect()}  # type: ignore[no-untyped-call]
    return [found[family.base] for family in FAMILIES.values() if _fits(family, found.get(family.base))]


def _fits(family: Family, metric: Metric | None) -> bool:
    return metric is not None and metric.type == family.type


def _exposition(metrics: Iterable[Metric]) -> bytes:
    return generate_latest(_Fixed(metrics))


class _Fixed(Collector):
    """The library renders collectors; this one is a list."""

    def __init__(self, metrics: Iterable[Metric]) -> None:
        self._metrics = metrics

    def collect(self) -> Iterable[Metric]:
        return self._metrics
