"""The ledger in a schema of PostgreSQL (13 or newer), for a fleet: hosts that share it.

What `sqlite` promises of one host holds here of all: writers queue, first come first served; every failure of the
server or the line arrives as LedgerError, with the transaction rolled back or, where COMMIT's answer was lost, unknown;
what was acknowledged as durable survives. A process has one connection, opened after fork.

*Who lives* is told by session locks of the server, one an owner (`HOST_SLOTS` for each host), beside the bytes of
SlotLocks that tell it on a host. A connection that ends takes its locks with it: so a lost one is never dialled anew
behind anybody's back, only by `_regain`, which takes the locks before anything else. A lock that is free tells that the
line is cut, not that the process is gone: of another host that is believed after its grace only (`obtain`).

*The time* is the server's. Hosts turn instants into their own only to sleep (`here`).
"""

from __future__ import annotations

import math
import random
import select
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Protocol

from aitp.errors import ConfigurationError, LedgerError
from aitp.ledger import schema
from aitp.ledger.clock import TOLERANCE_SECONDS, Clock, follow, latest
from aitp.ledger.engine import HOST_SLOTS, Database, Fleet, Row, no_ledger
from aitp.ledger.hosts import namespace
from aitp.ledger.locks import ASK_AGAIN_SECONDS, SlotLocks
from aitp.ledger.session import NOW, ServerClock, Statements, as_ledger_error, connect

# After the session's module, which says what to do where it is not installed.
import psycopg  # isort: skip
from psycopg import sql  # isort: skip
from psycopg.pq import TransactionStatus  # isort: skip

# What is locked beside the slots, which are numbered from 0.
QUEUE, PREPARING = -1, -2
NUMBERS = "CAST(? AS INTEGER), CAST(? AS INTEGER)"
# A record of the log that is waited for, and with it all before it.
FLUSH = "SELECT set_config('synchronous_commit', 'on', true), pg_logical_emit_message(true, 'aitp', '')"
# Between losing the line and dialling again, spread so that hosts do not come all at once.
REGAIN_SECONDS = (0.2, 2.0)
# How long a server goes on believing in a line that was cut while nothing was asked (keepalives, below), and a bit.
LINGERING_SECONDS = 15.0
# A claim is sent only if the ledger has answered so lately, on a clock that goes on while the machine sleeps.
FRESH_SECONDS = 10.0


class Observer(Protocol):
    """Who counts what only a ledger that is shared and far away is like."""

    def ledger_waited(self, seconds: float) -> None:
        """From asking for the turn among this host's processes to having it among all hosts."""

    def ledger_lost(self) -> None:
        """Told once of each line."""


