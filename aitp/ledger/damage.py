"""Damage: what is wrong with a ledger's file, by SQLite's own check, in words that may be printed.

Called by every start (quickly), by `soundness` (thoroughly), and by whoever opens a ledger.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import apsw

from aitp.ledger.schema import MIGRATIONS

# What a damaged file makes SQLite raise, and apsw with its texts and numbers.
DAMAGE = (apsw.CorruptError, apsw.NotADBError, apsw.SQLError, apsw.MismatchError, UnicodeDecodeError, OverflowError)
MOST_PROBLEMS = 20
MOST_WORDS = 200
WRITE_VERSION_AT, MOST_WRITE_VERSION = 18, b"\x02"

NOT_TO_BE_WRITTEN = "its header says that only a later SQLite may write it"
LOG_ALONE = "it is empty, but its write-ahead log is not"
NO_TABLE = "its table ledger is lost, or is not what it was"


def is_log_alone(path: Path) -> bool:
    """Whether only the log of a ledger is left. To be asked before SQLite is: it would delete the log."""
    log = path.with_name(path.name + "-wal")
    # SQLite takes a file of one byte for an empty one (unixFileSize in os_unix.c).
    return log.exists() and log.stat().st_size > 0 and (not path.exists() or path.stat().st_size <= 1)


def file_problems(connection: apsw.Connection, *, quick: bool, most: int = MOST_PROBLEMS) -> list[str]:
    """What SQLite's own check finds wrong with the file, and whether it is a ledger. A new, empty one is sound."""
    try:
        found = file_faults(connection, quick=quick, most=most)
        if not found and is_ledger(connection):
            # Whoever comes to need this row would find nothing to go by.
            found = ["it has lost its version"] * (connection.execute("SELECT version FROM ledger").get is None)
        elif not found and has_tables(connection):
            found = [NO_TABLE]
    except DAMAGE as error:
        found = [in_words(error)]
    return found


def file_faults(connection: apsw.Connection, *, quick: bool, most: int) -> list[str]:
    """What makes it no SQLite file in order, whoever made it. Raises one of DAMAGE where not even that can be asked."""
    check = f"PRAGMA {'quick' if quick else 'integrity'}_check({most})"
    rows: list[tuple[Any, ...]] = connection.execute(check).fetchall()
    return [readable(str(said)) for (said,) in rows if said != "ok"] or header_problems(connection)


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
    """Whether it has any: a file that no program has used yet has none."""
    return bool(connection.execute("SELECT 1 FROM sqlite_schema").get)


def is_ledger(connection: apsw.Connection) -> bool:
    """Whether it is a ledger of ours, of any version: it says which."""
    columns = "SELECT COUNT(*) FROM pragma_table_info('ledger') WHERE name IN ('version', 'sequence')"
    return bool(connection.execute(columns).get == 2)


def is_another_programs(connection: apsw.Connection) -> bool:
    """Whether it is for sure the database of another program: in order, and with nothing that a ledger ever had.

    A ledger whose list of tables is damaged may look like one. What is in doubt is damage: of that, nothing gets lost.
    """
    try:
        if is_ledger(connection):
            return False
        theirs = definitions(connection)
        if not theirs or any(theirs.items() & ours.items() for ours in our_definitions()):
            return False
        return not file_faults(connection, quick=True, most=1)
    except DAMAGE:
        return False


def definitions(connection: apsw.Connection) -> dict[str, str]:
    """How its tables and indexes are defined, by name."""
    rows: list[tuple[Any, ...]] = connection.execute(
        "SELECT name, sql FROM sqlite_schema WHERE sql IS NOT NULL AND name NOT LIKE 'sqlite^_%' ESCAPE '^'"
    ).fetchall()
    return {readable(name): " ".join(sql.split()) for name, sql in rows}


def our_definitions() -> list[dict[str, str]]:
    """The definitions of a ledger of each version, the first one first."""
    found = []
    connection = apsw.Connection(":memory:")
    try:
        for migration in MIGRATIONS:
            connection.execute(migration)
            found.append(definitions(connection))
    finally:
        connection.close()
    return found
