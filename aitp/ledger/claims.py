"""The middle: claim, finish, release. Where the promises "bought once" and "within every limit" are kept.

A claim is one transaction: breakers and cooldowns permit, the limits have room, the fairest kind goes first, the
slot is written. A finish is one transaction, on disk before it returns: the result is stored (which is the outbox), the
attempt is counted, the claim is gone, the breaker is told. A kill between any two instructions loses nothing and buys
again only the call in flight.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum, StrEnum

import apsw

from aitp.ledger.breakers import BreakerChange, Breakers, cool_down, cooling_until
from aitp.ledger.database import Database
from aitp.ledger.limits import Exceeded, Limits, restamp
from aitp.ledger.rules import Rules
from aitp.policy.backoff import MAX_RETRY_DELAY_SECONDS, SPREAD, is_blamed, retry_delay
from aitp.policy.batching import fair_share
from aitp.tasks import Ending, Health, Kind, Outcome, Task, TaskStatus

DISK_RESERVE_BYTES = 64 * 2**20
DISK_LOOK_SECONDS = 5.0

BUGS_IN_A_ROW = 5
PROCESSOR_PAUSE_SECONDS = 3_600.0

# A due time further away was set before the clock stepped back.
FURTHEST_DUE_SECONDS = MAX_RETRY_DELAY_SECONDS * SPREAD[1]


class Because(StrEnum):
    """Why there is nothing to claim."""

    NOTHING_READY = "nothing ready"
    LIMIT = "limit"
    BREAKER = "breaker"
    COOLDOWN = "cooldown"
    DISK = "disk"
    PAUSED = "paused"
    PROCESSOR = "processor"


class Cause(Enum):
    """What ended the process that held a slot before."""

    CRASHED = "crashed"  # it died by itself
    DEADLINE = "deadline"  # the master killed it for overrunning a deadline
    STOPPED = "stopped"  # all else: told to leave, killed at the grace's end, gone with its master


@dataclass(frozen=True, slots=True)
class Terms:
    """What a claim needs from the settings. `provider` names the provider of a kind, `batch_size` its tasks in one call."""

    workers: int
    provider: Callable[[Kind], str]
    batch_size: Callable[[Kind], int]


@dataclass(frozen=True, slots=True)
class Claim:
    """Tasks of one kind that `slot` owns, for one call to `provider`. `more`: others could be claimed as well."""

    slot: int
    provider: str
    kind: Kind
    tasks: tuple[Task, ...]
    probe: bool
    more: bool


@dataclass(frozen=True, slots=True)
class Idle:
    """Nothing to claim until `until`, UTC seconds (None: until something happens). `exceeded`: to be warned about."""

    because: Because
    until: float | None = None
    exceeded: tuple[Exceeded, ...] = ()
    service: str = ""


@dataclass(frozen=True, slots=True)
class Cooldown:
    """A pause that the provider asked for. `model` is None if all of its models must pause."""

    seconds: float
    model: str | None
    reason: str


@dataclass(frozen=True, slots=True)
class Report:
    """How a claim's call ended: an outcome for each task, and what the call says of its provider."""

    outcomes: Sequence[Outcome]
    health: Health
    reason: str = ""
    cooldown: Cooldown | None = None


@dataclass(frozen=True, slots=True)
class Settled:
    """What a finish or a release made of the tasks: blame and poison decided. `paused_processor`: its bugs just paused it."""

    outcomes: tuple[Outcome, ...]
    breaker: BreakerChange | None = None
    retry_at: float | None = None
    paused_processor: str | None = None


