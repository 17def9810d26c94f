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
    rows: list[Row] = connection.execute(
        f"""
        WITH RECURSIVE waiting (kind) AS (
            SELECT MIN(kind) FROM tasks WHERE {CLAIMABLE}
            UNION ALL
            SELECT (SELECT MIN(kind) FROM tasks WHERE {CLAIMABLE} AND kind > waiting.kind)
            FROM waiting WHERE waiting.kind IS NOT NULL
        )
        SELECT kinds.id, type, model, failed_at,
               (SELECT MIN(seq) FROM tasks WHERE {CLAIMABLE} AND kind = kinds.id)
        FROM waiting JOIN kinds ON kinds.id = waiting.kind
        """
    ).fetchall()
    if len(rows) > 1:
        counts: list[Row] = connection.execute(
            "SELECT kind, COUNT(*) FROM tasks WHERE state = 'claimed' GROUP BY kind"
        ).fetchall()
        claimed: dict[int, int] = dict(counts)
        rows.sort(key=lambda row: (claimed.get(row[0], 0), row[4]))
    return [(number, Kind(type_, model, failed_at)) for number, type_, model, failed_at, _ in rows]


# Served by tasks_ready, which holds all that is asked of it; of those chosen the rows are read.
_READY = f"{CLAIMABLE} AND kind = ?1"
_COLUMNS = "SELECT seq, id, size, attempts, crashes FROM tasks WHERE "
_OLDEST_SIZE = f"SELECT size FROM tasks WHERE {_READY} ORDER BY seq LIMIT 1"
_PROBE = _COLUMNS + f"{_READY} ORDER BY attempts, seq LIMIT 1"
_COUNT = (
    f"SELECT (SELECT COUNT(*) FROM (SELECT 1 FROM tasks WHERE {_READY} LIMIT ?2)),"
    f" (SELECT batch_limit FROM tasks WHERE {_READY} ORDER BY seq LIMIT 1)"
)
_BATCH = _COLUMNS + (
    f"seq IN (SELECT seq FROM (SELECT seq, batch_limit FROM tasks WHERE {_READY} ORDER BY seq LIMIT ?2)"
    " WHERE batch_limit IS ?3 ORDER BY seq LIMIT ?4) ORDER BY seq"
)


def oldest_size(connection: apsw.Connection, kind: int) -> int:
    """The size of the task of a kind that is next in turn."""
    return int(connection.execute(_OLDEST_SIZE, (kind,)).get)


def select_probe(connection: apsw.Connection, kind: int) -> list[Row]:
    """The task with the fewest attempts: one that has failed often may be what fails."""
    rows: list[Row] = connection.execute(_PROBE, (kind,)).fetchall()
    return rows


def select_batch(
    connection: apsw.Connection, kind: int, room: int | None, workers: int, batch_size: int
) -> tuple[list[Row], bool]:
    """(seq, id, size, attempts, crashes) of one claim's tasks, oldest first, and whether there is more of the kind.

    A row's `batch_limit` (after a refused batch or a crash) bounds the batch it may be in, and only rows with the same
    bound go together, so that halving finds the bad input.
    """
    most = batch_size * workers if room is None else min(batch_size * workers, room)
    claimable, bound = connection.execute(_COUNT, (kind, most)).get
    share = fair_share(claimable, workers, batch_size if bound is None else min(bound, batch_size))
    rows: list[Row] = connection.execute(_BATCH, (kind, most, bound, share)).fetchall()
    rows = rows[: fitting(row[2] for row in rows)]
    return rows, claimable > len(rows)
