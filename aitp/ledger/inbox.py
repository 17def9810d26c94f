"""The way in: polls, one at a time over all processes, and what they bring.

New tasks enter as ready; known ones stay as they are. A task that was never attempted and that two complete pages in
a row no longer list is dropped: somebody else dealt with it. What was delivered stays known for a while as a tombstone,
because the pending list lags behind deliveries.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import apsw

from aitp.ledger.breakers import Breakers
from aitp.ledger.database import Database
from aitp.ledger.limits import Limits, use_of_limits
from aitp.policy.polling import PollFacts, appetite, next_poll_at, page_limit
from aitp.tasks import Kind, NewTask, Service, TaskStatus

# How long the pending list is believed to show a task that was delivered: longer, and the listing is a real re-run.
LISTING_LAG_SECONDS = 30.0
PAGES_MISSED = 2
MOST_KINDS = 200
POLL_SERVICES = (Service.OAUTH.value, Service.API.value)


@dataclass(frozen=True, slots=True)
class PollTerms:
    """What the polling decision needs from the settings: seconds, tasks, processes."""

    interval: float
    concurrency: int
    batch_size: int


@dataclass(frozen=True, slots=True)
class Poll:
    """A poll that this slot may now make: ask for `limit` tasks. `began_sequence` orders it among deliveries."""

    slot: int
    began_sequence: int
    began_at: float
    limit: int


@dataclass(frozen=True, slots=True)
class NotYet:
    """No poll now; the next is due at `until` (None: when something else happens first)."""

    until: float | None


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A document that this release cannot work on: it stays pending in the API. `id` is None if even that is missing."""

    id: str | None
    reason: str


@dataclass(frozen=True, slots=True)
class Admitted:
    """What one part of a page brought: tasks that are new, and ids of unreadable documents never seen before."""

    tasks: int
    left_out: int
    unreadable: tuple[Unreadable, ...]


