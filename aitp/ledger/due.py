"""Due times: rows that wait for a moment, and rows whose moment has come.

`due_at` is NULL for "now", so that what can be taken now is exactly one partial index (see schema.py); whoever takes
first promotes what has become due. Everything runs inside a transaction of the caller's.
"""

from __future__ import annotations

from typing import Literal

import apsw

from aitp.policy.backoff import MAX_RETRY_DELAY_SECONDS

Waiting = Literal["ready", "finished"]

# Spelt out for each state because a partial index serves only a literal. Each half is one search by index.
_PROMOTE = {
    state: (
        f"UPDATE tasks SET due_at = NULL WHERE state = '{state}' AND due_at IS NOT NULL AND due_at <= ?",
        # Further away than any delay: set before the clock was set back.
        f"UPDATE tasks SET due_at = NULL WHERE state = '{state}' AND due_at IS NOT NULL AND due_at > ?",
    )
    for state in ("ready", "finished")
}
_NEXT = {
    state: f"SELECT MIN(due_at) FROM tasks WHERE state = '{state}' AND due_at IS NOT NULL"
    for state in ("ready", "finished")
}


def promote_due(connection: apsw.Connection, state: Waiting, now: float) -> None:
    """Rows of `state` whose time has come are due now."""
    past, beyond = _PROMOTE[state]
    connection.execute(past, (now,))
    connection.execute(beyond, (now + MAX_RETRY_DELAY_SECONDS,))


def next_due(connection: apsw.Connection, state: Waiting) -> float | None:
    """When the next row of `state` is due."""
    due_at = connection.execute(_NEXT[state]).get
    return None if due_at is None else float(due_at)
