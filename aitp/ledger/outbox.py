"""The way out: finished tasks are taken in small chunks, delivered, and settled one by one; some end as dead letters.

A delivery is claimed like any other work: the row carries the relay's slot, and is free again when that slot's process
is gone. A delivered task leaves a tombstone without content; one that the task API itself refused stays, result and
all, until a person decides (`aitp dead`). Whatever else fails waits, up to an hour at a time, and is never given up.

The task API may answer 500 to a result on every try, because of what is behind it. That looks like an API that is out,
but must neither open its breaker nor keep others waiting (`policy.evidence`): what failed before comes after what
did not, and says nothing of the API once that has done anything else well; and before failures in a row open the
breaker, deliveries wait for a poll, whose answer depends on no result. When the breaker closes, all that waits is due.

Tombstones are there because the pending list lags. A task that is listed again is a real re-run only if the poll began
after the acknowledgement, by the ledger's sequence and not by clocks, *and* the list can no longer be behind it.
"""

from __future__ import annotations

import builtins
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from enum import Enum

from aitp.ledger.breakers import API_SERVICES, BreakerChange, Breakers, Cooldown, cool_down, quiet_until
from aitp.ledger.duplicates import Duplicates
from aitp.ledger.engine import Connection, Database, Row, these
from aitp.ledger.outcomes import let_go
from aitp.ledger.queue import DEAD, FINISHED, LedgerConfig, next_due, next_sequence
from aitp.ledger.stats import DeadLetter, dead_letters, note_error
from aitp.policy.evidence import awaits_poll, is_suspect
from aitp.policy.polling import SHORTEST_PAUSE_SECONDS
from aitp.policy.retry import SPREAD, retry_delay
from aitp.tasks import BreakerState, Health, Service, TaskState, TaskStatus


@dataclass(frozen=True, slots=True)
class Delivery:
    """A finished task in a relay's hands. `result` is the JSON to send, None for a failed one.

    `tries` that failed so far; `conflicts`: those of them that the API answered with 409.
    """

    slot: int
    seq: int
    id: str
    type: str
    status: TaskStatus
    result: bytes | None
    reason: str
    tries: int
    conflicts: int = 0


@dataclass(frozen=True, slots=True)
class Nothing:
    """Nothing to deliver until `until`, UTC seconds (None: until something happens).

    `probe_left`: a probe is due, but `take` was not to begin one.
    """

    until: float | None
    probe_left: bool = False


@dataclass(frozen=True, slots=True)
class Fault:
    """What went wrong with a service that a relay called. `pause`: seconds that it asked to be left alone for (429)."""

    service: str
    health: Health
    reason: str
    pause: float | None = None


class DeliveryOutcome(Enum):
    """How a delivery ended."""

    DELIVERED = "delivered"  # acknowledged
    REFUSED = "refused"  # by the API itself, for good: a dead letter
    CONFLICT = "conflict"  # by the API itself, but it may be a race: again after back-off
    LATER = "later"  # the service's fault: again after back-off
    RETURNED = "returned"  # not sent: again at once, by any relay


