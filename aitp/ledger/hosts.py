"""The hosts of a fleet, as the ledger that they share knows them.

Each notes every so often that it is there, with what a person may want to know of it. By that nobody is taken for dead:
who lives is told by the locks of its slots alone, and who is away by their being free (`PostgreSQLDatabase.obtain`).
`service.FleetWatch` has the relays do all this; a ledger in a file knows no hosts.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from aitp.errors import LedgerError
from aitp.ledger.engine import HOST_SLOTS, Connection, Fleet

if TYPE_CHECKING:
    from aitp.ledger.postgresql import PostgreSQLDatabase

# Between looks at the other hosts.
LOOK_SECONDS = 15.0
# An absence that lasts for its grace waits for nothing but the server to be up for as long.
LOOK_AGAIN_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Host:
    """One of them. `is_here`: a process of it holds a slot now. `seen_at`: when it last noted that it was there, None
    if it never worked; what follows it noted as well. `page`: address and port of its metrics process.
    """

    number: int
    name: str
    is_here: bool
    seen_at: float | None
    version: str
    workers: int
    relays: int
    page: str


class Hosts:
    """What this host tells the others, and sees of them."""

    def __init__(self, database: PostgreSQLDatabase) -> None:
        self.database = database

    @property
    def ours(self) -> range:
        """Owners that are this host's: their successors and their master release what they leave behind."""
        return slots_of(self.database.owner(0) // HOST_SLOTS)

    def note(self, version: str, *, workers: int, relays: int, page: str) -> None:
        """This host is there."""
        facts = {"workers": workers, "relays": relays, "page": page}
        with self.database.transaction() as connection:
            connection.execute(
                "UPDATE hosts SET version = ?, seen_at = ?, facts = ? WHERE number = ?",
                (version, self.database.clock(), json.dumps(facts), self.ours.start // HOST_SLOTS),
            )

    def name_of(self, owner: int) -> str:
        """Whose slot it is."""
        rows = self.database.read("SELECT name FROM hosts WHERE number = ?", (owner // HOST_SLOTS,))
        return str(rows[0][0]) if rows else ""

    def look_again_in(self, owners: list[int]) -> float:
        """Seconds until what these own may be anyone's, if their owners are away; until the next look, if not."""
        others = {owner for owner in owners if owner not in self.ours}
        since = [
            float(moment) for owner, moment in self.database.read("SELECT slot, since FROM absences") if owner in others
        ]
        if not since:
            return LOOK_SECONDS
        ends_in = min(since) + self.database.path.grace - self.database.clock()
        return min(max(ends_in, LOOK_AGAIN_SECONDS), LOOK_SECONDS)

    def slots_of_absent(self, name: str) -> range:
        """The owners of a host that no process of is here. Raises LedgerError if one is, or no such host is known."""
        with self.database.reading() as connection:
            number = connection.execute("SELECT number FROM hosts WHERE name = ?", (name,)).get
            if number is None:
                raise LedgerError(f"no host of that name is known: {name}")
            theirs = slots_of(number)
            if any(owner in theirs for owner in holders(connection, self.database.path)):
                raise LedgerError("that host is here: a process of it holds a slot; stop its service first")
        return theirs

    def strike_out(self, theirs: range) -> None:
        """Forget a host that owns nothing any more."""
        with self.database.transaction(durable=True) as connection:
            connection.execute("DELETE FROM absences WHERE slot BETWEEN ? AND ?", (theirs.start, theirs.stop - 1))
            connection.execute("DELETE FROM hosts WHERE number = ?", (theirs.start // HOST_SLOTS,))


def read_hosts(connection: Connection, place: Fleet) -> tuple[Host, ...]:
    """All of them, by name."""
    here = {owner // HOST_SLOTS for owner in holders(connection, place)}

    def host(number: int, name: str, seen_at: float, version: str, facts: str) -> Host:
        noted = {"workers": 0, "relays": 0, "page": ""} | json.loads(facts)  # by whatever release it has
        said = noted["workers"], noted["relays"], noted["page"]
        return Host(number, name, number in here, seen_at or None, version, *said)

    found = connection.execute("SELECT number, name, seen_at, version, facts FROM hosts ORDER BY name").fetchall()
    return tuple(host(*row) for row in found)


def slots_of(number: int) -> range:
    """The owners that a host may have."""
    return range(number * HOST_SLOTS, (number + 1) * HOST_SLOTS)


def holders(connection: Connection, place: Fleet) -> set[int]:
    """The owners whose locks some process holds. Its own look at others' places is among them for a moment."""
    # As unsigned numbers: those of the queue and the preparation are the highest.
    found = connection.execute(
        "SELECT CAST(objid AS BIGINT) FROM pg_locks WHERE locktype = 'advisory' AND granted AND objsubid = 2"
        " AND CAST(classid AS BIGINT) = ? AND CAST(objid AS BIGINT) < 2147483648"
        " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())",
        (namespace(place.schema) % (1 << 32),),
    )
    return {int(owner) for (owner,) in found.fetchall()}


@cache  # each transaction asks
def namespace(schema: str) -> int:
    """What sets the locks of ledgers in one database apart."""
    from hashlib import blake2b  # not above: it loads OpenSSL, also for who looks at a file

    return int.from_bytes(blake2b(schema.encode(), digest_size=4, person=b"aitp ledger").digest(), signed=True)