class PostgreSQLDatabase(Database):
    """One process's connection to the fleet's ledger. `locks`: this process's on its host, closed by whoever opened
    them: here, if none are given. `clock`: None is the server's.
    """

    may_die_alone = True

    def __init__(self, place: Fleet, clock: Clock | None, *, locks: SlotLocks | None = None) -> None:
        self.path = place
        self.on_disk = True
        self._locks_are_ours = locks is None
        self.locks = locks if locks is not None else SlotLocks(place.lock_file)
        self._number: int | None = None
        self._offset = math.nan
        self._now = 0.0
        self._given_clock = clock
        self._server_clock = ServerClock()
        self._obtained: set[int] = set()
        self._heard: Callable[[str], None] | None = None
        self._answered = -math.inf
        self.observer: Observer | None = None
        self._lost = 0  # the last session whose line is known to be lost
        self.session = 0
        with as_ledger_error(place):
            self._dial()

    def close(self) -> None:
        self._connection.close()
        if self._locks_are_ours:
            self.locks.close()

    # The line

    def _dial(self) -> None:
        """A connection that holds the locks of whatever this process owns. Raises psycopg.Error, LedgerError."""
        self._connection = connect(self.path)
        self._statements = Statements(self._connection)
        self._server_clock.statements = self._statements
        try:
            self._know_host()
            for slot in self.locks.held:
                self._take(self.owner(slot))
            self._listen()
        except BaseException:
            self._connection.close()
            raise
        self.session += 1
        self._answered = time.clock_gettime(time.CLOCK_BOOTTIME)

    def _know_host(self) -> None:
        if not schema.VERSION <= version_in(self._connection, self.path) <= schema.NEXT_VERSION:
            return
        found = self._statements.execute("SELECT number FROM hosts WHERE name = ?", (self.path.host,)).get
        if self._number not in (None, found):  # another one may have that number by now
            said = f"HOST_NAME={self.path.host}: the fleet was told to forget this host: start its service anew"
            raise ConfigurationError([said])
        self._number = None if found is None else int(found)

    def _take(self, owner: int) -> None:
        """Hold the fleet's lock of an owner that is ours by the lock of this host."""
        until = time.monotonic() + LINGERING_SECONDS
        while not self._try(owner):
            # Our own, on the line that was lost, or of the process before: the server has not noticed yet.
            if time.monotonic() > until:
                said = f"HOST_NAME={self.path.host} is in use by another host, or this one was copied: name each apart"
                raise ConfigurationError([said])
            select.select([], [], [], ASK_AGAIN_SECONDS)
        self._statements.execute("DELETE FROM absences WHERE slot = ?", (owner,))

    def _try(self, owner: int) -> bool:
        return bool(self._statements.execute(f"SELECT pg_try_advisory_lock({NUMBERS})", self._key(owner)).get)

    def _key(self, number: int) -> tuple[int, int]:
        return namespace(self.path.schema), number

    def _regain(self) -> None:
        """Have a line, a new one if the last was lost. Raises LedgerError if there is none to be had now."""
        if not self._connection.closed:
            return
        if self._lost != self.session:
            self._lost = self.session
            if self.observer is not None:
                self.observer.ledger_lost()
        if self._obtained:  # their locks went with the line: whose they were may have them again
            self._obtained.clear()
            raise LedgerError(f"the line to the ledger {self.path} was lost")
        select.select([], [], [], random.uniform(*REGAIN_SECONDS))
        try:
            self._dial()
        except ConfigurationError as error:
            raise LedgerError(error.problems[0]) from error

    # Transactions

    @contextmanager
    def transaction(self, *, durable: bool = False) -> Iterator[Statements]:
        """A write transaction, entered in turn. `durable`: it survives a power cut once it is over.

        One process a host stands in the server's queue, the others in their host's.

        Where the answer to COMMIT is lost, or the server before all of it was on disk, nobody knows whether it has come
        to something: then it has failed, and is to be made again. Each of ours does nothing, if it had.
        """
        with as_ledger_error(self.path):
            self._regain()
            asked = time.monotonic()
            offset = self._offset
            try:
                with self._statements.together():
                    with self.locks.queue():
                        self._begin(asked)
                        yield self._statements
                        self._statements.execute("COMMIT")
                        self._statements.send()
                    # This host's next may ask meanwhile; and whoever has the queue waits for no disk.
                    if durable:
                        self._statements.execute(FLUSH)
            except BaseException:
                self._offset = offset
                self._roll_back()
                raise
            self._answered = time.clock_gettime(time.CLOCK_BOOTTIME)

    def _begin(self, asked: float) -> None:
        # READ COMMITTED: the queue's lock is ours before the first snapshot that counts is taken.
        self._statements.execute("BEGIN")
        self._statements.execute(f"SELECT pg_advisory_xact_lock({NUMBERS})", self._key(QUEUE))
        now, known = self._statements.execute(f"SELECT {NOW}, clock_offset FROM ledger").get
        if self.observer is not None:
            self.observer.ledger_waited(time.monotonic() - asked)
        clock: Clock
        if self._given_clock is not None:
            clock, now = self._given_clock, self._given_clock()
        else:
            clock = self._server_clock
            if math.isnan(self._offset) and known is not None:
                # How long nobody was there only the wall clock knows. But it cannot be earlier than what has happened.
                last = latest(self._statements)
                clock.agree(now, known + min(0.0, now - (now if last is None else last)))
        offset = now - clock.uptime()
        if known is None or not abs(offset - known) <= TOLERANCE_SECONDS:
            now, known = follow(self._statements, clock, self._offset)
        self._now, self._offset = now, known
        if self._given_clock is None:
            self._server_clock.agree(now, known)

    def _roll_back(self) -> None:
        with suppress(psycopg.Error):
            if self._connection.info.transaction_status != TransactionStatus.IDLE:
                self._statements.execute("ROLLBACK")

    def clock(self) -> float:
        if self._statements.are_together:
            return self._now
        if self._given_clock is not None:
            return self._given_clock()
        # Between transactions it goes on as this host's does, by which nobody decides anything.
        return self._now if math.isnan(self._offset) else self._server_clock.uptime() + self._offset

    def here(self, instant: float) -> float:
        if self._given_clock is not None or math.isnan(self._offset):
            return instant
        return instant + time.time() - self.clock()

    def flush(self) -> None:
        """Have on disk whatever was committed, on a synchronous standby too where there is one. Raises LedgerError.

        In the session that has committed: a server that was started anew meanwhile may have forgotten that.
        """
        with as_ledger_error(self.path):
            self._statements.execute(FLUSH)

    @contextmanager
    def reading(self) -> Iterator[Statements]:
        with as_ledger_error(self.path):
            self._regain()
            yield self._statements

    def refuse_other_version(self) -> None:
        with as_ledger_error(self.path):
            found = version_in(self._connection, self.path)
        schema.refuse_unknown(self.path, found)
        schema.refuse_other(self.path, found, or_next=True)  # with that one it takes nothing new (IdleReason.UPGRADE)

    def forget_pages(self) -> None:
        """They are the server's."""

    # Who owns what

    def owner(self, slot: int) -> int:
        """The number by which all hosts know this host's slot."""
        if self._number is None:
            raise LedgerError(f"the ledger {self.path} does not know this host yet: start the service once")
        return self._number * HOST_SLOTS + slot

    def obtain(self, owner: int, *, at_once: bool = False) -> bool:
        """Whether an owner is gone for good. If so its place is this process's until `let_go`.

        `at_once`: a person says so.

        On this host the kernel knows. Another host's lock is free as soon as its line is cut, while it may go on and
        come back: it is gone when it has not come back for the grace, by the server's clock and with the server up.
        """
        number, slot = divmod(owner, HOST_SLOTS)
        ours = number == self._number
        if ours and not self.locks.acquire(slot, 0):
            return False
        gone = False
        try:
            with as_ledger_error(self.path):
                self._regain()
                # Outside the queue: as a rule it is held, and a fleet has many.
                if self._try(owner):
                    self._obtained.add(owner)
                    gone = ours or at_once or self._is_away_for_good(owner)
        finally:
            if not gone:
                self.let_go(owner)
        return gone

    def _is_away_for_good(self, owner: int) -> bool:
        # Whoever comes back takes the note away, with its lock (`_take`).
        with self.transaction() as connection:
            now = self.clock()
            since = connection.execute(
                "INSERT INTO absences (slot, since) VALUES (?, ?)"
                " ON CONFLICT (slot) DO UPDATE SET since = absences.since RETURNING since",
                (owner, now),
            ).get
            up = connection.execute(
                "SELECT CAST(EXTRACT(EPOCH FROM clock_timestamp() - pg_postmaster_start_time()) AS DOUBLE PRECISION)"
            ).get
        return float(min(now - since, up)) >= self.path.grace

    def let_go(self, owner: int) -> None:
        number, slot = divmod(owner, HOST_SLOTS)
        if owner in self._obtained:
            self._obtained.discard(owner)
            with suppress(psycopg.Error):  # a line that was lost has let go of it
                self._statements.execute(f"SELECT pg_advisory_unlock({NUMBERS})", self._key(owner))
        if number == self._number and slot in self.locks.held:
            self.locks.release(slot)

    def is_fresh(self, session: int) -> bool:
        """Whether what was claimed in that session is ours still, for sure: it goes on, and has answered just now."""
        if session != self.session:
            return False
        if time.clock_gettime(time.CLOCK_BOOTTIME) - self._answered < FRESH_SECONDS:
            return True
        try:
            self._statements.execute("SELECT 1")
        except psycopg.Error:
            return False
        self._answered = time.clock_gettime(time.CLOCK_BOOTTIME)
        return True

    # What hosts tell each other

    def listen(self, heard: Callable[[str], None]) -> None:
        """Have `heard` called from now on with what other hosts announce: whenever something is asked of the server,
        and by `hear`. It may not ask anything of it.
        """
        self._heard = heard
        with as_ledger_error(self.path):
            self._regain()
            self._listen()

    def _listen(self) -> None:
        if self._heard is None:
            return
        self._statements.heard = self._pass_on
        self._statements.execute(f'LISTEN "{channel(self.path.schema)}"')
        self._heard("all")  # what was announced before this was not heard

    def hear(self) -> None:
        """Take in what came since something was asked. Raises LedgerError if the line is lost."""
        with as_ledger_error(self.path):
            self._regain()
            self._statements.hear()

    def _pass_on(self, announced: str) -> None:
        host, _, what = announced.partition(" ")
        # Those of its own host has rung whoever announced it.
        if self._heard is not None and host != str(self._number):
            self._heard(what)

    @property
    def line(self) -> int | None:
        """The descriptor that is readable when something came; None if the line is lost."""
        return None if self._connection.closed else self._connection.fileno()

    def announce(self, what: str) -> None:
        """Have those who listen hear it, when the present transaction has come to something."""
        announced = f"{'' if self._number is None else self._number} {what}"
        self._statements.execute("SELECT pg_notify(?, ?)", (channel(self.path.schema), announced))


