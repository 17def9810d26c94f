"""What there is to see in the ledger, each in one consistent read: for gauges, /health, page and commands.

`snapshot` is the state of now. `read_history` is what was lately: an hour by the minute, a day or a week in longer
bars, and the recent errors. The finish transaction writes them (`note_call`, `note_error`), and relays how many tasks
wait (`note_waiting`); nothing is decided by them. They never grow: polls fold what is long past (`fold_minutes`).
Reasons come from our own errors, which hold no text of a task and no secret. `held_tasks` goes task by task.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import NamedTuple

from aitp.errors import LedgerError
from aitp.ledger.budgets import BudgetUse, unpriced_models, use_of_budgets
from aitp.ledger.engine import Connection, Fleet, Place, Row, engine_of, free_bytes, lock_file
from aitp.ledger.hosts import Host, read_hosts
from aitp.ledger.limits import LimitUse, stand_ins_sent, use_of_limits
from aitp.ledger.queue import DEAD, FINISHED, READY
from aitp.ledger.schema import VERSION
from aitp.ledger.worlds import PROFILE_SECONDS
from aitp.policy.retry import LONGEST_DELAY_SECONDS
from aitp.tasks import Ending, Outcome, QueueKey, TaskState, TaskStatus

# Tasks that are ready, but not before a moment that is set or before their original, are called waiting; the table
# has one state for all.
_WAITING = "waiting"
SHOWN_STATE = f"CASE WHEN {READY} AND (due_at IS NOT NULL OR duplicate_of IS NOT NULL) THEN '{_WAITING}' ELSE state END"


ERRORS_KEPT = 50
TASKS_NAMED, NAMES_LENGTH = 10, 1_000  # of one error, the last ones
DEAD_LISTED = 20
LONGEST_REASON = 500

# What is nobody's error: a batch that was halved goes on, a call that a stop cut short was let go.
_NO_ERROR = (Ending.SUCCEEDED, Ending.SPLIT, Ending.ABANDONED)


@dataclass(frozen=True, slots=True)
class BreakerView:
    """One service's breaker. `probe_at`: when an open one may be probed."""

    state: str
    failures: int
    opened_at: float | None
    probe_at: float | None
    reason: str = ""


@dataclass(frozen=True, slots=True)
class CooldownView:
    """A pause in force; `model` is empty if it is the whole provider's."""

    provider: str
    model: str
    until: float
    reason: str


@dataclass(frozen=True, slots=True)
class QuarantineView:
    """A model whose tasks of one type wait, because of `culprit`; probed with one of them from `until` on."""

    provider: str
    model: str
    type: str
    culprit: str
    reason: str
    until: float


@dataclass(frozen=True, slots=True)
class ProfileView:
    """What requests for a model do without (`left_out`, by parameter), because its server refused it."""

    provider: str
    model: str
    left_out: tuple[str, ...]
    reason: str
    since: float


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One consistent state of the ledger. Instants are UTC seconds, ages seconds, sizes bytes.

    `budgets`: what was spent by period, if prices are known. `unpriced`: models whose tasks wait for a price.
    `models`: how many tasks wait for each. `stand_ins`: calls made today in a provider's stead. `disk_free`: beside the
    ledger, or of a fleet's host. `hosts`: of a fleet, and `needs_upgrade`: its ledger is of the next release by now.
    """

    taken_at: float
    strategy: str
    limits_enabled: bool
    paused: bool
    limits: dict[str, LimitUse]
    breakers: dict[str, BreakerView]
    cooldowns: tuple[CooldownView, ...]
    paused_processors: dict[str, float]
    ready: int
    waiting: int
    claimed: int
    finished: int
    dead: int
    unreadable: int
    oldest_ready_age: float
    oldest_finished_age: float
    last_poll_at: float | None
    last_poll_problem: str | None
    disk_free: int
    budgets: dict[str, BudgetUse] = field(default_factory=dict)
    unpriced: tuple[str, ...] = ()
    quarantines: tuple[QuarantineView, ...] = ()
    profiles: tuple[ProfileView, ...] = ()
    models: dict[str, int] = field(default_factory=dict)
    stand_ins: dict[str, int] = field(default_factory=dict)
    hosts: tuple[Host, ...] = ()
    needs_upgrade: bool = False

    @property
    def held(self) -> int:
        """Tasks that are not dealt with yet."""
        return self.ready + self.waiting + self.claimed + self.finished


@contextmanager
def reading(place: Place, now: float | None = None) -> Iterator[tuple[Connection, float]]:
    """One consistent state of the ledger, and the time. Raises LedgerError, as it does for what fails of it within."""
    try:
        with engine_of(place).reading(place) as (connection, moment):
            yield connection, moment if now is None else now
    except (TypeError, ValueError, LookupError, OverflowError) as error:
        # In a sound one it is a bug of ours, not to be hidden behind what would have people recover their ledger; and a
        # server looks after its own pages.
        if isinstance(place, Fleet):
            raise
        from aitp.ledger.maintenance import check

        if isinstance(error, UnicodeDecodeError) or not check(place, quick=True).sound:
            what = f"{type(error).__name__} in what it holds"
            raise LedgerError(f"the ledger {place} is damaged ({what}): see `aitp ledger check`") from error
        raise


def queues_in_use(place: Place) -> dict[QueueKey, bool]:
    """What tasks there are, or were not long ago, and whether there are some now. Raises LedgerError."""
    with reading(place) as (connection, _):
        found = connection.execute(
            "SELECT type, model, failed_at, id IN (SELECT queue FROM tasks) FROM queues ORDER BY id"
        )
        return {QueueKey(*facts): bool(in_hand) for *facts, in_hand in found}


def snapshot(place: Place, *, recovery: float = 60.0, now: float | None = None) -> Snapshot:
    """Read the ledger. `recovery`: seconds from a breaker's opening to its probe. Raises LedgerError."""
    with reading(place, now) as (connection, moment):
        return _read(connection, place, moment, recovery)


