"""Damage: what is wrong with a ledger's file, by SQLite's own check, in words that may be printed.

Called by every start (quickly), by `soundness` (thoroughly), and by whoever opens a ledger.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import apsw

# What a damaged file makes SQLite raise, and apsw with its texts and numbers.
DAMAGE = (apsw.CorruptError, apsw.NotADBError, apsw.SQLError, apsw.MismatchError, UnicodeDecodeError, OverflowError)
MOST_PROBLEMS = 20
MOST_WORDS = 200
WRITE_VERSION_AT, MOST_WRITE_VERSION = 18, b"\x02"

NO_FILE = "it is no file"
NOT_TO_BE_WRITTEN = "its header says that only a later SQLite may write it"
LOG_ALONE = "it is empty, but its write-ahead log is not"


def is_log_alone(path: Path) -> bool:
    """Whether only the log of a ledger is left. To be asked before SQLite is: it would delete the log."""
    log = path.with_name(path.name + "-wal")
    # SQLite takes a file of one byte for an empty one (unixFileSize in os_unix.c).
    return log.exists() and log.stat().st_size > 0 and (not path.exists() or path.stat().st_size <= 1)


def file_problems(connection: apsw.Connection, *, quick: bool, most: int = MOST_PROBLEMS) -> list[str]:
    """What SQLite's own check finds wrong with the file, and whether it is a ledger. A new, empty one is sound."""
    try:
        rows: list[tuple[Any, ...]] = connection.execute(
            f"PRAGMA {'quick' if quick else 'integrity'}_check({most})"
        ).fetchall()
        found = [readable(str(said)) for (said,) in rows if said != "ok"] or header_problems(connection)
        if not found and has_tables(connection):
            # Whoever comes to need this row would find nothing to go by.
            found = ["it has lost its version"] * (connection.execute("SELECT version FROM ledger").get is None)
        elif not found and connection.execute("SELECT 1 FROM sqlite_schema").get:
            found = ["it is the database of another program"]
    except DAMAGE as error:
        found = [in_words(error)]
    return found


def header_problems(connection: apsw.Connection) -> list[str]:
    """A file that says it is to be written by a later SQLite is in order for this one, but can never be written.

    See "File format version numbers" in sqlite.org/fileformat.html. Read by SQLite's own hands: to close a descriptor
    of ours would let go of the locks that this process has on the file.
    """
    flags = apsw.SQLITE_OPEN_MAIN_DB | apsw.SQLITE_OPEN_READONLY
    file = apsw.VFSFile("unix", connection.filename, [flags, 0])
    try:
        written_by = file.xRead(1, WRITE_VERSION_AT) if file.xFileSize() > WRITE_VERSION_AT else b""
    finally:
        file.xClose()
    return [NOT_TO_BE_WRITTEN] if written_by > MOST_WRITE_VERSION else []


def in_words(error: BaseException) -> str:
    """What one of DAMAGE means."""
    return "a text in it is no UTF-8" if isinstance(error, UnicodeDecodeError) else readable(str(error))


def readable(words: str) -> str:
    """SQLite quotes what it found, which may be anything."""
    return "".join(character if character.isprintable() else "?" for character in words)[:MOST_WORDS]


def has_tables(connection: apsw.Connection) -> bool:
    """Whether it is a ledger of ours, of any version."""
    return bool(connection.execute("SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = 'ledger'").get)