# Making it, and looking at it


open_database = PostgreSQLDatabase


def migrate(place: Fleet) -> int:
    """Create the ledger or bring it to this release's version; return the version it had (0: it was new).

    That of the next release stays as it is. Raises ConfigurationError if it is newer still, or the server or what
    stands before it cannot be used.
    """
    with as_ledger_error(place), connect(place) as connection:
        refuse_pooler(connection, place)
        with connection.transaction():
            statements = Statements(connection)
            statements.execute(
                f"SELECT pg_advisory_xact_lock({NUMBERS})",
                (namespace(place.schema), PREPARING),
            )
            found = version_in(connection, place)
            schema.refuse_unknown(place, found)
            if not found:
                # Not IF NOT EXISTS: who may not make one is refused even where it is there.
                if statements.execute("SELECT to_regnamespace(?)", (place.schema,)).get is None:
                    connection.execute(sql.SQL("CREATE SCHEMA {}").format(sql.Identifier(place.schema)))
            elif found < schema.VERSION:
                # Whoever is in the queue would come upon the tables in another order than this does.
                statements.execute(f"SELECT pg_advisory_xact_lock({NUMBERS})", (namespace(place.schema), QUEUE))
            for step in schema.translated_steps(found):
                connection.execute(step.encode(), prepare=False)
            # Numbers of hosts are never given twice, while there is one to give.
            statements.execute(
                "INSERT INTO hosts (number, name, version, seen_at) SELECT COALESCE(MAX(number) + 1, 0),"
                " CAST(? AS TEXT), '', 0 FROM hosts ON CONFLICT (name) DO NOTHING",
                (place.host,),
            )
        return found


