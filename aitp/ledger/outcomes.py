"""Outcomes: how attempts end, with a report of the worker that made them, or with the death of its process.

Either is one transaction, on disk before anybody is told: the result is stored (which is the outbox), the attempt is
counted, the claim is gone, the breaker is told. A kill between any two instructions loses nothing and buys again only
the call in flight. Whose fault a failure is, is judged in evidence.py.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

from aitp.ledger import budgets, limits
from aitp.ledger.breakers import (
    ANY_BUGS,
    ANY_GUESSED,
    IS_CALM,
    Breakers,
    cool_down,
    cooling,
    count_bugs,
    forget_bugs,
    paused_since,
)
from aitp.ledger.claims import Claim
from aitp.ledger.duplicates import ANY_DUPLICATES, settle_duplicates
from aitp.ledger.engine import Connection, Database, Row, these
from aitp.ledger.evidence import ANY_SUSPECTS, NO_FAILURES, Failure, Judge, Report, Settled
from aitp.ledger.queue import CLAIMED, FINISHED, READY, LedgerConfig, queue_id
from aitp.ledger.stats import note_call, note_error
from aitp.ledger.worlds import release_probes
from aitp.policy.retry import LONGEST_DELAY_SECONDS, SPREAD, retry_delay
from aitp.tasks import Culprit, Ending, Outcome, QueueKey, Task, TaskStatus

# A task that was postponed with nothing else to hold it back (this machine is in trouble) is not tried at once.
POSTPONE_SECONDS = 5.0

# Of a provider's own waits.
WAITS_SPREAD = (0.8, 1.2)

# Endings that the task API is told of; after all others the task is ready again.
DELIVERED = (Ending.SUCCEEDED, Ending.FAILED, Ending.BUG)


class Cause(Enum):
    """What ended the process that held a slot before."""

    CRASHED = "crashed"  # it died by itself
    DEADLINE = "deadline"  # the master killed it for overrunning a deadline
    STOPPED = "stopped"  # all else: told to leave, killed at the grace's end, gone with its master


# What one look tells, so that what is rare costs no statements while there is none of it.
_CALM = f"{IS_CALM} AND NOT {ANY_SUSPECTS} AND {NO_FAILURES} AND NOT {ANY_GUESSED}"
_LOOK = f"SELECT {_CALM}, {ANY_DUPLICATES}, {ANY_BUGS}, {limits.COUNTED}"
# Served by tasks_claimed.
_OWNED = f"SELECT seq, is_suspect FROM tasks WHERE {CLAIMED} AND slot = ?"


class _Attempt:
    """An attempt at tasks that `slot` has claimed, which ends now; `owned`: those tasks, and which are suspects.

    `model`: of a report. `is_calm`: the provider's breaker is closed, and there are neither suspects nor failures in a
    row.
    """

    def __init__(
        self, connection: Connection, now: float, slot: int, provider: str, report: Report, model: str = ""
    ) -> None:
        self.connection, self.now, self.slot, self.provider, self.model = connection, now, slot, provider, model
        self.report, self.settled = report, Settled()
        # Both asked before either is waited for.
        look, owned = connection.execute(_LOOK, (provider,)), connection.execute(_OWNED, (slot,))
        self.is_calm, self.has_duplicates, self.has_bugs, *counted = look.get
        self.counted = limits.Counted(*counted)
        self.owned: dict[int, int] = dict(owned.fetchall())


@dataclass
class Outcomes:
    """Ends attempts. `draw(low, high)` is the spread of the back-off."""

    database: Database
    breakers: Breakers
    config: LedgerConfig
    draw: Callable[[float, float], float] = random.uniform

    def __post_init__(self) -> None:
        self._judge = Judge(self.breakers, self.config)

    # With a report

    def finish(self, claim: Claim, report: Report) -> Settled:
        """Record how a claim's call ended, for all or some of its tasks; on disk once `Ledger.flush` has returned.

        Tasks that its slot does not own any more are left alone, but an answer is taken as long as nobody else is at
        its task: their attempt has been counted, as that of a lost host. Raises LedgerError, with nothing recorded:
        keep the report and try again, its answers are paid for. What is returned is settled, and told once: another try
        would find nothing left to settle.
        """
        # By task: a report that names one twice must not fail for ever.
        reported = {outcome.task.seq: outcome for outcome in report.outcomes}
        type_ = claim.queue.type
        with self.database.transaction(durable=True) as connection:
            now = self.database.clock()
            attempt = _Attempt(connection, now, claim.slot, claim.provider, report, claim.route.model)
            settled = attempt.settled
            outcomes = settled.outcomes = tuple(each for seq, each in reported.items() if seq in attempt.owned)
            late = _late(attempt, reported)
            if not outcomes and not late:
                return settled  # told before, by a commit that did not look like one: a failure is to count once
            if report.cooldown is not None:
                cool_down(connection, claim.provider, report.cooldown, now)
            sent = [each.task.id for each in outcomes if each.ending is not Ending.UNSENT]
            limits.count(connection, type_, sent, now, attempt.counted)
            is_well = attempt.is_calm and claim.world.is_well
            if outcomes and not (is_well and all(each.ending is Ending.SUCCEEDED for each in outcomes)):
                self._judge.judge(connection, now, claim.slot, claim.world.id, report, settled, claim.world.good)
            settled.outcomes, settled.late = (*settled.outcomes, *late), len(late)
            if report.has_stand_in and claim.queue.failed_at != claim.provider:
                settled.outcomes = _handed_over(attempt)
            if claim.counted_for is not None:
                unsent = sum(outcome.ending is Ending.UNSENT for outcome in settled.outcomes)
                limits.give_stand_ins_back(connection, claim.route.fallback_from, claim.counted_for, unsent)
            self._settle(attempt)
            note_call(connection, now, claim.provider, type_, report.seconds, settled.outcomes)
            if _count_bugs(attempt, type_):
                settled.paused_processor = type_
            if outcomes and (claim.reserved_nano or report.bill):  # those released already were with their estimate
                settled.frees_others |= self._pay(attempt, claim, outcomes)
            if settled.breaker or settled.frees_others:
                self.database.announce("workers")  # what they sleep until has changed
        return settled

    def _pay(self, attempt: _Attempt, claim: Claim, outcomes: Sequence[Outcome]) -> bool:
        """Settle what the attempt cost; whether that may let other tasks go on."""
        bill = attempt.report.bill
        if bill is not None and bill.output_tokens and len(outcomes) == 1:
            budgets.learn(attempt.connection, claim.queue, claim.route, bill, len(outcomes[0].task.content))
        sent = any(outcome.ending is not Ending.UNSENT for outcome in outcomes)
        over = len(outcomes) == len(attempt.owned)
        return budgets.settle(attempt.connection, attempt.slot, bill, attempt.now, sent=sent, over=over)

    # With the death of its process

    def release(self, slot: int, cause: Cause) -> Settled:
        """Free all that a slot's former process owned. The caller holds the slot's lock, so that process is gone."""
        with self.database.transaction(durable=True) as connection:
            now = self.database.clock()
            settled = self._give_back(connection, slot, cause, now)
            let_go(connection, self.breakers, slot, now)  # afterwards: a deadline is how a probe ended
            if settled.breaker or settled.frees_others:
                self.database.announce("workers")
            return settled

    def _give_back(self, connection: Connection, slot: int, cause: Cause, now: float) -> Settled:
        """End the attempts at what `slot` has claimed. They count as sent: nobody can tell whether they were."""
        # Served by tasks_claimed.
        rows: list[Row] = connection.execute(
            "SELECT provider, world, seq, tasks.id, type, model, failed_at, attempts, crashes FROM tasks"
            f" JOIN queues ON queues.id = queue WHERE {CLAIMED} AND slot = ? ORDER BY seq",
            (slot,),
        ).fetchall()
        if not rows:
            return Settled()
        provider, world, *_ = rows[0]
        tasks = [
            Task(seq, task_id, QueueKey(type_, model, failed_at), b"", attempts, crashes)
            for _, _, seq, task_id, type_, model, failed_at, attempts, crashes in rows
        ]
        outcomes = tuple(self._outcome_of_death(connection, task, cause) for task in tasks)
        failure = Failure(Culprit.SERVICE, outcomes[0].reason) if cause is Cause.DEADLINE else None
        attempt = _Attempt(connection, now, slot, provider, Report(outcomes, failure))
        settled, task_type, task_ids = attempt.settled, tasks[0].queue.type, [task.id for task in tasks]
        settled.outcomes = outcomes
        limits.count(connection, task_type, task_ids, now, attempt.counted)
        budgets.settle(connection, slot, None, now, sent=True)
        if failure is not None:
            self._judge.judge(connection, now, slot, world, attempt.report, settled)
        self._settle(attempt)
        if cause is not Cause.STOPPED:
            note_error(connection, now, provider, cause.value, settled.outcomes[0].reason, task_type, task_ids)
        return settled

    def _outcome_of_death(self, connection: Connection, task: Task, cause: Cause) -> Outcome:
        if cause is Cause.STOPPED:
            return Outcome(task, Ending.ABANDONED, reason="the process that ran it was stopped")
        if cause is Cause.DEADLINE:
            return Outcome(task, Ending.RETRY, reason="the process that ran it overran its deadline and was killed")
        crashes = task.crashes + 1
        # Alone from now on: if it is this task that kills processes, it is to take no other with it.
        connection.execute(
            "UPDATE tasks SET crashes = ?, batch_limit = 1, is_suspect = 1 WHERE seq = ?", (crashes, task.seq)
        )
        if crashes >= self.config.max_crashes:
            return Outcome(task, Ending.FAILED, reason=f"poison: {crashes} processes died while they ran it")
        return Outcome(task, Ending.ABANDONED, reason="the process that ran it crashed")

    # Either way

    def _settle(self, attempt: _Attempt) -> None:
        """Write each outcome's state: its result, or that it is ready again."""
        settled = attempt.settled
        delivered = [outcome for outcome in settled.outcomes if outcome.ending in DELIVERED]
        returned = [outcome for outcome in settled.outcomes if outcome.ending not in DELIVERED]
        _store_results(attempt, delivered)
        if attempt.has_duplicates:
            seqs = [outcome.task.seq for outcome in delivered]
            settled.reused = settle_duplicates(attempt.connection, seqs, attempt.now)
        if returned:
            settled.retry_at = self._put_back(attempt, returned)

    def _put_back(self, attempt: _Attempt, returned: Sequence[Outcome]) -> float | None:
        """Have these tasks ready again, now or later; return when the first of those that must wait is due."""
        report, settled = attempt.report, attempt.settled
        connection, now, cooldown = attempt.connection, attempt.now, report.cooldown
        spread = self.draw(*SPREAD)  # one for all, so that a batch stays together
        halves = max(1, sum(outcome.ending is Ending.SPLIT for outcome in returned) // 2)
        pause = cooldown.seconds if cooldown is not None and not cooldown.awaited else 0.0
        waits = any(outcome.ending in (Ending.POSTPONED, Ending.UNSENT) for outcome in returned)
        held_back = waits and attempt.model and self._is_held_back(attempt)
        due: list[float] = []
        for outcome in returned:
            task, due_at = outcome.task, None
            tried, suspect, bound, queue = 0, 0, None, None
            match outcome.ending:
                case Ending.RETRY:
                    tried, suspect, bound = 1, 1, settled.bounds.get(task.seq)
                    tries = settled.tries.get(task.seq, 1)
                    if report.waits and outcome.culprit is Culprit.SERVICE:
                        own = report.waits[min(tries, len(report.waits)) - 1] * self.draw(*WAITS_SPREAD)
                        due_at = now + min(max(own, report.at_least), LONGEST_DELAY_SECONDS)
                    else:
                        due_at = now + self._delay(tries, spread)
                case Ending.FALLBACK:
                    queue = queue_id(connection, task.queue._replace(failed_at=attempt.provider))
                case Ending.SPLIT:
                    suspect, bound = 1, halves
                case Ending.POSTPONED if pause:
                    tried = 1
                    if task.attempts:  # asked to wait once more with this very task: the others go first
                        suspect = 1
                        due_at = now + min(pause + self._delay(task.attempts, spread), LONGEST_DELAY_SECONDS)
                case Ending.POSTPONED | Ending.UNSENT if not held_back:
                    due_at = now + POSTPONE_SECONDS * spread
            connection.execute(
                f"UPDATE tasks SET {READY}, slot = NULL, due_at = ?, attempts = attempts + ?,"
                " is_suspect = is_suspect | ?, batch_limit = COALESCE(?, batch_limit), queue = COALESCE(?, queue)"
                " WHERE seq = ?",
                (due_at, tried, suspect, bound, queue, task.seq),
            )
            due += [] if due_at is None else [due_at]
        return min(due, default=None)

    def _is_held_back(self, attempt: _Attempt) -> bool:
        """Whether something keeps tasks from being sent again at once."""
        connection, provider, now = attempt.connection, attempt.provider, attempt.now
        gate = self.breakers.gate(connection, (provider,), now)
        return not gate.passes or cooling(connection, provider, attempt.model, now) is not None

    def _delay(self, tries: int, spread: float) -> float:
        """Seconds until the next try. With the retries used up they double, whatever factor the settings name."""
        beyond = tries - self.config.max_retries - 1
        delay = retry_delay(tries, self.config.backoff_factor, spread)
        return max(delay, retry_delay(beyond, 2.0, spread)) if beyond > 0 else delay


def _late(attempt: _Attempt, reported: Mapping[int, Outcome]) -> list[Outcome]:
    """Good answers to tasks that were taken from this slot meanwhile, and that wait still."""
    answers = {seq: each for seq, each in reported.items() if each.ending is Ending.SUCCEEDED} if reported else {}
    if not (missing := answers.keys() - attempt.owned.keys()):
        return []
    are_these, seqs = these(missing)
    waiting: list[Row] = attempt.connection.execute(
        f"SELECT seq, id FROM tasks WHERE {READY} AND duplicate_of IS NULL AND seq {are_these} ORDER BY seq", seqs
    ).fetchall()
    return [answers[seq] for seq, task_id in waiting if answers[seq].task.id == task_id]


def _handed_over(attempt: _Attempt) -> tuple[Outcome, ...]:
    """Tasks at which the service has failed through all of its waits, or has asked for a pause for as long: another one
    is to stand in, even where evidence would have failed them."""
    report, settled = attempt.report, attempt.settled
    has_failed = report.failure is not None and report.failure.culprit is Culprit.SERVICE
    since = paused_since(attempt.connection, attempt.provider) if report.cooldown is not None else None
    is_through = since is not None and attempt.now - since >= sum(report.waits)

    def ended(outcome: Outcome) -> Outcome:
        is_last = settled.tries.get(outcome.task.seq, 0) > len(report.waits)
        failed = has_failed and is_last and outcome.ending in (Ending.RETRY, Ending.FAILED)
        paused = is_through and outcome.ending is Ending.POSTPONED
        return outcome._replace(ending=Ending.FALLBACK) if failed or paused else outcome

    return tuple(map(ended, settled.outcomes))


def _store_results(attempt: _Attempt, outcomes: Sequence[Outcome]) -> None:
    rows = [
        (
            each.task.seq,
            TaskStatus.SUCCEEDED.value if each.ending is Ending.SUCCEEDED else TaskStatus.FAILED.value,
            each.result,
            each.reason,
            attempt.now,
        )
        for each in outcomes
    ]
    connection = attempt.connection
    are_these, seqs = these(row[0] for row in rows)
    connection.execute(f"UPDATE tasks SET {FINISHED}, slot = NULL, due_at = NULL WHERE seq {are_these}", seqs)
    if any(attempt.owned.get(each.task.seq, True) or each.ending is not Ending.SUCCEEDED for each in outcomes):
        connection.execute(f"UPDATE tasks SET is_suspect = 0 WHERE seq {are_these}", seqs)
        connection.execute(f"DELETE FROM evidence WHERE seq {are_these}", seqs)
    connection.executemany("INSERT INTO results (seq, status, body, reason, finished_at) VALUES (?, ?, ?, ?, ?)", rows)


def _count_bugs(attempt: _Attempt, task_type: str) -> bool:
    """Whether bugs have just put the processor of `task_type` into quarantine."""
    endings = [outcome.ending for outcome in attempt.settled.outcomes]
    if Ending.SUCCEEDED in endings:
        if attempt.has_bugs:
            forget_bugs(attempt.connection, task_type)
        return False
    bugs = endings.count(Ending.BUG)
    return bugs > 0 and count_bugs(attempt.connection, task_type, bugs, attempt.now)


def let_go(connection: Connection, breakers: Breakers, slot: int, now: float) -> None:
    """Free the deliveries, the poll and the probes of `slot`; its claims are `Outcomes.release`'s.

    A slot does one thing at a time. So whatever it still owns when its process begins something new is left over: from
    a process that is gone, or from a step of this one that ended in a failure of the ledger (a full disk, say) before
    its outcome could be written. Without this, such rows would belong to a living slot for ever.
    """
    # Served by tasks_finished. What had failed before is due, but still behind those that never failed.
    connection.execute(
        "UPDATE tasks SET slot = NULL,"
        " due_at = (SELECT CAST(?2 AS DOUBLE PRECISION) FROM results WHERE results.seq = tasks.seq AND deliveries > 0)"
        f" WHERE {FINISHED} AND due_at IS NULL AND slot = ?1",
        (slot, now),
    )
    connection.execute("UPDATE polls SET slot = NULL WHERE slot = ?", (slot,))
    breakers.release(connection, slot)
    release_probes(connection, slot)
