"""Outcomes: how attempts end, with a report of the worker that made them, or with the death of its process.

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

from aitp.ledger.breakers import (
    ANY_BUGS,
    ANY_GUESSED,
    IS_CALM,
    BreakerChange,
    Breakers,
    cool_down,
    cooling,
    count_bugs,
    forget_bugs,
)
from aitp.ledger.budgets import Budgets
from aitp.ledger.duplicates import ANY_TWINS, Reused, settle_twins
from aitp.ledger.engine import Connection, Database, Row, these
from aitp.ledger.evidence import ANY_SUSPECTS, NO_FAILURES, Failure, Judge, Judgement, Notice
from aitp.ledger.limits import NEWEST_AT, Limits
from aitp.ledger.queue import LedgerConfig, queue_id
from aitp.ledger.stats import note_call, note_error
from aitp.ledger.worlds import World, release_probes
from aitp.policy.costs import Bill
from aitp.policy.retry import LONGEST_DELAY_SECONDS, SPREAD, retry_delay
from aitp.policy.routing import Route
from aitp.tasks import Culprit, Ending, Health, Outcome, QueueKey, Task, TaskStatus

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

    `awaited`: nobody asked for it, but the model is not there, and is to come. `guessed`: nobody said how long.
    """

    seconds: float
    model: str | None
    reason: str
    awaited: bool = False
    guessed: bool = False


@dataclass(frozen=True, slots=True)
class Report:
    """How a claim's call ended: an outcome for each task, how it failed as a whole if it did, how long it took.

    `optional`: parameters that it was sent with and could do without. `bill`: what it cost, where prices are known.
    """

    outcomes: Sequence[Outcome]
    failure: Failure | None = None
    cooldown: Cooldown | None = None
    seconds: float = 0.0
    bill: Bill | None = None
    optional: Sequence[str] = ()

    @property
    def health(self) -> Health:
        """What it says of the provider where no task has its result and nothing failed as a whole."""
        spoke = self.cooldown is not None or any(outcome.ending is Ending.SUCCEEDED for outcome in self.outcomes)
        return Health.HEALTHY if spoke else Health.UNKNOWN


@dataclass(frozen=True, slots=True)
class Settled:
    """What a finish or a release made of the tasks: blame and poison are decided.

    `breaker`: the one that moved. `paused_processor`: the type whose bugs just paused it. `reused`: their twins.
    `frees_others`: others may go on now, or money came back that they wait for. `told`: for a person to hear of.
    """

    outcomes: tuple[Outcome, ...]
    breaker: BreakerChange | None = None
    retry_at: float | None = None
    paused_processor: str | None = None
    reused: tuple[Reused, ...] = ()
    frees_others: bool = False
    told: tuple[Notice, ...] = ()


