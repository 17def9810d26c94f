"""Which tasks a claim takes: the fairest kind first, then the oldest tasks of it, no more than one call may hold.

Called by the claim, inside its transaction.
"""

from __future__ import annotations

import apsw

from aitp.ledger.database import Row
from aitp.ledger.due import CLAIMABLE
from aitp.policy.batching import fair_share, fitting
from aitp.tasks import Kind


def kinds_by_fairness(connection: apsw.Connection) -> list[tuple[int, Kind]]:
    """Kinds with a task that is ready now: fewest claimed tasks first, then the oldest task.

    Walks tasks_ready from kind to kind, so that it costs as much as there are kinds, not tasks; the claimed ones are
    counted in tasks_claimed, if there is a choice at all.
    """
    rows: list[Row] = connection.execute(_READY_KINDS).fetchall()
    if len(rows) > 1:
        counts: list[Row] = connection.execute(_CLAIMED_BY_KIND).fetchall()
        claimed: dict[int, int] = dict(counts)
        oldest = {row[0]: min(connection.execute(_OLDEST, (row[0],)).get) for row in rows}
        rows.sort(key=lambda row: (claimed.get(row[0], 0), oldest[row[0]]))
    return [(number, Kind(type_, model, failed_at)) for number, type_, model, failed_at in rows]


_READY_KINDS = f"""
    WITH RECURSIVE waiting (kind) AS (
        SELECT MIN(kind) FROM tasks WHERE {CLAIMABLE}
        UNION ALL
        SELECT (SELECT MIN(kind) FROM tasks WHERE {CLAIMABLE} AND kind > waiting.kind)
        FROM waiting WHERE waiting.kind IS NOT NULL
    )
    SELECT kinds.id, type, model, failed_at FROM waiting JOIN kinds ON kinds.id = waiting.kind
"""
_CLAIMED_BY_KIND = "SELECT kind, COUNT(*) FROM tasks WHERE state = 'claimed' GROUP BY kind"
# Of fresh tasks and of suspects, which are apart in tasks_ready; none at all is later than any.
_NONE = 2**62
_OLDEST = "SELECT " + ", ".join(
    f"COALESCE((SELECT MIN(seq) FROM tasks WHERE {CLAIMABLE} AND kind = ?1 AND is_suspect = {suspect}), {_NONE})"
    for suspect in (0, 1)
)


# Served by tasks_ready, which holds all that is asked of it; of those chosen the rows are read.
_READY = f"{CLAIMABLE} AND kind = ?1"
_COLUMNS = "SELECT seq, id, size, attempts, crashes FROM tasks WHERE "
_OLDEST_SIZE = f"SELECT size FROM tasks WHERE {_READY} ORDER BY is_suspect, seq LIMIT 1"
_PROBE = _COLUMNS + f"{_READY} ORDER BY is_suspect, attempts, seq LIMIT 1"
_FRESH = f"{_READY} AND is_suspect = 0"
_COUNT_FRESH = f"SELECT COUNT(*) FROM (SELECT 1 FROM tasks WHERE {_FRESH} LIMIT ?2)"
_FRESH_BATCH = _COLUMNS + f"seq IN (SELECT seq FROM tasks WHERE {_FRESH} ORDER BY seq LIMIT ?2) ORDER BY seq"
_SUSPECTS = f"{_READY} AND is_suspect = 1"
_TURN = f"SELECT EXISTS (SELECT 1 FROM tasks WHERE {_SUSPECTS}), suspects_last FROM kinds WHERE id = ?1"
# All served by tasks_suspect. The least suspect first: what fails again and again is not to keep from its turn what
# failed beside it once. Only those with the same bound go together.
_BOUND = f"SELECT batch_limit FROM tasks WHERE {_SUSPECTS} ORDER BY attempts, seq LIMIT 1"
_SUSPECT_BATCH = _COLUMNS + f"{_SUSPECTS} AND batch_limit IS ?2 ORDER BY attempts, seq LIMIT ?3"
_SUSPECTS_IN_FLIGHT = "SELECT 1 FROM tasks WHERE kind = ? AND state = 'claimed' AND is_suspect = 1 LIMIT 1"


def oldest_size(connection: apsw.Connection, kind: int) -> int:
    """The size of the task of a kind that is next in turn."""
    return int(connection.execute(_OLDEST_SIZE, (kind,)).get)


def select_probe(connection: apsw.Connection, kind: int) -> list[Row]:
    """A fresh task if there is one, else the suspect that failed least: one that failed often may be what fails."""
    rows: list[Row] = connection.execute(_PROBE, (kind,)).fetchall()
    return rows


def select_batch(
    connection: apsw.Connection, kind: int, room: int | None, workers: int, batch_size: int, *, suspects: bool
) -> tuple[list[Row], bool]:
    """(seq, id, size, attempts, crashes) of one claim's tasks, oldest first, and whether there is more of the kind.

    Suspects, if there are any, take turns with fresh tasks, one batch of them at a time, so that what fails together is
    told apart and holds nobody up. None at all: they are all suspects, and their turn has not come.
    """
    most = batch_size * workers if room is None else min(batch_size * workers, room)
    waiting = False
    if suspects:
        waiting, theirs_last = connection.execute(_TURN, (kind,)).get
        in_flight = connection.execute(_SUSPECTS_IN_FLIGHT, (kind,)).get is not None
    fresh = int(connection.execute(_COUNT_FRESH, (kind, most)).get)
    if waiting and not in_flight and not (fresh and theirs_last):
        rows = _suspects(connection, kind, min(most, batch_size))
        _note_turn(connection, kind, 1)
        return rows, fresh > 0
    if fresh:
        if waiting:
            _note_turn(connection, kind, 0)
        rows = connection.execute(_FRESH_BATCH, (kind, fair_share(fresh, workers, batch_size))).fetchall()
        rows = rows[: fitting(row[2] for row in rows)]
        return rows, fresh > len(rows)
    return [], False


def _suspects(connection: apsw.Connection, kind: int, most: int) -> list[Row]:
    bound = connection.execute(_BOUND, (kind,)).get
    size = most if bound is None else min(most, bound)
    rows: list[Row] = connection.execute(_SUSPECT_BATCH, (kind, bound, size)).fetchall()
    return rows[: fitting(row[2] for row in rows)]


def _note_turn(connection: apsw.Connection, kind: int, suspects_last: int) -> None:
    connection.execute(
        "UPDATE kinds SET suspects_last = ?1 WHERE id = ?2 AND suspects_last <> ?1", (suspects_last, kind)
    )