@dataclass
class Outbox:
    """Finished tasks on their way to the task API. `draw(low, high)` is the spread of the back-off."""

    database: Database
    breakers: Breakers
    duplicates: Duplicates
    config: LedgerConfig
    draw: Callable[[float, float], float] = random.uniform

    def take(self, slot: int, most: int, *, may_probe: bool = True) -> tuple[Delivery, ...] | Nothing:
        """Claim up to `most` finished tasks, oldest first, but those whose delivery failed before come last.

        One alone, if `may_probe`, as the probe of an open breaker. A slot does one thing at a time: deliveries that it
        had not settled are anyone's again, and may be made twice.
        """
        with self.database.transaction() as connection:
            now = self.database.clock()
            let_go(connection, self.breakers, slot, now)
            gate = self.breakers.gate(connection, API_SERVICES, now)
            if not gate.passes:
                return Nothing(gate.until)
            if (until := quiet_until(connection, now)) is not None:
                return Nothing(until)
            if self._awaits_poll(connection):
                # Of this relay or of another one.
                return Nothing(now + SHORTEST_PAUSE_SECONDS)
            if gate.probe and not may_probe:
                return Nothing(None, probe_left=True)
            rows = _deliverable(connection, now, 1 if gate.probe else most)
            if not rows:
                return Nothing(next_due(connection, TaskState.FINISHED))
            self.breakers.begin_probe(connection, API_SERVICES, slot)
            are_these, seqs = these(row[0] for row in rows)
            connection.execute(f"UPDATE tasks SET slot = ?, due_at = NULL WHERE seq {are_these}", (slot, *seqs))
            return tuple(
                Delivery(slot, seq, task_id, type_, TaskStatus(status), body, reason, tries, conflicts)
                for seq, task_id, type_, status, body, reason, tries, conflicts in rows
            )

    def settle(
        self,
        delivery: Delivery,
        outcome: DeliveryOutcome,
        refusal: str = "",
        fault: Fault | None = None,
        earlier: Sequence[Delivery] = (),
    ) -> BreakerChange | None:
        """Record how a delivery ended, and what it says of the services; return the breaker that moved, if one did.

        `earlier`: those that were delivered just before. Nothing happens to a task that is no longer this slot's.
        """
        with self.database.transaction() as connection:
            now = self.database.clock()
            for each in earlier:
                self._settle(connection, each, DeliveryOutcome.DELIVERED, "", now)
            first = self._judge(connection, delivery.slot, None, Health.HEALTHY, now) if earlier and fault else None
            tasks = delivery.type, [delivery.id]
            if fault is not None:
                note_error(connection, now, fault.service, "not delivered", fault.reason, *tasks)
            elif outcome is DeliveryOutcome.REFUSED:
                note_error(connection, now, Service.API, "dead letter", refusal, *tasks)
            if fault is not None and fault.service == Service.API.value and fault.health is Health.FAULTY:
                # It says nothing of the task API if its result is suspect, or a poll is to tell.
                unwitnessed = connection.execute("SELECT unwitnessed FROM results WHERE seq = ?", (delivery.seq,)).get
                if is_suspect(delivery.tries, not unwitnessed) or self._awaits_poll(connection):
                    fault = replace(fault, health=Health.UNKNOWN)
            self._settle(connection, delivery, outcome, refusal, now)
            said_nothing = outcome is DeliveryOutcome.RETURNED and fault is None
            otherwise = Health.UNKNOWN if said_nothing else Health.HEALTHY
            return self._judge(connection, delivery.slot, fault, otherwise, now) or first

    def _awaits_poll(self, connection: Connection) -> bool:
        """Whether a poll is to come first: none can while the disk is nearly full."""
        return poll_is_awaited(connection, self.config.breaker_threshold) and not self.database.short_of_disk()

    def _settle(
        self, connection: Connection, delivery: Delivery, outcome: DeliveryOutcome, refusal: str, now: float
    ) -> None:
        is_owned = f"SELECT 1 FROM tasks WHERE seq = ? AND slot = ? AND {FINISHED}"
        if not connection.execute(is_owned, (delivery.seq, delivery.slot)).get:
            return
        if outcome is DeliveryOutcome.DELIVERED:
            self.duplicates.keep(connection, delivery.seq)
            bury(connection, delivery.seq, delivery.id, now)
        elif outcome is DeliveryOutcome.REFUSED:
            connection.execute(f"UPDATE tasks SET {DEAD}, slot = NULL WHERE seq = ?", (delivery.seq,))
            connection.execute(
                "UPDATE results SET refusal = ?, refused_at = ? WHERE seq = ?", (refusal, now, delivery.seq)
            )
        elif outcome in (DeliveryOutcome.LATER, DeliveryOutcome.CONFLICT):
            delay = retry_delay(delivery.tries + 1, self.config.backoff_factor, self.draw(*SPREAD))
            connection.execute("UPDATE tasks SET slot = NULL, due_at = ? WHERE seq = ?", (now + delay, delivery.seq))
            connection.execute(
                "UPDATE results SET unwitnessed = CASE WHEN deliveries = 0 THEN 1 ELSE unwitnessed END,"
                " deliveries = deliveries + 1, conflicts = conflicts + ? WHERE seq = ?",
                (int(outcome is DeliveryOutcome.CONFLICT), delivery.seq),
            )
        else:
            # Due now, but still behind those that never failed.
            due_at = now if delivery.tries else None
            connection.execute("UPDATE tasks SET slot = NULL, due_at = ? WHERE seq = ?", (due_at, delivery.seq))

    def judge(self, slot: int, fault: Fault | None) -> BreakerChange | None:
        """What a poll said of the services it needed: None is well."""
        with self.database.transaction() as connection:
            return self._judge(connection, slot, fault, Health.HEALTHY, self.database.clock())

    def _judge(
        self, connection: Connection, slot: int, fault: Fault | None, otherwise: Health, now: float
    ) -> BreakerChange | None:
        """A token comes before the call: where the task API answered or failed, the authorization server was well.

        Of the services behind the one that failed nothing is known; a probe of them ends all the same.
        """
        if fault is None and otherwise is Health.HEALTHY:
            # Served by results_unwitnessed.
            connection.execute("UPDATE results SET unwitnessed = 0 WHERE unwitnessed = 1")
        if fault is not None and fault.pause is not None:
            cool_down(connection, fault.service, Cooldown(fault.pause, None, fault.reason), now)
        change = None
        for service in API_SERVICES:
            if fault is not None and service == fault.service:
                told = self.breakers.tell(connection, service, fault.health, slot, now, fault.reason)
                otherwise = Health.UNKNOWN
            else:
                told = self.breakers.tell(connection, service, otherwise, slot, now)
            change = told or change
        if change is not None:
            self.database.announce("relays")
        if change is not None and change.state == BreakerState.CLOSED:
            # Served by tasks_later. What failed while nothing worked would else wait for up to an hour.
            connection.execute(f"UPDATE tasks SET due_at = ?1 WHERE {FINISHED} AND due_at > ?1", (now,))
        return change


