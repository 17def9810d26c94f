"""Dead letters: results that the task API itself refused for good, kept with the reason until a person decides.

`aitp dead list|show|retry|drop` calls this.
"""

from __future__ import annotations

import builtins
from dataclasses import dataclass
from pathlib import Path

from aitp.ledger.database import Database, Row, as_ledger_error
from aitp.ledger.tombstones import bury
from aitp.ledger.views import reading
from aitp.tasks import TaskStatus


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A result that the task API refused for good. Instants are UTC seconds."""

    id: str
    type: str
    model: str
    status: TaskStatus
    refusal: str
    refused_at: float
    finished_at: float
    result: bytes | None


class DeadLetters:
    """What a person may do with refused results."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def list(self) -> builtins.list[DeadLetter]:
        """All dead letters, oldest first, without their results."""
        return self._read("", (), "NULL")

    def show(self, task_id: str) -> DeadLetter | None:
        """One dead letter with its result; None if there is none of that id."""
        found = self._read(" AND tasks.id = ?", (task_id,), "body")
        return found[0] if found else None

    def retry(self, task_id: str) -> bool:
        """Deliver it once more; False if there is none of that id."""
        with self._database.transaction() as connection:
            seq = connection.execute("SELECT seq FROM tasks WHERE id = ? AND state = 'dead'", (task_id,)).get
            if seq is None:
                return False
            connection.execute("UPDATE tasks SET state = 'finished', due_at = NULL WHERE seq = ?", (seq,))
            connection.execute(
                "UPDATE results SET refusal = NULL, refused_at = NULL, deliveries = 0, conflicts = 0, unwitnessed = 0"
                " WHERE seq = ?",
                (seq,),
            )
            return True

    def drop(self, task_id: str) -> bool:
        """Throw it away, result and all; False if there is none of that id."""
        with self._database.transaction(durable=True) as connection:
            seq = connection.execute("SELECT seq FROM tasks WHERE id = ? AND state = 'dead'", (task_id,)).get
            if seq is None:
                return False
            # As after a delivery: a lagging list must not bring it back as new at once.
            now, uptime = self._database.clock(), self._database.uptime()
            bury(connection, int(seq), task_id, self._database.next_sequence(), now, uptime)
            return True

    def _read(self, condition: str, bindings: tuple[str, ...], body: str) -> builtins.list[DeadLetter]:
        with as_ledger_error(self._database.path):
            # A walk over what is held: asked by a person, now and then.
            rows: list[Row] = self._database.connection.execute(
                "SELECT tasks.id, type, model, status, COALESCE(refusal, ''), COALESCE(refused_at, 0), finished_at,"
                f" {body} FROM tasks JOIN results ON results.seq = tasks.seq JOIN kinds ON kinds.id = kind"
                f" WHERE state = 'dead'{condition} ORDER BY tasks.seq",
                bindings,
            ).fetchall()
        return [
            DeadLetter(task_id, type_, model, TaskStatus(status), refusal, refused_at, finished_at, result)
            for task_id, type_, model, status, refusal, refused_at, finished_at, result in rows
        ]


def dead_letter_ids(path: Path, beginning: str, most: int) -> builtins.list[str]:
    """Ids of dead letters of the ledger at `path` that begin so, for a shell to complete. Reads only; LedgerError."""
    with reading(path) as (connection, _):
        rows: builtins.list[Row] = connection.execute(
            "SELECT id FROM tasks WHERE state = 'dead' AND SUBSTR(id, 1, LENGTH(?1)) = ?1 ORDER BY id LIMIT ?2",
            (beginning, most),
        ).fetchall()
    return [str(task_id) for (task_id,) in rows]
