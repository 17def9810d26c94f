"""The log: structured events to standard output, one write of at most 4,096 bytes a line, JSON or for people.

Promises: a line has `timestamp`, `level`, `event`, then its facts, and `slot` once that is known, and before all of it
its priority where systemd's journal collects it; logging never raises (a broken pipe or a full disk is the machine's
fault, and must not fail a task) and buffers nothing that a fork could double; registered secrets never appear.
Rendering calls no code of the values that it is given: one of an unknown type shows as its type's name, so that no
response, request or document can slip into a log. Exceptions show types, places and their chain, but only the messages
of our own errors and of Python's harmless ones: others may quote texts, URLs or headers. Every process calls
`configure` when it starts, a child again after its fork. Warnings of third-party libraries come along; their chatter,
which may quote texts and headers, never does.
"""

from __future__ import annotations

import io
import logging
import os
import sys
from collections.abc import Callable, Mapping, MutableMapping
from datetime import datetime
from functools import cache, partial
from importlib import import_module
from pathlib import PurePath
from traceback import walk_tb
from types import ModuleType
from typing import TYPE_CHECKING, Any, TextIO, cast
from urllib.parse import quote_plus

import orjson

from aitp.errors import AitpError, printable


class _Later(ModuleType):
    """A module that is imported when something of it is asked for."""

    def __getattr__(self, name: str) -> Any:
        return getattr(import_module(self.__name__), name)


if TYPE_CHECKING:
    from pydantic import SecretStr
    from structlog.typing import ExcInfo, FilteringBoundLogger

# The most that a pipe takes in one piece (PIPE_BUF): longer lines of several processes would interleave.
LINE_BYTES = 4_096
MASK = "***"
# Longest text kept in a line that is too long: tried in turn until the line fits.
CUTS = (1_500, 500, 200, 60)
# How systemd's journal is told of a line's priority (sd-daemon(3)).
PRIORITIES = {"critical": "<2>", "error": "<3>", "warning": "<4>", "info": "<6>", "debug": "<7>"}
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
Render = Callable[[Facts], bytes]

_secrets: tuple[str, ...] = ()


def configure(level: str, format: str = "auto", slot: int | None = None, stream: TextIO | None = None) -> None:
    """Log events of `level` and above to `stream` (standard output). `format`: json, console, or auto (console on a
    terminal). May be called again at any time, for loggers that exist already too."""
    stream = stream or sys.stdout or open(os.devnull, "w")  # noqa: SIM115 (as long as the process)
    on_terminal = not stream.closed and stream.isatty()
    _write(level, stream, as_text if format == "console" or (format == "auto" and on_terminal) else as_json, slot)
    root = logging.getLogger()
    root.handlers[:] = [_ThirdParty()]
    root.setLevel(logging.WARNING)
    logging.getLogger("urllib3").setLevel(logging.ERROR)  # it warns of heads that it cannot read, in their own words
    # What is below a warning is never asked for, not even where a library sets its own level.
    logging.disable(logging.INFO)
    logging.raiseExceptions = False


def get_logger(name: str) -> FilteringBoundLogger:
    """A logger whose lines carry `logger=name`. Cheap, and may be made at import."""
    return cast("FilteringBoundLogger", _Logger(name))


