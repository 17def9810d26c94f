"""Cooldowns: pauses that a provider asked for (429), of one model or of everything it serves, kept in the ledger.

A model that the provider lacks, and is about to get, is awaited: nobody asked for that pause. The finish transaction
writes them, the claim reads them. Everything runs inside a transaction of the caller's.
"""

from __future__ import annotations

from typing import NamedTuple

import apsw

# No cooldown is believed for longer: a server that names a time next week would stop the service till then.
MAX_COOLDOWN_SECONDS = 3_600.0
# A server that says "at once" has just refused us.
MIN_COOLDOWN_SECONDS = 1.0


class Cooling(NamedTuple):
    """A pause in force."""

    until: float
    awaited: bool


# A pause that began later than now is left over from before the clock was set back: it has ended.
IN_FORCE = "since <= {0} AND until > {0}"

# Whether any pause is in force at a moment; whether there was one of which nobody said how long; for a select list.
ANY_COOLDOWNS = f"EXISTS (SELECT 1 FROM cooldowns WHERE {IN_FORCE})"
ANY_GUESSED = "EXISTS (SELECT 1 FROM cooldowns WHERE guessed = 1)"


def cool_down(
    connection: apsw.Connection,
    provider: str,
    model: str | None,
    seconds: float,
    now: float,
    reason: str,
    *,
    awaited: bool = False,
    guessed: bool = False,
) -> None:
    """Pause one model of a provider, or with None the whole provider (quota). `awaited`: the model is to come there.

    `guessed`: nobody said how long. Such a pause is twice as long as the one before it, if nothing was served since.
    """
    if guessed:
        before = connection.execute(
            "SELECT until - since FROM cooldowns WHERE provider = ? AND model = ? AND guessed = 1 AND since <= ?",
            (provider, model or "", now),
        ).get
        seconds = max(seconds, 2 * (before or 0.0))
    until = now + min(max(seconds, MIN_COOLDOWN_SECONDS), MAX_COOLDOWN_SECONDS)
    connection.execute(
        # Of several answers that arrive together the longest pause counts, unless it is left over from before the
        # clock was set back.
        "INSERT INTO cooldowns (provider, model, since, until, reason, awaited, guessed) VALUES (?, ?, ?, ?, ?, ?, ?)"
        " ON CONFLICT DO UPDATE SET since = excluded.since, until = excluded.until, reason = excluded.reason,"
        " awaited = excluded.awaited, guessed = excluded.guessed"
        " WHERE until < excluded.until OR since > excluded.since",
        (provider, model or "", now, until, reason, int(awaited), int(guessed)),
    )


def forget_guesses(connection: apsw.Connection, provider: str, model: str) -> None:
    """The provider serves this model again: the next pause of which nobody says how long is short."""
    connection.execute(
        "DELETE FROM cooldowns WHERE provider = ? AND model IN ('', ?) AND guessed = 1", (provider, model)
    )


def cooling(connection: apsw.Connection, provider: str, model: str, now: float) -> Cooling | None:
    """The pause of this provider's model, one that was asked for before one that is awaited. Reads only."""
    row = connection.execute(
        f"SELECT until, awaited FROM cooldowns WHERE provider = ?1 AND model IN ('', ?2) AND {IN_FORCE.format('?3')}"
        " ORDER BY awaited, until DESC LIMIT 1",
        (provider, model, now),
    ).fetchone()
    return None if row is None else Cooling(float(row[0]), bool(row[1]))
