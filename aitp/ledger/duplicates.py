"""Duplicates: tasks of equal type, model and content, of which only the first, the original, is bought.

The task API makes a second task for the same text when the first takes over five minutes. A duplicate of a task that is
still to be run waits for it (`duplicate_of`), and is finished with its result; should that task fail or go, the oldest
duplicate takes its place. A duplicate of a task that was run lately gets that result at once: from the outbox, or from
`answers`, where a result stays for a while after its delivery. What is bought under other settings (another mode,
another prompt, mock mode) is not reused. Everything runs inside a transaction of the caller's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b

from aitp.ledger.engine import Connection, Row, these
from aitp.ledger.queue import CLAIMED, FINISHED, READY
from aitp.tasks import QueueKey, TaskStatus

# 26 MB of vectors. Who is listed later than that many others is bought again.
MOST_ANSWERS = 2_000
MOST_BYTES = 65_536  # of one result
EXPIRED_AT_ONCE = 200

_SUCCEEDED = f"status = '{TaskStatus.SUCCEEDED}'"
# Whether there are any: the usual case is none. For a select list, served by tasks_duplicates.
ANY_DUPLICATES = "EXISTS (SELECT 1 FROM tasks WHERE duplicate_of IS NOT NULL)"


def fingerprint(queue: QueueKey, content: bytes) -> bytes:
    """16 bytes (BLAKE2b) that tasks of equal type, model and content share, and no others.

    `content` as its processor wrote it: fields that do not matter are gone, and their order is settled.
    """
    # A space is in no type and no model's name, so no two queues read alike.
    return blake2b(f"{queue.type} {queue.model} ".encode() + content, digest_size=16).digest()


@dataclass(frozen=True, slots=True)
class Reused:
    """A task that got the result that was bought for its original `of`, an id."""

    id: str
    type: str
    of: str


@dataclass(frozen=True)
class Duplicates:
    """What is known of equal tasks. `seconds`: how long a result may be reused (0: nothing is a duplicate)."""

    seconds: float

    def original(self, connection: Connection, fingerprint: bytes | None) -> int | None:
        """The task that is still to be run, and that tasks of this fingerprint wait for."""
        if fingerprint is None or not self.seconds:
            return None
        found = connection.execute(
            # Served by tasks_fingerprint.
            f"SELECT seq FROM tasks WHERE fingerprint = ? AND duplicate_of IS NULL AND ({READY} OR {CLAIMED}) LIMIT 1",
            (fingerprint,),
        ).get
        return None if found is None else int(found)

    def answer(self, connection: Connection, fingerprint: bytes | None, task_id: str, now: float) -> Row | None:
        """(body, id of the task it was bought for) of a result that a new task may have; None if there is none.

        Not the one that was bought for this very task: who lists it again wants it to be run again.
        """
        if fingerprint is None or not self.seconds:
            return None
        row: Row | None = connection.execute(
            # Served by tasks_fingerprint, and by the unique index on fingerprint. Results that other settings led to
            # are older than `reuse_after`.
            "SELECT body, tasks.id FROM tasks JOIN results ON results.seq = tasks.seq"
            f" WHERE fingerprint = ?1 AND {_SUCCEEDED} AND finished_at > ?2"
            " AND tasks.seq > (SELECT reuse_after FROM ledger)"
            " UNION ALL SELECT body, task_id FROM answers"
            " WHERE fingerprint = ?1 AND finished_at > ?2 AND task_id <> ?3 LIMIT 1",
            (fingerprint, now - self.seconds, task_id),
        ).fetchone()
        return row

    def keep(self, connection: Connection, seq: int) -> None:
        """Before a delivered task is removed: keep the result that was bought for it, with the highest number."""
        if not self.seconds:
            return
        connection.execute(
            # Served by the keys. Asked for a fingerprint IS NOT NULL, PostgreSQL might walk tasks_fingerprint instead,
            # of which it has not heard yet that it has grown. A provider is written at the first claim: without one
            # the result is itself a reused one.
            "INSERT INTO answers (number, fingerprint, task_id, body, finished_at)"
            " SELECT COALESCE((SELECT MAX(number) FROM answers), 0) + 1, fingerprint, tasks.id, body, finished_at"
            " FROM tasks JOIN results ON results.seq = tasks.seq"
            " WHERE tasks.seq = ? AND CASE WHEN fingerprint IS NULL THEN 0 ELSE 1 END = 1 AND provider IS NOT NULL"
            f" AND {_SUCCEEDED}"
            " AND LENGTH(body) <= ? AND tasks.seq > (SELECT reuse_after FROM ledger)"
            " ON CONFLICT (fingerprint) DO UPDATE SET number = excluded.number, task_id = excluded.task_id,"
            " body = excluded.body, finished_at = excluded.finished_at",
            (seq, MOST_BYTES),
        )
        # Numbers rise by one, so this leaves MOST_ANSWERS at most without counting any.
        connection.execute("DELETE FROM answers WHERE number <= (SELECT MAX(number) FROM answers) - ?", (MOST_ANSWERS,))

    def expire(self, connection: Connection, now: float) -> None:
        """Forget some of the answers that are too old by now."""
        connection.execute(
            "DELETE FROM answers WHERE number IN (SELECT number FROM answers ORDER BY number LIMIT ?)"
            " AND finished_at <= ?",
            (EXPIRED_AT_ONCE, now - self.seconds),
        )


def settle_duplicates(connection: Connection, seqs: Sequence[int], now: float) -> tuple[Reused, ...]:
    """These tasks have their results: so have their duplicates, if they succeeded; else the oldest of those go on."""
    are_these, bound = these(seqs)
    connection.execute(
        "INSERT INTO results (seq, status, body, finished_at)"
        " SELECT tasks.seq, status, body, CAST(? AS DOUBLE PRECISION)"
        f" FROM tasks JOIN results ON results.seq = duplicate_of WHERE {_SUCCEEDED} AND duplicate_of {are_these}",
        (now, *bound),
    )
    rows: list[Row] = connection.execute(
        "SELECT tasks.seq, tasks.id, type, original.id FROM tasks JOIN queues ON queues.id = tasks.queue"
        " JOIN tasks AS original ON original.seq = tasks.duplicate_of JOIN results ON results.seq = tasks.seq"
        f" WHERE tasks.duplicate_of {are_these} ORDER BY tasks.seq",
        bound,
    ).fetchall()
    are_settled, settled = these(row[0] for row in rows)
    connection.execute(f"UPDATE tasks SET {FINISHED}, duplicate_of = NULL WHERE seq {are_settled}", settled)
    hand_on(connection, seqs)
    return tuple(Reused(task_id, type_, original) for _, task_id, type_, original in rows)


def hand_on(connection: Connection, seqs: Sequence[int]) -> None:
    """Nothing more is to be expected of these tasks: the oldest duplicate of each is run, the others wait for it."""
    if not connection.execute(f"SELECT {ANY_DUPLICATES}").get:
        return
    are_these, bound = these(seqs)
    connection.execute(
        "UPDATE tasks SET duplicate_of = NULLIF(heir, seq) FROM (SELECT duplicate_of AS original, MIN(seq) AS heir"
        f" FROM tasks WHERE duplicate_of {are_these} GROUP BY duplicate_of) AS heirs WHERE duplicate_of = original",
        bound,
    )


def forget_answers(connection: Connection, scope: str) -> None:
    """Settings that decide what results look like are now `scope`: if that is new, no earlier result is reused."""
    connection.execute(
        "UPDATE ledger SET reuse_scope = ?1,"
        " reuse_after = COALESCE((SELECT seq FROM sqlite_sequence WHERE name = 'tasks'), 0) WHERE reuse_scope <> ?1",
        (scope,),
    )
    if connection.changes():
        connection.execute("DELETE FROM answers")
