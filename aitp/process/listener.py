"""supervisord's event listener: a dead program must not leave supervisord running on empty.

A program that supervisord will not start again (it ended with an expected exit code, or cannot be started at all), or
that ends again and again, ends the whole service: its exit code goes to a file beside supervisord's socket, where
`aitp run` reads it, and supervisord is told to stop.

Protocol: READY and RESULT lines on standard output, events on standard input (supervisord's manual, "Events"). It is
spoken here and not by `supervisor.childutils`, which is loaded when a program has ended: what it brings along takes
7 MB, for as long as the service runs.
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
    ends: dict[str, list[float]] = defaultdict(list)
    while True:
        _say("READY\n")
        event = _read(sys.stdin)
        if event is None or os.getppid() != supervisor:
            return ExitCode.FINE
        if event["processname"] == environ.get("SUPERVISOR_PROCESS_NAME"):
            code = None
        elif event["eventname"] != "PROCESS_STATE_FATAL" and event["expected"] == "1":
            code = _exit_status(event, environ)
        else:
            code = ExitCode.FAILED if _is_given_up(event, ends[event["processname"]]) else None
        if code is not None:
            _record(place, code)
            os.kill(supervisor, signal.SIGTERM)
        _say("RESULT 2\nOK")


def _is_given_up(event: Mapping[str, str], ends: list[float]) -> bool:
    """Whether a program cannot be started, or ends again and again. `ends`: when it did so far."""
    now = time.monotonic()
    ends[:] = [*(at for at in ends if at > now - ENDS_SECONDS), now]
    return event["eventname"] == "PROCESS_STATE_FATAL" or len(ends) >= MOST_ENDS


def _exit_status(event: Mapping[str, str], environ: Mapping[str, str]) -> int:
    """Of a program that supervisord will not start again."""
    from supervisor import childutils  # type: ignore[import-untyped]

    supervisor: Any = childutils.getRPCInterface(environ)
    return int(supervisor.supervisor.getProcessInfo(f"{event['groupname']}:{event['processname']}")["exitstatus"])


def _stop(number: int, frame: FrameType | None) -> NoReturn:
    raise SystemExit(0)


def _say(words: str) -> None:
    sys.stdout.write(words)
    sys.stdout.flush()


def _read(events: TextIO) -> dict[str, str] | None:
    header = events.readline()
    if not header:
        return None  # supervisord is gone
    event = _pairs(header)
    return event | _pairs(events.read(int(event["len"])))


def _pairs(tokens: str) -> dict[str, str]:
    return dict(token.split(":", 1) for token in tokens.split())


def _record(place: Path, code: int) -> None:
    """The first one to end is the reason; the others only follow."""
    try:
        with place.open("x") as file:
            file.write(f"{code}\n")
    except FileExistsError:
        pass
