"""/metrics: the sums of all slots' files, and whatever gauges are handed in, in the Prometheus text format.

A scrape that cannot read the files answers with the last sums that it could, and counts that; the gauges beside them
are always of now. Used by `aitp.web.app`, one object a process.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from prometheus_client.exposition import generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from aitp.logs import get_logger
from aitp.metrics import SCRAPE_FAILURES, UNREADABLE_FILES, counted, reading

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
            self._last_good = generate_latest(_Collected(counted(self._directory)))
        except UNREADABLE_FILES as error:
            self._failures += 1
            log.warning("Metrics files cannot be read", directory=str(self._directory), error=repr(error))
        failures = reading(SCRAPE_FAILURES, {(): self._failures})
        return self._last_good + generate_latest(_Collected([*gauges, failures]))


class _Collected(Collector):
    """The library renders collectors; this one is a list."""

    def __init__(self, metrics: Iterable[Metric]) -> None:
        self._metrics = metrics

    def collect(self) -> Iterable[Metric]:
        return self._metrics
