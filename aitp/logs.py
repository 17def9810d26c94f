"""The log: structured events to standard output, one write of at most 4,096 bytes a line, JSON or for people.

Promises: a line has `timestamp`, `level`, `event`, then its facts, and `slot` once that is known; logging never raises
(a broken pipe or a full disk is the machine's fault, and must not fail a task) and buffers nothing that a fork could
double; registered secrets never appear. Every process calls `configure` when it starts, a child again after its fork.
Warnings of third-party libraries come along; their chatter, which may quote texts and headers, never does."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from datetime import UTC, datetime
from functools import partial
from pathlib import PurePath
from traceback import walk_tb
from types import TracebackType
from typing import TYPE_CHECKING, Any, TextIO, cast
from urllib.parse import quote_plus

import orjson
import structlog

from aitp.errors import AitpError

if TYPE_CHECKING:
    from pydantic import SecretStr
    from structlog.typing import FilteringBoundLogger


# The most that a pipe takes in one piece (PIPE_BUF): longer lines of several processes would interleave.
LINE_BYTES = 4_096
MASK = "***"

# Longest text kept in a line that is too long: tried in turn until the line fits.
CUTS = (1_500, 500, 200, 60)
LAST_RESORT = ("timestamp", "level", "event", "slot", "task_id")
DEEPEST = 4
MOST_MEMBERS = 50
MOST_FRAMES = 12
MOST_ERRORS = 4

# Errors whose messages speak of code, never of data.
HARMLESS = frozenset(
    {AttributeError, NameError, UnboundLocalError, TypeError, ImportError, ModuleNotFoundError, IndexError}
    | {ZeroDivisionError, RecursionError, MemoryError, NotImplementedError}
)

Facts = Mapping[str, Any]


class Mask:
    """Replaces secrets in text. The first ones registered (the settings') stay; of later ones (tokens), the newest."""

    KEPT = 32

    def __init__(self) -> None:
        self._first: list[str] = []
        self._later: list[str] = []
        self._longest_first: tuple[str, ...] = ()

    def add(self, secret: str) -> None:
        # A shorter one would mask parts of ordinary words, and be no secret.
        if len(secret) < 4:
            return
        for form in {secret, quote_plus(secret)} - {*self._first, *self._later}:
            if len(self._first) < self.KEPT:
                self._first.append(form)
            else:
                self._later = [*self._later[1 - self.KEPT :], form]
        # Else a secret that begins like another would be masked in part only.
        self._longest_first = tuple(sorted((*self._first, *self._later), key=len, reverse=True))

    def __call__(self, text: str) -> str:
        for secret in self._longest_first:
            if secret in text:
                text = text.replace(secret, MASK)
        return text


def as_json(facts: Facts) -> bytes:
    """`facts` (plain ones) as one line of JSON."""
    return orjson.dumps(facts, option=orjson.OPT_NON_STR_KEYS) + b"\n"


def as_text(facts: Facts) -> bytes:
    """`facts` (plain ones) as one line for people: time, level, event, then name=value."""
    rest = {name: value for name, value in facts.items() if name not in ("timestamp", "level", "event")}
    shown = "".join(f"  {name}={_word(value)}" for name, value in rest.items())
    return f"{facts['timestamp']} {str(facts['level']).upper():<8} {facts['event']}{shown}\n".encode()


def fitted(facts: Facts, render: Callable[[Facts], bytes]) -> bytes:
    """`facts` (plain ones) rendered in at most LINE_BYTES: long texts are cut, and `truncated` says so."""
    line = render(facts)
    for longest in CUTS:
        if len(line) <= LINE_BYTES:
            return line
        line = render({**_cut(facts, longest), "truncated": True})
    if len(line) <= LINE_BYTES:
        return line
    few = {name: _cut(facts[name], CUTS[-1]) for name in LAST_RESORT if name in facts}
    return render({**few, "truncated": True})


def plain(value: object, mask: Mask, depth: int = 0) -> Any:
    """`value` made of what JSON knows: masked and escaped text, numbers, lists, objects."""
    kind = type(value)
    if value is None or kind is bool or kind is float:
        return value
    if isinstance(value, int):
        return int(value) if -(2**63) <= value < 2**63 else str(int(value))
    if isinstance(value, str):
        return _printable(mask(str.__str__(value)))
    if isinstance(value, BaseException):
        return _printable(mask(_named(value)))
    if isinstance(value, PurePath | datetime):
        return _printable(mask(str(value)))
    if depth < DEEPEST and kind is dict:
        members = list(value.items())[:MOST_MEMBERS]  # type: ignore[attr-defined]
        return {_printable(mask(str(name))): plain(member, mask, depth + 1) for name, member in members}
    if depth < DEEPEST and kind in (list, tuple, set, frozenset):
        return [plain(member, mask, depth + 1) for member in list(value)[:MOST_MEMBERS]]  # type: ignore[call-overload]
    return MASK if kind.__name__ in ("SecretStr", "SecretBytes") else f"<{kind.__name__}>"


def traceback_of(error: BaseException) -> str:
    """What happened, where, and what it came from, newest first: `KeyError at aitp/a.py:7 load < aitp/b.py:3 run`."""
    parts: list[str] = []
    current: BaseException | None = error
    while current is not None and len(parts) < MOST_ERRORS:
        places = [f"{_short(file)}:{line} {function}" for file, line, function in _frames(current.__traceback__)]
        at = f" at {' < '.join(places)}" if places else ""
        parts.append(f"{_named(current)}{at}")
        current = current.__cause__ or (None if current.__suppress_context__ else current.__context__)
    return "; from ".join(parts)


def _frames(traceback: TracebackType | None) -> Iterator[tuple[str, int, str]]:
    frames = [(frame.f_code.co_filename, line, frame.f_code.co_qualname) for frame, line in walk_tb(traceback)]
    yield from reversed(frames[-MOST_FRAMES:])


def _named(error: BaseException) -> str:
    """An error's type, and its message if that can be trusted to hold no data."""
    kind = type(error)
    if isinstance(error, AitpError) or kind in HARMLESS:
        return f"{kind.__name__}: {error}"
    if isinstance(error, OSError) and kind.__module__ == "builtins" and error.strerror:
        return f"{kind.__name__}: {error.strerror}"
    return kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def _short(file: str) -> str:
    """A source file's name from its package on."""
    for root in ("/site-packages/", "/aitp/", "/python3."):
        _, found, rest = file.rpartition(root)
        if found:
            return rest if root == "/site-packages/" else f"{root[1:]}{rest}"
    return file


def _printable(text: str) -> str:
    """Escape what could forge a line, move a terminal's cursor, or fail to encode."""
    if text.isprintable():
        return text
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode() for character in text
    )


def _cut(value: Any, longest: int) -> Any:
    if isinstance(value, str):
        return value if len(value) <= longest else f"{value[:longest]}…"
    if isinstance(value, dict):
        return {_cut(name, longest): _cut(member, longest) for name, member in list(value.items())[:longest]}
    if isinstance(value, list):
        return [_cut(member, longest) for member in value[: longest // 10]]
    return value


def _word(value: Any) -> str:
    text = value if isinstance(value, str) else orjson.dumps(value).decode()
    return text if text and not set(text) & set(" ='\"") else orjson.dumps(value).decode()


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
