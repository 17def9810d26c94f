"""Moving the ledger from a host's file to a fleet's database, or back, for whoever outgrows a machine or needs but one.

The service must be stopped everywhere. The source stays as it is. The target is new, or holds nothing yet: all rows
enter it in one transaction, which ends well only if they are read back as they were read, and keep what a ledger's rows
promise each other. Cut off at any moment, the target holds nothing still, and the move can be made again.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from hashlib import blake2b

from aitp.errors import LedgerError
from aitp.ledger import postgresql, sqlite
from aitp.ledger.engine import Connection, Fleet, Place, Row, alone, migrate
from aitp.ledger.hosts import holders
from aitp.ledger.maintenance import broken_promises, check
from aitp.ledger.schema import VERSION, refuse_other
from aitp.ledger.session import Statements

# What a fleet knows of its hosts is its own. So is a machine's start: by another one's, a clock that was set looks like
# time that has gone by (clock.py).
STAYING = ("hosts", "absences")
FORGOTTEN = ("boot",)
# What a ledger is kept for. Where there is none of it, the rest may be replaced.
HOLDINGS = ("tasks", "tombstones", "task_completions", "spending", "answers")


def move(source: Place, target: Place) -> dict[str, int]:
    """Copy a ledger into one of the other engine that is new, or holds nothing; how many rows of each table there are.

    Raises LedgerError, with the source as it was and nothing in the target, if either is in use, if the source is
    damaged or of another release, or if the target holds something or cannot be written.
    """
    found = check(source)
    if not found.sound:
        raise LedgerError(f"the ledger {source} is damaged ({found.problems[0]}): see `aitp ledger check`")
    refuse_other(source, found.version)
    moved: dict[str, int] = {}
    with sqlite.ours() as ledger:
        tables = sqlite.tables(ledger)
    with _source(source) as here, _target(target) as there:
        _refuse_holdings(there, target)
        for table, names in tables.items():
            if table in STAYING:
                continue
            columns = ", ".join(names)
            read = ", ".join(f"'' AS {name}" if name in FORGOTTEN else name for name in names)
            there.execute(f"DELETE FROM {table}")
            given, taken = _Count(), _Count()
            _fill(there, table, columns, given.each(_stream(here, f"SELECT {read} FROM {table}")))
            for _ in taken.each(_stream(there, f"SELECT {columns} FROM {table}")):
                pass
            if given != taken:
                raise LedgerError(f"{table} of {source} is not what {target} makes of it: nothing was moved")
            moved[table] = given.rows
        if problems := broken_promises(there):
            raise LedgerError(f"what was read of {source} makes no ledger ({problems[0]}): nothing was moved")
        _number_on(there, target, dict(here.execute("SELECT name, seq FROM sqlite_sequence").fetchall()))
        if isinstance(source, Fleet):
            _refuse_slots(here, source)
    return moved


class _Count:
    """How many rows went by, and a digest of them that does not depend on their order."""

    def __init__(self) -> None:
        self.rows = self.digest = 0

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Count) and (self.rows, self.digest) == (other.rows, other.digest)

    def each(self, rows: Iterable[Row]) -> Iterator[Row]:
        for row in rows:
            self.rows += 1
            self.digest += int.from_bytes(blake2b(repr(row).encode(), digest_size=16).digest())
            yield row


def _refuse_holdings(there: Connection, target: Place) -> None:
    counts = {table: there.execute(f"SELECT COUNT(*) FROM {table}").get for table in HOLDINGS}
    if held := ", ".join(f"{count:,} {table.replace('_', ' ')}" for table, count in counts.items() if count):
        advice = "move that file away, with its -wal and -shm, or name another in RATE_LIMIT_STORAGE_PATH"
        if isinstance(target, Fleet):
            advice = "drop that schema, or name another in LEDGER_SCHEMA"
        raise LedgerError(f"the ledger {target} has {held} already: {advice}")


def _number_on(there: Connection, target: Place, last: Mapping[str, int]) -> None:
    """Have new rows numbered after all that there ever were."""
    if not isinstance(target, Fleet):
        there.execute("DELETE FROM sqlite_sequence")
        there.executemany("INSERT INTO sqlite_sequence (name, seq) VALUES (?, ?)", last.items())
        return
    numbered = there.execute(
        "SELECT table_name, column_name FROM information_schema.columns"
        " WHERE table_schema = current_schema() AND is_identity = 'YES'"
    ).fetchall()
    for table, column in numbered:
        highest = max(last.get(table, 0), there.execute(f"SELECT MAX({column}) FROM {table}").get or 0)
        given = "TRUE" if highest else "FALSE"
        there.execute(f"SELECT setval(pg_get_serial_sequence('{table}', '{column}'), {max(highest, 1)}, {given})")


# The two sides


def _stream(side: Connection, query: str) -> Iterable[Row]:
    """Rows as they come, however many there are."""
    return side.stream(query) if isinstance(side, Statements) else side.execute(query)


def _fill(side: Connection, table: str, columns: str, rows: Iterable[Row]) -> None:
    """Enter any number of rows."""
    if isinstance(side, Statements):
        side.fill(table, columns, rows)
    else:
        places = ", ".join("?" for _ in columns.split(", "))
        side.executemany(f"INSERT INTO {table} ({columns}) VALUES ({places})", rows)


@contextmanager
def _source(place: Place) -> Iterator[Connection]:
    """One state of it, in which nobody changes anything meanwhile."""
    with alone(place):
        if isinstance(place, Fleet):
            with postgresql.alone(place) as statements:
                _refuse_slots(statements, place)
                statements.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
                yield statements
        else:
            with sqlite.reading(place) as (connection, _):
                yield connection


@contextmanager
def _target(place: Place) -> Iterator[Connection]:
    """A ledger, made if need be, and a transaction that is on disk when this is over."""
    with alone(place) as locks:
        if isinstance(place, Fleet):
            refuse_other(place, max(migrate(place), VERSION))
            with postgresql.alone(place) as statements:
                _refuse_slots(statements, place)
                statements.execute("SET synchronous_commit = on")
                statements.execute("BEGIN")
                yield statements
                statements.execute("COMMIT")
        else:
            migrate(place)
            with sqlite.as_ledger_error(place), closing(sqlite.SQLiteDatabase(place, locks=locks)) as database:
                database.connection.execute("BEGIN IMMEDIATE")
                yield database.connection
                database.connection.execute("COMMIT")
                database.flush()


def _refuse_slots(connection: Connection, place: Fleet) -> None:
    """Raise LedgerError while a process of any host holds a slot."""
    if holders(connection, place):
        raise LedgerError(f"the ledger {place} is in use: stop the service on every host first")
