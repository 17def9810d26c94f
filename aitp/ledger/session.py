"""A session with PostgreSQL as the ledger's engine there has it: settings, statements, the clock, what failures mean.

What is done in one is `postgresql`'s. The two alone name psycopg.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any, NoReturn

from aitp.errors import ConfigurationError, LedgerError
from aitp.ledger.engine import Fleet, Row

try:
    import psycopg
    from psycopg import errors, sql
    from psycopg.adapt import Dumper
    from psycopg.types.numeric import FloatDumper, FloatLoader, Int8Dumper
except ImportError as error:
    said = "LEDGER_URL needs the package psycopg[binary], the extra `fleet`, which is not installed here"
    raise ConfigurationError([f"{said} ({error}): docs/FLEET.md says where it goes"]) from error

OLDEST_SERVER = 130_000
CONNECT_SECONDS = 10
STATEMENTS_KEPT = 256
# Of plain rows so many go in by one statement: in a third of the time that one by one they take of the server. Each
# number of rows is a statement of its own.
PLAIN_ROW, ROWS_AT_ONCE = re.compile(r"\(\?(, \?)*\)"), 32

# Of the session. A queue's statistics are always stale: whatever they say, indexes are to be used. The time-outs are
# for lines that are cut: with PostgreSQL's own one of them in the queue would have the whole fleet stand.
SESSION = {
    "synchronous_commit": "off",  # see `flush`
    "idle_in_transaction_session_timeout": "5s",
    "lock_timeout": "30s",
    "statement_timeout": "60s",
    "tcp_keepalives_idle": "5",
    "tcp_keepalives_interval": "2",
    "tcp_keepalives_count": "3",
    "tcp_user_timeout": "10s",
    "enable_seqscan": "off",
    "enable_mergejoin": "off",
    "enable_hashjoin": "off",
    "jit": "off",
    "random_page_cost": "1.1",
    "timezone": "UTC",
    "client_min_messages": "warning",
    "default_transaction_isolation": "read committed",
}


@cache
def numbered(statement: str) -> str:
    """Common SQL with PostgreSQL's parameters: `?` is the next number, `?3` is that one."""
    last = 0

    def number(found: re.Match[str]) -> str:
        nonlocal last
        last = int(found[1]) if found[1] else last + 1
        return f"${last}"

    return re.sub(r"\?(\d*)", number, statement)


class _BoolDumper(Dumper):
    """The tables have no booleans, only 0 and 1."""

    oid = psycopg.adapters.types["int8"].oid

    def dump(self, obj: Any) -> bytes:
        return b"1" if obj else b"0"


class Cursor(psycopg.RawCursor[Row]):
    """What a statement gives, in the engine's words. Inside a transaction it is waited for when it is asked for."""

    @property
    def get(self) -> Any:
        row = self.fetchone()
        return row if row is None or len(row) > 1 else row[0]


class Statements:
    """A connection as the rest of the ledger knows it. Statements whose answer nobody reads go out with the next."""

    def __init__(self, connection: psycopg.Connection[Row]) -> None:
        self._connection = connection
        self._last: Cursor | None = None
        self.pipeline: psycopg.Pipeline | None = None

    def execute(self, statement: str, bindings: Sequence[Any] = (), /) -> Cursor:
        self._last = Cursor(self._connection)
        self._last.execute(numbered(statement).encode(), bindings or None)
        return self._last

    def executemany(self, statement: str, bindings: Iterable[Sequence[Any]], /) -> None:
        head, _, row = statement.partition(" VALUES ")
        if not PLAIN_ROW.fullmatch(row):
            self._last = Cursor(self._connection)
            self._last.executemany(numbered(statement).encode(), bindings)
            return
        rows = list(bindings)
        for start in range(0, len(rows), ROWS_AT_ONCE):
            some = rows[start : start + ROWS_AT_ONCE]
            self.execute(f"{head} VALUES {', '.join([row] * len(some))}", [value for each in some for value in each])

    def changes(self) -> int:
        assert self._last is not None
        if self.pipeline is not None:
            self.pipeline.sync()
        return max(0, self._last.rowcount)

    def stream(self, query: str) -> Iterator[Row]:
        """Rows as they come, however many there are."""
        return Cursor(self._connection).stream(query.encode())

    def fill(self, table: str, columns: str, rows: Iterable[Row]) -> None:
        """Enter any number of rows."""
        with Cursor(self._connection).copy(f"COPY {table} ({columns}) FROM STDIN".encode()) as copy:
            for row in rows:
                copy.write_row(row)