class _Logger:
    """structlog's, from its first line on: whoever has nothing to log does not load it."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, method: str) -> Any:
        structlog = loaded()
        if not structlog.is_configured():
            # Until a process says how. Never as structlog would: its tracebacks show what local variables hold.
            _write("INFO", sys.stderr, as_text)
        return getattr(structlog.get_logger(self._name), method)


@cache
def loaded() -> Any:
    """structlog. It imports asyncio, for methods that nobody calls here, and rich, if it is there, for tracebacks that
    show what local variables hold, which we never show: 8 MB and a quarter of a second of CPU in each program that
    needs neither. So it finds stand-ins while it is imported, and whoever else wants them the real ones.
    """
    stand_ins: dict[str, Any] = {"asyncio": _Later("asyncio"), "rich": None}
    real = {name: sys.modules.pop(name) for name in stand_ins if name in sys.modules}
    sys.modules.update(stand_ins)
    import structlog

    for name in stand_ins:
        del sys.modules[name]
    sys.modules.update(real)
    return structlog


def conceal(*values: str | SecretStr | None) -> None:
    """Never show these from now on, in whatever fact or traceback they turn up."""
    global _secrets
    texts = [value if isinstance(value, str) else value.get_secret_value() for value in values if value is not None]
    # A shorter one would mask parts of ordinary words, and be no secret.
    forms = {form for text in texts if len(text) >= 4 for form in (text, quote_plus(text))}
    # Longest first: else a secret that begins like another would be masked in part only.
    _secrets = tuple(sorted({*_secrets, *forms}, key=len, reverse=True))


def masked(text: str) -> str:
    """`text` without the registered secrets: for whatever else than a log shows what others have written."""
    for secret in _secrets:
        text = text.replace(secret, MASK)
    return text


def _write(level: str, stream: TextIO, render: Render, slot: int | None = None) -> None:
    structlog = loaded()
    always = {} if slot is None else {"slot": slot}
    render = _with_priority(render) if journal_collects(stream) else render

    def finish(logger: object, method: str, facts: MutableMapping[str, Any]) -> bytes:
        head = {name: facts.pop(name) for name in ("timestamp", "level", "event", "logger") if name in facts}
        try:
            return fitted({**head, **always, **facts}, render)
        except MemoryError:
            raise structlog.DropEvent from None

    structlog.configure(
        processors=[
            structlog.stdlib.add_log_level,
            structlog.stdlib.add_logger_name,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.ExceptionRenderer(traceback_of),
            finish,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=partial(_Output, stream),
        # A logger made before the fork must follow the child's configuration.
        cache_logger_on_first_use=False,
    )


class _Output:
    """Writes each line in one piece, below all buffers, or drops it: nobody is left to tell."""

    def __init__(self, stream: TextIO, name: str = "aitp") -> None:
        self.name = name
        buffer: Any = getattr(stream, "buffer", stream)
        self._file = getattr(buffer, "raw", buffer)

    def write(self, line: bytes) -> None:
        try:
            self._file.write(line)
        except (OSError, ValueError, MemoryError):
            pass

    debug = info = warning = error = critical = exception = write


class _ThirdParty(logging.Handler):
    """Libraries' own warnings, as events of ours. Their exceptions show as ours do."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            message = record.getMessage()
        except (TypeError, ValueError, KeyError):
            message = str(record.msg)
        method = "error" if record.levelno >= logging.ERROR else "warning"
        getattr(get_logger(record.name), method)(message, exc_info=record.exc_info)


# ── systemd's journal ────────────────────────────────────────────────────────────────────────────────────────────────


def journal_collects(stream: TextIO) -> bool:
    """Whether systemd's journal collects what is written there, so that `journalctl -p warning` can show ours.

    It is the stream of that device and inode (systemd.exec(5)); programs of supervisord inherit copies of it.
    """
    told = os.environ.get("JOURNAL_STREAM")
    try:
        file = os.fstat(stream.fileno()) if told else None
    except (OSError, ValueError):
        return False
    return file is not None and told == f"{file.st_dev}:{file.st_ino}"


def mark_errors() -> None:
    """From now on lines of this process's standard error are errors to the journal: tracebacks whole, too."""
    if sys.stderr is not None and journal_collects(sys.stderr):
        sys.stderr = _Errors(sys.stderr.buffer, sys.stderr.encoding, sys.stderr.errors, line_buffering=True)


class _Errors(io.TextIOWrapper):
    _goes_on = False  # the line of what was written last

    def write(self, text: str) -> int:
        if text == "":
            return 0
        whole, mark = text.endswith("\n"), PRIORITIES["error"]
        marked = text[: -1 if whole else None].replace("\n", f"\n{mark}")
        super().write(("" if self._goes_on else mark) + marked + ("\n" if whole else ""))
        self._goes_on = not whole
        return len(text)