class Inbox:
    """Polls and admissions. `inbox_limit`: the most ready tasks that are kept."""

    def __init__(self, database: Database, breakers: Breakers, limits: Limits, inbox_limit: int) -> None:
        self._database = database
        self._breakers = breakers
        self._limits = limits
        self._inbox_limit = inbox_limit

    def begin_poll(self, slot: int, terms: PollTerms, *, asked: bool = False) -> Poll | NotYet:
        """Become the one process that polls, if a poll is due; `asked`: a person wants one now."""
        with self._database.transaction() as connection:
            now = self._database.clock()
            busy, paused = connection.execute("SELECT polls.slot, ledger.paused FROM polls, ledger").get
            if busy is not None or paused:
                return NotYet(None)
            gate = self._breakers.gate(connection, POLL_SERVICES, now)
            if not gate.passes:
                return NotYet(gate.until)
            facts = self._facts(connection, terms, now, asked)
            due_at = now if gate.probe else next_poll_at(facts)
            if due_at > now:
                return NotYet(due_at)
            self._breakers.begin_probe(connection, POLL_SERVICES, slot)
            began_sequence = self._database.next_sequence()
            connection.execute(
                "UPDATE polls SET slot = ?, began_sequence = ?, began_at = ?, regular_at = NULL",
                (slot, began_sequence, now),
            )
            held = int(
                connection.execute("SELECT (SELECT COUNT(*) FROM tasks) + (SELECT COUNT(*) FROM unreadable)").get
            )
            limit = page_limit(held, facts.ready, facts.appetite, self._inbox_limit, terms.concurrency)
        self._forget_seen()
        return Poll(slot, began_sequence, now, limit)

    def _facts(self, connection: apsw.Connection, terms: PollTerms, now: float, asked: bool) -> PollFacts:
        began_at, regular_at, failures, more_there, delivered_since = connection.execute(
            "SELECT began_at, regular_at, failures, more_there,"
            " EXISTS (SELECT 1 FROM tombstones WHERE sequence > began_sequence) FROM polls"
        ).get
        recent = connection.execute(
            # By index: the ids of the last minute are contiguous.
            "SELECT (SELECT MAX(id) FROM task_completions) - id + 1 FROM task_completions"
            " WHERE completed_at > ? ORDER BY completed_at, id LIMIT 1",
            (now - 60.0,),
        ).get
        full = [use for use in use_of_limits(connection, now).values() if use.remaining == 0]
        ready = int(connection.execute("SELECT COUNT(*) FROM tasks WHERE state = 'ready'").get)
        return PollFacts(
            now=now,
            interval=terms.interval,
            began_at=began_at,
            regular_at=regular_at,
            failures=failures,
            more_there=bool(more_there),
            delivered_since=bool(delivered_since),
            ready=ready,
            low_water=terms.concurrency * terms.batch_size,
            appetite=appetite((recent or 0) / 60.0, terms.interval, terms.concurrency, terms.batch_size),
            inbox_limit=self._inbox_limit,
            room_at=max((use.frees_at or now for use in full), default=None),
            asked=asked,
        )

    def admit(self, poll: Poll, tasks: Iterable[NewTask], unreadable: Iterable[Unreadable] = ()) -> Admitted:
        """Enter one part of a page, in one transaction: keep parts small, so that claims are not kept waiting."""
        with self._database.transaction() as connection:
            now = self._database.clock()
            room = self._inbox_limit - int(connection.execute("SELECT COUNT(*) FROM tasks WHERE state = 'ready'").get)
            entered = left_out = 0
            for task in tasks:
                connection.execute("INSERT OR IGNORE INTO temp.seen (id) VALUES (?)", (task.id,))
                if self._is_known(connection, task.id, poll, now):
                    continue
                if room <= 0:
                    left_out += 1
                    continue
                self._enter(connection, task, poll, now)
                room -= 1
                entered += 1
            return Admitted(entered, left_out, tuple(self._set_aside(connection, unreadable)))

    def _is_known(self, connection: apsw.Connection, task_id: str, poll: Poll, now: float) -> bool:
        if connection.execute("SELECT 1 FROM tasks WHERE id = ?", (task_id,)).get is not None:
            return True
        row = connection.execute("SELECT sequence, delivered_at FROM tombstones WHERE id = ?", (task_id,)).get
        if row is None:
            return False
        delivered_sequence, delivered_at = row
        stale = poll.began_sequence < delivered_sequence or now < min(delivered_at, now) + LISTING_LAG_SECONDS
        if not stale:
            connection.execute("DELETE FROM tombstones WHERE id = ?", (task_id,))
        return bool(stale)

    def _enter(self, connection: apsw.Connection, task: NewTask, poll: Poll, now: float) -> None:
        state = "ready" if task.invalid is None else "finished"
        seq = connection.execute(
            "INSERT INTO tasks (id, kind, state, entered_sequence, entered_at) VALUES (?, ?, ?, ?, ?) RETURNING seq",
            (task.id, kind_id(connection, task.kind), state, poll.began_sequence, now),
        ).get
        connection.execute("DELETE FROM unreadable WHERE id = ?", (task.id,))
        if task.invalid is None:
            connection.execute("INSERT INTO contents (seq, content) VALUES (?, ?)", (seq, task.content))
        else:
            connection.execute(
                "INSERT INTO results (seq, status, reason, finished_at) VALUES (?, ?, ?, ?)",
                (seq, TaskStatus.FAILED.value, task.invalid, now),
            )

    def _set_aside(self, connection: apsw.Connection, unreadable: Iterable[Unreadable]) -> Iterable[Unreadable]:
        for document in unreadable:
            if document.id is None:
                yield document
                continue
            connection.execute("INSERT OR IGNORE INTO temp.seen (id) VALUES (?)", (document.id,))
            new = connection.execute(
                "INSERT INTO unreadable (id, reason) VALUES (?, ?) ON CONFLICT DO NOTHING RETURNING 1",
                (document.id, document.reason),
            ).fetchall()
            if new:
                yield document

    def end_poll(
        self, poll: Poll, *, complete: bool, more_there: bool, regular_at: float, problem: str | None = None
    ) -> int:
        """Close a poll that got its answer; return how many tasks were dropped because the API no longer lists them.

        `complete`: the page held everything pending. `more_there`: tasks were left out, of the page or of the inbox.
        `regular_at`: when the next regular poll is due, UTC seconds.
        """
        with self._database.transaction() as connection:
            now = self._database.clock()
            dropped = self._drop_missing(connection, poll) if complete else 0
            connection.execute(
                # Stale news are told apart by these: a later poll begins after, and its answer is no older than the lag.
                "DELETE FROM tombstones WHERE sequence < ? AND delivered_at < ?",
                (poll.began_sequence, now - LISTING_LAG_SECONDS),
            )
            connection.execute("UPDATE tombstones SET delivered_at = ?1 WHERE delivered_at > ?1", (now,))
            connection.execute(
                "UPDATE polls SET slot = NULL, regular_at = ?, succeeded_at = ?, failures = 0, more_there = ?, problem = ?",
                (regular_at, now, more_there, problem),
            )
            self._limits.prune(connection, now)
            _prune_kinds(connection)
        self._forget_seen()
        return dropped

    def fail_poll(self, poll: Poll, problem: str) -> None:
        """Close a poll that got no whole answer; what it brought before stays."""
        with self._database.transaction() as connection:
            connection.execute(
                "UPDATE polls SET slot = NULL, failures = failures + 1, problem = ? WHERE slot = ?",
                (problem, poll.slot),
            )
        self._forget_seen()

    def _drop_missing(self, connection: apsw.Connection, poll: Poll) -> int:
        untouched = "state = 'ready' AND attempts = 0 AND crashes = 0"
        connection.execute(
            f"UPDATE tasks SET missed = 0 WHERE missed > 0 AND {untouched} AND id IN (SELECT id FROM temp.seen)"
        )
        connection.execute(
            f"UPDATE tasks SET missed = missed + 1 WHERE {untouched} AND entered_sequence < ?"
            " AND id NOT IN (SELECT id FROM temp.seen)",
            (poll.began_sequence,),
        )
        gone = [
            row[0]
            for row in connection.execute(f"SELECT seq FROM tasks WHERE missed >= ? AND {untouched}", (PAGES_MISSED,))
        ]
        delete_tasks(connection, gone)
        connection.execute("UPDATE unreadable SET missed = 0 WHERE missed > 0 AND id IN (SELECT id FROM temp.seen)")
        connection.execute("UPDATE unreadable SET missed = missed + 1 WHERE id NOT IN (SELECT id FROM temp.seen)")
        connection.execute("DELETE FROM unreadable WHERE missed >= ?", (PAGES_MISSED,))
        return len(gone)

    def _forget_seen(self) -> None:
        connection = self._database.connection
        connection.execute("CREATE TEMP TABLE IF NOT EXISTS seen (id TEXT PRIMARY KEY) STRICT, WITHOUT ROWID")
        connection.execute("DELETE FROM temp.seen")


def kind_id(connection: apsw.Connection, kind: Kind) -> int:
    """The row of a kind, made if need be."""
    found = connection.execute("SELECT id FROM kinds WHERE type = ? AND model = ?", (kind.type, kind.model)).get
    if found is None:
        found = connection.execute(
            "INSERT INTO kinds (type, model) VALUES (?, ?) RETURNING id", (kind.type, kind.model)
        ).get
    return int(found)


def delete_tasks(connection: apsw.Connection, seqs: Sequence[int]) -> None:
    """Remove tasks with all that hangs on them."""
    for table in ("contents", "results", "tasks"):
        connection.executemany(f"DELETE FROM {table} WHERE seq = ?", [(seq,) for seq in seqs])


def _prune_kinds(connection: apsw.Connection) -> None:
    # Models are named by the API's users: without this, the table would grow by every misspelt one.
    if int(connection.execute("SELECT COUNT(*) FROM kinds").get) > MOST_KINDS:
        connection.execute("DELETE FROM kinds WHERE id NOT IN (SELECT kind FROM tasks)")
