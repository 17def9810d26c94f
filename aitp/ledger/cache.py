"""Answers worth keeping for a while, shared by all processes: key → JSON, until a time.

Bounded in rows, the longest-written go first; what is too large is not kept. Reads are no transactions; a write is one
small one. Used by `aitp.knowledge`, for what is not there as well.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import orjson

from aitp.errors import LedgerError
from aitp.ledger.engine import Database

MOST_ROWS = 10_000
MOST_BYTES = 65_536  # of one value
KEPT_SECONDS = 86_400.0
NOTHING_KEPT_SECONDS = 3_600.0  # None or []: something may have come to be there

Fetch = Callable[[list[str]], Iterable[Mapping[str, Any]]]
"""Looks names up; yields the values of some after the other, plain JSON."""


class Cache:
    """The cache. `most_rows`: it never holds more."""

    def __init__(self, database: Database, most_rows: int = MOST_ROWS) -> None:
        self._database = database
        self._most_rows = most_rows

    def get(self, keys: Iterable[str]) -> dict[str, bytes]:
        """What is kept under `keys`; those that are missing or have expired are left out."""
        now = self._database.clock()
        # Served by the unique index on key.
        rows = self._database.read(
            "SELECT key, value FROM cache WHERE key IN (SELECT value FROM json_each(?) AS each) AND expires_at > ?",
            (orjson.dumps(list(keys)).decode(), now),
        )
        return dict(rows)

    def put(self, values: Mapping[str, bytes], seconds: float) -> None:
        """Keep `values` for so long, in place of what was there under their keys."""
        fitting = [(key, value) for key, value in values.items() if len(value) <= MOST_BYTES]
        if not fitting:
            return
        with self._database.transaction() as connection:
            expires_at = self._database.clock() + seconds
            connection.executemany(
                # A replaced row gets a new number: numbers tell who was written last.
                "INSERT INTO cache (number, key, value, expires_at)"
                " VALUES ((SELECT COALESCE(MAX(number), 0) + 1 FROM cache), ?, ?, ?)"
                " ON CONFLICT (key) DO UPDATE SET number = excluded.number, value = excluded.value,"
                " expires_at = excluded.expires_at",
                [(key, value, expires_at) for key, value in fitting],
            )
            # Numbers rise by one with each row written, so this leaves so many at most without counting any.
            connection.execute(
                "DELETE FROM cache WHERE number <= (SELECT MAX(number) FROM cache) - ?", (self._most_rows,)
            )

    def through(self, place: str, kind: str, names: Sequence[str], fetch: Fetch) -> dict[str, Any]:
        """The values of `names`, of that kind and from that place: from here, else by `fetch`.

        Each part that it yields is kept before the next is asked for. What `fetch` raises passes.
        """
        keys = {name: f"{place} {kind} {name}" for name in names}
        kept = self.get(keys.values())
        values = {name: orjson.loads(kept[key]) for name, key in keys.items() if key in kept}
        for part in fetch([name for name in keys if name not in values]):
            values.update(part)
            try:
                for nothing, seconds in ((False, KEPT_SECONDS), (True, NOTHING_KEPT_SECONDS)):
                    some = {name: value for name, value in part.items() if (value in (None, [])) is nothing}
                    self.put({keys[name]: orjson.dumps(value) for name, value in some.items()}, seconds)
            except LedgerError:
                pass  # what cannot be kept is looked up again
        return values
