"""`Ledger`: one process's hold of the ledger, a part for each step of a task's life; and `prepare`."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Mapping
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING

from aitp.errors import LedgerError
from aitp.ledger.breakers import Breakers, Services, forget_bugs
from aitp.ledger.budgets import publish_budgets
from aitp.ledger.cache import Cache
from aitp.ledger.claims import Claims
from aitp.ledger.clock import Clock
from aitp.ledger.duplicates import Duplicates, forget_answers
from aitp.ledger.engine import HOST_SLOTS, Database, Fleet, Place, migrate, open_database
from aitp.ledger.evidence import Settled
from aitp.ledger.inbox import Inbox
from aitp.ledger.limits import publish_limits
from aitp.ledger.locks import SlotLocks
from aitp.ledger.outbox import DeadLetters, Outbox
from aitp.ledger.outcomes import Cause, Outcomes
from aitp.ledger.queue import CLAIMED, FINISHED, LedgerConfig
from aitp.ledger.schema import VERSION
from aitp.ledger.worlds import Worlds, publish_setups

if TYPE_CHECKING:
    from aitp.ledger.hosts import Hosts


class Ledger:
    """One process's hold of the ledger. Not for threads; not to be carried over fork."""

    def __init__(self, database: Database, config: LedgerConfig) -> None:
        self._database = database
        breakers = Breakers(config.breaker_threshold, config.breaker_recovery)
        duplicates = Duplicates(config.reuse_seconds)
        self.inbox = Inbox(database, breakers, duplicates, config)
        self.outcomes = Outcomes(database, breakers, config)
        leave = partial(self.outcomes.release, cause=Cause.STOPPED)
        self.claims = Claims(database, breakers, Worlds(config.breaker_threshold), leave)
        self.outbox = Outbox(database, breakers, duplicates, config)
        self.dead = DeadLetters(database)
        self.cache = Cache(database)
        self.services = Services(database, breakers)
        self.hosts: Hosts | None = None  # of a fleet
        if isinstance(database.path, Fleet):
            from aitp.ledger.hosts import Hosts
            from aitp.ledger.postgresql import PostgreSQLDatabase

            assert isinstance(database, PostgreSQLDatabase)
            self.hosts = Hosts(database)

    @classmethod
    def open(
        cls,
        place: Place,
        config: LedgerConfig,
        *,
        clock: Clock | None = None,
        locks: SlotLocks | None = None,
    ) -> Ledger:
        """Open a prepared ledger. `locks`: this process's, if it has them open already (there must be one only).

        Raises LedgerError if the file cannot be opened or is not prepared, ConfigurationError if it is from a newer
        release (of a fleet: one after the next).
        """
        database = open_database(place, clock, locks=locks)
        try:
            database.refuse_other_version()
        except BaseException:
            database.close()
            raise
        return cls(database, config)

    def close(self) -> None:
        self._database.close()

    def forget_pages(self) -> None:
        """Give back the memory of the pages read so far: whoever rests finds that others have changed them."""
        self._database.forget_pages()

    def flush(self) -> None:
        """Have on disk what durable transactions committed, also after a flush that failed. Raises LedgerError."""
        if not self._database.on_disk:
            self._database.flush()

    @property
    def locks(self) -> SlotLocks:
        return self._database.locks

    def owner(self, slot: int) -> int:
        """The number by which the ledger knows a slot of this host: what `slot` is in all that follows."""
        return self._database.owner(slot)

    def freshness(self) -> Callable[[], bool]:
        """Asks whether what this process has just claimed is its own still, for sure."""
        return partial(self._database.is_fresh, self._database.session)

    def is_ours(self, owner: int) -> bool:
        """Whether it is one of this host's slots."""
        return owner // HOST_SLOTS == self.owner(0) // HOST_SLOTS

    def here(self, instant: float | None) -> float | None:
        """An instant of the ledger, by this host's wall clock: for who is to sleep until then."""
        return None if instant is None else self._database.here(instant)

    def owners(self) -> list[int]:
        """Slots that own tasks, a poll or a probe."""
        rows = self._database.read(
            f"SELECT slot FROM tasks WHERE {CLAIMED}"
            f" UNION SELECT slot FROM tasks WHERE {FINISHED} AND due_at IS NULL AND slot IS NOT NULL"
            " UNION SELECT slot FROM polls WHERE slot IS NOT NULL"
            " UNION SELECT probe_slot FROM breakers WHERE probe_slot IS NOT NULL"
            " UNION SELECT probe_slot FROM worlds WHERE probe_slot IS NOT NULL"
        )
        return [int(slot) for (slot,) in rows]

    def release_ownerless(
        self, spared: Container[int] = (), causes: Mapping[int, Cause] | None = None
    ) -> dict[int, Settled]:
        """Free what belongs to slots that no process holds: after a crash of everything, or with fewer processes.

        `spared` slots are left to their successors. `causes` are what is known of how the owners ended (else STOPPED).
        """
        # This process would obtain its own slots as well: they are never ownerless.
        held = {self.owner(slot) for slot in self.locks.held}
        owners = [owner for owner in self.owners() if owner not in spared and owner not in held]
        return self._release(owners, self._database.obtain, causes or {})

    def forget_host(self, name: str) -> dict[int, Settled]:
        """Have a fleet know a host no more, and what it owned be anyone's, as after a stop; what was released.

        Raises LedgerError if there is no such host, or it lives.
        """
        if self.hosts is None:
            raise LedgerError(f"no host of that name is known: {name}")
        theirs = self.hosts.slots_of_absent(name)
        owners = [owner for owner in self.owners() if owner in theirs]
        released = self._release(owners, partial(self.hosts.database.obtain, at_once=True), {})
        if len(released) < len(owners):
            raise LedgerError("that host has come back")
        self.hosts.strike_out(theirs)
        self.flush()
        return released

    def _release(
        self, owners: Iterable[int], obtain: Callable[[int], bool], causes: Mapping[int, Cause]
    ) -> dict[int, Settled]:
        released = {}
        for owner in filter(obtain, owners):
            try:
                released[owner] = self.outcomes.release(owner, causes.get(owner, Cause.STOPPED))
            finally:
                self._database.let_go(owner)
        return released

    def pause(self, paused: bool) -> None:
        """Stop (or go on) polling and claiming, across restarts, until told otherwise."""
        with self._database.transaction(durable=True) as connection:
            connection.execute("UPDATE ledger SET paused = ?", (int(paused),))
            self._database.announce("all")
        self.flush()


