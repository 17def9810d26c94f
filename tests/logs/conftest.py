"""A log that goes into a pipe, and everything about logging put back afterwards."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import structlog

from aitp import logs


class Piped:
    """Configures the log to write into a pipe, and reads what arrived. Never more than a pipe's buffer at once."""

    def __init__(self) -> None:
        self.reading, writing = os.pipe()
        self.stream = os.fdopen(writing, "w")

    def configure(self, level: str = "INFO", format: str = "json", slot: int | None = None) -> None:
        logs.configure(level, format, slot, self.stream)

    def lines(self) -> list[bytes]:
        os.set_blocking(self.reading, False)
        try:
            return os.read(self.reading, 1_000_000).splitlines(keepends=True)
        except BlockingIOError:
            return []

    def facts(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.lines()]


@pytest.fixture
def piped(monkeypatch: pytest.MonkeyPatch) -> Iterator[Piped]:
    monkeypatch.setattr(logs, "_secrets", ())
    root = logging.getLogger()
    handlers, level, disabled = root.handlers[:], root.level, root.manager.disable
    pipe = Piped()
    yield pipe
    structlog.reset_defaults()
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.disable(disabled)
    os.close(pipe.reading)
    pipe.stream.close()


@pytest.fixture
def in_a_child() -> Callable[[Callable[[], None]], int]:
    """Runs a function in a forked process, and returns its pid."""

    def run(body: Callable[[], None]) -> int:
        pid = os.fork()
        if pid == 0:
            try:
                body()
            finally:
                os._exit(0)
        return pid

    return run
