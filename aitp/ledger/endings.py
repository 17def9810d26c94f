"""How attempts end: with a report of the worker that made them, or with the death of its process.

Either is one transaction, on disk before it returns: the result is stored (which is the outbox), the attempt is
counted, the claim is gone, the breaker is told. A kill between any two instructions loses nothing and buys again only
the call in flight. `Claims.finish` and `Claims.release` come here.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

import apsw

from aitp.ledger.breakers import IS_CALM, BreakerChange, Breakers
from aitp.ledger.budgets import Budgets
from aitp.ledger.completions import NEWEST_AT
from aitp.ledger.cooldowns import cool_down, cooling
from aitp.ledger.database import Database, Row, these
from aitp.ledger.history import note_call, note_trouble
from aitp.ledger.kinds import kind_id
from aitp.ledger.limits import Limits
from aitp.ledger.ownership import let_go
from aitp.ledger.pauses import ANY_BUGS, count_bugs, forget_bugs
from aitp.ledger.rules import Rules
from aitp.ledger.twins import ANY_TWINS, Reused, settle_twins
from aitp.policy.backoff import SPREAD, is_blamed, retry_delay
from aitp.policy.costs import Bill
from aitp.policy.routing import Route
from aitp.tasks import Ending, Health, Kind, Outcome, Task, TaskStatus

# A task that was postponed with nothing else to hold it back (this machine is in trouble) is not tried at once.
POSTPONE_SECONDS = 5.0

# Endings that the task API is told of; after all others the task is ready again.
DELIVERED = (Ending.SUCCEEDED, Ending.FAILED, Ending.BUG)


class Cause(Enum):
    """What ended the process that held a slot before."""

    CRASHED = "crashed"  # it died by itself
    DEADLINE = "deadline"  # the master killed it for overrunning a deadline
    STOPPED = "stopped"  # all else: told to leave, killed at the grace's end, gone with its master


@dataclass(frozen=True, slots=True)
class Cooldown:
    """A pause that the provider asked for. `model` is None if all of its models must pause.

    `awaited`: nobody asked for it, but the model is not there, and is to come.
    """

    seconds: float
    model: str | None
    reason: str
    awaited: bool = False


@dataclass(frozen=True, slots=True)
class Report:
    """How a claim's call ended: an outcome for each task, what the call says of its provider, how long it took.

    `bill`: what it cost, where prices are known.
    """

    outcomes: Sequence[Outcome]
    health: Health
    reason: str = ""
    cooldown: Cooldown | None = None
    seconds: float = 0.0
    bill: Bill | None = None


@dataclass(frozen=True, slots=True)
class Settled:
    """What a finish or a release made of the tasks: blame and poison are decided.

    `breaker`: the one that moved. `paused_processor`: the type whose bugs just paused it. `reused`: their twins.
    `affords_more`: money came back that tasks wait for.
    """

    outcomes: tuple[Outcome, ...]
    breaker: BreakerChange | None = None
    retry_at: float | None = None
    paused_processor: str | None = None
    reused: tuple[Reused, ...] = ()
    affords_more: bool = False


class _Moment(NamedTuple):
    """What all tasks of one ending share."""

    now: float
    sequence: int
    provider: str


class Endings:
    """Ends attempts. `draw(low, high)` is the spread of the back-off."""

    def __init__(
        self,
        database: Database,
        breakers: Breakers,
        limits: Limits,
        budgets: Budgets,
        rules: Rules,
        draw: Callable[[float, float], float] = random.uniform,
    ) -> None:
        self._database = database
        self._breakers = breakers
        self._limits = limits
        self._budgets = budgets
        self._rules = rules
        self._draw = draw

    def finish(self, slot: int, route: Route, kind: Kind, report: Report, *, reserved: bool = False) -> Settled:
        """Record a report on tasks of `kind` that `slot` owns; those it does not own any more are left alone.

        `reserved`: money was reserved for them.
        """
        provider = route.provider
        # By task: a report that names one twice must not fail for ever.
        reported = {outcome.task.seq: outcome for outcome in report.outcomes}
        with self._database.transaction(durable=True) as connection:
            now = self._database.clock()
            found = _survey(connection, provider)
            change = None
            if not (found.is_calm and report.health is Health.HEALTHY):
                change = self._breakers.tell(connection, provider, report.health, slot, now, report.reason)
                if change is not None and change.opened:
                    _forgive(connection, provider)
            if pause := report.cooldown:
                cool_down(connection, provider, pause.model, pause.seconds, now, pause.reason, awaited=pause.awaited)
            owned = _owned_by(connection, slot)
            outcomes = [outcome for seq, outcome in reported.items() if seq in owned]
            sent = [outcome.task.id for outcome in outcomes if outcome.ending is not Ending.UNSENT]
            self._limits.count(connection, kind.type, sent, now, found.newest_at)
            endings = [outcome.ending for outcome in outcomes]
            moment = self._moment(provider, now, ordered=Ending.RETRY in endings or found.has_tried)
            if Ending.SUCCEEDED in endings and moment.sequence:
                connection.execute(
                    "UPDATE breakers SET last_success_sequence = ? WHERE service = ?", (moment.sequence, provider)
                )
            waits = Ending.POSTPONED in endings or Ending.UNSENT in endings
            held_back = waits and self._is_held_back(connection, route, moment.now)
            settled = self._settle(connection, moment, outcomes, owned, held_back, found.has_twins)
            note_call(connection, now, provider, report.seconds, settled.outcomes)
            paused = self._judge_processor(connection, kind.type, endings, moment.now, found.has_bugs)
            affords_more = False
            if reserved or report.bill is not None:
                over = len(outcomes) == len(owned)
                affords_more = self._pay(connection, slot, route, kind, outcomes, report.bill, now, over=over)
        paused_processor = kind.type if paused else None
        return dataclasses.replace(
            settled, breaker=change, paused_processor=paused_processor, affords_more=affords_more
        )

    def _pay(
        self,
        connection: apsw.Connection,
        slot: int,
        route: Route,
        kind: Kind,
        outcomes: Sequence[Outcome],
        bill: Bill | None,
        now: float,
        *,
        over: bool,
    ) -> bool:
        """Settle what the attempt cost; whether that may let other tasks go on. `over`: the slot owns no more of it."""
        if not outcomes:
            return False  # released already, with the estimate
        if bill is not None and bill.output_tokens and len(outcomes) == 1:
            self._budgets.learn(connection, kind, route, bill, len(outcomes[0].task.content))
        sent = any(outcome.ending is not Ending.UNSENT for outcome in outcomes)
        return self._budgets.settle(connection, slot, bill, now, sent=sent, over=over)

    def release(self, slot: int, cause: Cause) -> Settled:
        """Free all that a slot's former process owned. The caller holds the slot's lock, so that process is gone."""
        with self._database.transaction(durable=True) as connection:
            now = self._database.clock()
            let_go(connection, self._breakers, slot, now)
            return self.give_back(connection, slot, cause, now)

    def give_back(self, connection: apsw.Connection, slot: int, cause: Cause, now: float) -> Settled:
        """End the attempts at what `slot` has claimed. They count as sent: nobody can tell whether they were."""
        # Served by tasks_claimed.
        rows: list[Row] = connection.execute(
            "SELECT seq, tasks.id, type, model, failed_at, attempts, crashes, provider FROM tasks"
            " JOIN kinds ON kinds.id = kind WHERE state = 'claimed' AND slot = ? ORDER BY seq",
            (slot,),
        ).fetchall()
        if not rows:
            return Settled(())
        moment = self._moment(rows[0][7], now)
        tasks = [
            Task(seq, task_id, Kind(type_, model, failed_at), b"", attempts, crashes)
            for seq, task_id, type_, model, failed_at, attempts, crashes, _ in rows
        ]
        found = _survey(connection, moment.provider)
        task_ids = [task.id for task in tasks]
        self._limits.count(connection, tasks[0].kind.type, task_ids, moment.now, found.newest_at)
        self._budgets.settle(connection, slot, None, moment.now, sent=True)
        outcomes = [self._outcome_of_death(connection, task, cause) for task in tasks]
        owned = _owned_by(connection, slot)
        settled = self._settle(connection, moment, outcomes, owned, held_back=False, has_twins=found.has_twins)
        if cause is not Cause.STOPPED:
            reason = settled.outcomes[0].reason
            note_trouble(connection, moment.now, moment.provider, cause.value, reason, tasks[0].kind.type, task_ids)
        return settled

    def _moment(self, provider: str, now: float, *, ordered: bool = True) -> _Moment:
        """`ordered`: failures and successes are to be told apart by when they were, as the blame rule needs it."""
        return _Moment(now, self._database.next_sequence() if ordered else 0, provider)

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

    def _is_held_back(self, connection: apsw.Connection, route: Route, now: float) -> bool:
        """Whether something keeps tasks from being sent by `route` again at once."""
        gate = self._breakers.gate(connection, (route.provider,), now)
        return not gate.passes or cooling(connection, route.provider, route.model, now) is not None

    def _settle(
        self,
        connection: apsw.Connection,
        moment: _Moment,
        outcomes: Sequence[Outcome],
        owned: Mapping[int, Row],
        held_back: bool,
        has_twins: bool,
    ) -> Settled:
        """Write each outcome's state, after blame is decided. `owned`: what `_owned_by` says of these tasks."""
        if any(outcome.ending is Ending.RETRY for outcome in outcomes):
            last_success = _last_success(connection, moment.provider)
            outcomes = [self._blame(outcome, owned[outcome.task.seq], moment, last_success) for outcome in outcomes]
        delivered = [outcome for outcome in outcomes if outcome.ending in DELIVERED]
        _store_results(connection, delivered, moment.now)
        seqs = [outcome.task.seq for outcome in delivered]
        reused = settle_twins(connection, seqs, moment.now) if has_twins else ()
        returned = [outcome for outcome in outcomes if outcome.ending not in DELIVERED]
        retry_at = self._put_back_all(connection, moment, returned, owned, held_back) if returned else None
        return Settled(tuple(outcomes), retry_at=retry_at, reused=reused)

    def _put_back_all(
        self,
        connection: apsw.Connection,
        moment: _Moment,
        returned: Sequence[Outcome],
        owned: Mapping[int, Row],
        held_back: bool,
    ) -> float | None:
        """Have these tasks ready again, now or later; return when the first of those that must wait is due."""
        spread = self._draw(*SPREAD)  # one for all, so that a batch stays together
        halves = max(1, sum(outcome.ending is Ending.SPLIT for outcome in returned) // 2)
        retry_at = None
        for outcome in returned:
            seq = outcome.task.seq
            match outcome.ending:
                case Ending.RETRY:
                    attempts = owned[seq][1] + 1
                    due_at = moment.now + retry_delay(attempts, self._rules.backoff_factor, spread)
                    _put_back(connection, seq, due_at)
                    connection.execute(
                        "UPDATE tasks SET attempts = ?, first_failure_sequence = COALESCE(first_failure_sequence, ?)"
                        " WHERE seq = ?",
                        (attempts, moment.sequence, seq),
                    )
                    retry_at = due_at if retry_at is None else min(retry_at, due_at)
                case Ending.FALLBACK:
                    instead = dataclasses.replace(outcome.task.kind, failed_at=moment.provider)
                    _put_back(connection, seq, None)
                    connection.execute("UPDATE tasks SET kind = ? WHERE seq = ?", (kind_id(connection, instead), seq))
                case Ending.SPLIT:
                    _put_back(connection, seq, None)
                    connection.execute("UPDATE tasks SET batch_limit = ? WHERE seq = ?", (halves, seq))
                case Ending.POSTPONED | Ending.UNSENT if not held_back:
                    retry_at = moment.now + POSTPONE_SECONDS * spread
                    _put_back(connection, seq, retry_at)
                case Ending.POSTPONED | Ending.ABANDONED | Ending.UNSENT:
                    _put_back(connection, seq, None)
        return retry_at

    def _blame(self, outcome: Outcome, owned: Row, moment: _Moment, last_success: int) -> Outcome:
        if outcome.ending is not Ending.RETRY:
            return outcome
        _, attempts, first_failure = owned
        tries = attempts + 1
        first_failure = moment.sequence if first_failure is None else first_failure
        if not is_blamed(tries, self._rules.max_retries, first_failure, last_success):
            return outcome
        return Outcome(outcome.task, Ending.FAILED, reason=f"failed {tries} times, last: {outcome.reason}")

    @staticmethod
    def _judge_processor(
        connection: apsw.Connection, task_type: str, endings: Sequence[Ending], now: float, has_bugs: bool
    ) -> bool:
        if Ending.SUCCEEDED in endings:
            if has_bugs:
                forget_bugs(connection, task_type)
            return False
        bugs = endings.count(Ending.BUG)
        return bugs > 0 and count_bugs(connection, task_type, bugs, now)


def _owned_by(connection: apsw.Connection, slot: int) -> dict[int, Row]:
    """(seq, attempts, first_failure_sequence) of the tasks that a slot has claimed, by seq. Served by tasks_claimed."""
    rows: list[Row] = connection.execute(
        "SELECT seq, attempts, first_failure_sequence FROM tasks WHERE state = 'claimed' AND slot = ?", (slot,)
    ).fetchall()
    return {row[0]: row for row in rows}


class _Survey(NamedTuple):
    """What one look tells, so that what is rare costs no statements while there is none of it.

    `has_tried`: a task has failed before, and only such a one can be blamed for failing again.
    """

    is_calm: bool
    has_tried: bool
    has_twins: bool
    has_bugs: bool
    newest_at: float | None


# Served by tasks_tried.
_ANY_TRIED = "EXISTS (SELECT 1 FROM tasks WHERE attempts > 0)"
_SURVEY = f"SELECT {IS_CALM}, {_ANY_TRIED}, {ANY_TWINS}, {ANY_BUGS}, {NEWEST_AT}"


def _survey(connection: apsw.Connection, provider: str) -> _Survey:
    return _Survey(*connection.execute(_SURVEY, (provider,)).get)


def _last_success(connection: apsw.Connection, provider: str) -> int:
    found = connection.execute("SELECT last_success_sequence FROM breakers WHERE service = ?", (provider,)).get
    return int(found or 0)


def _put_back(connection: apsw.Connection, seq: int, due_at: float | None) -> None:
    connection.execute("UPDATE tasks SET state = 'ready', slot = NULL, due_at = ? WHERE seq = ?", (due_at, seq))


def _store_results(connection: apsw.Connection, outcomes: Iterable[Outcome], now: float) -> None:
    succeeded, failed = TaskStatus.SUCCEEDED.value, TaskStatus.FAILED.value
    rows = [
        (
            outcome.task.seq,
            succeeded if outcome.ending is Ending.SUCCEEDED else failed,
            outcome.result,
            outcome.reason,
            now,
        )
        for outcome in outcomes
    ]
    are_these, seqs = these(row[0] for row in rows)
    connection.execute(f"UPDATE tasks SET state = 'finished', slot = NULL, due_at = NULL WHERE seq {are_these}", seqs)
    connection.executemany("INSERT INTO results (seq, status, body, reason, finished_at) VALUES (?, ?, ?, ?, ?)", rows)


def _forgive(connection: apsw.Connection, provider: str) -> None:
    """An open breaker says that the failures were the provider's: its tasks start afresh. Served by tasks_tried.

    Not when a probe fails: attempts since then tell the next probe which task it had better not take.
    """
    connection.execute(
        "UPDATE tasks SET attempts = 0, first_failure_sequence = NULL"
        " WHERE attempts > 0 AND provider = ? AND state IN ('ready', 'claimed')",
        (provider,),
    )