def version_in(connection: psycopg.Connection[Row], place: Fleet) -> int:
    """The version of the ledger in that schema; 0 if there is none."""
    statements = Statements(connection)
    table = f'"{place.schema}".ledger'
    if statements.execute("SELECT to_regclass(?)", (table,)).get is None:
        return 0
    return int(statements.execute("SELECT version FROM ledger").get)


def refuse_pooler(connection: psycopg.Connection[Row], place: Fleet) -> None:
    """Raise ConfigurationError where something stands before the server that gives each transaction another session.

    While a transaction of a second client has one, the first client has its own still.
    """
    ask = b"SELECT pg_backend_pid()"
    before = connection.execute(ask).fetchone()
    with connect(place) as other, other.transaction():
        other.execute(ask)
        after = connection.execute(ask).fetchone()
    if before != after:
        said = f"LEDGER_URL: {place} is behind a pooler that gives each transaction another session"
        raise ConfigurationError([f"{said}, and locks would be lost: name the server itself, or pool by session"])


def look_over(place: Fleet) -> Iterator[tuple[bool, str]]:
    """What there is to say of the server before or while it is used: (whether that is odd, a sentence).

    Raises ConfigurationError, LedgerError for what keeps a service from starting.
    """
    with as_ledger_error(place), connect(place) as connection:
        refuse_pooler(connection, place)
        version = version_in(connection, place)
        schema.refuse_unknown(place, version)
        release = str(connection.info.parameter_status("server_version"))
        has = f"has version {version}" if version else "is to be made at the first start"
        if version > schema.VERSION:
            has += f", this release knows {schema.VERSION}: upgrade this host as well"
        yield version not in (0, schema.VERSION), f"{place}: PostgreSQL {release}, the ledger {has}"
        before = time.time()
        statements = Statements(connection)
        ahead = statements.execute(f"SELECT {NOW}").get - (before + time.time()) / 2
        if abs(ahead) > ODD_CLOCK_SECONDS:
            yield True, f"The server's clock is {ahead:+.0f} s from this host's: limits and logs go by different times"
        standbys, away, tls, room = statements.execute(_OF_SERVER).get
        if away and not standbys:
            yield (
                True,
                "Its standby is asynchronous: a failover may forget the last results, and what they used",
            )
        if not tls:
            yield True, "The line to it is not encrypted (sslmode=verify-full is what makes it so)"
        yield (
            room < FEWEST_LINES,
            f"{room} more connections may be made; a host needs one a worker and relay, and three",
        )


