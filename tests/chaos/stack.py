"""`python -m tests.chaos.stack COMMAND`: the command aitp, with fault points, a journal and a clock that can be set.

The service's own code knows nothing of them: they are put around its steps here, in the processes of a test alone.
CHAOS_CONTROLS names the directory of `controls.py`; with CHAOS_CLOCK_ONLY there is the clock and nothing else. What is
wrapped is the life of a task: the ledger's transactions, the calls to the task API and to the provider. `run` starts
supervisord with this very module in the place of bin/aitp.
"""

from __future__ import annotations

import errno
import functools
import os
import runpy
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.chaos.controls import Probe

PROBE = Probe(Path(os.environ["CHAOS_CONTROLS"]))

_true_time = time.time


def _told_time() -> float:
    return _true_time() + PROBE.offset


# Before anything of aitp is imported: some keep the function itself.
time.time = _told_time

_true_gettime = time.clock_gettime


def _told_gettime(clock: int) -> float:
    return _true_gettime(clock) + (PROBE.passed if clock == time.CLOCK_BOOTTIME else 0.0)


time.clock_gettime = _told_gettime

_true_getaddrinfo = socket.getaddrinfo


def _getaddrinfo(*arguments: Any, **options: Any) -> Any:
    # Whoever says that it is an address asks no resolver; of all else, addresses of this world stand for names.
    # (waitress looks up where it would listen of its own accord, which is an address anywhere.)
    if PROBE.nameless and arguments[0] != "0.0.0.0" and not options.get("flags", 0) & socket.AI_NUMERICHOST:
        raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
    return _true_getaddrinfo(*arguments, **options)


socket.getaddrinfo = _getaddrinfo

# A twentieth of what it is in service: a short run is to have checkpoints too.
CHECKPOINT_PAGES = 200

_used = 0  # of all that was ever counted, as the last claim of this process found it
_step = "other"  # the transaction that runs now, for the points within it


def reach(point: str) -> None:
    """Be killed or stopped here, or fail, if that was ordered."""
    action = PROBE.ordered(point)
    if action is None:
        return
    PROBE.note("struck", point=point, action=action)
    match action:
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case "stop":
            os.kill(os.getpid(), signal.SIGSTOP)
        case "memory":
            raise MemoryError
        case "descriptors":
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))


def wrap(owner: Any, name: str, step: str, note: Callable[..., dict[str, Any] | None]) -> None:
    """Put points around a step, and a line of the journal behind it. `note(result, self, *arguments)`: its facts."""
    original = getattr(owner, name)

    @functools.wraps(original)
    def wrapped(*arguments: Any, **options: Any) -> Any:
        global _step
        reach(f"{step}.before")
        outer, _step = _step, step
        began = time.monotonic()
        try:
            result = original(*arguments, **options)
        except Exception as error:
            for about in _about(arguments):
                PROBE.note(f"{step} failed", began=began, error=type(error).__name__, **about)
            raise
        finally:
            _step = outer
        facts = note(result, *arguments)
        if facts is not None:
            PROBE.note(step, began=began, **facts)
        reach(f"{step}.after")
        return result

    setattr(owner, name, wrapped)


def _about(arguments: Sequence[Any]) -> list[dict[str, Any]]:
    """The tasks that a failed settle or delivery was about; whatever else failed was about none."""
    found = [getattr(about, "id", about) for about in (*arguments[1:2], *_earlier(arguments))]
    return [{"id": each} for each in found if isinstance(each, str)] or [{}]


def _earlier(arguments: Sequence[Any]) -> Sequence[Any]:
    """The deliveries that are settled with another one."""
    return arguments[5] if len(arguments) > 5 and isinstance(arguments[5], list) else ()


def install() -> None:
    """Wrap the steps. In the master, before it forks."""
    from aitp.ledger import sqlite
    from aitp.ledger.breakers import Breakers
    from aitp.ledger.claims import Claim, Claims
    from aitp.ledger.inbox import Inbox, Poll
    from aitp.ledger.limits import Limits
    from aitp.ledger.outbox import Nothing, Outbox
    from aitp.ledger.outcomes import Outcomes
    from aitp.ledger.sqlite import SQLiteDatabase
    from aitp.process.worker import MeteredProvider, Worker
    from aitp.taskapi.client import TaskApi

    room = Limits.room

    def asked(self: Any, connection: Any, now: float, basis: Any, **options: Any) -> Any:
        global _used
        _used = basis.used
        return room(self, connection, now, basis, **options)

    setattr(Limits, "room", asked)  # noqa: B010 (mypy knows its type too well)

    def claimed(claim: Any, *_: Any) -> dict[str, Any] | None:
        if not isinstance(claim, Claim):
            return None
        ids = [task.id for task in claim.tasks]
        return {"slot": claim.slot, "provider": claim.provider, "probe": claim.probe, "ids": ids, "used": _used}

    def ended(settled: Any, *arguments: Any) -> dict[str, Any] | None:
        slot = getattr(arguments[1], "slot", arguments[1])
        return {"slot": slot, "outcomes": [[o.task.id, o.ending.value, o.reason] for o in settled.outcomes]}

    def taken(found: Any, *arguments: Any) -> dict[str, Any] | None:
        return None if isinstance(found, Nothing) else {"slot": arguments[1], "ids": [each.id for each in found]}

    def settled(_: Any, *arguments: Any) -> dict[str, Any]:
        for each in _earlier(arguments):
            PROBE.note("settle", began=time.monotonic(), slot=each.slot, id=each.id, verdict="delivered")
        return {"slot": arguments[1].slot, "id": arguments[1].id, "verdict": arguments[2].value}

    def begun(poll: Any, *arguments: Any) -> dict[str, Any] | None:
        return {"slot": arguments[1]} if isinstance(poll, Poll) else None

    def silent(*_: Any) -> None:
        return None

    wrap(Inbox, "begin_poll", "begin_poll", begun)
    wrap(TaskApi, "pending", "pending", silent)
    wrap(Inbox, "admit", "admit", silent)
    wrap(Inbox, "end_poll", "end_poll", silent)
    wrap(Claims, "claim", "claim", claimed)
    wrap(MeteredProvider, "embed", "embed", silent)
    wrap(MeteredProvider, "ask", "ask", silent)
    wrap(Outcomes, "finish", "finish", ended)
    wrap(Worker, "_tell", "told", silent)
    wrap(Outbox, "take", "take", taken)
    wrap(TaskApi, "deliver", "deliver", lambda _, *arguments: {"id": arguments[1]})
    wrap(Outbox, "settle", "settle", settled)
    wrap(Outcomes, "release", "release", ended)
    _wrap_log(SQLiteDatabase)
    _wrap_transactions(SQLiteDatabase)
    if "CHAOS_GRACE_SECONDS" in os.environ:
        from aitp.ledger.postgresql import PostgreSQLDatabase

        _wrap_transactions(PostgreSQLDatabase)
    _wrap_breakers(Breakers)
    sqlite.CHECKPOINT_PAGES = CHECKPOINT_PAGES


