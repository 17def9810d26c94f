"""Backups: one consistent state of a ledger in one file, made while the service runs.

SQLite's online backup copies all pages in one read transaction, which keeps no writer waiting. The copy is looked over
before it gets its name, so that whatever has that name is whole and sound. Called by `aitp ledger backup`.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import apsw

from aitp.errors import LedgerError
from aitp.ledger.damage import header_problems, is_log_alone
from aitp.ledger.locks import lock_path
from aitp.ledger.place import refuse_no_file
from aitp.ledger.soundness import Checkup, look_over
from aitp.ledger.sqlite import as_ledger_error, empty_ledger, no_ledger, open_read_only


def back_up(path: Path, target: Path, *, overwrite: bool = False) -> Checkup:
    """Write a backup of the ledger at `path` to the file `target` (mode 0600); what the look at it found.

    Raises LedgerError, with an earlier `target` untouched, if the ledger is damaged, if `target` exists without
    `overwrite`, or if it cannot be written; MisplacedLedger for what never was a ledger.
    """
    with _as_unwritable(target):
        _refuse(path, target, overwrite)
        handle, name = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)  # 0600
    os.close(handle)
    part = Path(name)
    try:
        found = _copy(path, part)
        if not found.sound:
            raise LedgerError(f"the ledger {path} is damaged ({found.problems[0]}), and no backup was made of it")
        with _as_unwritable(target):
            put_in_place(part, target)
    finally:
        part.unlink(missing_ok=True)
    return found


def put_in_place(part: Path, target: Path) -> None:
    """Give a finished file its name, on disk before this returns. Raises OSError."""
    _flush(part, os.O_RDWR)
    os.replace(part, target)
    _flush(target.parent, os.O_RDONLY | os.O_DIRECTORY)


def _refuse(path: Path, target: Path, overwrite: bool) -> None:
    refuse_no_file(path)
    if not path.exists():
        raise no_ledger(path)
    if path.stat().st_size == 0 and not is_log_alone(path):
        raise empty_ledger(path)
    own = [path, lock_path(path), *(path.with_name(path.name + end) for end in ("-wal", "-shm"))]
    if target.resolve() in [file.resolve() for file in own]:
        raise LedgerError(f"{target} is the ledger itself: name another file for the backup")
    if target.is_dir():
        raise LedgerError(f"{target} is a directory: name a file in it for the backup")
    if target.exists() and not target.is_file():
        raise LedgerError(f"{target} is no file, and nothing to be replaced by one: name a file for the backup")
    if target.exists() and not overwrite:
        raise LedgerError(f"{target} exists already: name another file, or overwrite it with --force")


def _copy(path: Path, part: Path) -> Checkup:
    source = open_read_only(path)
    try:
        if problems := header_problems(source):
            return Checkup(0, tuple(problems), {}, path.stat().st_size)
        with as_ledger_error(part):
            copy = apsw.Connection(str(part), flags=apsw.SQLITE_OPEN_READWRITE)
        try:
            with as_ledger_error(part):
                with copy.backup("main", source, "main") as pages:
                    pages.step()
                # Else it would grow a log beside it as soon as it is read.
                copy.execute("PRAGMA journal_mode = DELETE")
            return look_over(copy, part)
        finally:
            copy.close()
    finally:
        source.close()


@contextmanager
def _as_unwritable(target: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise LedgerError(f"the backup {target} cannot be written: {error.strerror or error}") from error


def _flush(path: Path, flags: int) -> None:
    file = os.open(path, flags | os.O_CLOEXEC)
    try:
        os.fsync(file)
    finally:
        os.close(file)
