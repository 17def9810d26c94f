"""Ownership that cannot lie: POSIX record locks on `<ledger>.lock`, one byte a slot.

A process holds the byte of its slot for as long as it lives; the kernel takes it back with the process, after
kill -9 too, and fork does not hand it on. Whoever obtains a slot may release what that slot had claimed.
Byte 0 is the master's; one byte far above the slots is the queue in which the ledger's writers stand (SQLite's own
busy handler starves some of them), and those after it are turns at Wikimedia.

The file is empty, but for a byte while the ledger's log is in doubt: see `SQLiteDatabase.flush`.

Closing *any* descriptor of the file drops every lock that the process has on it (fcntl(2)): open one `SlotLocks` in
a process, after fork, and close it last. Master, children, and every ledger connection of theirs use that one.
"""

from __future__ import annotations

import fcntl
import os
import select
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

from aitp.errors import MisplacedLedger

MASTER_SLOT = 0
QUEUE_BYTE = 1 << 20

ASK_AGAIN_SECONDS = 0.02

FLOCK = struct.Struct("@hhlli")  # struct flock on Linux: l_type, l_whence, l_start, l_len, l_pid


def lock_path(ledger: Path) -> Path:
    """The lock file that belongs to a ledger."""
    return ledger.with_name(ledger.name + ".lock")


def refuse_no_file(path: Path) -> None:
    """Raise MisplacedLedger for what is in a ledger's place and is no file, OSError where this user may not look.

    To be asked before anything is opened: a pipe would keep its reader waiting for ever. That is a wrong setting and no
    damage: whoever comes upon it says so and leaves it alone, recovery first of all.
    """
    if path.exists() and not path.is_file():
        raise misplaced(path, "is no file: the ledger cannot be there")


def misplaced(path: Path, what: str) -> MisplacedLedger:
    """What is said where something is that never was a ledger."""
    return MisplacedLedger([f"RATE_LIMIT_STORAGE_PATH={path} {what}; correct the setting"])


def master_of(ledger: Path) -> int | None:
    """The pid of the process that is this ledger's master (0: in another pid namespace); None if none is known to be.

    For processes that hold no locks on it: they would be dropped by this look.
    """
    try:
        file = os.open(lock_path(ledger), os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return None
    try:
        return _holder(file, MASTER_SLOT)
    except OSError:
        return None
    finally:
        os.close(file)


def _holder(file: int, slot: int, slots: int = 1) -> int | None:
    question = FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, slot, slots, 0)
    kind, _, _, _, pid = FLOCK.unpack(fcntl.fcntl(file, fcntl.F_GETLK, question))
    return None if kind == fcntl.F_UNLCK else max(pid, 0)


class SlotLocks:
    """The locks of this process. Not for threads; not to be used across fork."""

    def __init__(self, ledger: Path) -> None:
        """Open the lock file of `ledger` (mode 0600), making it and its folder if need be.

        Raises OSError; MisplacedLedger, with nothing made, beside what is no file.
        """
        refuse_no_file(ledger)
        path = lock_path(ledger)
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self.held: set[int] = set()

    def acquire(self, slot: int, timeout: float = 0.0) -> bool:
        """Hold `slot` until released or dead; False if another process still has it after `timeout` seconds.

        It is asked for again and again, because the kernel's own wait has no end.
        """
        until = time.monotonic() + timeout
        while True:
            try:
                fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, slot)
            except BlockingIOError:
                if (left := until - time.monotonic()) <= 0:
                    return False
                select.select((), (), (), min(left, ASK_AGAIN_SECONDS))
            else:
                self.held.add(slot)
                return True

    def release(self, slot: int) -> None:
        """Give `slot` back; nothing happens if this process does not hold it."""
        fcntl.lockf(self._file, fcntl.LOCK_UN, 1, slot)
        self.held.discard(slot)

    def holder(self, slot: int) -> int | None:
        """The pid of *another* process that holds `slot` (0: one in another pid namespace); None if there is none."""
        return _holder(self._file, slot)

    def any_held_elsewhere(self) -> bool:
        """Whether another process holds any slot."""
        return _holder(self._file, 0, QUEUE_BYTE) is not None

    @property
    def log_in_doubt(self) -> bool:
        """Whether a flush of the log failed, in whatever process, and nobody has written it anew since."""
        return os.fstat(self._file).st_size > 0

    @log_in_doubt.setter
    def log_in_doubt(self, doubt: bool) -> None:
        os.ftruncate(self._file, int(doubt))  # a size takes no block of a disk that may be full, or failing

    @contextmanager
    def queue(self) -> Iterator[None]:
        """Stand in the writers' queue, then be the only writer. Does not nest: the inner exit would end the outer."""
        try:
            fcntl.lockf(self._file, fcntl.LOCK_EX, 1, QUEUE_BYTE)
            yield
        finally:
            # Also when a signal's exception came between the lock and the yield; unlocking a free byte is harmless.
            fcntl.lockf(self._file, fcntl.LOCK_UN, 1, QUEUE_BYTE)

    def close(self) -> None:
        """Drop all locks of this process."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
            self.held.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