def _read(connection: Connection, place: Place, now: float, recovery: float) -> Snapshot:
    def rows(query: str, *bindings: object) -> list[Row]:
        return connection.execute(query, bindings).fetchall()

    [(strategy, paused, version, polled_at, problem)] = rows(
        "SELECT strategy, paused, version, succeeded_at, problem FROM ledger, polls"
    )
    [(unreadable, oldest_ready, oldest_finished)] = rows(
        f"SELECT (SELECT COUNT(*) FROM malformed), (SELECT MIN(entered_at) FROM tasks WHERE {READY}),"
        f" (SELECT MIN(finished_at) FROM results JOIN tasks ON tasks.seq = results.seq WHERE {FINISHED})"
    )
    counts = dict.fromkeys((*(state.value for state in TaskState), _WAITING), 0)
    counts |= dict(rows(f"SELECT {SHOWN_STATE} AS shown, COUNT(*) FROM tasks GROUP BY shown"))
    limits = {period.value: use for period, use in use_of_limits(connection, now).items()}
    breakers = rows("SELECT service, state, failures, opened_at, opened_at + ?, reason FROM breakers", recovery)
    cooldowns = rows(
        "SELECT provider, model, until, reason FROM cooldowns WHERE until > ? ORDER BY provider, model", now
    )
    quarantines = rows(
        # One that nobody is left to be sent to says nothing any more after a while.
        "SELECT provider, model, type, culprit, reason, paused_until FROM worlds"
        " WHERE paused_until > ? ORDER BY provider, model, type",
        now - LONGEST_DELAY_SECONDS,
    )
    profiles = rows(
        "SELECT provider, model, left_out, reason, since FROM request_profiles"
        " WHERE since > ? AND left_out <> '' ORDER BY provider, model",
        now - PROFILE_SECONDS,
    )
    models = rows(f"SELECT model, COUNT(*) FROM tasks JOIN queues ON queues.id = queue WHERE {READY} GROUP BY model")
    return Snapshot(
        taken_at=now,
        strategy=str(strategy),
        limits_enabled=bool(limits),
        paused=bool(paused),
        limits=limits,
        breakers={service: BreakerView(*facts) for service, *facts in breakers},
        cooldowns=tuple(CooldownView(*row) for row in cooldowns),
        paused_processors=dict(rows("SELECT type, paused_until FROM processors WHERE paused_until > ?", now)),
        **counts,
        unreadable=unreadable,
        oldest_ready_age=max(0.0, now - (oldest_ready or now)),
        oldest_finished_age=max(0.0, now - (oldest_finished or now)),
        last_poll_at=polled_at,
        last_poll_problem=problem,
        disk_free=free_bytes(lock_file(place)),
        budgets={period.value: use for period, use in use_of_budgets(connection, now).items()},
        unpriced=unpriced_models(connection),
        quarantines=tuple(QuarantineView(*row) for row in quarantines),
        profiles=tuple(
            ProfileView(provider, model, tuple(left_out.split()), *facts)
            for provider, model, left_out, *facts in profiles
        ),
        models=dict(models),
        stand_ins={
            provider: stand_ins_sent(connection, provider, now)
            for (provider,) in rows("SELECT provider FROM stand_ins")
        },
        hosts=read_hosts(connection, place) if isinstance(place, Fleet) else (),
        needs_upgrade=version > VERSION,
    )


