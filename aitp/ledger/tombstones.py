"""Tombstones: what stays of a task for a while after its result was acknowledged, because the pending list lags.

A task that is listed again is a real re-run only if the poll began after the acknowledgement, by the ledger's sequence
and not by clocks, *and* the list can no longer be behind it: by the wall clock, and by the time since the machine
started, because setting a wall clock forward makes no list newer. Everything runs inside a transaction of the caller's.
"""

from __future__ import annotations

from collections.abc import Sequence

import apsw

from aitp.ledger.database import these

# How long the pending list is believed to show a task whose result it has acknowledged.
LISTING_LAG_SECONDS = 30.0


def bury(connection: apsw.Connection, seq: int, task_id: str, sequence: int, now: float, uptime: float) -> None:
    """Remove a task that was dealt with, and remember that it was, at `sequence`."""
    delete_tasks(connection, [seq])
    connection.execute(
        "INSERT OR REPLACE INTO tombstones (id, sequence, delivered_at, delivered_uptime) VALUES (?, ?, ?, ?)",
        (task_id, sequence, now, uptime),
    )


def is_stale_news(
    connection: apsw.Connection, task_id: str, began_sequence: int, began_at: float, began_uptime: float
) -> bool:
    """Whether a poll that began then lists a task only because the list lags. Reads only."""
    row = connection.execute(
        "SELECT sequence, delivered_at, delivered_uptime FROM tombstones WHERE id = ?", (task_id,)
    ).fetchone()
    if row is None:
        return False
    sequence, delivered_at, delivered_uptime = row
    # The page is as old as the poll's beginning, however long its reading takes.
    by_wall = began_at < delivered_at + LISTING_LAG_SECONDS
    by_uptime = 0 <= began_uptime - delivered_uptime < LISTING_LAG_SECONDS  # below 0: the machine was started anew
    return bool(began_sequence < sequence or by_wall or by_uptime)


def clear_tombstones(connection: apsw.Connection, began_sequence: int, now: float, uptime: float) -> None:
    """At the end of the poll that began at `began_sequence`: forget those that no later poll can need."""
    # Served by tombstones_sequence.
    connection.execute(
        "DELETE FROM tombstones WHERE sequence < ? AND delivered_at < ? AND NOT delivered_uptime BETWEEN ? AND ?",
        (began_sequence, now - LISTING_LAG_SECONDS, uptime - LISTING_LAG_SECONDS, uptime),
    )
    # Left over from before the clock was set back. A walk, but over half a minute's deliveries only.
    connection.execute("UPDATE tombstones SET delivered_at = ?1 WHERE delivered_at > ?1", (now,))


def delete_tasks(connection: apsw.Connection, seqs: Sequence[int]) -> None:
    """Remove tasks with all that hangs on them."""
    are_these, bound = these(seqs)
    for table in ("contents", "results", "tasks"):
        connection.execute(f"DELETE FROM {table} WHERE seq {are_these}", bound)
