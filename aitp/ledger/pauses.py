"""Pauses of processors: after several bugs in a row, over different tasks, because a bug must not fail the whole queue.

When a pause is over one more bug renews it; a success, a restart or a reload ends it for good. The finish transaction
counts, the claim reads. Everything runs inside a transaction of the caller's.
"""

from __future__ import annotations

import apsw

from aitp.ledger.database import Row

BUGS_IN_A_ROW = 5
PAUSE_SECONDS = 3_600.0


# Whether a processor has had a bug since it started; for a select list.
ANY_BUGS = "EXISTS (SELECT 1 FROM processors)"


def count_bugs(connection: apsw.Connection, task_type: str, bugs: int, now: float) -> bool:
    """Add tasks that met a bug; whether that pauses the processor of `task_type`."""
    rows: list[Row] = connection.execute(
        "INSERT INTO processors (type, bugs) VALUES (?1, ?2)"
        " ON CONFLICT DO UPDATE SET bugs = bugs + excluded.bugs RETURNING bugs",
        (task_type, bugs),
    ).fetchall()
    if rows[0][0] < BUGS_IN_A_ROW:
        return False
    connection.execute("UPDATE processors SET paused_until = ? WHERE type = ?", (now + PAUSE_SECONDS, task_type))
    return True


def forget_bugs(connection: apsw.Connection, task_type: str | None = None) -> None:
    """A processor (None: every one) starts afresh."""
    connection.execute("DELETE FROM processors WHERE ?1 IS NULL OR type = ?1", (task_type,))


def paused_until(connection: apsw.Connection, task_type: str, now: float) -> float | None:
    """When the pause of a processor ends; None if there is none. Reads only."""
    # One that reaches further than any may is left over from before the clock was set back: it has ended.
    until = connection.execute(
        "SELECT paused_until FROM processors WHERE type = ? AND paused_until > ? AND paused_until <= ?",
        (task_type, now, now + PAUSE_SECONDS),
    ).get
    return None if until is None else float(until)
