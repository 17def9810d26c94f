"""supervisord's event listener: a dead program must not leave supervisord running on empty.

A program that supervisord will not start again (it ended with an expected exit code, or it gave up on it) ends the
whole service: its exit code goes to a file beside supervisord's socket, where `aitp run` reads it, and supervisord is
told to stop. So does one that ends early because of settings that no other start would mend: a bare supervisord takes
every early end for a start to be tried again, whatever its exit code.

Protocol: READY and RESULT lines on standard output, events on standard input (supervisord's manual, "Events").
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn, TextIO

from supervisor import childutils  # type: ignore[import-untyped]

from aitp.errors import ConfigurationError
from aitp.settings import load_settings, surroundings

FAILED, MISCONFIGURED = 1, 78


def exit_code_path(runtime_dir: Path) -> Path:
    """Where the exit code of the program that ended the service is kept."""
    return runtime_dir / "exit-code"


def listen() -> int:
    """Answer supervisord's events until it is gone."""
    signal.signal(signal.SIGTERM, _stop)  # it is stopped so at every stop: nothing to warn of
    environ = surroundings()
    server = environ.get("SUPERVISOR_SERVER_URL", "")
    if not server.startswith("unix://"):
        sys.stderr.write("aitp listen is started by supervisord (etc/supervisord.conf), not by hand\n")
        return 2
    place = exit_code_path(Path(server.removeprefix("unix://")).parent)
    supervisor = os.getppid()
    while True:
        childutils.listener.ready(sys.stdout)
        event = _read(sys.stdin)
        if event is None or os.getppid() != supervisor:
            return 0
        code = final_exit_code(event, environ)
        if code is not None:
            _record(place, code)
            os.kill(supervisor, signal.SIGTERM)
        childutils.listener.ok(sys.stdout)


def final_exit_code(event: Mapping[str, str], environ: Mapping[str, str]) -> int | None:
    """The exit code with which the service ends after this event, or None if the program will be back."""
    if event["processname"] == environ.get("SUPERVISOR_PROCESS_NAME"):
        return None
    if event["eventname"] == "PROCESS_STATE_BACKOFF":
        return None if _settings_are_good() else MISCONFIGURED
    if event["eventname"] == "PROCESS_STATE_FATAL":
        return _exit_status(event, environ) or FAILED
    if event["eventname"] == "PROCESS_STATE_EXITED" and event["expected"] == "1":
        return _exit_status(event, environ)
    return None


def _stop(number: int, frame: FrameType | None) -> NoReturn:
    raise SystemExit(0)


def _settings_are_good() -> bool:
    try:
        load_settings()
    except ConfigurationError:
        return False  # the program has said why
    return True


def _exit_status(event: Mapping[str, str], environ: Mapping[str, str]) -> int:
    supervisor: Any = childutils.getRPCInterface(environ)
    info = supervisor.supervisor.getProcessInfo(f"{event['groupname']}:{event['processname']}")
    status = int(info["exitstatus"])
    return status if status >= 0 else FAILED  # negative: a signal


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
