"""The narrow interface behind which an SQL engine keeps the ledger: transactions, reads, flushes, and clocks.

Whoever speaks SQL in this room knows these types only, and writes what SQLite and PostgreSQL both take. The engines are
`aitp.ledger.sqlite`, one host's, and `aitp.ledger.postgresql` with its `session`, a fleet's: nobody else names their
libraries, and each is loaded only for a ledger of its kind.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from aitp.errors import LedgerError
from aitp.ledger.locks import MASTER_SLOT, SlotLocks
from aitp.tasks import Fleet as Fleet
from aitp.tasks import Place as Place

if TYPE_CHECKING:
    from aitp.ledger.clock import Clock

# New work is refused below this, so that there is room for the answers to work already paid for.
DISK_RESERVE_BYTES = 64_000_000
DISK_LOOK_SECONDS = 5.0

# Owners' numbers of one host, of which its slots are the first.
HOST_SLOTS = 2048


# What a query gives: the engine knows no better, the schema does.
Row = tuple[Any, ...]


class Cursor(Protocol):
    """What a statement gives."""

    @property
    def get(self) -> Any:
        """The first row, or its value if it has only one; None if there is none."""

    def fetchone(self) -> Any: ...
    def fetchall(self) -> list[Any]: ...
    def __iter__(self) -> Iterator[Any]: ...


class Connection(Protocol):
    """What statements are made on, inside a transaction or a read."""

    def execute(self, statement: str, bindings: Sequence[Any] = ..., /) -> Cursor: ...
    def executemany(self, statement: str, bindings: Iterable[Sequence[Any]], /) -> object: ...

    def changes(self) -> int:
        """How many rows the last statement has written."""


class Database(Protocol):
    """One process's hold of the ledger, opened after fork. Everything but a violated constraint raises LedgerError.

    What is answered here is so for a ledger that one host has to itself. What engines say of a method comes on top.
    """

    path: Any
    locks: SlotLocks
    session: int = 0
    """How often this process has had to find the ledger anew: what it had claimed before may be another's by now."""
    on_disk: bool
    """Whether what the last durable transaction committed is on disk."""
    may_die_alone: bool = False
    """Whether processes may live on when what was committed is lost."""

    def clock(self) -> float:
        """UTC seconds; in a transaction those at its beginning, to which all that the ledger holds fits."""

    def transaction(self, *, durable: bool = False) -> AbstractContextManager[Connection]:
        """A write transaction, entered in turn: committed at its end, rolled back on an exception.

        `durable`: it survives a power cut once it is over and `on_disk` is so.
        """

    def flush(self) -> None:
        """Have on disk whatever was committed; to be called until it succeeds."""

    def read(self, sql: str, bindings: Sequence[Any] = (), /) -> list[Row]:
        """One query outside any transaction: it sees what was committed last."""
        with self.reading() as connection:
            return connection.execute(sql, bindings).fetchall()

    def reading(self) -> AbstractContextManager[Connection]:
        """Queries outside the writers' queue and any transaction, each of which sees what was committed last."""

    def here(self, instant: float) -> float:
        """An instant of the ledger, by this host's wall clock: for who is to sleep until then."""
        return instant

    def owner(self, slot: int) -> int:
        """The number by which the ledger knows a slot of this host."""
        return slot

    def obtain(self, owner: int) -> bool:
        """Whether an owner is gone for good. If so its place is this process's until `let_go`."""

    def let_go(self, owner: int) -> None:
        """Give back what `obtain` took."""

    def is_fresh(self, session: int) -> bool:
        """Whether what was claimed in that `session` is this process's still, for sure."""
        return True

    def announce(self, what: str) -> None:
        """Have other hosts hear that `workers`, `workers 7`, `relays` or `all` have something to look at.

        Only inside a transaction, and when that has come to something.
        """
        return

    def refuse_other_version(self) -> None:
        """Raise ConfigurationError for a ledger of no release or of one that is too new (of a fleet: newer than the
        next), LedgerError for one not yet migrated.
        """

    def short_of_disk(self) -> bool:
        """Whether there is too little room left to take on new work. A server's disk is not to be seen from here."""
        return False

    def forget_pages(self) -> None:
        """Give back the memory of what was read so far."""

    def close(self) -> None: ...


def engine_of(place: Place) -> Any:
    """The module of a ledger's engine, loaded if need be: by a master before it forks, for all its children."""
    return import_module("aitp.ledger.postgresql" if isinstance(place, Fleet) else "aitp.ledger.sqlite")


def open_database(place: Place, clock: Clock | None = None, *, locks: SlotLocks | None = None) -> Database:
    """This process's hold of a ledger, of whichever kind it is. `clock`: None is the ledger's own."""
    database: Database = engine_of(place).open_database(place, clock, locks=locks)
    return database


def migrate(place: Place) -> int:
    """Create the ledger or bring it to this release's version; return the version it had (0: it was new)."""
    return int(engine_of(place).migrate(place))


def no_ledger(place: Place) -> LedgerError:
    """What is said where there is none yet."""
    return LedgerError(f"there is no ledger at {place}: it is made when the service first starts")


def lock_file(place: Place) -> Path:
    """Where this host's processes tell each other which slots they hold: `SlotLocks` of it."""
    return place.lock_file if isinstance(place, Fleet) else place


@contextmanager
def alone(place: Place) -> Iterator[SlotLocks]:
    """Keep all other processes of this host away from a ledger. Raises LedgerError if there are any."""
    file = lock_file(place)
    try:
        locks = SlotLocks(file)
    except OSError as error:
        raise LedgerError(f"{file.parent} cannot be used: {error.strerror or error}") from error
    with locks:
        if not locks.acquire(MASTER_SLOT, 0) or locks.any_held_elsewhere():
            raise LedgerError(f"the ledger {place} is in use: stop the service first")
        with locks.queue():
            yield locks


def free_bytes(file: Path) -> int:
    """Bytes that an ordinary user may still write beside a file, or where its folder is to be made."""
    status = os.statvfs(next(folder for folder in file.parents if folder.exists()))
    return status.f_bavail * status.f_frsize


def these(seqs: Iterable[int]) -> tuple[str, tuple[int | str, ...]]:
    """The end of a condition that holds for these ids, and what to bind to it: one statement for a whole batch.

    A batch is a run of neighbours as a rule, and a range takes two thirds of the time that a list takes.
    """
    ids = set(seqs)
    if ids and (low := min(ids)) + len(ids) - 1 == (high := max(ids)):
        return "BETWEEN ? AND ?", (low, high)
    return "IN (SELECT CAST(value AS BIGINT) FROM json_each(?) AS each)", (str(list(ids)),)