def prepare(
    place: Place,
    *,
    strategy: str,
    timezone: str,
    limits: Mapping[str, int],
    currency: str = "",
    budgets: Mapping[str, int] = MappingProxyType({}),
    reuse_scope: str = "",
    setups: Mapping[str, str] = MappingProxyType({}),
    clock: Clock | None = None,
) -> int:
    """Make the ledger ready for service: create or migrate it, check it, publish the limits of the settings.

    Results are reused under one `reuse_scope` only. `setups`: how each service is set up (address, credentials); one
    that is set up anew is tried at once, and those of other packages get breakers as well.
    Of what a fleet's next release has brought up to date nothing is changed: its own settings are in force there.
    Returns the version that was found (0: a new ledger). Raises ConfigurationError or LedgerError.
    """
    found = migrate(place)
    if found > VERSION:
        return found
    database = open_database(place, clock)
    try:
        # On disk: a server that dies would forget the limits that its services go by.
        with database.transaction(durable=True) as connection:
            publish_limits(connection, database.clock(), strategy, timezone, limits)
            publish_budgets(connection, currency, budgets)
            # A new release or new settings may have mended the bug.
            forget_bugs(connection)
            forget_answers(connection, reuse_scope)
            connection.executemany(
                "INSERT INTO breakers (service) VALUES (?) ON CONFLICT (service) DO NOTHING",
                [(service,) for service in setups],
            )
            publish_setups(connection, setups)
            database.announce("all")
    finally:
        database.close()
    return found
