"""What the ledger holds, task by task: for `aitp tasks`. One consistent read, then the file is closed again.

A walk over what is held (INBOX_LIMIT bounds it), asked by a person now and then.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from aitp.ledger.engine import Connection, Row
from aitp.ledger.views import SHOWN_STATE, reading

# An empty list of states or types is bound as NULL: then any will do.
_CHOSEN = (
    f"(?1 IS NULL OR {SHOWN_STATE} IN (SELECT value FROM json_each(?1)))"
    " AND (?2 IS NULL OR type IN (SELECT value FROM json_each(?2)))"
)


@dataclass(frozen=True, slots=True)
class Holding:
    """One task that is held. `attempts` that failed, `crashes` of processes that ran it; instants are UTC seconds.

    `due_at` is None for "now"; `slot`: who works at it; `reason`: why it failed, or was refused by the task API.
    """

    id: str
    type: str
    model: str
    state: str
    attempts: int
    crashes: int
    provider: str | None
    slot: int | None
    entered_at: float
    due_at: float | None
    reason: str


@dataclass(frozen=True, slots=True)
class Holdings:
    """The oldest of what was asked for, and how many there are of it in all. `now`: when that was."""

    now: float
    tasks: tuple[Holding, ...]
    total: int


def holdings(path: Path, states: Sequence[str], types: Sequence[str], most: int) -> Holdings:
    """Tasks in one of `states` and of one of `types` (none named: of any), oldest first. Raises LedgerError."""
    with reading(path) as (connection, now):
        chosen = (_json(states), _json(types))
        rows: list[Row] = connection.execute(
            f"SELECT tasks.id, type, model, {SHOWN_STATE}, attempts, crashes, provider, slot, entered_at, due_at,"
            " COALESCE(refusal, reason, '')"
            " FROM tasks JOIN kinds ON kinds.id = kind LEFT JOIN results ON results.seq = tasks.seq"
            f" WHERE {_CHOSEN} ORDER BY tasks.seq LIMIT ?3",
            (*chosen, most),
        ).fetchall()
        total = _count(connection, chosen)
    return Holdings(now, tuple(Holding(*row) for row in rows), total)


def _count(connection: Connection, chosen: tuple[str | None, str | None]) -> int:
    return int(
        connection.execute(f"SELECT COUNT(*) FROM tasks JOIN kinds ON kinds.id = kind WHERE {_CHOSEN}", chosen).get
    )


def _json(names: Sequence[str]) -> str | None:
    return json.dumps(list(names)) if names else None
