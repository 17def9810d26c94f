"""Starting: what must be in place before anything is, and what those who look are told of a start.

Directories, locks, descriptors, a path that a socket may have: what starting again would not mend is a
ConfigurationError that names the setting; a full disk is an OSError.

Two small files in RUNTIME_DIR tell a start, a restart and a stop from a death, before there is a master that could say
so itself: what supervisord does with it (`Supervision`), and why the last start failed. Nobody depends on them but
people, so that a disk without room for them stops nothing. `Systemd` is what the service manager is told.
"""

from __future__ import annotations

import dataclasses
import errno
import json
import math
import os
import resource
import select
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, NoReturn, TypeVar

from aitp import sources
from aitp.errors import ConfigurationError
from aitp.hardening import is_alive, replace_file
from aitp.ledger.engine import lock_file
from aitp.ledger.locks import SlotLocks
from aitp.process import scoreboard

if TYPE_CHECKING:
    from aitp.settings import Settings

LONGEST_SOCKET_PATH = 107 - len(".4194304")  # sun_path of unix(7); supervisord binds to a name with its pid first
# ENOENT: of a file system that lets nobody make directories, like /proc.
NOT_MENDED_BY_TIME = frozenset(
    {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST, errno.EISDIR, errno.ENOENT, errno.ELOOP}
)
LOOK_SECONDS = 0.1  # between two looks at children who start: they wake nobody when they are ready
EXTENSION_SECONDS = 60  # what a start may take from each round of its preparation on; a tick is much shorter
START_SECONDS = 60.0  # until a master that was started shows itself, and its children are at work
OTHER_DESCRIPTORS = 100  # beside a descriptor for each child: files, pipes, what libraries open


def own_directory(path: Path) -> None:
    """Make the runtime directory (0700), or take it as it is. Raises ConfigurationError; OSError for a full disk."""
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not os.access(path, os.R_OK | os.W_OK | os.X_OK):
            reason = errno.EROFS if os.statvfs(path).f_flag & os.ST_RDONLY else errno.EACCES
            raise OSError(reason, os.strerror(reason))
        if path.stat().st_mode & 0o077:
            _close_to_others(path)
    except OSError as error:
        blame_setting("RUNTIME_DIR", path, error)


def refuse_long_socket_path(runtime_dir: Path) -> None:
    """Raise ConfigurationError if supervisord's socket in there would have a longer path than a socket may have."""
    if len(os.fsencode(runtime_dir / "supervisor.sock")) > LONGEST_SOCKET_PATH:
        longest = LONGEST_SOCKET_PATH - len("/supervisor.sock")
        problem = f"RUNTIME_DIR={runtime_dir}: at most {longest} bytes, or no socket can be made in it"
        raise ConfigurationError([problem])


def _close_to_others(path: Path) -> None:
    """Our files are private anyway; what else may be in there (it could be /run) is not ours to lock away."""
    names = {entry.name for entry in path.iterdir()}
    ours = "scoreboard" in names or all(name.startswith((".", "supervisor")) for name in names)
    try:
        if ours and path.stat().st_uid == os.geteuid():
            path.chmod(0o700)
            return
    except PermissionError:
        pass
    _warn("Runtime directory is open to others", directory=str(path))


def blame_setting(name: str, path: Path, error: OSError) -> NoReturn:
    """Raise what starting again would not mend as a ConfigurationError, and anything else as it is."""
    if error.errno in NOT_MENDED_BY_TIME:
        problem = f"{name}={path}: this user must be able to write there ({error.strerror})"
        raise ConfigurationError([problem]) from error
    raise error


def open_locks(settings: Settings) -> SlotLocks:
    """This process's locks of the ledger. Raises ConfigurationError; OSError for a full disk."""
    file = lock_file(settings.ledger)
    try:
        return SlotLocks(file)
    except OSError as error:
        blame_setting("RATE_LIMIT_STORAGE_PATH", file, error)


def descriptors_needed(settings: Settings) -> int:
    """About how many files the master has open at a time."""
    return settings.concurrency_limit + settings.relay_processes + OTHER_DESCRIPTORS


def refuse_few_descriptors(settings: Settings, most: int | None = None) -> None:
    """Raise ConfigurationError if `most`, the hard limit on open files (ours), is too low for as many children."""
    most = most_descriptors() if most is None else most
    if most < (needed := descriptors_needed(settings)):
        raise ConfigurationError(
            [
                f"CONCURRENCY_LIMIT={settings.concurrency_limit}: a process may have {most:,} files open here, and the "
                f"master needs about {needed:,}; raise the hard limit (ulimit -Hn; LimitNOFILE= of the unit), or lower "
                "CONCURRENCY_LIMIT"
            ]
        )


