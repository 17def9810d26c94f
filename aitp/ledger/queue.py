"""What all parts of the queue share: the configuration, the queue keys, and what is due when.

`due_at` is NULL for "now", so that what can be claimed now is exactly one partial index (see schema.py); whoever claims
first promotes what has become due. Deliveries keep their due time: those that failed come after all others. Everything
runs inside a transaction of the caller's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple, Self

from aitp.ledger.engine import Connection
from aitp.tasks import QueueKey, TaskState

if TYPE_CHECKING:
    from aitp.settings import Settings


class LedgerConfig(NamedTuple):
    """Counts, and seconds for `breaker_recovery` and `reuse_seconds`; defaults are the settings' defaults."""

    max_retries: int = 3
    backoff_factor: float = 2.0
    max_crashes: int = 3
    breaker_threshold: int = 5
    breaker_recovery: float = 60.0
    inbox_limit: int = 5_000
    reuse_seconds: float = 86_400.0

    @classmethod
    def of(cls, settings: Settings) -> Self:
        return cls(
            max_retries=settings.max_retries,
            backoff_factor=settings.retry_backoff_factor,
            max_crashes=settings.max_task_crashes,
            breaker_threshold=settings.circuit_breaker_threshold,
            breaker_recovery=settings.circuit_breaker_recovery_seconds,
            inbox_limit=settings.inbox_limit,
            reuse_seconds=settings.result_reuse_seconds,
        )


MOST_QUEUES = 200


def queue_id(connection: Connection, queue: QueueKey) -> int:
    """The row of a queue, made if need be."""
    facts = (queue.type, queue.model, queue.failed_at)
    found = connection.execute("SELECT id FROM queues WHERE type = ? AND model = ? AND failed_at = ?", facts).get
    if found is None:
        found = connection.execute(
            "INSERT INTO queues (type, model, failed_at) VALUES (?, ?, ?) RETURNING id", facts
        ).get
    return int(found)


def next_sequence(connection: Connection) -> int:
    """Move the clock by which polls and deliveries are ordered on by one."""
    return int(connection.execute("UPDATE ledger SET sequence = sequence + 1 RETURNING sequence").get)


def prune_queues(connection: Connection) -> None:
    """Forget queues without tasks: models are named by the API's users, and each misspelt one is a queue."""
    if int(connection.execute("SELECT COUNT(*) FROM queues").get) > MOST_QUEUES:
        connection.execute("DELETE FROM queues WHERE id NOT IN (SELECT queue FROM tasks)")


# States by name, as conditions and as assignments alike.
READY, CLAIMED, FINISHED, DEAD = (f"state = '{state}'" for state in TaskState)
Waiting = Literal[TaskState.READY, TaskState.FINISHED]

# What a worker may claim: exactly the rows in tasks_ready. A duplicate is ready as well, but waits for its original.
CLAIMABLE = f"{READY} AND due_at IS NULL AND duplicate_of IS NULL"

# When the next row of a state is due, NULL if none waits for its time; for a select list. One search in tasks_later.
_NEXT_DUE = "(SELECT MIN(due_at) FROM tasks WHERE due_at IS NOT NULL AND state = {})"
NEXT_READY = _NEXT_DUE.format(f"'{TaskState.READY}'")
_NEXT_OF_STATE = f"SELECT {_NEXT_DUE.format('?')}"


def promote_due(connection: Connection, now: float) -> None:
    """Tasks whose time has come may be claimed now. Searches in tasks_later.

    Usually none waits, and to ask `next_due` first is cheaper than an update of nothing.
    """
    connection.execute(f"UPDATE tasks SET due_at = NULL WHERE due_at IS NOT NULL AND {READY} AND due_at <= ?", (now,))


def next_due(connection: Connection, state: Waiting) -> float | None:
    """When the next row of `state` is due."""
    due_at = connection.execute(_NEXT_OF_STATE, (state,)).get
    return None if due_at is None else float(due_at)
