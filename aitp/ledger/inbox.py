"""The way in: polls, one at a time over all processes, and what they bring.

New tasks enter as ready; known ones stay as they are. A task that was never attempted and that two complete pages in
a row no longer list is dropped: somebody else dealt with it. What was delivered stays known for a while as a tombstone,
because the pending list lags behind deliveries. Relays call this.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from aitp.ledger import limits
from aitp.ledger.breakers import API_SERVICES, Breakers, quiet_until
from aitp.ledger.claims import Idle, IdleReason
from aitp.ledger.duplicates import Duplicates, Reused, hand_on
from aitp.ledger.engine import DISK_LOOK_SECONDS, Connection, Database, Row
from aitp.ledger.outbox import clear_tombstones, delete_tasks, is_stale_news, poll_is_awaited
from aitp.ledger.outcomes import let_go
from aitp.ledger.queue import CLAIMABLE, READY, LedgerConfig, next_sequence, prune_queues, queue_id
from aitp.ledger.schema import VERSION
from aitp.ledger.stats import fold_minutes, note_error, note_waiting
from aitp.ledger.worlds import prune_worlds
from aitp.policy.polling import SHORTEST_PAUSE_SECONDS, PollFacts, appetite, next_poll_at, page_limit
from aitp.tasks import Ending, NewTask, Service, TaskState, TaskStatus

PAGES_MISSED = 2


@dataclass(frozen=True, slots=True)
class Malformed:
    """A document that this release cannot work on: it stays pending in the API. `id` is None if it has none."""

    id: str | None
    reason: str


@dataclass(frozen=True, slots=True)
class Admitted:
    """What one part of a page brought: tasks that are new, and ids of malformed documents never seen before.

    `reused`: those of the tasks whose result was there already.
    """

    tasks: int
    left_out: int
    malformed: tuple[Malformed, ...]
    reused: tuple[Reused, ...] = ()


@dataclass(frozen=True, slots=True)
class PollOptions:
    """What the polling decision needs from the settings: seconds, tasks, processes."""

    interval: float
    concurrency: int
    batch_size: int


@dataclass(frozen=True, slots=True)
class Poll:
    """A poll that this slot may now make: ask for `limit` tasks. `began_sequence` orders it among deliveries.

    `longest_page`: the most documents that a page of this server has held.
    """

    slot: int
    began_sequence: int
    began_at: float
    limit: int
    longest_page: int = 0


@dataclass
class Inbox:
    """Polls and admissions. `noted`: the minute that this process has noted last."""

    database: Database
    breakers: Breakers
    duplicates: Duplicates
    config: LedgerConfig
    noted: float = 0.0

    def begin_poll(self, slot: int, options: PollOptions, *, asked: bool = False) -> Poll | Idle:
        """Become the one process that polls, if a poll is due; `asked`: a person wants one now.

        Closed by `end_poll` or `fail_poll`, or by the end of the slot's process. A slot does one thing at a time: a
        poll or delivery that it had not closed is given up.
        """
        with self.database.transaction() as connection:
            now = self.database.clock()
            let_go(connection, self.breakers, slot, now)
            if now // 60 != self.noted and not self.database.short_of_disk():
                # Relays come by all the time, whatever is paused or out; once a minute is enough.
                self.noted = now // 60
                note_waiting(connection, now, _held(connection)[1])
            version, paused, poller = connection.execute("SELECT version, paused, slot FROM ledger, polls").get
            if version > VERSION:
                return Idle(IdleReason.UPGRADE)
            if paused:
                return Idle(IdleReason.PAUSED)
            if self.database.short_of_disk():
                return Idle(IdleReason.DISK, now + DISK_LOOK_SECONDS)
            if poller is not None:
                # Whoever polls knows better when the next one is due, but may be busy delivering by then.
                return Idle(IdleReason.UNDERWAY, now + max(options.interval, SHORTEST_PAUSE_SECONDS))
            gate = self.breakers.gate(connection, API_SERVICES, now)
            if not gate.passes:
                return Idle(IdleReason.BREAKER, gate.until)
            if (until := quiet_until(connection, now)) is not None:
                return Idle(IdleReason.COOLDOWN, until)
            facts = self._facts(connection, options, now, asked=asked)
            # A probe of the task API is due whatever else is: deliveries wait for it.
            due_at = now if gate.probe else next_poll_at(facts)
            if due_at > now:
                return Idle(IdleReason.NOT_DUE, due_at)
            _forget_seen(connection)
            self.breakers.begin_probe(connection, API_SERVICES, slot)
            sequence = next_sequence(connection)
            connection.execute(
                "UPDATE polls SET slot = ?, began_sequence = ?, began_at = ?, regular_at = NULL", (slot, sequence, now)
            )
            # All that may fill a page: what is in the ledger, what was set aside, what the list still shows by its lag.
            held, longest_page, more_there = connection.execute(
                "SELECT (SELECT COUNT(*) FROM tasks) + (SELECT COUNT(*) FROM malformed)"
                " + (SELECT COUNT(*) FROM tombstones), longest_page, more_there FROM polls"
            ).get
            barren = max(0, more_there - 1)
            limit = page_limit(held, facts.ready, facts.appetite, facts.inbox_limit, options.concurrency, barren)
            return Poll(slot, sequence, now, limit, longest_page)

    def _facts(self, connection: Connection, options: PollOptions, now: float, *, asked: bool) -> PollFacts:
        """What the polling decision rests on."""
        full = [use for use in limits.use_of_limits(connection, now).values() if use.remaining == 0]
        began_at, regular_at, failures, more_there, delivered_since = connection.execute(
            # Served by tombstones_sequence.
            "SELECT began_at, regular_at, failures, more_there,"
            " EXISTS (SELECT 1 FROM tombstones WHERE sequence > began_sequence) FROM polls"
        ).get
        ready, waiting = _held(connection)
        rate = limits.completions_since(connection, now - 60.0) / 60.0
        return PollFacts(
            now=now,
            interval=options.interval,
            began_at=began_at,
            regular_at=regular_at,
            failures=failures,
            # What is there can't be taken in while the inbox is full, of duplicates that wait for one another say.
            more_there=bool(more_there) and waiting < self.config.inbox_limit,
            delivered_since=bool(delivered_since),
            ready=ready,
            low_water=options.concurrency * options.batch_size,
            appetite=appetite(rate, options.interval, options.concurrency, options.batch_size),
            inbox_limit=self.config.inbox_limit,
            full=bool(full),
            room_at=limits.until_room(full) if full else None,
            asked=asked,
            awaited=poll_is_awaited(connection, self.config.breaker_threshold),
        )

    def admit(self, poll: Poll, tasks: Iterable[NewTask], malformed: Iterable[Malformed] = ()) -> Admitted:
        """Enter one part of a page, in one transaction: keep parts small, so that claims are not kept waiting."""
        with self.database.transaction() as connection:
            now = self.database.clock()
            _, waiting = _held(connection)
            room = 0 if self.database.short_of_disk() else self.config.inbox_limit - waiting
            entered = left_out = 0
            reused: list[Reused] = []
            for task in tasks:
                connection.execute(_SEEN, (task.id,))
                if connection.execute("SELECT 1 FROM tasks WHERE id = ?", (task.id,)).get or is_stale_news(
                    connection, task.id, poll.began_sequence
                ):
                    continue
                if room <= 0:
                    left_out += 1
                    continue
                reused += self._enter(connection, task, poll, now)
                room -= 1
                entered += 1
            if entered:
                self.database.announce(f"workers {entered}")
            return Admitted(entered, left_out, tuple(_set_aside(connection, malformed)), tuple(reused))

    def _enter(self, connection: Connection, task: NewTask, poll: Poll, now: float) -> list[Reused]:
        """Enter one new task: to be run, to wait for its original, or finished already."""
        answer = self.duplicates.answer(connection, task.fingerprint, task.id, now)
        original = None if answer else self.duplicates.original(connection, task.fingerprint)
        state = TaskState.READY if task.invalid is None and answer is None else TaskState.FINISHED
        queue, size = queue_id(connection, task.queue), len(task.content)
        seq = connection.execute(
            "INSERT INTO tasks (id, queue, state, size, fingerprint, duplicate_of, entered_sequence, entered_at)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?) RETURNING seq",
            (task.id, queue, state, size, task.fingerprint, original, poll.began_sequence, now),
        ).get
        connection.execute("DELETE FROM malformed WHERE id = ?", (task.id,))
        if answer is not None:
            body, of = answer
            connection.execute(_RESULT, (seq, TaskStatus.SUCCEEDED, body, "", now))
            return [Reused(task.id, task.queue.type, of)]
        if task.invalid is None:
            connection.execute("INSERT INTO contents (seq, content) VALUES (?, ?)", (seq, task.content))
        else:
            connection.execute(_RESULT, (seq, TaskStatus.FAILED, None, task.invalid, now))
            note_error(connection, now, Service.API, Ending.FAILED.value, task.invalid, task.queue.type, [task.id])
        return []

    def end_poll(
        self,
        poll: Poll,
        *,
        complete: bool,
        more_there: bool,
        regular_at: float,
        documents: int = 0,
        barren: bool = False,
        problem: str | None = None,
    ) -> int:
        """Close a poll that got its answer; return how many tasks were dropped because the API no longer lists them.

        `complete`: the page held everything pending. `more_there`: tasks were left out, of the page or of the inbox.
        `documents`: how many the page held; `barren`: as many as were asked for, and none of them new. `regular_at`:
        when the next regular poll is due, UTC seconds.
        """
        with self.database.transaction() as connection:
            if not _is_current(connection, poll):
                return 0
            now = self.database.clock()
            # What was missing and is there again was hidden, not gone: the server caps at less than it did.
            longest_page = documents if _found_again(connection) else max(poll.longest_page, documents)
            dropped = _drop_missing(connection, poll) if complete else 0
            _forget_seen(connection)
            clear_tombstones(connection, poll.began_sequence, now)
            connection.execute(
                "UPDATE polls SET slot = NULL, regular_at = ?, succeeded_at = ?, failures = 0, longest_page = ?,"
                " more_there = CASE WHEN ? = 1 THEN more_there + 1 ELSE ? END, problem = ?",
                (regular_at, now, longest_page, int(barren), int(more_there), problem),
            )
            limits.prune_completions(connection, now)
            prune_worlds(connection)
            fold_minutes(connection, now)
            prune_queues(connection)
            self.duplicates.expire(connection, now)
            return dropped

    def fail_poll(self, poll: Poll, problem: str) -> None:
        """Close a poll that got no whole answer; what it brought before stays."""
        with self.database.transaction() as connection:
            if _is_current(connection, poll):
                connection.execute("UPDATE polls SET slot = NULL, failures = failures + 1, problem = ?", (problem,))
                note_error(connection, self.database.clock(), Service.API, "poll failed", problem)
                _forget_seen(connection)


def _is_current(connection: Connection, poll: Poll) -> bool:
    """Whether the poll is still its slot's: not closed, not taken over."""
    owner = connection.execute(
        "SELECT 1 FROM polls WHERE slot = ? AND began_sequence = ?", (poll.slot, poll.began_sequence)
    )
    return owner.get is not None


