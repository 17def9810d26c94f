"""A real master with toy children: `python -m tests.process.toys DIRECTORY ROLE=BEHAVIOUR … TIMING=SECONDS …`.

Toys do as files in the directory say, and note in `events` what happened to them.
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from aitp.errors import ConfigurationError, LedgerError
from aitp.ledger.outcomes import Cause
from aitp.process.child import Child, Inherited, Roles, Timings
from aitp.process.master import run_master
from aitp.process.scoreboard import Role
from aitp.settings import Settings, load_settings

DIRECTORY = Path(sys.argv[1])


def note(event: str, **facts: Any) -> None:
    line = json.dumps({"event": event, "pid": os.getpid(), "at": time.monotonic(), **facts}) + "\n"
    file = os.open(DIRECTORY / "events", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(file, line.encode())
    os.close(file)


def taken(order: str) -> str | None:
    """The order's text, for the one who is the first to take it."""
    mine = DIRECTORY / f"{order}.{os.getpid()}"
    try:
        (DIRECTORY / order).rename(mine)
    except FileNotFoundError:
        return None
    return mine.read_text()


def block(seconds: float) -> None:
    """A system call that nothing ends but time."""
    ends = time.monotonic() + seconds
    while (left := ends - time.monotonic()) > 0:
        select.select([], [], [], min(left, 0.1))  # what goes on after a stop may wait for its whole time again


def trickle(seconds: float) -> None:
    """Reads from a peer that sends a byte now and then: no read ever comes to its time-out."""
    ours, theirs = socket.socketpair()
    if os.fork() == 0:
        for _ in range(int(seconds / 0.05)):
            time.sleep(0.05)
            theirs.send(b".")
        os._exit(0)
    theirs.close()
    ours.settimeout(1)
    while ours.recv(1):
        pass


def obeys(child: Child, settings: Settings, cause: Cause) -> None:
    """Does what orders say, one at a time, until told to leave."""
    note("started", slot=child.slot, cause=cause.value, limit=settings.concurrency_limit)
    while not child.leaving:
        child.idle()
        if call := taken("call"):
            calls(child, *map(float, call.split()))
            child.count_done()
        elif bound := taken("trickle"):
            note("call begins", slot=child.slot)
            with child.call("task-1", float(bound)):
                trickle(60)
        elif record := taken("record"):
            child.recording()
            block(float(record))
            note("recorded", slot=child.slot)
        elif crash := taken("crash"):
            with child.call("crashing", 60):
                ENDS[crash]()
        elif taken("miss model") is not None:
            child.miss_model()
        elif child.poll_asked:
            child.poll_asked = False
            note("polls", slot=child.slot)
        else:
            child.wait()
            note("woken", slot=child.slot)
        if child.draining:
            note("drains", slot=child.slot)
    note("leaves", slot=child.slot)


def calls(child: Child, takes: float, bound: float) -> None:
    note("call begins", slot=child.slot)
    with child.call("task-1", bound):
        block(takes)
    note("call done", slot=child.slot)


def _raise(error: Exception) -> None:
    raise error


ENDS: Mapping[str, Callable[[], None]] = {
    "segmentation fault": lambda: os.kill(os.getpid(), signal.SIGSEGV),
    "exit": lambda: os._exit(3),
    "bug": lambda: _raise(ZeroDivisionError("a bug")),
    "ledger": lambda: _raise(LedgerError("disk full")),
    "quit": lambda: os.kill(os.getpid(), signal.SIGQUIT),
}


def hangs_once(child: Child, settings: Settings, cause: Cause) -> None:
    if taken("hang") is not None:
        note("hangs", slot=child.slot)
        block(3600)
    obeys(child, settings, cause)


def dies_young(child: Child, settings: Settings, cause: Cause) -> None:
    note("started", slot=child.slot, cause=cause.value)
    child.idle()
    os._exit(3)


def returns_at_once(child: Child, settings: Settings, cause: Cause) -> None:
    note("started", slot=child.slot, cause=cause.value)
    child.idle()
    child.count_done()


def is_deaf(child: Child, settings: Settings, cause: Cause) -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    note("started", slot=child.slot, cause=cause.value)
    child.idle()
    with child.call("endless", 3600):
        block(3600)


def prepare(settings: Settings) -> None:
    note("prepare", limit=settings.concurrency_limit)
    if problem := taken("misconfigured"):
        raise ConfigurationError([problem])
    if seconds := taken("slow prepare"):
        block(float(seconds))
    if taken("broken") is not None:
        raise RuntimeError("broken")


def sweep(settings: Settings, wanted: frozenset[int], causes: Mapping[int, Cause]) -> bool:
    note("sweep", wanted=sorted(wanted), causes={slot: cause.value for slot, cause in causes.items()})
    return taken("sweep again") is None


def hang_at_fork(after_fork: Callable[[Inherited], None]) -> Callable[[Inherited], None]:
    def shed_or_hang(inherited: Inherited) -> None:
        if taken("hang at fork") is not None:
            note("hangs")
            block(3600)
        after_fork(inherited)

    return shed_or_hang


def main() -> int:
    Inherited.after_fork = hang_at_fork(Inherited.after_fork)  # type: ignore[method-assign, assignment]
    words = dict(word.split("=") for word in sys.argv[2:])
    mains = {role: globals()[words.pop(role.value, "obeys")] for role in Role}
    roles = Roles(mains, load_settings, prepare, sweep)
    return run_master(load_settings(), roles, Timings(**{name: float(value) for name, value in words.items()}))


if __name__ == "__main__":
    sys.exit(main())
