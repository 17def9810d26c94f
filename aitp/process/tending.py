"""When the master sends somebody to look after models. Decisions only, but for the sending itself.

Anew at start and at a reload, on request when a worker misses a model, each hour, and again after a while, and then
ever more seldom, as long as a model is missing or the server cannot be asked.
"""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Callable

from aitp.process import errand
from aitp.process.crew import Timings
from aitp.process.errand import Errands
from aitp.process.pulls import Look, longest_pull_seconds, look_after_models
from aitp.providers.inventory import uses_models, uses_openai
from aitp.settings import Settings

NAME = "look after models"
IDLE_SECONDS = 3_600.0  # between looks while all is well: a model may vanish, or be announced to be shut down


class Tending:
    """One master's. `ended` is called after each look: tasks may be waiting for a model. `due` is monotonic."""

    def __init__(self, errands: Errands, timings: Timings, ended: Callable[[], None]) -> None:
        self._errands = errands
        self._tell = ended
        self._timings = timings
        self._due = math.inf
        self._not_before = 0.0
        self._anew = False
        self._pause = timings.tend_again_seconds

    def ask(self) -> None:
        """A worker misses a model: have somebody look, soon, however often this is asked for."""
        self._due = min(self._due, self._not_before)

    def begin_anew(self) -> None:
        """Have it done at once, with other settings, or by another master than before."""
        self._due = 0.0
        self._anew = True
        self._pause = self._timings.tend_again_seconds
        self.stop()

    def stop(self) -> None:
        """End what is underway. The server keeps what has come of a model."""
        self._errands.end(signal.SIGTERM, NAME)

    def send_if_due(self, settings: Settings) -> float:
        """When to look again (monotonic)."""
        if self._errands.underway(NAME):
            return math.inf
        if self._due > time.monotonic():
            return self._due
        anew, self._anew, self._due = self._anew, False, math.inf
        if uses_models(settings) or uses_openai(settings):
            seconds = longest_pull_seconds(settings)
            self._errands.send(NAME, seconds, lambda: _look(settings, anew), self._ended)
        return math.inf

    def _ended(self, exit_code: int) -> None:
        self._tell()
        now = time.monotonic()
        self._not_before = now + self._timings.tend_again_seconds
        if exit_code == errand.DONE:
            self._pause = self._timings.tend_again_seconds
            self._wait_until(now + IDLE_SECONDS)
            return
        self._wait_until(now + self._pause)
        self._pause = min(2 * self._pause, self._timings.longest_tend_pause_seconds)

    def _wait_until(self, monotonic: float) -> None:
        # What was asked for meanwhile was asked for the sake of what this look may have found already.
        if not self._anew:
            self._due = min(max(self._due, self._not_before), monotonic)


def _look(settings: Settings, anew: bool) -> bool:
    return look_after_models(settings, anew=anew) is Look.ALL_THERE