def _held(connection: Connection) -> tuple[int, int]:
    """Tasks that may be claimed, now or later; and those and their duplicates, which INBOX_LIMIT bounds.

    Counted in tasks_ready, tasks_later and tasks_duplicates: no row is read.
    """
    ready, duplicates = connection.execute(
        f"SELECT (SELECT COUNT(*) FROM tasks WHERE {CLAIMABLE})"
        f" + (SELECT COUNT(*) FROM tasks WHERE due_at IS NOT NULL AND {READY}),"
        " (SELECT COUNT(*) FROM tasks WHERE duplicate_of IS NOT NULL)"
    ).get
    return ready, ready + duplicates


_RESULT = "INSERT INTO results (seq, status, body, reason, finished_at) VALUES (?, ?, ?, ?, ?)"
_SEEN = "INSERT INTO seen (id) VALUES (?) ON CONFLICT (id) DO NOTHING"


def _forget_seen(connection: Connection) -> None:
    # What this poll has listed so far: of use to this process only, so it needs no place in the file.
    connection.execute("CREATE TEMP TABLE IF NOT EXISTS seen (id TEXT PRIMARY KEY)")
    connection.execute("DELETE FROM seen")


def _set_aside(connection: Connection, malformed: Iterable[Malformed]) -> Iterable[Malformed]:
    """Those that were never seen before."""
    for document in malformed:
        if document.id is not None:
            connection.execute(_SEEN, (document.id,))
            connection.execute(
                "INSERT INTO malformed (id, reason) VALUES (?, ?) ON CONFLICT (id) DO NOTHING",
                (document.id, document.reason),
            )
        if document.id is None or connection.changes():
            yield document