FEWEST_LINES = 10
ODD_CLOCK_SECONDS = 2.0
_OF_SERVER = """
    SELECT current_setting('synchronous_standby_names') <> '', EXISTS (SELECT 1 FROM pg_stat_replication),
        COALESCE((SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()), FALSE) OR inet_server_addr() IS NULL
            OR inet_server_addr() = inet_client_addr(),
        CAST(current_setting('max_connections') AS INTEGER) - (SELECT COUNT(*) FROM pg_stat_activity)
"""


@contextmanager
def reading(place: Fleet) -> Iterator[tuple[Statements, float]]:
    """One consistent state of the ledger, and the server's time."""
    with as_ledger_error(place), connect(place) as connection:
        version = version_in(connection, place)
        if version == 0:
            raise no_ledger(place)
        schema.refuse_other(place, version, or_next=True)
        connection.execute(b"BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
        statements = Statements(connection)
        yield statements, statements.execute(f"SELECT {NOW}").get


@contextmanager
def alone(place: Fleet) -> Iterator[Statements]:
    """A session that has the queue to its end, and all the time that it takes."""
    with as_ledger_error(place), connect(place) as connection:
        statements = Statements(connection)
        connection.execute("SET statement_timeout = 0; SET idle_in_transaction_session_timeout = 0", prepare=False)
        statements.execute(f"SELECT pg_advisory_lock({NUMBERS})", (namespace(place.schema), QUEUE))
        yield statements


def channel(schema: str) -> str:
    """Where hosts hear each other."""
    return f"aitp_{schema}"