class Claims:
    """Claims of the workers. `draw(low, high)` is the spread of the back-off."""

    def __init__(
        self,
        database: Database,
        breakers: Breakers,
        limits: Limits,
        rules: Rules,
        draw: Callable[[float, float], float] = random.uniform,
    ) -> None:
        self._database = database
        self._breakers = breakers
        self._limits = limits
        self._rules = rules
        self._draw = draw

    def claim(self, slot: int, terms: Terms) -> Claim | Idle:
        """Take tasks of the fairest kind that may be sent now, as many as are this slot's share."""
        with self._database.transaction() as connection:
            now = self._database.clock()
            if connection.execute("SELECT paused FROM ledger").get:
                return Idle(Because.PAUSED)
            if self._database.free_bytes() < DISK_RESERVE_BYTES:
                return Idle(Because.DISK, now + DISK_LOOK_SECONDS)
            promote_due(connection, "ready", now)
            kinds = _kinds_by_fairness(connection)
            if not kinds:
                return Idle(Because.NOTHING_READY, next_due(connection, "ready"))
            restamp(connection, now)
            room = self._limits.room(connection, now)
            if room.count == 0:
                return Idle(Because.LIMIT, room.frees_at, room.exceeded)
            idle = Idle(Because.NOTHING_READY, next_due(connection, "ready"))
            for number, kind in kinds:
                provider = terms.provider(kind)
                gate = self._breakers.gate(connection, (provider,), now)
                if not gate.passes:
                    idle = _sooner(idle, Idle(Because.BREAKER, gate.until, service=provider))
                    continue
                cooling = cooling_until(connection, provider, kind.model, now)
                if cooling is not None:
                    idle = _sooner(idle, Idle(Because.COOLDOWN, cooling, service=provider))
                    continue
                paused_until = processor_paused_until(connection, kind.type, now)
                if paused_until is not None:
                    idle = _sooner(idle, Idle(Because.PROCESSOR, paused_until))
                    continue
                rows, more = _choose(connection, number, gate.probe, room.count, terms.workers, terms.batch_size(kind))
                if gate.probe:
                    self._breakers.begin_probe(connection, (provider,), slot)
                connection.executemany(
                    "UPDATE tasks SET state = 'claimed', slot = ?, provider = ?, missed = 0 WHERE seq = ?",
                    [(slot, provider, row[0]) for row in rows],
                )
                tasks = tuple(
                    Task(seq, task_id, kind, content, attempts, crashes)
                    for seq, task_id, content, attempts, crashes in rows
                )
                return Claim(slot, provider, kind, tasks, gate.probe, more or len(kinds) > 1)
            return idle

    def finish(self, claim: Claim, report: Report) -> Settled:
        """Record how a claim's call ended, for all or some of its tasks; on disk when this returns.

        Raises LedgerError, with nothing recorded: keep the report and try again, its answers are paid for.
        """
        with self._database.transaction(durable=True) as connection:
            now = self._database.clock()
            sequence = self._database.next_sequence()
            owned = [outcome for outcome in report.outcomes if _is_owned(connection, outcome.task, claim.slot)]
            change = self._breakers.tell(connection, claim.provider, report.health, claim.slot, now, report.reason)
            if report.cooldown is not None:
                cool_down(
                    connection,
                    claim.provider,
                    report.cooldown.model,
                    report.cooldown.seconds,
                    now,
                    report.cooldown.reason,
                )
            sent = [outcome.task for outcome in owned if outcome.ending is not Ending.UNSENT]
            self._limits.count(connection, sent, now)
            if any(outcome.ending is Ending.SUCCEEDED for outcome in owned):
                connection.execute(
                    "UPDATE breakers SET last_success_sequence = ? WHERE service = ?", (sequence, claim.provider)
                )
            settled = self._settle(connection, owned, claim.provider, now, sequence)
            paused = _count_bugs(connection, owned, now)
            if change is not None and change.state == "open":
                _forgive(connection, claim.provider)
            return Settled(settled.outcomes, change, settled.retry_at, paused)

    def release(self, slot: int, cause: Cause) -> Settled:
        """Free all that a slot's former process owned. The caller holds the slot's lock, so that process is gone.

        Its claimed tasks count as sent: nobody can tell whether they were.
        """
        with self._database.transaction(durable=True) as connection:
            now = self._database.clock()
            sequence = self._database.next_sequence()
            self._breakers.release(connection, slot)
            connection.execute("UPDATE polls SET slot = NULL WHERE slot = ?", (slot,))
            connection.execute("UPDATE tasks SET slot = NULL WHERE slot = ? AND state = 'finished'", (slot,))
            rows = connection.execute(
                "SELECT seq, tasks.id, type, model, attempts, crashes, provider FROM tasks"
                " JOIN kinds ON kinds.id = kind WHERE slot = ? AND state = 'claimed' ORDER BY seq",
                (slot,),
            ).fetchall()
            tasks = [
                Task(seq, task_id, Kind(a, b), b"", tries, crashes) for seq, task_id, a, b, tries, crashes, _ in rows
            ]
            self._limits.count(connection, tasks, now)
            outcomes = [self._outcome_of_death(connection, task, cause) for task in tasks]
            provider = rows[0][6] if rows else ""
            return self._settle(connection, outcomes, provider, now, sequence)

    @staticmethod
    def resume_processors(database: Database) -> None:
        """A new release or new settings may have mended the bug: let paused processors try again."""
        with database.transaction() as connection:
            connection.execute("DELETE FROM processors")

    def _outcome_of_death(self, connection: apsw.Connection, task: Task, cause: Cause) -> Outcome:
        if cause is Cause.STOPPED:
            return Outcome(task, Ending.ABANDONED, reason="the process that ran it was stopped")
        if cause is Cause.DEADLINE:
            return Outcome(task, Ending.RETRY, reason="the process that ran it overran its deadline and was killed")
        crashes = task.crashes + 1
        # Alone from now on: if it is this task that kills processes, it is to take no other with it.
        connection.execute("UPDATE tasks SET crashes = ?, batch_limit = 1 WHERE seq = ?", (crashes, task.seq))
        if crashes >= self._rules.max_crashes:
            return Outcome(task, Ending.FAILED, reason=f"poison: {crashes} processes died while they ran it")
        return Outcome(task, Ending.ABANDONED, reason="the process that ran it crashed")

    def _settle(
        self, connection: apsw.Connection, outcomes: Sequence[Outcome], provider: str, now: float, sequence: int
    ) -> Settled:
        """Write each outcome's state. One draw of the back-off for all, so that a batch stays together."""
        spread = self._draw(*SPREAD)
        settled, retry_at = [], None
        for outcome in outcomes:
            outcome = self._blame(connection, outcome, provider, sequence)
            task = outcome.task
            if outcome.ending in (Ending.SUCCEEDED, Ending.FAILED, Ending.BUG):
                _store_result(connection, outcome, now)
            elif outcome.ending is Ending.RETRY:
                retry_at = now + retry_delay(task.attempts + 1, self._rules.backoff_factor, spread)
                connection.execute(
                    "UPDATE tasks SET state = 'ready', slot = NULL, due_at = ?, attempts = attempts + 1,"
                    " first_failure_sequence = COALESCE(first_failure_sequence, ?) WHERE seq = ?",
                    (retry_at, sequence, task.seq),
                )
            else:
                limit = max(1, len(outcomes) // 2) if outcome.ending is Ending.SPLIT else None
                connection.execute(
                    "UPDATE tasks SET state = 'ready', slot = NULL, due_at = NULL,"
                    " batch_limit = COALESCE(?, batch_limit) WHERE seq = ?",
                    (limit, task.seq),
                )
            settled.append(outcome)
        return Settled(tuple(settled), retry_at=retry_at)

    def _blame(self, connection: apsw.Connection, outcome: Outcome, provider: str, sequence: int) -> Outcome:
        if outcome.ending is not Ending.RETRY:
            return outcome
        first_failure = connection.execute(
            "SELECT COALESCE(first_failure_sequence, ?) FROM tasks WHERE seq = ?", (sequence, outcome.task.seq)
        ).get
        last_success = connection.execute(
            "SELECT last_success_sequence FROM breakers WHERE service = ?", (provider,)
        ).get
        tries = outcome.task.attempts + 1
        if not is_blamed(tries, self._rules.max_retries, first_failure, last_success or 0):
            return outcome
        return Outcome(outcome.task, Ending.FAILED, reason=f"failed {tries} times, last: {outcome.reason}")


def _kinds_by_fairness(connection: apsw.Connection) -> list[tuple[int, Kind]]:
    """Kinds with a task that is ready now: fewest claimed tasks first, then the oldest task.

    Walks tasks_ready from kind to kind, so that it costs as much as there are kinds, not tasks.
    """
    rows = connection.execute(
        """
        WITH RECURSIVE waiting (kind) AS (
            SELECT MIN(kind) FROM tasks WHERE state = 'ready' AND due_at IS NULL
            UNION ALL
            SELECT (SELECT MIN(kind) FROM tasks WHERE state = 'ready' AND due_at IS NULL AND kind > waiting.kind)
            FROM waiting WHERE waiting.kind IS NOT NULL
        )
        SELECT kinds.id, type, model
        FROM waiting JOIN kinds ON kinds.id = waiting.kind
        ORDER BY (SELECT COUNT(*) FROM tasks WHERE state = 'claimed' AND kind = kinds.id),
                 (SELECT MIN(seq) FROM tasks WHERE state = 'ready' AND due_at IS NULL AND kind = kinds.id)
        """
    )
    return [(number, Kind(type_, model)) for number, type_, model in rows]


def _choose(
    connection: apsw.Connection, kind: int, probe: bool, room: int | None, workers: int, batch_size: int
) -> tuple[list[tuple[int, str, bytes, int, int]], bool]:
    """The rows of one claim, oldest first, and whether more could be claimed after it.

    A row's `batch_limit` (after a refused batch or a crash) bounds the batch it may be in, and only rows with the same
    bound go together, so that halving finds the bad input.
    """
    columns = "SELECT tasks.seq, id, content, attempts, crashes FROM tasks JOIN contents ON contents.seq = tasks.seq"
    ready = "state = 'ready' AND due_at IS NULL AND kind = ?1"
    if probe:
        # The task with the fewest attempts: one that has failed often may be what fails.
        rows = connection.execute(f"{columns} WHERE {ready} ORDER BY attempts, tasks.seq LIMIT 1", (kind,)).fetchall()
        return rows, False
    most = batch_size * workers if room is None else min(batch_size * workers, room)
    claimable, bound = connection.execute(
        "SELECT COUNT(*), (SELECT batch_limit FROM tasks WHERE state = 'ready' AND due_at IS NULL AND kind = ?1"
        f" ORDER BY seq LIMIT 1) FROM (SELECT 1 FROM tasks WHERE {ready} LIMIT ?2)",
        (kind, most),
    ).get
    share = fair_share(claimable, workers, batch_size if bound is None else min(bound, batch_size))
    rows = connection.execute(
        f"{columns} WHERE tasks.seq IN (SELECT seq FROM (SELECT seq, batch_limit FROM tasks WHERE {ready}"
        " ORDER BY seq LIMIT ?2) WHERE batch_limit IS ?3 ORDER BY seq LIMIT ?4) ORDER BY tasks.seq",
        (kind, most, bound, share),
    ).fetchall()
    return rows, claimable > len(rows)


def promote_due(connection: apsw.Connection, state: str, now: float) -> None:
    """Rows of `state` ('ready', 'finished') whose time has come are due now. Served by the tasks_…_later indexes."""
    if state not in ("ready", "finished"):
        raise ValueError(state)
    # The state is spelt out because a partial index serves only a literal.
    connection.execute(
        f"UPDATE tasks SET due_at = NULL WHERE state = '{state}' AND due_at IS NOT NULL AND (due_at <= ? OR due_at > ?)",
        (now, now + FURTHEST_DUE_SECONDS),
    )


def next_due(connection: apsw.Connection, state: str) -> float | None:
    """When the next row of `state` ('ready', 'finished') is due."""
    if state not in ("ready", "finished"):
        raise ValueError(state)
    due_at = connection.execute(f"SELECT MIN(due_at) FROM tasks WHERE state = '{state}' AND due_at IS NOT NULL").get
    return None if due_at is None else float(due_at)


def _is_owned(connection: apsw.Connection, task: Task, slot: int) -> bool:
    found = connection.execute("SELECT 1 FROM tasks WHERE seq = ? AND state = 'claimed' AND slot = ?", (task.seq, slot))
    return found.get is not None


def _count_bugs(connection: apsw.Connection, outcomes: Sequence[Outcome], now: float) -> str | None:
    """Pause a processor after several bugs in a row, over different tasks: a bug must not fail the whole queue.

    When the pause is over one more bug renews it. Returns the type whose processor was paused now.
    """
    for outcome in outcomes:
        type_ = outcome.task.kind.type
        if outcome.ending is Ending.BUG:
            bugs = connection.execute(
                "INSERT INTO processors (type, bugs) VALUES (?, 1)"
                " ON CONFLICT DO UPDATE SET bugs = bugs + 1 RETURNING bugs",
                (type_,),
            ).get
            if bugs >= BUGS_IN_A_ROW:
                connection.execute(
                    "UPDATE processors SET paused_until = ? WHERE type = ?", (now + PROCESSOR_PAUSE_SECONDS, type_)
                )
                return type_
        elif outcome.ending is Ending.SUCCEEDED:
            connection.execute("DELETE FROM processors WHERE type = ?", (type_,))
    return None


def processor_paused_until(connection: apsw.Connection, type_: str, now: float) -> float | None:
    """When the pause of a processor with too many bugs ends; None if there is none. Reads only."""
    until = connection.execute(
        "SELECT paused_until FROM processors WHERE type = ? AND paused_until > ? AND paused_until <= ?",
        (type_, now, now + PROCESSOR_PAUSE_SECONDS),
    ).get
    return None if until is None else float(until)


def _store_result(connection: apsw.Connection, outcome: Outcome, now: float) -> None:
    succeeded = outcome.ending is Ending.SUCCEEDED
    status = TaskStatus.SUCCEEDED if succeeded else TaskStatus.FAILED
    connection.execute(
        "UPDATE tasks SET state = 'finished', slot = NULL, due_at = NULL WHERE seq = ?", (outcome.task.seq,)
    )
    connection.execute(
        "INSERT INTO results (seq, status, body, reason, finished_at) VALUES (?, ?, ?, ?, ?)",
        (outcome.task.seq, status.value, outcome.result, outcome.reason, now),
    )


def _forgive(connection: apsw.Connection, provider: str) -> None:
    """An open breaker says that the failures were the provider's: its waiting tasks start afresh."""
    connection.execute(
        "UPDATE tasks SET attempts = 0, first_failure_sequence = NULL"
        " WHERE state = 'ready' AND attempts > 0 AND provider = ?",
        (provider,),
    )


def _sooner(one: Idle, other: Idle) -> Idle:
    """Of two reasons to wait the one that ends first; a known end before an unknown one."""
    if one.until is None:
        return other
    return other if other.until is not None and other.until < one.until else one
