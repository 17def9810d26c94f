"""Twins: tasks of equal type, model and content, of which only the first is bought.

The task API makes a second task for the same text when the first takes over five minutes. A twin of a task that is
still to be run waits for it (`twin_of`), and is finished with its result; should that task fail or go, the oldest twin
takes its place. A twin of a task that was run lately gets that result at once: from the outbox, or from `answers`,
where a result stays for a while after its delivery. What is bought under other settings (another mode, another
prompt, mock mode) is not reused. Everything runs inside a transaction of the caller's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b

from aitp.ledger.engine import Connection, Row, these
from aitp.tasks import QueueKey

# 26 MB of vectors. Who is listed later than that many others is bought again.
MOST_ANSWERS = 2_000
MOST_BYTES = 65_536  # of one result
EXPIRED_AT_ONCE = 200


def fingerprint(queue: QueueKey, content: bytes) -> bytes:
    """16 bytes (BLAKE2b) that tasks of equal type, model and content share, and no others.

    `content` as its processor wrote it: fields that do not matter are gone, and their order is settled.
    """
    # A space is in no type and no model's name, so no two queues read alike.
    return blake2b(f"{queue.type} {queue.model} ".encode() + content, digest_size=16).digest()


@dataclass(frozen=True, slots=True)
class Reused:
    """A task that got the result of its twin `of`, an id."""

    id: str
    type: str
    of: str


class Duplicates:
    """What is known of equal tasks. `seconds`: how long a result may be reused (0: there are no twins at all)."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    def original(self, connection: Connection, digest: bytes | None) -> int | None:
        """The task that is still to be run, and that tasks of this digest wait for. Served by tasks_digest."""
        if digest is None or not self._seconds:
            return None
        found = connection.execute(
            "SELECT seq FROM tasks WHERE digest = ? AND twin_of IS NULL AND state IN ('ready', 'claimed') LIMIT 1",
            (digest,),
        ).get
        return None if found is None else int(found)

    def answer(self, connection: Connection, digest: bytes | None, task_id: str, now: float) -> Row | None:
        """(body, id of the task it was bought for) of a result that a new task may have; None if there is none.

        Not the one that was bought for this very task: who lists it again wants it to be run again.
        """
        if digest is None or not self._seconds:
            return None
        oldest = now - self._seconds
        row: Row | None = connection.execute(
            # Served by tasks_digest. Results that other settings led to are older than `reuse_after`.
            "SELECT body, tasks.id FROM tasks JOIN results ON results.seq = tasks.seq"
            " WHERE digest = ? AND status = 'succeeded' AND finished_at > ?"
            " AND tasks.seq > (SELECT reuse_after FROM ledger) LIMIT 1",
            (digest, oldest),
        ).fetchone()
        if row is None:
            # Served by the unique index on digest.
            row = connection.execute(
                "SELECT body, task_id FROM answers WHERE digest = ? AND task_id <> ? AND finished_at > ?",
                (digest, task_id, oldest),
            ).fetchone()
        return row

    def keep(self, connection: Connection, seq: int) -> None:
        """Before a delivered task is removed: keep the result that was bought for it."""
        if not self._seconds:
            return
        connection.execute(
            # A provider is written at the first claim: without one the result is itself a reused one.
            "INSERT OR REPLACE INTO answers (digest, task_id, body, finished_at)"
            " SELECT digest, tasks.id, body, finished_at FROM tasks JOIN results ON results.seq = tasks.seq"
            " WHERE tasks.seq = ? AND digest IS NOT NULL AND provider IS NOT NULL AND status = 'succeeded'"
            " AND LENGTH(body) <= ? AND tasks.seq > (SELECT reuse_after FROM ledger)",
            (seq, MOST_BYTES),
        )
        # A replaced row gets a new number. They rise by one, so this leaves MOST_ANSWERS at most without counting any.
        connection.execute("DELETE FROM answers WHERE number <= (SELECT MAX(number) FROM answers) - ?", (MOST_ANSWERS,))

    def expire(self, connection: Connection, now: float) -> None:
        """Forget some of the answers that are too old by now.

        One from the future (the clock was set back) is taken as having been bought now: it is not to be bought again,
        and not to be used for longer than any other either. A walk over MOST_ANSWERS at most.
        """
        connection.execute("UPDATE answers SET finished_at = ?1 WHERE finished_at > ?1", (now,))
        connection.execute(
            "DELETE FROM answers WHERE number IN (SELECT number FROM answers ORDER BY number LIMIT ?)"
            " AND finished_at <= ?",
            (EXPIRED_AT_ONCE, now - self._seconds),
        )


# Whether there are any: the usual case is none. For a select list, served by tasks_twins.
ANY_TWINS = "EXISTS (SELECT 1 FROM tasks WHERE twin_of IS NOT NULL)"


def settle_twins(connection: Connection, seqs: Sequence[int], now: float) -> tuple[Reused, ...]:
    """These tasks have their results: so have their twins, if they succeeded; else the oldest twins go on."""
    are_these, bound = these(seqs)
    connection.execute(
        "INSERT INTO results (seq, status, body, finished_at)"
        " SELECT tasks.seq, status, body, ? FROM tasks JOIN results ON results.seq = twin_of"
        f" WHERE status = 'succeeded' AND twin_of {are_these}",
        (now, *bound),
    )
    rows: list[Row] = connection.execute(
        "SELECT tasks.seq, tasks.id, type, original.id FROM tasks JOIN kinds ON kinds.id = tasks.kind"
        " JOIN tasks AS original ON original.seq = tasks.twin_of JOIN results ON results.seq = tasks.seq"
        f" WHERE tasks.twin_of {are_these} ORDER BY tasks.seq",
        bound,
    ).fetchall()
    are_settled, settled = these(row[0] for row in rows)
    connection.execute(f"UPDATE tasks SET state = 'finished', twin_of = NULL WHERE seq {are_settled}", settled)
    hand_on(connection, seqs)
    return tuple(Reused(task_id, type_, original) for _, task_id, type_, original in rows)


def hand_on(connection: Connection, seqs: Sequence[int]) -> None:
    """Nothing more is to be expected of these tasks: of each one's twins the oldest is run, the others wait for it."""
    if not connection.execute(f"SELECT {ANY_TWINS}").get:
        return
    are_these, bound = these(seqs)
    heirs: list[Row] = connection.execute(
        f"SELECT twin_of, MIN(seq) FROM tasks WHERE twin_of {are_these} GROUP BY twin_of", bound
    ).fetchall()
    for original, oldest in heirs:
        connection.execute("UPDATE tasks SET twin_of = NULL WHERE seq = ?", (oldest,))
        connection.execute("UPDATE tasks SET twin_of = ? WHERE twin_of = ?", (oldest, original))


def forget_answers(connection: Connection, scope: str) -> None:
    """Settings that decide what results look like are now `scope`: if that is new, no earlier result is reused."""
    changed = connection.execute(
        "UPDATE ledger SET reuse_scope = ?1,"
        " reuse_after = COALESCE((SELECT seq FROM sqlite_sequence WHERE name = 'tasks'), 0)"
        " WHERE reuse_scope <> ?1 RETURNING 1",
        (scope,),
    ).fetchall()
    if changed:
        connection.execute("DELETE FROM answers")
