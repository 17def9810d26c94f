"""Cooldowns: pauses that a provider asked for (429), of one model or of everything it serves, kept in the ledger.

The finish transaction writes them, the claim reads them. Everything runs inside a transaction of the caller's.
"""

from __future__ import annotations

import apsw

# No cooldown is believed for longer: a server that names a time next week would stop the service till then.
MAX_COOLDOWN_SECONDS = 3_600.0
# A server that says "at once" has just refused us.
MIN_COOLDOWN_SECONDS = 1.0


def cool_down(
    connection: apsw.Connection, provider: str, model: str | None, seconds: float, now: float, reason: str
) -> None:
    """Pause one model of a provider, or with None the whole provider (quota)."""
    until = now + min(max(seconds, MIN_COOLDOWN_SECONDS), MAX_COOLDOWN_SECONDS)
    connection.execute(
        # Of several answers that arrive together the longest pause counts, unless it is left over from before the
        # clock was set back.
        "INSERT INTO cooldowns (provider, model, until, reason) VALUES (?1, ?2, ?3, ?4)"
        " ON CONFLICT DO UPDATE SET until = excluded.until, reason = excluded.reason"
        " WHERE until < excluded.until OR until > ?5",
        (provider, model or "", until, reason, now + MAX_COOLDOWN_SECONDS),
    )


def cooling_until(connection: apsw.Connection, provider: str, model: str, now: float) -> float | None:
    """When the cooldown of this provider's model ends; None if there is none. Reads only."""
    # One that reaches further than any may is left over from before the clock was set back: it has ended.
    until = connection.execute(
        "SELECT MAX(until) FROM cooldowns WHERE provider = ?1 AND model IN ('', ?2) AND until > ?3 AND until <= ?4",
        (provider, model, now, now + MAX_COOLDOWN_SECONDS),
    ).get
    return None if until is None else float(until)
