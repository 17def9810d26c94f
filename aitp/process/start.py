"""Starting the master: what must be in place before it forks for the first time. Called by `aitp master`."""

from __future__ import annotations

import errno
import gc
import os
import resource
import signal
import time
from pathlib import Path
from typing import NoReturn

from aitp.errors import ConfigurationError
from aitp.ledger import SlotLocks
from aitp.logs import configure, get_logger
from aitp.process.crew import Crew, Heritage, Timings
from aitp.process.errand import FAILED, MISCONFIGURED
from aitp.process.hearing import hear
from aitp.process.master import ANSWERS, Master
from aitp.process.scoreboard import Scoreboard
from aitp.process.slots import LAST_SLOT, MASTER, name_process
from aitp.process.staff import OTHER_DESCRIPTORS, most_descriptors, refuse_few_descriptors
from aitp.process.systemd import Systemd
from aitp.process.wakes import Wakes
from aitp.settings import Settings, surroundings

LOOK_AGAIN_SECONDS = 0.2  # for another master's lock, which nothing tells the end of to one who must hear signals too
LONGEST_SOCKET_PATH = 107 - len(".4194304")  # sun_path of unix(7); supervisord binds to a name with its pid first
DESCRIPTORS = LAST_SLOT + OTHER_DESCRIPTORS  # a reload may ask for any number of children

log = get_logger(__name__)


def scoreboard_path(runtime_dir: Path) -> Path:
    """Where health, status and the page find the scoreboard."""
    return runtime_dir / "scoreboard"


def run_master(settings: Settings, crew: Crew, timings: Timings = Timings()) -> int:  # noqa: B008 (frozen)
    """Be the master until told to stop; the exit code (0, 1, 78)."""
    signal.pthread_sigmask(signal.SIG_BLOCK, ANSWERS.keys())
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # inherited as ignored, the dead would be reaped behind our back
    os.umask(0o077)
    name_process("aitp master")
    configure(settings.log_level, settings.log_format, slot=MASTER)
    try:
        refuse_few_descriptors(settings, most_descriptors())
        own_directory(settings.runtime_dir)
        locks = open_locks(settings.ledger_path)
        if (code := _take_over(locks, settings.shutdown_grace_seconds + timings.takeover_seconds)) is not None:
            return code
        board = Scoreboard.create(scoreboard_path(settings.runtime_dir))
        lifeline, lifeline_end = os.pipe2(os.O_CLOEXEC)
        _allow_descriptors()
    except ConfigurationError as error:
        log.error("Configuration cannot be used", problems=list(error.problems))
        return MISCONFIGURED
    except OSError as error:
        log.error("Master cannot start", reason=str(error))
        return FAILED
    log.info("Master started", pid=os.getpid())
    crew.warm_up()
    gc.collect()
    gc.freeze()  # children share what a collection would otherwise touch
    heritage = Heritage(board, Wakes(), lifeline, lifeline_end, locks, timings)
    return Master(settings, crew, heritage, Systemd(surroundings())).run()


# ENOENT: of a file system that lets nobody make directories, like /proc.
NOT_MENDED_BY_TIME = frozenset(
    {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST, errno.EISDIR, errno.ENOENT, errno.ELOOP}
)


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
    log.warning("Runtime directory is open to others", directory=str(path))


def blame_setting(name: str, path: Path, error: OSError) -> NoReturn:
    """Raise what starting again would not mend as a ConfigurationError, and anything else as it is."""
    if error.errno in NOT_MENDED_BY_TIME:
        problem = f"{name}={path}: this user must be able to write there ({error.strerror})"
        raise ConfigurationError([problem]) from error
    raise error


def open_locks(ledger: Path) -> SlotLocks:
    """This process's locks of `ledger`. Raises ConfigurationError; OSError for a full disk."""
    try:
        return SlotLocks(ledger)
    except OSError as error:
        blame_setting("RATE_LIMIT_STORAGE_PATH", ledger, error)


def _take_over(locks: SlotLocks, patience: float) -> int | None:
    """Wait for another master of this ledger to leave. None: we are the master now; else the exit code."""
    give_up = time.monotonic() + patience
    waiting = False
    while not locks.acquire(MASTER, timeout=0):
        if not waiting:
            waiting = True
            log.warning("Another master is running, waiting for it to leave", holder=locks.holder(MASTER))
        if time.monotonic() >= give_up:
            log.error("Another master is still running: one ledger has one master", holder=locks.holder(MASTER))
            return FAILED
        if hear((signal.SIGTERM, signal.SIGINT, signal.SIGQUIT), LOOK_AGAIN_SECONDS):
            return 0
    return None


def _allow_descriptors() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < DESCRIPTORS:
        wanted = DESCRIPTORS if hard == resource.RLIM_INFINITY else min(DESCRIPTORS, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