# The last hour, day and week


class Span(NamedTuple):
    """How far back to look: so many bars of so many minutes each, which end at multiples of them."""

    minutes: int
    bars: int


SPANS = {"hour": Span(1, 60), "day": Span(20, 72), "week": Span(180, 56)}


class Bar(NamedTuple):
    """Calls to providers that ended from `at` on (UTC seconds); `seconds` of all calls together.

    `succeeded`, `failed` and `returned` (tried again later, or elsewhere) are attempts at tasks. `waiting`: how many
    tasks did at last, if anybody knows.
    """

    at: float = 0.0
    calls: int = 0
    succeeded: int = 0
    failed: int = 0
    returned: int = 0
    seconds: float = 0.0
    slowest: float = 0.0
    waiting: int | None = None

    @property
    def mean(self) -> float:
        """Seconds a call."""
        return self.seconds / self.calls if self.calls else 0.0


class RecentError(NamedTuple):
    """Something that went wrong `times` times, last at `last_at` (UTC seconds) with the first of `task_ids`, if any.

    `source`: the service concerned; `ending`: what it came to.
    """

    source: str
    type: str
    ending: str
    reason: str
    first_at: float
    last_at: float
    times: int
    names: str = ""

    @property
    def task_ids(self) -> Sequence[str]:
        """The last of its tasks first; what was cut off is no name."""
        whole = self.names.split("\n")[: -1 if len(self.names) >= NAMES_LENGTH else None]
        return [name for name in dict.fromkeys(whole) if name][:TASKS_NAMED]  # some have failed again and again