# A provider is written at the first claim, so its absence means that the task was never attempted.
_UNTOUCHED = f"{READY} AND provider IS NULL"


def _found_again(connection: Connection) -> bool:
    """Whether the page lists a task that a complete one before it did not. A walk over what is held, once a poll."""
    connection.execute(f"UPDATE tasks SET missed = 0 WHERE missed > 0 AND {_UNTOUCHED} AND id IN (SELECT id FROM seen)")
    return connection.changes() > 0


def _drop_missing(connection: Connection, poll: Poll) -> int:
    """Drop what two complete pages in a row did not list. A walk over what is held, once a poll."""
    connection.execute(
        f"UPDATE tasks SET missed = missed + 1 WHERE {_UNTOUCHED} AND entered_sequence < ?"
        " AND id NOT IN (SELECT id FROM seen)",
        (poll.began_sequence,),
    )
    gone: list[Row] = connection.execute(
        f"SELECT seq FROM tasks WHERE missed >= ? AND {_UNTOUCHED}", (PAGES_MISSED,)
    ).fetchall()
    seqs = [row[0] for row in gone]
    delete_tasks(connection, seqs)
    hand_on(connection, seqs)
    connection.execute("UPDATE malformed SET missed = 0 WHERE missed > 0 AND id IN (SELECT id FROM seen)")
    connection.execute("UPDATE malformed SET missed = missed + 1 WHERE id NOT IN (SELECT id FROM seen)")
    connection.execute("DELETE FROM malformed WHERE missed >= ?", (PAGES_MISSED,))
    return len(gone)