class Outcomes:
    """Ends attempts. `draw(low, high)` is the spread of the back-off."""

    def __init__(
        self,
        database: Database,
        breakers: Breakers,
        limits: Limits,
        budgets: Budgets,
        rules: LedgerConfig,
        draw: Callable[[float, float], float] = random.uniform,
    ) -> None:
        self._database = database
        self._breakers = breakers
        self._judge = Judge(breakers, rules.breaker_threshold, rules.breaker_recovery, rules.max_retries)
        self._limits = limits
        self._budgets = budgets
        self._rules = rules
        self._draw = draw

    def finish(
        self, slot: int, route: Route, queue: QueueKey, report: Report, world: World, *, reserved: bool = False
    ) -> Settled:
        """Record a report on tasks of `queue` that `slot` owns; those it does not own any more are left alone.

        `world`: the one they were sent in. `reserved`: money was reserved for them.
        """
        provider = route.provider
        # By task: a report that names one twice must not fail for ever.
        reported = {outcome.task.seq: outcome for outcome in report.outcomes}
        with self._database.transaction(durable=True) as connection:
            now = self._database.clock()
            found = _survey(connection, provider)
            if pause := report.cooldown:
                cool_down(
                    connection,
                    provider,
                    pause.model,
                    pause.seconds,
                    now,
                    pause.reason,
                    awaited=pause.awaited,
                    guessed=pause.guessed,
                )
            owned = _owned_by(connection, slot)
            outcomes = [outcome for seq, outcome in reported.items() if seq in owned]
            sent = [outcome.task.id for outcome in outcomes if outcome.ending is not Ending.UNSENT]
            self._limits.count(connection, queue.type, sent, now, found.newest_at)
            judgement = Judgement(tuple(outcomes))
            if not (found.is_calm and world.is_well and all(o.ending is Ending.SUCCEEDED for o in outcomes)):
                judgement = self._judge.judge(
                    connection, slot, world.id, outcomes, report.failure, report.optional, provider, now,
                    health=report.health,
                )  # fmt: skip
            endings = [outcome.ending for outcome in judgement.outcomes]
            waits = Ending.POSTPONED in endings or Ending.UNSENT in endings
            held_back = waits and self._is_held_back(connection, route, now)
            asked = report.cooldown.seconds if report.cooldown is not None and not report.cooldown.awaited else 0.0
            settled = self._settle(connection, now, provider, judgement, owned, held_back, found.has_twins, asked)
            note_call(connection, now, provider, report.seconds, settled.outcomes)
            paused = self._judge_processor(connection, queue.type, endings, now, found.has_bugs)
            affords_more = False
            if reserved or report.bill is not None:
                over = len(outcomes) == len(owned)
                affords_more = self._pay(connection, slot, route, queue, outcomes, report.bill, now, over=over)
        paused_processor = queue.type if paused else None
        frees_others = affords_more or settled.frees_others
        return dataclasses.replace(settled, paused_processor=paused_processor, frees_others=frees_others)

    def _pay(
        self,
        connection: Connection,
        slot: int,
        route: Route,
        queue: QueueKey,
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
            self._budgets.learn(connection, queue, route, bill, len(outcomes[0].task.content))
        sent = any(outcome.ending is not Ending.UNSENT for outcome in outcomes)
        return self._budgets.settle(connection, slot, bill, now, sent=sent, over=over)

    def release(self, slot: int, cause: Cause) -> Settled:
        """Free all that a slot's former process owned. The caller holds the slot's lock, so that process is gone."""
        with self._database.transaction(durable=True) as connection:
            now = self._database.clock()
            settled = self.give_back(connection, slot, cause, now)
            let_go(connection, self._breakers, slot, now)  # afterwards: a deadline is how a probe ended
            return settled

    def give_back(self, connection: Connection, slot: int, cause: Cause, now: float) -> Settled:
        """End the attempts at what `slot` has claimed. They count as sent: nobody can tell whether they were."""
        # Served by tasks_claimed.
        rows: list[Row] = connection.execute(
            "SELECT seq, tasks.id, type, model, failed_at, attempts, crashes, provider, world FROM tasks"
            " JOIN kinds ON kinds.id = kind WHERE state = 'claimed' AND slot = ? ORDER BY seq",
            (slot,),
        ).fetchall()
        if not rows:
            return Settled(())
        provider, world = rows[0][7:]
        tasks = [
            Task(seq, task_id, QueueKey(type_, model, failed_at), b"", attempts, crashes)
            for seq, task_id, type_, model, failed_at, attempts, crashes, *_ in rows
        ]
        found = _survey(connection, provider)
        task_ids = [task.id for task in tasks]
        self._limits.count(connection, tasks[0].queue.type, task_ids, now, found.newest_at)
        self._budgets.settle(connection, slot, None, now, sent=True)
        outcomes = [self._outcome_of_death(connection, task, cause) for task in tasks]
        judgement = Judgement(tuple(outcomes))
        if cause is Cause.DEADLINE:
            failure = Failure(Culprit.SERVICE, outcomes[0].reason)
            judgement = self._judge.judge(
                connection, slot, world, outcomes, failure, (), provider, now, health=Health.UNKNOWN
            )
        settled = self._settle(
            connection, now, provider, judgement, _owned_by(connection, slot), False, found.has_twins
        )
        if cause is not Cause.STOPPED:
            reason = settled.outcomes[0].reason
            note_error(connection, now, provider, cause.value, reason, tasks[0].queue.type, task_ids)
        return settled

    def _outcome_of_death(self, connection: Connection, task: Task, cause: Cause) -> Outcome:
        if cause is Cause.STOPPED:
            return Outcome(task, Ending.ABANDONED, reason="the process that ran it was stopped")
        if cause is Cause.DEADLINE:
            return Outcome(
                task, Ending.RETRY, reason="the process that ran it overran its deadline and was killed",
                culprit=Culprit.SERVICE,
            )  # fmt: skip
        crashes = task.crashes + 1
        # Alone from now on: if it is this task that kills processes, it is to take no other with it.
        connection.execute(
            "UPDATE tasks SET crashes = ?, batch_limit = 1, is_suspect = 1 WHERE seq = ?", (crashes, task.seq)
        )
        if crashes >= self._rules.max_crashes:
            return Outcome(task, Ending.FAILED, reason=f"poison: {crashes} processes died while they ran it")
        return Outcome(task, Ending.ABANDONED, reason="the process that ran it crashed")

    def _is_held_back(self, connection: Connection, route: Route, now: float) -> bool:
        """Whether something keeps tasks from being sent by `route` again at once."""
        gate = self._breakers.gate(connection, (route.provider,), now)
        return not gate.passes or cooling(connection, route.provider, route.model, now) is not None

    def _settle(
        self,
        connection: Connection,
        now: float,
        provider: str,
        judgement: Judgement,
        owned: Mapping[int, bool],
        held_back: bool,
        has_twins: bool,
        pause: float = 0.0,
    ) -> Settled:
        """Write each outcome's state. `owned`: what `_owned_by` says of these tasks; `pause`: seconds asked for."""
        outcomes = judgement.outcomes
        delivered = [outcome for outcome in outcomes if outcome.ending in DELIVERED]
        _store_results(connection, delivered, now, owned)
        seqs = [outcome.task.seq for outcome in delivered]
        reused = settle_twins(connection, seqs, now) if has_twins else ()
        returned = [outcome for outcome in outcomes if outcome.ending not in DELIVERED]
        retry_at = (
            self._put_back_all(connection, now, provider, returned, judgement, held_back, pause) if returned else None
        )
        return Settled(
            outcomes,
            judgement.breaker,
            retry_at,
            reused=reused,
            frees_others=judgement.cleared,
            told=judgement.told,
        )

    def _put_back_all(
        self,
        connection: Connection,
        now: float,
        provider: str,
        returned: Sequence[Outcome],
        judgement: Judgement,
        held_back: bool,
        pause: float,
    ) -> float | None:
        """Have these tasks ready again, now or later; return when the first of those that must wait is due."""
        spread = self._draw(*SPREAD)  # one for all, so that a batch stays together
        halves = max(1, sum(outcome.ending is Ending.SPLIT for outcome in returned) // 2)
        retry_at = None
        for outcome in returned:
            seq = outcome.task.seq
            match outcome.ending:
                case Ending.RETRY:
                    due_at = now + self._delay(judgement.tries.get(seq, 1), spread)
                    _put_back(connection, seq, due_at)
                    connection.execute(
                        "UPDATE tasks SET attempts = attempts + 1, is_suspect = 1,"
                        " batch_limit = COALESCE(?, batch_limit) WHERE seq = ?",
                        (judgement.limits.get(seq), seq),
                    )
                    retry_at = due_at if retry_at is None else min(retry_at, due_at)
                case Ending.FALLBACK:
                    instead = dataclasses.replace(outcome.task.queue, failed_at=provider)
                    _put_back(connection, seq, None)
                    connection.execute("UPDATE tasks SET kind = ? WHERE seq = ?", (queue_id(connection, instead), seq))
                case Ending.SPLIT:
                    _put_back(connection, seq, None)
                    connection.execute("UPDATE tasks SET batch_limit = ?, is_suspect = 1 WHERE seq = ?", (halves, seq))
                case Ending.POSTPONED if pause and outcome.task.attempts:
                    # Asked to wait once more with this very task: the others go first.
                    due_at = now + min(pause + self._delay(outcome.task.attempts, spread), LONGEST_DELAY_SECONDS)
                    _put_back(connection, seq, due_at)
                    connection.execute("UPDATE tasks SET attempts = attempts + 1, is_suspect = 1 WHERE seq = ?", (seq,))
                    retry_at = due_at if retry_at is None else min(retry_at, due_at)
                case Ending.POSTPONED if pause:
                    _put_back(connection, seq, None)
                    connection.execute("UPDATE tasks SET attempts = attempts + 1 WHERE seq = ?", (seq,))
                case Ending.POSTPONED | Ending.UNSENT if not held_back:
                    retry_at = now + POSTPONE_SECONDS * spread
                    _put_back(connection, seq, retry_at)
                case Ending.POSTPONED | Ending.ABANDONED | Ending.UNSENT | Ending.ADAPTED:
                    _put_back(connection, seq, None)
        return retry_at

    def _delay(self, tries: int, spread: float) -> float:
        """Seconds until the next try. With the retries used up they double, whatever factor the settings name."""
        beyond = tries - self._rules.max_retries - 1
        delay = retry_delay(tries, self._rules.backoff_factor, spread)
        return max(delay, retry_delay(beyond, 2.0, spread)) if beyond > 0 else delay

    @staticmethod
    def _judge_processor(
        connection: Connection, task_type: str, endings: Sequence[Ending], now: float, has_bugs: bool
    ) -> bool:
        if Ending.SUCCEEDED in endings:
            if has_bugs:
                forget_bugs(connection, task_type)
            return False
        bugs = endings.count(Ending.BUG)
        return bugs > 0 and count_bugs(connection, task_type, bugs, now)


def _owned_by(connection: Connection, slot: int) -> dict[int, bool]:
    """The tasks that a slot has claimed, and whether each is a suspect. Served by tasks_claimed."""
    rows: list[Row] = connection.execute(
        "SELECT seq, is_suspect FROM tasks WHERE state = 'claimed' AND slot = ?", (slot,)
    ).fetchall()
    return {seq: bool(suspect) for seq, suspect in rows}


class _Survey(NamedTuple):
    """What one look tells, so that what is rare costs no statements while there is none of it.

    `is_calm`: the provider's breaker is closed, and there are neither suspects nor failures in a row.
    """

    is_calm: bool
    has_twins: bool
    has_bugs: bool
    newest_at: float | None


_CALM = f"{IS_CALM} AND NOT {ANY_SUSPECTS} AND {NO_FAILURES} AND NOT {ANY_GUESSED}"
_SURVEY = f"SELECT {_CALM}, {ANY_TWINS}, {ANY_BUGS}, {NEWEST_AT}"


def _survey(connection: Connection, provider: str) -> _Survey:
    return _Survey(*connection.execute(_SURVEY, (provider,)).get)


def _put_back(connection: Connection, seq: int, due_at: float | None) -> None:
    connection.execute("UPDATE tasks SET state = 'ready', slot = NULL, due_at = ? WHERE seq = ?", (due_at, seq))


def _store_results(connection: Connection, outcomes: Iterable[Outcome], now: float, owned: Mapping[int, bool]) -> None:
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
    if any(owned[row[0]] for row in rows) or any(status == failed for _, status, *_ in rows):
        connection.execute(f"UPDATE tasks SET is_suspect = 0 WHERE seq {are_these}", seqs)
        connection.execute(f"DELETE FROM evidence WHERE seq {are_these}", seqs)
    connection.executemany("INSERT INTO results (seq, status, body, reason, finished_at) VALUES (?, ?, ?, ?, ?)", rows)


def let_go(connection: Connection, breakers: Breakers, slot: int, now: float) -> None:
    """Free the deliveries, the poll and the probes of `slot`; its claims are `Outcomes.give_back`'s."""
    # Served by tasks_finished. What had failed before is due, but still behind those that never failed.
    connection.execute(
        "UPDATE tasks SET slot = NULL,"
        " due_at = (SELECT ?2 FROM results WHERE results.seq = tasks.seq AND deliveries > 0)"
        " WHERE state = 'finished' AND due_at IS NULL AND slot = ?1",
        (slot, now),
    )
    connection.execute("UPDATE polls SET slot = NULL WHERE slot = ?", (slot,))
    breakers.release(connection, slot)
    release_probes(connection, slot)