class ServerClock:
    """The server's wall clock, and a time that nobody sets: this host's since it started, as far as the ledger's.

    Hosts have not started together. So each counts from where the ledger's difference of the two (`clock.follow`) is
    what it should be, and what it sees of that from then on are the steps of the server's clock. Machines drift apart
    for less than the tolerance between two looks, and each look counts anew.
    """

    boot = ""

    def __init__(self, connection: psycopg.Connection[Row]) -> None:
        self.connection = connection
        self._base = 0.0

    def __call__(self) -> float:
        return float(one(self.connection, b"SELECT EXTRACT(EPOCH FROM clock_timestamp())::float8")[0])

    def uptime(self) -> float:
        return time.clock_gettime(time.CLOCK_BOOTTIME) + self._base

    def agree(self, now: float, offset: float) -> None:
        """It is `now`, and the ledger's offset is right."""
        self._base += now - offset - self.uptime()


def connect(place: Fleet) -> psycopg.Connection[Row]:
    """A session as it is to be. Raises psycopg.Error; LedgerError for a server that is not the primary."""
    connection: psycopg.Connection[Row] = psycopg.Connection.connect(
        place.url.get_secret_value(),
        autocommit=True,
        prepare_threshold=0,
        connect_timeout=CONNECT_SECONDS,
        fallback_application_name="aitp",
        keepalives_idle=5,
        keepalives_interval=2,
        keepalives_count=3,
        tcp_user_timeout=10_000,
    )
    try:
        connection.prepared_max = STATEMENTS_KEPT
        adapters = connection.adapters
        adapters.register_dumper(int, Int8Dumper)
        adapters.register_dumper(bool, _BoolDumper)
        adapters.register_dumper(float, FloatDumper)
        adapters.register_loader("numeric", FloatLoader)
        if connection.info.server_version < OLDEST_SERVER:
            raise ConfigurationError(
                [
                    f"LEDGER_URL: {place} is PostgreSQL {connection.info.server_version // 10_000}; "
                    f"{OLDEST_SERVER // 10_000} or newer is needed"
                ]
            )
        session = dict(SESSION)
        if connection.info.server_version >= 140_000:
            session["client_connection_check_interval"] = "2s"
        wanted = [sql.SQL("SET {} = {}").format(sql.Identifier(name), value) for name, value in session.items()]
        wanted.append(sql.SQL("SET search_path = {}").format(sql.Identifier(place.schema)))
        connection.execute(sql.SQL("; ").join(wanted), prepare=False)
        if connection.execute(b"SELECT pg_is_in_recovery()").fetchone() == (True,):
            raise LedgerError(
                f"{place} is a standby that takes no writes: name all hosts in LEDGER_URL, and"
                " target_session_attrs=read-write"
            )
    except BaseException:
        connection.close()
        raise
    return connection


def one(connection: psycopg.Connection[Row], query: bytes) -> Row:
    row = connection.execute(query).fetchone()
    assert row is not None
    return row


# Failures


@contextmanager
def as_ledger_error(place: Fleet) -> Iterator[None]:
    """The server's and the line's failures become LedgerError. A violated constraint passes, as the bug that it is."""
    try:
        yield
    except (psycopg.Error, OSError) as error:
        _raise_ledger_error(place, error)


def _raise_ledger_error(place: Fleet, error: Exception) -> NoReturn:
    match error:
        case psycopg.IntegrityError():
            raise error
        case errors.DiskFull():
            raise LedgerError(f"the disk of the ledger {place} is full") from error
        case errors.ReadOnlySqlTransaction():
            raise LedgerError(f"the ledger {place} takes no writes: it is no primary (any more)") from error
        case _:
            raise LedgerError(f"the ledger {place} cannot be used: {in_words(error)}") from error


def in_words(error: Exception) -> str:
    """Its first line; libpq repeats what it was told of the server, and never a password."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