def _wrap_transactions(database: Any) -> None:
    """Either engine's."""
    transaction, flush = database.transaction, database.flush

    @contextmanager
    def watched(self: Any, *, durable: bool = False) -> Iterator[Any]:
        with transaction(self, durable=durable) as connection:
            _moved.clear()
            yield connection
            if _step != "other":
                reach(f"{_step}.uncommitted")
        _note_moves()

    def flushed(self: Any) -> None:
        _note_moves()  # before a kill: they are committed, and everybody goes by them
        if _step != "other":
            reach(f"{_step}.unflushed")
        flush(self)

    database.transaction, database.flush = watched, flushed


def _wrap_log(database: Any) -> None:
    """SQLite's write-ahead log, which a power cut leaves a part of."""
    flush, checkpoint = database.flush, database._checkpoint

    def flushed(self: Any) -> None:
        pages = self._log_pages
        flush(self)
        # What is left for certain: so many frames of the log with this salt (SQLite, "WAL File Format").
        PROBE.note("synced", salt=os.pread(self._log_file, 8, 16).hex(), frames=pages)

    def checkpointed(self: Any) -> None:
        reach("checkpoint.before")
        checkpoint(self)

    database.flush, database._checkpoint = flushed, checkpointed


_moved: list[tuple[float, dict[str, Any]]] = []  # breakers, in the transaction that runs now


def _note_moves() -> None:
    """What the transaction that was just committed did to breakers."""
    for at, facts in _moved:
        PROBE.note("breaker", at=at, **facts)
    _moved.clear()


def _wrap_breakers(breakers: Any) -> None:
    """Every move of a breaker, noted within the transaction that made it, so that the order is the true one."""

    def states(connection: Any) -> dict[str, tuple[str, int | None]]:
        rows = connection.execute("SELECT service, state, probe_slot FROM breakers").fetchall()
        return {service: (state, slot) for service, state, slot in rows}

    def watch(name: str) -> None:
        original = getattr(breakers, name)

        @functools.wraps(original)
        def watched(self: Any, connection: Any, *arguments: Any, **options: Any) -> Any:
            before = states(connection)
            result = original(self, connection, *arguments, **options)
            for service, (state, slot) in states(connection).items():
                if before.get(service) != (state, slot):
                    was = before[service][0]
                    facts = {"service": service, "before": was, "state": state, "slot": slot, "by": name}
                    _moved.append((time.monotonic(), facts))
            return result

        setattr(breakers, name, watched)

    for name in ("begin_probe", "tell", "release"):
        watch(name)


def main() -> int:
    """The command line is that of aitp."""
    command = sys.argv[1]
    if command not in ("run", "master"):
        runpy.run_module("aitp", run_name="__main__")
    from aitp.errors import ConfigurationError
    from aitp.settings import load_settings, prepare_environment

    if command == "run":
        try:
            return _run()
        except ConfigurationError as error:
            print(*error.problems, sep="\n", file=sys.stderr)
            return 78
    prepare_environment()
    if "CHAOS_CLOCK_ONLY" not in os.environ:
        install()
    from aitp.process.child import Timings
    from aitp.process.master import run_master
    from aitp.process.service import roles

    settings = load_settings()
    if grace := os.environ.get("CHAOS_GRACE_SECONDS"):  # shorter than may be set
        settings = settings.model_copy(update={"host_grace_seconds": float(grace)})
    # Impatient, or most of a run would be waiting for those who died young.
    timings = Timings(
        tick_seconds=1.0,
        slack_seconds=1.0,
        young_seconds=1.0,
        longest_hold_back_seconds=1.0,
        step_seconds=float(os.environ["CHAOS_STEP_SECONDS"]),
    )
    return run_master(settings, roles(settings), timings)


def _run() -> int:
    from aitp.process.supervisord import CONFIGURATION, run_supervised

    ours = Path(os.environ["CHAOS_CONTROLS"]) / "supervisord.conf"
    python = f"{sys.executable} -m tests.chaos.stack"
    ours.write_text(CONFIGURATION.read_text().replace('"%(here)s/../bin/aitp"', python))
    return run_supervised(ours)


if __name__ == "__main__":
    sys.exit(main())