def refuse_at_reload(settings: Settings, running: Settings) -> None:
    """Raise ConfigurationError for what only a restart changes."""
    problems = [
        f"{name.upper()}={new}: a reload cannot move it from {old}; restart the service"
        for name in ("rate_limit_storage_path", "runtime_dir", "ledger_url", "ledger_schema", "host_name")
        if (old := getattr(running, name)) != (new := getattr(settings, name))
    ]
    if invented := set(settings.mocks) - set(running.mocks):  # whoever runs on real results does not mean it
        problems.append(
            f"{', '.join(sorted(invented))} is a placeholder: a reload does not turn mock mode on, in which results "
            "are invented; put the key in, or restart the service if this is what you want"
        )
    if problems:
        raise ConfigurationError(problems)


def raise_descriptors(most: int) -> None:
    """Let this process and its children have `most` files open, or as many as they may."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if 0 <= soft < most:  # RLIM_INFINITY is below nothing
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(most, most_descriptors()), hard))


def most_descriptors() -> int:
    """This process's hard limit on open files."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return (1 << 62) if hard == resource.RLIM_INFINITY else hard


# ── what is told of it ───────────────────────────────────────────────────────────────────────────────────────────────


@dataclasses.dataclass(frozen=True, slots=True)
class Supervision:
    """What supervisord (`pid`) does with the master: `state` as supervisord names it, since when (UTC seconds).

    `exit_code`: of the last master that ended without being told to, -1 for a signal; None if none has.
    """

    pid: int
    state: str
    since: float
    exit_code: int | None = None

    FILE: ClassVar[str] = "supervision.json"


@dataclasses.dataclass(frozen=True, slots=True)
class FailedStart:
    """Why the last start came to nothing, and when (UTC seconds)."""

    at: float
    reason: str

    FILE: ClassVar[str] = "failed-start.json"


T = TypeVar("T", Supervision, FailedStart)


def tell(runtime_dir: Path, told: Supervision | FailedStart) -> None:
    """Replace what was told."""
    path = runtime_dir / told.FILE
    try:
        replace_file(path, json.dumps(dataclasses.asdict(told)).encode())
    except OSError as error:
        _warn("What the service is doing cannot be told", file=str(path), reason=error.strerror)


def forget(runtime_dir: Path, *files: str) -> None:
    """That is over, and to be told of no more."""
    for name in files:
        with suppress(OSError):
            (runtime_dir / name).unlink(missing_ok=True)


def read(runtime_dir: Path, kind: type[T]) -> T | None:
    """What was told last."""
    with suppress(OSError, ValueError, TypeError):
        return kind(**json.loads((runtime_dir / kind.FILE).read_bytes()))
    return None


def read_supervision(runtime_dir: Path) -> Supervision | None:
    """What was told last, if whoever told it still lives."""
    told = read(runtime_dir, Supervision)
    return told if told and is_alive(told.pid) else None


def tell_of_failed_start(runtime_dir: Path, problems: Sequence[str]) -> None:
    """Where people look: `aitp status`, the page, and `systemctl status`."""

    reason = "; ".join(problems)
    Systemd().start_failed(reason)
    if runtime_dir.is_dir():
        tell(runtime_dir, FailedStart(time.time(), reason))


def await_start(runtime_dir: Path, seconds: float = START_SECONDS) -> str | None:
    """Until the master that was started can do its work: then None, else a sentence that says what is wrong."""
    give_up = time.monotonic() + seconds
    while time.monotonic() < give_up:
        records = scoreboard.glance(scoreboard.scoreboard_path(runtime_dir))
        children = [record for record in records if record.slot != scoreboard.MASTER]
        master = scoreboard.living_master(records)
        # Its children may be at work before it says at its next round that it runs, which is what people are told.
        if master and master.state is scoreboard.State.RUNNING and work_can_be_done(children, time.monotonic()):
            return None
        if failed := read(runtime_dir, FailedStart):
            return f"aitp: the start failed: {failed.reason}"
        select.select([], [], [], LOOK_SECONDS)
    return f"aitp: it cannot do its work after {seconds:g} s: see `aitp status` and the log"


def _warn(event: str, **facts: object) -> None:
    from aitp.logs import get_logger  # not above: who only looks writes no log

    get_logger(__name__).warning(event, **facts)


