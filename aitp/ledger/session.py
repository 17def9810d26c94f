"""A session with PostgreSQL as the ledger's engine there has it: settings, statements, the clock, what failures mean.

What is done in one is `postgresql`'s. The two alone name psycopg.
"""

from __future__ import annotations

import itertools
import re
import select
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from typing import Any, NoReturn

from aitp.errors import ConfigurationError, LedgerError
from aitp.ledger.engine import Fleet, Row

try:
    import psycopg
    from psycopg import errors, pq, sql
    from psycopg.adapt import Dumper, PyFormat, Transformer
    from psycopg.pq.abc import PGresult
    from psycopg.types.numeric import FloatDumper, FloatLoader, Int8Dumper
except ImportError as error:
    said = "LEDGER_URL needs the package psycopg[binary], the extra `fleet`, which is not installed here"
    raise ConfigurationError([f"{said} ({error}): docs/FLEET.md says where it goes"]) from error

OLDEST_SERVER = 130_000
CONNECT_SECONDS = 10
STATEMENTS_KEPT = 256
# Of plain rows so many go in by one statement: in a third of the time that one by one they take of the server. Half of
# that is a statement of its own, and so on.
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
    "plan_cache_mode": "force_generic_plan",  # to plan anew takes longer than most statements
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


class Answer:
    """What a statement gives, waited for when it is asked for."""

    def __init__(self, statements: Statements) -> None:
        self._statements = statements
        self.result: PGresult | None = None

    @property
    def get(self) -> Any:
        row = self.fetchone()
        return row if row is None or len(row) > 1 else row[0]

    def fetchone(self) -> Row | None:
        return next(iter(self), None)

    def fetchall(self) -> list[Row]:
        return self._statements.rows(self)

    def __iter__(self) -> Iterator[Row]:
        return iter(self.fetchall())


