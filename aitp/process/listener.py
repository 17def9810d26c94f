"""supervisord's event listener: a dead program must not leave supervisord running on empty.

A program that supervisord will not start again (it ended with an expected exit code, or cannot be started at all), or
that ends again and again, ends the whole service: its exit code goes to a file beside supervisord's socket, where
`aitp run` reads it, and supervisord is told to stop.

Protocol: READY and RESULT lines on standard output, events on standard input (supervisord's manual, "Events").
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn, TextIO

from supervisor import childutils  # type: ignore[import-untyped]

from aitp.tasks import ExitCode

# A program that ends so often in so many seconds is given up: it fails to start. Kills now and then are no such thing.
MOST_ENDS, ENDS_SECONDS = 5, 20.0


def exit_code_path(runtime_dir: Path) -> Path:
    """Where the exit code of the program that ended the service is kept."""
    return runtime_dir / "exit-code"


def listen() -> int:
    """Answer supervisord's events until it is gone."""
    signal.signal(signal.SIGTERM, _stop)  # it is stopped so at every stop: nothing to warn of
    environ = os.environ  # supervisord's protocol, no settings of ours
    server = environ.get("SUPERVISOR_SERVER_URL", "")
    if not server.startswith("unix://"):
        sys.stderr.write("aitp listen is started by supervisord (etc/supervisord.conf), not by hand\n")
        return ExitCode.USAGE
    place = exit_code_path(Path(server.removeprefix("unix://")).parent)
    supervisor = os.getppid()
    judge = Judge(environ)
    while True:
        childutils.listener.ready(sys.stdout)
        event = _read(sys.stdin)
        if event is None or os.getppid() != supervisor:
            return ExitCode.FINE
        code = judge.final_exit_code(event)
        if code is not None:
            _record(place, code)
            os.kill(supervisor, signal.SIGTERM)
        childutils.listener.ok(sys.stdout)


class Judge:
    """What events say of the service as a whole."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ
        self._ends: dict[str, list[float]] = defaultdict(list)

    def final_exit_code(self, event: Mapping[str, str]) -> int | None:
        """The exit code with which the service ends after this event, or None if the program will be back."""
        name, now = event["processname"], time.monotonic()
        if name == self._environ.get("SUPERVISOR_PROCESS_NAME"):
            return None
        if event["eventname"] == "PROCESS_STATE_FATAL":
            return ExitCode.FAILED
        if event["expected"] == "1":
            return self._exit_status(event)
        self._ends[name] = [at for at in self._ends[name] if at > now - ENDS_SECONDS] + [now]
        return ExitCode.FAILED if len(self._ends[name]) >= MOST_ENDS else None

    def _exit_status(self, event: Mapping[str, str]) -> int:
        supervisor: Any = childutils.getRPCInterface(self._environ)
        return int(supervisor.supervisor.getProcessInfo(f"{event['groupname']}:{event['processname']}")["exitstatus"])


def _stop(number: int, frame: FrameType | None) -> NoReturn:
    raise SystemExit(0)


def _read(events: TextIO) -> dict[str, str] | None:
    header = events.readline()
    if not header:
        return None  # supervisord is gone
    headers: dict[str, str] = childutils.get_headers(header)
    headers.update(childutils.get_headers(events.read(int(headers["len"]))))
    return headers


def _record(place: Path, code: int) -> None:
    """The first one to end is the reason; the others only follow."""
    try:
        with place.open("x") as file:
            file.write(f"{code}\n")
    except FileExistsError:
        pass