def work_can_be_done(children: Sequence[scoreboard.Record], monotonic: float) -> bool:
    """Whether somebody of each role does his work, or waits for some."""
    able = {
        scoreboard.role_of(child.slot)
        for child in children
        if child.state in scoreboard.TAKEN_OVER and not child.overdue(monotonic)
    }
    return able == set(scoreboard.Role)


class Systemd:
    """What systemd is told, by the protocol of sd_notify(3): datagrams of NAME=value lines to $NOTIFY_SOCKET.

    systemd starts `aitp run`, but only the master knows whether work can be done, so the master answers (the unit says
    NotifyAccess=all): READY once it can, WATCHDOG at each round as long as it can, STATUS with what it is doing. Work
    can be done when at least one child of each role has taken its slot over and keeps its deadline. Services elsewhere
    that fail are no reason to restart us, and count for nothing here: /ready tells of them.

    `aitp run` alone says STOPPING: systemd takes that as the stop of the whole unit, and `supervisorctl restart
    aitp-master` is none. A master that is stopped in order has the watchdog wait until the next one takes it up again.

    Without $NOTIFY_SOCKET nothing is sent. Nothing here raises, blocks, or keeps a descriptor.
    """

    def __init__(self) -> None:
        environ = sources.exported("NOTIFY_SOCKET", "WATCHDOG_USEC")
        address = environ.get("NOTIFY_SOCKET", "")
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self._watchdog = environ.get("WATCHDOG_USEC", "")
        self._owes_ready = True  # at the start, and at the end of a reload
        self._status = ""
        self._remark = ""

    # What a master tells, at each of its rounds

    def preparing(self) -> None:
        """The ledger is being prepared, however long that takes (the master bounds it)."""
        self._tell(f"EXTEND_TIMEOUT_USEC={EXTENSION_SECONDS * 1_000_000}", "WATCHDOG=1", status="Preparing the ledger")

    def working(self, children: Sequence[scoreboard.Record], wanted: int, monotonic: float) -> float:
        """The service is running; when to look again (monotonic)."""
        able = work_can_be_done(children, monotonic)
        news = ["WATCHDOG=1"] if able else []
        if able and self._owes_ready:
            self._owes_ready = False
            news += [f"WATCHDOG_USEC={self._watchdog}", "READY=1"] if self._watchdog else ["READY=1"]
        self._tell(*news, status=_summary(children, wanted) + self._remark)
        return monotonic + LOOK_SECONDS if self._address and self._owes_ready else math.inf

    def draining(self) -> None:
        """The master is being stopped. supervisord bounds that. What it was asked for, a stop or a restart, only it
        knows."""
        status = "Stopping: calls in hand end, and results are delivered"
        if status != self._status:
            self._tell(*(["WATCHDOG_USEC=0"] if self._watchdog else []), status=status)

    # What happens in between

    def reloading(self, monotonic: float) -> None:
        """New settings are being judged, until `reloaded`."""
        self._owes_ready = False
        self._tell("RELOADING=1", f"MONOTONIC_USEC={monotonic * 1_000_000:.0f}", status="Reading the settings again")

    def reloaded(self, *, refused: bool) -> None:
        """They are in force, or refused; the next round says READY again."""
        self._owes_ready = True
        self._remark = "; the new settings are refused, the former ones stay in force (see the log)" if refused else ""

    def master_stopped(self) -> None:
        """It leaves now."""
        self._tell(status="The master is stopped; `supervisorctl start aitp-master` goes on")

    def start_failed(self, reason: str) -> None:
        """The service ends before it has begun."""
        self._tell(status=f"The start failed: {' '.join(reason.split())}")

    def service_stops(self) -> None:
        """The whole service is being stopped."""
        self._tell("STOPPING=1")

    def _tell(self, *assignments: str, status: str = "") -> None:
        """`status`: told unless it was told last."""
        if status and status != self._status:
            self._status = status
            assignments = (*assignments, f"STATUS={status}")
        if not self._address or not assignments:
            return
        import socket  # not above: who only looks tells nobody

        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ours:
                ours.setblocking(False)
                ours.sendto("\n".join(assignments).encode(), self._address)
        except OSError as error:
            _warn("systemd cannot be told how things stand", reason=error.strerror)


def _summary(children: Sequence[scoreboard.Record], wanted: int) -> str:
    at_work = [child for child in children if child.state in scoreboard.TAKEN_OVER]
    calls = sum(
        child.state is scoreboard.State.BUSY and scoreboard.role_of(child.slot) is scoreboard.Role.WORKER
        for child in at_work
    )
    return f"{len(at_work)} of {wanted} processes at work, {calls} in a call"