class Statements:
    """A connection as the rest of the ledger knows it: statements go out together, when the first answer is asked for.

    By psycopg.pq, which is libpq's own interface. With psycopg's cursors, in its pipeline too, each statement is a
    packet and a wake-up of its own, and whoever claims has the queue for twice as long (bench/README.md).
    """

    def __init__(self, connection: psycopg.Connection[Row]) -> None:
        self._connection, self._server = connection, connection.pgconn
        self._adapted = Transformer(connection)
        self._prepared: dict[_Prepared, bytes] = {}
        # What was sent, or is to be, and was not answered; what is prepared counts only when it has been.
        self._awaited: deque[Answer | tuple[_Prepared, bytes]] = deque()
        self._last: Answer | None = None
        self.heard: Callable[[str], None] = lambda announced: None

    @property
    def are_together(self) -> bool:
        return self._server.pipeline_status != pq.PipelineStatus.OFF

    @contextmanager
    def together(self) -> Iterator[None]:
        """Statements made meanwhile are waited for when an answer is asked for, and at the end. Raises psycopg.Error:
        where one fails none after it is executed.
        """
        self._server.enter_pipeline_mode()
        try:
            try:
                if len(self._prepared) > STATEMENTS_KEPT:  # with other parameters it is another one
                    self._prepared.clear()
                    self._server.send_query_params(b"DEALLOCATE ALL", None)
                    self._awaited.append(Answer(self))
                yield
            except BaseException:
                with suppress(psycopg.Error):
                    self._synchronize()
                raise
            if (error := self._synchronize()) is not None:
                raise error
            self._server.exit_pipeline_mode()
        except BaseException:
            self._awaited.clear()
            try:
                self._server.exit_pipeline_mode()
            except psycopg.Error:
                self._connection.close()  # answers are on their way that would be taken for others'
            raise

    def execute(self, statement: str, bindings: Sequence[Any] = (), /) -> Answer:
        if not self.are_together:
            with self.together():
                return self.execute(statement, bindings)
        values = self._adapted.dump_sequence(bindings, [PyFormat.AUTO] * len(bindings))
        key = statement, self._adapted.types or ()
        if (name := self._prepared.get(key)) is None:
            name = b"aitp_%d" % next(_NAMES)
            self._server.send_prepare(name, numbered(statement).encode(), key[1])
            self._awaited.append((key, name))
        self._server.send_query_prepared(name, values, self._adapted.formats)
        self._last = Answer(self)
        self._awaited.append(self._last)
        return self._last

    def executemany(self, statement: str, bindings: Iterable[Sequence[Any]], /) -> None:
        head, _, row = statement.partition(" VALUES ")
        rows, most = list(bindings), ROWS_AT_ONCE if PLAIN_ROW.fullmatch(row) else 1
        while rows:
            while most > len(rows):
                most //= 2
            some, rows = rows[:most], rows[most:]
            several = statement if most == 1 else f"{head} VALUES {', '.join([row] * most)}"
            self.execute(several, [value for each in some for value in each])

    def changes(self) -> int:
        assert self._last is not None
        return self._result_of(self._last).command_tuples or 0

    def rows(self, answer: Answer) -> list[Row]:
        result = self._result_of(answer)
        self._adapted.set_pgresult(result)
        return self._adapted.load_rows(0, result.ntuples, tuple)

    def send(self) -> None:
        """Have all so far on their way, with nobody waiting for them."""
        self._server.send_flush_request()
        self._flush()

    def hear(self) -> None:
        """Take in what was announced. Raises psycopg.Error if the line is lost."""
        self._server.consume_input()
        while (notice := self._server.notifies()) is not None:
            self.heard(notice.extra.decode())

    def stream(self, query: str) -> Iterator[Row]:
        """Rows as they come, however many there are."""
        return psycopg.RawCursor(self._connection).stream(query.encode())

    def fill(self, table: str, columns: str, rows: Iterable[Row]) -> None:
        """Enter any number of rows."""
        with self._connection.cursor().copy(f"COPY {table} ({columns}) FROM STDIN".encode()) as copy:
            for row in rows:
                copy.write_row(row)

    def _result_of(self, answer: Answer) -> PGresult:
        if answer.result is None:
            self.send()
        while answer.result is None:
            self._receive()
        return answer.result

    def _receive(self) -> None:
        """Take the next answer. Raises psycopg.Error if that is a failure."""
        result, awaited = self._next_result(), self._awaited.popleft()
        if result is None:
            raise psycopg.OperationalError("the line was lost")
        self._next_result()  # the end of that
        if result.status not in (pq.ExecStatus.COMMAND_OK, pq.ExecStatus.TUPLES_OK):
            raise _error_of(result)
        if isinstance(awaited, Answer):
            awaited.result = result
        else:
            self._prepared.update([awaited])

    def _synchronize(self) -> psycopg.Error | None:
        """Have all answers, and the first failure among them. Raises psycopg.Error if the line is lost."""
        self._server.pipeline_sync()
        self._flush()
        first = None
        while self._awaited:
            try:
                self._receive()
            except psycopg.Error as error:
                if self._server.status != pq.ConnStatus.OK:
                    raise
                first = first or error
        end = self._next_result()
        return first if end is None or end.status == pq.ExecStatus.PIPELINE_SYNC else first or _error_of(end)

    def _next_result(self) -> PGresult | None:
        while self._server.is_busy():
            self._wait(select.POLLIN)
            self.hear()
        return self._server.get_result()

    def _flush(self) -> None:
        while self._server.flush():
            self._wait(select.POLLIN | select.POLLOUT)
            self.hear()

    def _wait(self, events: int) -> None:
        waiting = select.poll()
        waiting.register(self._server.socket, events)
        waiting.poll()


_NAMES = itertools.count()
_Prepared = tuple[str, tuple[int, ...]]  # a statement, and its parameters' types


def _error_of(result: PGresult) -> psycopg.Error:
    state = (result.error_field(pq.DiagnosticField.SQLSTATE) or b"").decode()
    try:
        kind = errors.lookup(state)
    except KeyError:
        kind = psycopg.OperationalError  # the line's: the server names a state
    return kind(result.get_error_message())


NOW = "CAST(EXTRACT(EPOCH FROM clock_timestamp()) AS DOUBLE PRECISION)"


class ServerClock:
    """The server's wall clock, and a time that nobody sets: this host's since it started, as far as the ledger's.

    Hosts have not started together. So each counts from where the ledger's difference of the two (`clock.follow`) is
    what it should be, and what it sees of that from then on are the steps of the server's clock. Machines drift apart
    for less than the tolerance between two looks, and each look counts anew.
    """

    boot = ""
    statements: Statements  # of the present line

    def __init__(self) -> None:
        self._base = 0.0

    def __call__(self) -> float:
        return float(self.statements.execute(f"SELECT {NOW}").get)

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
        prepare_threshold=None,
        connect_timeout=CONNECT_SECONDS,
        fallback_application_name="aitp",
        keepalives_idle=5,
        keepalives_interval=2,
        keepalives_count=3,
        tcp_user_timeout=10_000,
    )
    try:
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