class WaitingTasks(NamedTuple):
    """Tasks of one queue key that wait, the oldest since `since`: some for another try (`later`, the first at `due_at`)
    or for the result of their like (`duplicates`)."""

    queue: QueueKey
    tasks: int
    later: int
    duplicates: int
    since: float
    due_at: float | None


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A result that the task API refused for good; None for the result itself, if only its facts were asked for."""

    id: str
    type: str
    model: str
    status: TaskStatus
    refusal: str
    refused_at: float
    finished_at: float
    result: bytes | None


@dataclass(frozen=True, slots=True)
class History:
    """What was lately. `minutes`: of the last hour; `bars`: of the span that was asked for; the present one last, empty
    ones included. `types`: what the span came to by task type. The last errors and dead letters come first, and so does
    the queue with the most tasks; `more_there`: the task API has more than are held here.
    """

    span: str = "hour"
    minutes: tuple[Bar, ...] = ()
    bars: tuple[Bar, ...] = ()
    types: Mapping[str, Bar] = field(default_factory=dict)
    errors: tuple[RecentError, ...] = ()
    waiting: tuple[WaitingTasks, ...] = ()
    dead: tuple[DeadLetter, ...] = ()
    more_there: bool = False


# By key, so one row a type and minute.
_ADD = (
    "INSERT INTO minutes (minute, type, calls, succeeded, failed, returned, seconds, slowest, waiting)"
    " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"
    " ON CONFLICT (minute, type) DO UPDATE SET calls = minutes.calls + excluded.calls,"
    " succeeded = minutes.succeeded + excluded.succeeded, failed = minutes.failed + excluded.failed,"
    " returned = minutes.returned + excluded.returned, seconds = minutes.seconds + excluded.seconds,"
    " slowest = CASE WHEN minutes.slowest < excluded.slowest THEN excluded.slowest ELSE minutes.slowest END,"
    " waiting = COALESCE(excluded.waiting, minutes.waiting)"
)


def note_call(
    connection: Connection, now: float, provider: str, type_: str, seconds: float, outcomes: Sequence[Outcome]
) -> None:
    """A call for tasks of a type that took `seconds` has ended with these outcomes. One statement if all is well."""
    endings = [outcome.ending for outcome in outcomes]
    succeeded, failed = endings.count(Ending.SUCCEEDED), 0
    if succeeded < len(endings):
        failed = endings.count(Ending.FAILED) + endings.count(Ending.BUG)
        reasons: dict[tuple[str, str], list[str]] = {}
        for outcome in outcomes:
            if outcome.ending not in _NO_ERROR:
                reasons.setdefault((outcome.ending.value, outcome.reason), []).append(outcome.task.id)
        for (ending, reason), task_ids in reasons.items():
            note_error(connection, now, provider, ending, reason, type_, task_ids)
    returned, seconds = len(endings) - succeeded - failed, max(0.0, seconds)
    connection.execute(_ADD, (int(now // 60), type_, 1, succeeded, failed, returned, seconds, seconds, None))


def note_waiting(connection: Connection, now: float, tasks: int) -> None:
    """So many tasks wait now."""
    connection.execute(_ADD, (int(now // 60), "", 0, 0, 0, 0, 0.0, 0.0, tasks))


def note_error(
    connection: Connection,
    now: float,
    source: str,
    ending: str,
    reason: str,
    type_: str = "",
    task_ids: Sequence[str] = (),
) -> None:
    """Note one error, or that it came again, with each of these tasks or with none."""
    last = "\n".join(reversed(task_ids[-TASKS_NAMED:]))
    connection.execute(
        "INSERT INTO recent_errors (source, type, ending, reason, first_at, last_at, times, task_ids)"
        " VALUES (?1, ?2, ?3, ?4, ?5, ?5, ?6, ?7)"
        " ON CONFLICT (source, type, ending, reason) DO UPDATE SET last_at = ?5, times = recent_errors.times + ?6,"
        f" task_ids = SUBSTR(?7 || '\n' || recent_errors.task_ids, 1, {NAMES_LENGTH})",
        (source, type_, ending, reason[:LONGEST_REASON], now, max(1, len(task_ids)), last),
    )
    connection.execute(
        "DELETE FROM recent_errors WHERE number NOT IN"
        " (SELECT number FROM recent_errors ORDER BY last_at DESC, number DESC LIMIT ?)",
        (ERRORS_KEPT,),
    )


def fold_minutes(connection: Connection, now: float) -> None:
    """Fold those that only longer bars show into the first of their bar, and forget those that none does."""
    present, (hour, day, week) = int(now // 60), SPANS.values()
    for shorter, longer in ((hour, day), (day, week)):
        # A bar more than is shown, as the first one has begun before the span.
        end = present - shorter.minutes * shorter.bars - longer.minutes
        past: list[Row] = connection.execute(
            "DELETE FROM minutes WHERE minute < ?1 AND minute % ?2 <> 0"
            " RETURNING minute, type, calls, succeeded, failed, returned, seconds, slowest, waiting",
            (end, longer.minutes),
        ).fetchall()
        # In their order, so that the last one to say how many waited is heard.
        connection.executemany(_ADD, ((minute - minute % longer.minutes, *facts) for minute, *facts in sorted(past)))
    connection.execute("DELETE FROM minutes WHERE minute < ?", (present - week.minutes * (week.bars + 1),))


def read_history(place: Place, span: str = "hour", now: float | None = None) -> History:
    """Read what the page shows of the past and, task by task, of the present. Raises LedgerError."""
    with reading(place, now) as (connection, moment):
        waiting = tuple(
            WaitingTasks(QueueKey(type_, model, failed_at), *facts)
            for type_, model, failed_at, *facts in connection.execute(
                "SELECT type, model, failed_at, COUNT(*), COUNT(due_at), COUNT(duplicate_of), MIN(entered_at),"
                f" MIN(due_at) FROM tasks JOIN queues ON queues.id = queue WHERE {READY} GROUP BY queues.id"
                " ORDER BY COUNT(*) DESC, type, model"
            )
        )
        held = sum(each.tasks for each in waiting)
        minutes, types = _bars(connection, int(moment // 60), SPANS["hour"], held)
        bars = minutes
        if span != "hour":
            bars, types = _bars(connection, int(moment // 60), SPANS[span], held)
        errors: list[Row] = connection.execute(
            "SELECT source, type, ending, reason, first_at, last_at, times, task_ids FROM recent_errors"
            " ORDER BY last_at DESC, number DESC"
        ).fetchall()
        dead = dead_letters(connection, "ORDER BY refused_at DESC, tasks.seq DESC LIMIT ?", DEAD_LISTED)
        more_there = connection.execute("SELECT more_there FROM polls").get
    return History(
        span,
        minutes,
        bars,
        types,
        tuple(RecentError(*row) for row in errors),
        waiting,
        tuple(dead),
        bool(more_there),
    )


_SUMS = (
    "CAST(SUM(calls) AS BIGINT), CAST(SUM(succeeded) AS BIGINT), CAST(SUM(failed) AS BIGINT),"
    " CAST(SUM(returned) AS BIGINT), CAST(SUM(seconds) AS DOUBLE PRECISION), MAX(slowest) FROM minutes"
    " WHERE type <> '' AND minute BETWEEN ? AND ?"
)


def _bars(connection: Connection, present: int, span: Span, held: int) -> tuple[tuple[Bar, ...], dict[str, Bar]]:
    """Every bar of a span, and what all of it came to by task type. So many tasks wait now."""
    last = present // span.minutes
    first = last - span.bars + 1
    within = (first * span.minutes, present)
    by_bar = f"SELECT minute / {span.minutes} AS bar, {_SUMS} GROUP BY bar"
    done = {bar: Bar(0.0, *sums) for bar, *sums in connection.execute(by_bar, within)}
    by_type = connection.execute(f"SELECT type, {_SUMS} GROUP BY type ORDER BY type", within)
    types = {type_: Bar(0.0, *sums) for type_, *sums in by_type}
    # Of a bar's minutes the last one is heard; where nothing was said as many waited as before.
    said = f"SELECT minute / {span.minutes}, waiting FROM minutes WHERE type = '' AND minute <= ? ORDER BY minute"
    known: dict[int, int] = dict(connection.execute(said, (present,)).fetchall()) | {last: held}
    waited = next((known[number] for number in reversed(known) if number < first), None)
    bars = []
    for number in range(first, last + 1):
        waited = known.get(number, waited)
        bars.append(done.get(number, Bar())._replace(at=60.0 * span.minutes * number, waiting=waited))
    return tuple(bars), types


# Task by task


def dead_letters(
    connection: Connection, rest: str = "ORDER BY tasks.seq", *bindings: object, body: str = "NULL"
) -> list[DeadLetter]:
    """Those that `rest`, the end of the query, says. A walk over what is held: asked by a person, now and then."""
    rows: list[Row] = connection.execute(
        "SELECT tasks.id, type, model, status, COALESCE(refusal, ''), COALESCE(refused_at, 0), finished_at,"
        f" {body} FROM tasks JOIN results ON results.seq = tasks.seq JOIN queues ON queues.id = queue"
        f" WHERE {DEAD} {rest}",
        bindings,
    ).fetchall()
    return [
        DeadLetter(task_id, type_, model, TaskStatus(status), *facts) for task_id, type_, model, status, *facts in rows
    ]


class HeldTask(NamedTuple):
    """One task that is held. `attempts` that failed, `crashes` of processes that ran it; instants are UTC seconds.

    `due_at` is None for "now"; `slot`: who works at it; `reason`: why it failed, or was refused by the task API.
    """

    id: str
    type: str
    model: str
    state: str
    attempts: int
    crashes: int
    provider: str | None
    slot: int | None
    entered_at: float
    due_at: float | None
    reason: str


class TaskList(NamedTuple):
    """The oldest of what was asked for, and how many there are of it in all. `now`: when that was."""

    now: float
    tasks: tuple[HeldTask, ...]
    total: int


def held_tasks(place: Place, states: Sequence[str], types: Sequence[str], most: int) -> TaskList:
    """Tasks in one of `states` and of one of `types` (none named: of any), oldest first. Raises LedgerError."""
    conditions = ["TRUE"]
    bindings: list[object] = []
    for column, names in ((SHOWN_STATE, states), ("type", types)):
        if names:
            conditions.append(f"{column} IN (SELECT value FROM json_each(?) AS each)")
            bindings.append(json.dumps(list(names)))
    with reading(place) as (connection, now):
        rows: list[Row] = connection.execute(
            f"SELECT COUNT(*) OVER (), tasks.id, type, model, {SHOWN_STATE}, attempts, crashes, provider, slot,"
            " entered_at, due_at, COALESCE(refusal, reason, '')"
            " FROM tasks JOIN queues ON queues.id = queue LEFT JOIN results ON results.seq = tasks.seq"
            f" WHERE {' AND '.join(conditions)} ORDER BY tasks.seq LIMIT ?",
            (*bindings, most),
        ).fetchall()
    return TaskList(now, tuple(HeldTask(*row) for _, *row in rows), rows[0][0] if rows else 0)
