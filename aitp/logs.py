"""The log: structured events to standard output, one write of at most 4,096 bytes a line, JSON or for people.

Promises: a line has `timestamp`, `level`, `event`, then its facts, and `slot` once that is known; logging never raises
(a broken pipe or a full disk is the machine's fault, and must not fail a task) and buffers nothing that a fork could
double; registered secrets never appear. Every process calls `configure` when it starts, a child again after its fork.
Warnings of third-party libraries come along; their chatter, which may quote texts and headers, never does.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import MutableMapping
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any, TextIO, cast

import structlog

from aitp.logline import Facts, Mask, as_json, as_text, fitted, plain, traceback_of

if TYPE_CHECKING:
    from pydantic import SecretStr
    from structlog.typing import FilteringBoundLogger

_mask = Mask()


def configure(level: str, format: str = "auto", slot: int | None = None, stream: TextIO | None = None) -> None:
    """Log events of `level` and above to `stream` (standard output). `format`: json, console, or auto (console on a
    terminal). May be called again at any time, for loggers that exist already too."""
    stream = sys.stdout if stream is None else stream
    on_terminal = stream is not None and not stream.closed and stream.isatty()
    _write(level, stream, _Line(slot, people=format == "console" or (format == "auto" and on_terminal)))
    root = logging.getLogger()
    root.handlers[:] = [_ThirdParty()]
    root.setLevel(logging.WARNING)
    # What is below a warning is never asked for, not even where a library sets its own level.
    logging.disable(logging.INFO)
    logging.raiseExceptions = False


def _write(level: str, stream: TextIO | None, line: _Line) -> None:
    structlog.configure(
        processors=[line],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level]),
        logger_factory=partial(_Logger, _Output(stream)),
        # A logger made before the fork must follow the child's configuration.
        cache_logger_on_first_use=False,
    )


def get_logger(name: str) -> FilteringBoundLogger:
    """A logger whose lines carry `logger=name`. Cheap, and may be made at import."""
    return cast("FilteringBoundLogger", structlog.get_logger(name))


def conceal(*values: str | SecretStr | None) -> None:
    """Never show these from now on, in whatever fact or traceback they turn up."""
    for value in values:
        if value is not None:
            _mask.add(value if isinstance(value, str) else value.get_secret_value())


def masked(text: str) -> str:
    """`text` without the registered secrets: for whatever else than a log shows what others have written."""
    return _mask(text)


class _Line:
    """structlog's last processor: turns an event's facts into the line's bytes."""

    def __init__(self, slot: int | None, *, people: bool) -> None:
        self._always = {} if slot is None else {"slot": slot}
        self._render = as_text if people else as_json

    def __call__(self, logger: _Logger, method: str, facts: MutableMapping[str, Any]) -> tuple[tuple[bytes], Facts]:
        event, error = facts.pop("event", ""), _error(facts.pop("exc_info", None))
        head = {
            "timestamp": _now(),
            "level": "error" if method == "exception" else method,
            "event": event,
            "logger": logger.name,
        }
        if error is not None:
            facts["exception"] = traceback_of(error)
        try:
            line = fitted(plain({**head, **self._always, **facts}, _mask), self._render)
        except (MemoryError, RecursionError):
            # Still say that something happened, with nothing that needs room.
            line = self._render({**head, "event": "Log line lost for want of memory"})
        return (line,), {}


class _Output:
    """Writes each line in one piece, or drops it."""

    def __init__(self, stream: TextIO | None) -> None:
        self._stream = stream
        self._descriptor = _descriptor(stream)

    def write(self, line: bytes) -> None:
        try:
            if self._stream is not None and self._stream.closed:
                return  # its descriptor may be somebody else's by now
            if self._descriptor is not None:
                os.write(self._descriptor, line)
            elif self._stream is not None:
                self._stream.write(line.decode())
                self._stream.flush()
        except (OSError, ValueError, MemoryError):
            pass  # nobody is left to tell


class _Logger:
    """What structlog hands its finished lines to."""

    def __init__(self, output: _Output, name: str = "aitp") -> None:
        self.name = name
        self.debug = self.info = self.warning = self.error = self.critical = self.exception = output.write


class _ThirdParty(logging.Handler):
    """Libraries' own warnings, as events of ours. Their exceptions show as ours do."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            message = record.getMessage()
        except (TypeError, ValueError, KeyError):
            message = str(record.msg)
        error = record.exc_info[1] if record.exc_info else None
        method = "error" if record.levelno >= logging.ERROR else "warning"
        getattr(get_logger(record.name), method)(message, exc_info=error)


def _descriptor(stream: TextIO | None) -> int | None:
    try:
        return None if stream is None else stream.fileno()
    except (OSError, ValueError):
        return None


def _error(told: object) -> BaseException | None:
    """structlog's exc_info: an exception, a triple, or true for the one being handled."""
    if isinstance(told, BaseException):
        return told
    if isinstance(told, tuple):
        return next((part for part in told if isinstance(part, BaseException)), None)
    return sys.exc_info()[1] if told else None


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds").removesuffix("+00:00") + "Z"


# Until a process says how. Never as structlog would: its tracebacks show what local variables hold, secrets included.
_write("INFO", sys.stderr, _Line(None, people=True))
