"""Reading what can be read of a damaged SQLite file.

SQLite finds rows by going down a tree, and fails where a page on its way is damaged: what lies to both sides of that
page is still there. So a table is read from its beginning until that fails, from its end until that fails, and what is
in between by halving it again and again, until only rows that cannot be read are left. Called by recovery, on a copy.
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from typing import Any, Self

import apsw

from aitp.ledger.engine import Row

# What reading a damaged file raises: the machine's failures too, because a length in it may be any number.
UNREADABLE = (apsw.Error, UnicodeDecodeError, OverflowError, MemoryError)

# How often reading may fail in one table before the rest of it is given up: a second or two.
MOST_FAILURES = 50_000
# How far beyond the last row that was read others are looked for, if nothing tells the highest number.
BEYOND = 2**20

# The file's header (sqlite.org/fileformat2.html): magic, page size, and the number of pages at offset 28.
HEADER_BYTES = 100
PAGE_BYTES = 4_096
PAGE_COUNT = slice(28, 32)

Record = dict[str, Any]
"""A row by its columns' names, its values as they were found."""


class Remains:
    """A damaged file, open for reading. `failures`: tables of which some rows could not be read."""

    def __init__(self, connection: apsw.Connection) -> None:
        self._connection = connection
        self.failures: set[str] = set()
        self.tables = self._tables()

    @classmethod
    def of(cls, copy: Path) -> Self | None:
        """Open a copy, of which only this process knows; None if it does not even say which tables it has."""
        connection = None
        try:
            connection = apsw.Connection(str(copy), flags=apsw.SQLITE_OPEN_READWRITE)
            connection.execute("PRAGMA temp_store = MEMORY")
            remains = cls(connection)
        except UNREADABLE:
            remains = None
        if connection is not None and (remains is None or not remains.tables):
            connection.close()
            remains = None
        return remains

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._connection.close()
        except apsw.Error:
            pass  # it could not bring its log into the damaged copy, which is thrown away

    def _tables(self) -> dict[str, list[str]]:
        """Columns by table."""
        names: list[Row] = self._connection.execute(
            "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite^_%' ESCAPE '^'"
        ).fetchall()
        return {
            name: [column for (column,) in self._connection.execute("SELECT name FROM pragma_table_info(?)", (name,))]
            for (name,) in names
        }

    def rows(self, table: str, columns: Sequence[str], key: str) -> Iterator[Record]:
        """Rows of `table`, each once: of these columns, those that it has. `key` is the rowid's name."""
        columns = self._known(table, columns)
        if key not in columns:
            self.failures.add(table)
            return
        read = f"SELECT {', '.join(columns)} FROM {table} NOT INDEXED WHERE {key} BETWEEN ? AND ? ORDER BY {key}"
        ranges = deque([(-(2**63), 2**63 - 1)])
        failures = 0
        while ranges and failures < MOST_FAILURES:
            low, high = ranges.popleft()
            whole, last = yield from self._until_failure(f"{read} ASC", (low, high), columns, key)
            if whole:
                continue
            self.failures.add(table)
            failures += 1
            low = low if last is None else last + 1
            whole, first = yield from self._until_failure(f"{read} DESC", (low, high), columns, key)
            if whole:
                continue
            failures += 1
            high = min(high, self._highest(table, key, low)) if first is None else first - 1
            if low < high:
                middle = (low + high) // 2
                ranges += [(low, middle), (middle + 1, high)]

    def _until_failure(
        self, read: str, bounds: tuple[int, int], columns: Sequence[str], key: str
    ) -> Generator[Record, None, tuple[bool, int | None]]:
        """Rows in the order of their numbers; whether that went to the end, and the last one's number."""
        last: int | None = None
        step = -1 if read.endswith("DESC") else 1
        try:
            for row in self._connection.execute(read, bounds):
                record = dict(zip(columns, row, strict=True))
                if last is not None and (record[key] - last) * step <= 0:
                    return False, last  # a damaged tree may lead back to where it came from
                last = record[key]
                yield record
        except UNREADABLE:
            return False, last
        return True, last

    def whole(self, table: str, columns: Sequence[str]) -> Iterator[Record]:
        """Rows of a small table of any kind: from its beginning, and if that fails from its end."""
        columns = self._known(table, columns)
        if not columns:
            self.failures.add(table)
            return
        seen: set[Row] = set()
        for direction in ("ASC", "DESC"):
            try:
                for row in self._connection.execute(
                    f"SELECT {', '.join(columns)} FROM {table} NOT INDEXED ORDER BY {columns[0]} {direction}"
                ):
                    if row not in seen:
                        seen.add(row)
                        yield dict(zip(columns, row, strict=True))
                return
            except UNREADABLE:
                self.failures.add(table)

    def index(self, table: str, index: str, columns: str) -> Iterator[Row]:
        """What an index alone knows, until that fails: also of rows that cannot be read themselves."""
        try:
            yield from self._connection.execute(f"SELECT {columns} FROM {table} INDEXED BY {index}")
        except UNREADABLE:
            self.failures.add(table)

    def _known(self, table: str, columns: Sequence[str]) -> list[str]:
        return [column for column in columns if column in self.tables.get(table, ())]

    def _highest(self, table: str, key: str, low: int) -> int:
        for question in (
            f"SELECT MAX({key}) FROM {table}",
            "SELECT seq FROM sqlite_sequence WHERE name = 'tasks'",
        ):
            try:
                found = self._connection.execute(question).get
            except UNREADABLE:
                continue
            if isinstance(found, int) and low <= found < low + 2**40:
                return found
        return max(low, 0) + BEYOND


def with_first_page_of(fresh: Path, copy: Path) -> None:
    """Give a copy the header of a new ledger, and the pages that say where which table begins.

    A ledger has its tables in the same places as a new one, unless it was made by an older release.
    """
    with copy.open("r+b") as file:
        pages = max(1, copy.stat().st_size // PAGE_BYTES)
        first = bytearray(fresh.read_bytes()[: PAGE_BYTES if pages == 1 else HEADER_BYTES])
        first[PAGE_COUNT] = struct.pack(">I", pages)
        file.write(first)
    try:
        connection = apsw.Connection(str(copy), flags=apsw.SQLITE_OPEN_READWRITE)
        try:
            connection.execute("PRAGMA schema_version")  # else the log would not be looked at
            connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)  # what it has is newer than the file
        finally:
            connection.close()
    except UNREADABLE:
        pass
    log = copy.with_name(copy.name + "-wal")
    log.unlink(missing_ok=True)
    connection = apsw.Connection(str(fresh), flags=apsw.SQLITE_OPEN_READONLY)
    try:
        numbers = [number for (number,) in connection.execute("SELECT pageno FROM dbstat WHERE name = 'sqlite_schema'")]
    finally:
        connection.close()
    with copy.open("r+b") as file, fresh.open("rb") as sound:
        for number in numbers:
            sound.seek((number - 1) * PAGE_BYTES)
            page = bytearray(sound.read(PAGE_BYTES))
            if number == 1:
                page[PAGE_COUNT] = struct.pack(">I", max(1, copy.stat().st_size // PAGE_BYTES))
            file.seek((number - 1) * PAGE_BYTES)
            file.write(page)
