"""Calls that one provider makes in another's stead: counted by UTC day in the claim's transaction, and so bounded.

What a claim has counted stays counted, whatever becomes of its process: a kill cannot make room. Only a claim that was
never sent gives its part back. Where a recovery could not read the counts, the day's are used up. Only providers of
other packages have such a bound (`aitp.policy.routing.Rules`).
"""

from __future__ import annotations

from aitp.ledger.engine import Connection

DAY_SECONDS = 86_400
UNKNOWN = ""  # the provider of a row that stands for all whose counts are lost
ALL_SENT = 2**31


def stand_ins_sent(connection: Connection, provider: str, now: float) -> int:
    """How many calls were made in the stead of `provider` today."""
    return int(
        connection.execute(
            # A clock that is set back makes no room: a day that was begun goes on.
            "SELECT COALESCE(MAX(sent), 0) FROM stand_ins WHERE provider IN (?, ?) AND day >= ?",
            (provider, UNKNOWN, day_of(now)),
        ).get
    )


def count_stand_ins(connection: Connection, provider: str, now: float, calls: int) -> int:
    """Count so many more; the day that they count for."""
    return int(
        connection.execute(
            "INSERT INTO stand_ins (provider, day, sent) VALUES (?1, ?2, ?3) ON CONFLICT (provider) DO UPDATE SET"
            " sent = CASE WHEN stand_ins.day >= excluded.day THEN stand_ins.sent ELSE 0 END + excluded.sent,"
            " day = CASE WHEN stand_ins.day >= excluded.day THEN stand_ins.day ELSE excluded.day END RETURNING day",
            (provider, day_of(now), calls),
        ).get
    )


def give_stand_ins_back(connection: Connection, provider: str, day: int, calls: int) -> None:
    """So many of those that were counted for `day` were never sent."""
    connection.execute(
        "UPDATE stand_ins SET sent = sent - ?1 WHERE provider = ?2 AND day = ?3 AND sent >= ?1", (calls, provider, day)
    )


def day_of(now: float) -> int:
    """Days since 1970, UTC."""
    return int(now // DAY_SECONDS)


def next_day(now: float) -> float:
    """When they are counted anew."""
    return float((day_of(now) + 1) * DAY_SECONDS)