# ── a line ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def as_json(facts: Facts) -> bytes:
    """`facts` (plain ones) as one line of JSON."""
    return orjson.dumps(facts, option=orjson.OPT_NON_STR_KEYS) + b"\n"


def as_text(facts: Facts) -> bytes:
    """`facts` (plain ones) as one line for people: time, level, event, then name=value."""
    rest = {name: value for name, value in facts.items() if name not in ("timestamp", "level", "event")}
    shown = "".join(f"  {name}={_word(value)}" for name, value in rest.items())
    return f"{facts['timestamp']} {str(facts['level']).upper():<8} {facts['event']}{shown}\n".encode()


def _with_priority(render: Render) -> Render:
    return lambda facts: PRIORITIES.get(facts["level"], "").encode() + render(facts)


def _word(value: Any) -> str:
    text = value if isinstance(value, str) else orjson.dumps(value).decode()
    return text if text and not set(text) & set(" ='\"") else orjson.dumps(value).decode()


def fitted(facts: Facts, render: Render) -> bytes:
    """`facts` made plain, and rendered in at most LINE_BYTES: long texts are cut, and `truncated` says so."""
    line = render(plain(facts))
    for longest in CUTS:
        if len(line) <= LINE_BYTES:
            return line
        line = render({**plain(facts, longest), "truncated": True})
    if len(line) <= LINE_BYTES:
        return line
    few = {name: facts[name] for name in LAST_RESORT if name in facts}
    return render({**plain(few, CUTS[-1]), "truncated": True})


def plain(value: object, longest: int = LINE_BYTES, depth: int = 0) -> Any:
    """`value` made of what JSON knows: text, masked, escaped and no longer than that; numbers, lists, objects."""
    kind = type(value)
    if value is None or kind is bool or kind is float:
        return value
    if isinstance(value, int):
        return int(value) if -(2**63) <= value < 2**63 else str(int(value))
    if isinstance(value, str):
        return _shown(str.__str__(value), longest)
    if isinstance(value, BaseException):
        return _shown(_named(value), longest)
    if isinstance(value, PurePath | datetime):
        return _shown(str(value), longest)
    most = min(MOST_MEMBERS, longest // 10)
    if depth < DEEPEST and kind is dict:
        members = list(value.items())[:MOST_MEMBERS]  # type: ignore[attr-defined]
        return {_shown(str(name), longest): plain(member, longest, depth + 1) for name, member in members}
    if depth < DEEPEST and kind in (list, tuple, set, frozenset):
        return [plain(member, longest, depth + 1) for member in list(value)[:most]]  # type: ignore[call-overload]
    return MASK if kind.__name__ in ("SecretStr", "SecretBytes") else f"<{kind.__name__}>"


def _shown(text: str, longest: int) -> str:
    text = printable(masked(text))
    return text if len(text) <= longest else f"{text[:longest]}…"


# ── an exception ─────────────────────────────────────────────────────────────────────────────────────────────────────


def traceback_of(exc_info: ExcInfo) -> str:
    """What happened, where, and what it came from, newest first: `KeyError at aitp/a.py:7 load < aitp/b.py:3 run`."""
    parts: list[str] = []
    current: BaseException | None = exc_info[1]
    while current is not None and len(parts) < MOST_ERRORS:
        frames = [
            f"{_short(frame.f_code.co_filename)}:{line} {frame.f_code.co_qualname}"
            for frame, line in walk_tb(current.__traceback__)
        ]
        places = " < ".join(reversed(frames[-MOST_FRAMES:]))
        parts.append(f"{_named(current)} at {places}" if places else _named(current))
        current = current.__cause__ or (None if current.__suppress_context__ else current.__context__)
    return "; from ".join(parts)


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
    for root in ("site-packages/", "aitp/", "python3."):
        _, found, rest = file.rpartition(f"/{root}")
        if found:
            return rest if root == "site-packages/" else f"{root}{rest}"
    return file
