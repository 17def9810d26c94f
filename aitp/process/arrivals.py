"""Whether a model that Ollama lacks is worth waiting for, as claims ask: out of the file of whoever looks after models.

What is older than a pull may last, or the pause between two looks, is no knowledge: its writer is gone, and the
server's own answer is to tell.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

from aitp.policy.routing import Availability, Route, canonical
from aitp.process.crew import Timings
from aitp.providers.inventory import FILE_NAME, read_inventory, uses_models
from aitp.tasks import Service

if TYPE_CHECKING:
    from aitp.settings import Settings

MARGIN_SECONDS = 60.0


class Arrivals:
    """One process's view of that file. A look costs one `stat`, unless it was replaced since."""

    def __init__(self, settings: Settings) -> None:
        self._runtime_dir = settings.runtime_dir
        self._used = uses_models(settings)
        pause = Timings().longest_tend_pause_seconds
        self._good_for = max(settings.ollama_model_download_timeout, pause) + MARGIN_SECONDS
        self._file: tuple[int, int] | None = None
        self._at = 0.0
        self._known: Mapping[str, Availability] = {}

    def __call__(self, route: Route) -> Availability:
        """What is known of the route's model."""
        if not self._used or route.provider != Service.OLLAMA:
            return Availability.UNKNOWN
        self._look()
        if not 0.0 <= time.time() - self._at <= self._good_for:
            return Availability.UNKNOWN
        return self._known.get(canonical(route.model), Availability.UNKNOWN)

    def _look(self) -> None:
        try:
            found = os.stat(self._runtime_dir / FILE_NAME)
        except OSError:
            self._file, self._known = None, {}
            return
        file = (found.st_ino, found.st_mtime_ns)
        if file == self._file:
            return
        stock = read_inventory(self._runtime_dir)
        self._file = file
        # Of a server that cannot be asked nothing is known: its breaker speaks for it.
        if stock is None or stock.problem:
            self._known = {}
            return
        self._at = stock.at
        self._known = {canonical(name): state.arrival for name, state in stock.models.items()}
