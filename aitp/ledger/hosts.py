"""The hosts of a fleet, as the ledger that they share knows them.

Each notes every so often that it is there, with what a person may want to know of it. By that nobody is taken for dead:
who lives is told by the locks of its slots alone, and who is away by their being free (`PostgreSQLDatabase.obtain`).
`service.FleetWatch` has the relays do all this; a ledger in a file knows no hosts.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from aitp.ledger.engine import HOST_SLOTS

if TYPE_CHECKING:
    from aitp.ledger.postgresql import PostgreSQLDatabase

# Between looks at the other hosts.
LOOK_SECONDS = 15.0
# An absence that lasts for its grace waits for nothing but the server to be up for as long.
LOOK_AGAIN_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Host:
    """One of them. `is_here`: a process of it holds a slot now. `seen_at`: 0 if it never worked."""

    number: int
    name: str
    version: str
    seen_at: float
    is_here: bool
    facts: Mapping[str, Any]


class Hosts:
    """What this host tells the others, and sees of them."""

    def __init__(self, database: PostgreSQLDatabase) -> None:
        self._database = database

    @property
    def ours(self) -> range:
        """Owners that are this host's: their successors and their master release what they leave behind."""
        return slots_of(self._database.owner(0) // HOST_SLOTS)

    def listen(self, heard: Callable[[str], None]) -> None:
        """Have `heard` told from now on what other hosts announce (`Database.announce`); it may not use the ledger."""
        self._database.listen(heard)

    def hear(self) -> None:
        """Take in what was announced since this process has last used the ledger. Raises LedgerError."""
        self._database.hear()

    @property
    def line(self) -> int | None:
        """A descriptor that is readable when there is something to hear, or nothing to hope for; None if it is lost."""
        return self._database.line

    def note(self, version: str, facts: Mapping[str, Any]) -> None:
        """This host is there."""
        with self._database.transaction() as connection:
            connection.execute(
                "UPDATE hosts SET version = ?, seen_at = ?, facts = ? WHERE number = ?",
                (version, self._database.clock(), json.dumps(facts), self.ours.start // HOST_SLOTS),
            )

    def name_of(self, owner: int) -> str:
        """Whose slot it is."""
        rows = self._database.read("SELECT name FROM hosts WHERE number = ?", (owner // HOST_SLOTS,))
        return str(rows[0][0]) if rows else ""

    def look_again_in(self, owners: list[int]) -> float:
        """Seconds until what these own may be anyone's, if their owners are away; until the next look, if not."""
        others = {owner for owner in owners if owner not in self.ours}
        since = [
            float(moment)
            for owner, moment in self._database.read("SELECT slot, since FROM absences")
            if owner in others
        ]
        if not since:
            return LOOK_SECONDS
        ends_in = min(since) + self._database.path.grace - self._database.clock()
        return min(max(ends_in, LOOK_AGAIN_SECONDS), LOOK_SECONDS)


def slots_of(number: int) -> range:
    """The owners that a host may have."""
    return range(number * HOST_SLOTS, (number + 1) * HOST_SLOTS)