_FOUND = (
    "SELECT tasks.seq, tasks.id, type, status, body, reason, deliveries, conflicts FROM tasks"
    f" JOIN results ON results.seq = tasks.seq JOIN queues ON queues.id = queue WHERE {FINISHED}"
)
# Served by tasks_finished, and by tasks_later.
_FRESH = f"{_FOUND} AND slot IS NULL AND due_at IS NULL ORDER BY slot, tasks.seq LIMIT ?"
_FAILED_BEFORE = f"{_FOUND} AND due_at IS NOT NULL AND due_at <= ? ORDER BY due_at LIMIT ?"


def _deliverable(connection: Connection, now: float, most: int) -> list[Row]:
    """What can be delivered now, in turn."""
    due_at = next_due(connection, TaskState.FINISHED)
    rows: list[Row] = connection.execute(_FRESH, (most,)).fetchall()
    if len(rows) < most and due_at is not None and due_at <= now:
        rows += connection.execute(_FAILED_BEFORE, (now, most - len(rows))).fetchall()
    return rows


# How long the pending list is believed to show a task whose result it has acknowledged.
LISTING_LAG_SECONDS = 30.0


def bury(connection: Connection, seq: int, task_id: str, now: float) -> None:
    """Remove a task that was dealt with, and remember that it was."""
    delete_tasks(connection, [seq])
    connection.execute(
        "INSERT INTO tombstones (id, sequence, delivered_at) VALUES (?, ?, ?)"
        " ON CONFLICT (id) DO UPDATE SET sequence = excluded.sequence, delivered_at = excluded.delivered_at",
        (task_id, next_sequence(connection), now),
    )


def is_stale_news(connection: Connection, task_id: str, began_sequence: int) -> bool:
    """Whether the poll that began at this sequence lists a task only because the list lags. Reads only."""
    stale = connection.execute(
        # The page is as old as the poll's beginning, however long its reading takes. One of another poll than the
        # present one brings no news.
        "SELECT sequence > ?1 OR began_sequence <> ?1 OR began_at < delivered_at + ?2 FROM tombstones, polls"
        " WHERE id = ?3",
        (began_sequence, LISTING_LAG_SECONDS, task_id),
    ).get
    return bool(stale)


def clear_tombstones(connection: Connection, began_sequence: int, now: float) -> None:
    """At the end of the poll that began at `began_sequence`: forget those that no later poll can need."""
    # Served by tombstones_sequence.
    connection.execute(
        "DELETE FROM tombstones WHERE sequence < ? AND delivered_at < ?", (began_sequence, now - LISTING_LAG_SECONDS)
    )


def delete_tasks(connection: Connection, seqs: Sequence[int]) -> None:
    """Remove tasks with all that hangs on them."""
    are_these, bound = these(seqs)
    for table in ("contents", "results", "tasks"):
        connection.execute(f"DELETE FROM {table} WHERE seq {are_these}", bound)


@dataclass
class DeadLetters:
    """What a person may do with refused results."""

    database: Database

    def list(self) -> builtins.list[DeadLetter]:
        """All dead letters, oldest first, without their results."""
        with self.database.reading() as connection:
            return dead_letters(connection)

    def show(self, task_id: str) -> DeadLetter | None:
        """One dead letter with its result; None if there is none of that id."""
        with self.database.reading() as connection:
            found = dead_letters(connection, "AND tasks.id = ?", task_id, body="body")
        return found[0] if found else None

    def retry(self, task_id: str) -> bool:
        """Deliver it once more; False if there is none of that id."""
        with self.database.transaction(durable=True) as connection:
            revived = f"UPDATE tasks SET {FINISHED}, due_at = NULL WHERE id = ? AND {DEAD} RETURNING seq"
            if (seq := connection.execute(revived, (task_id,)).get) is None:
                return False
            connection.execute(
                "UPDATE results SET refusal = NULL, refused_at = NULL, deliveries = 0, conflicts = 0, unwitnessed = 0"
                " WHERE seq = ?",
                (seq,),
            )
            self.database.announce("relays")
            return True

    def drop(self, task_id: str) -> bool:
        """Throw it away, result and all; False if there is none of that id."""
        with self.database.transaction(durable=True) as connection:
            seq = connection.execute(f"SELECT seq FROM tasks WHERE id = ? AND {DEAD}", (task_id,)).get
            if seq is None:
                return False
            # As after a delivery: a lagging list must not bring it back as new at once.
            bury(connection, seq, task_id, self.database.clock())
            return True


def poll_is_awaited(connection: Connection, threshold: int) -> bool:
    """Whether deliveries wait for a poll, which is to tell if the task API or their results are at fault."""
    failures = connection.execute(
        "SELECT failures FROM breakers, ledger WHERE service = ? AND state = ? AND failures > 0 AND paused = 0",
        (Service.API.value, BreakerState.CLOSED),
    ).get
    return failures is not None and awaits_poll(failures, threshold)
