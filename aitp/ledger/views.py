"""What there is to see in the ledger, read in one go: for gauges, /health, /ready, the page and `aitp status`.

Each snapshot opens the file read-only, reads one consistent state and closes, because a reader that stays keeps the WAL
from being reset.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from aitp.errors import LedgerError
from aitp.ledger.breakers import IN_FORCE, PAUSE_SECONDS
from aitp.ledger.budgets import BudgetUse, unpriced_models, use_of_budgets
from aitp.ledger.damage import has_tables
from aitp.ledger.engine import Connection, Row
from aitp.ledger.limits import LimitUse, use_of_limits
from aitp.ledger.schema import VERSION
from aitp.ledger.soundness import check
from aitp.ledger.sqlite import as_ledger_error, empty_ledger, free_bytes, no_ledger, open_read_only, version_in
from aitp.ledger.worlds import PROFILE_SECONDS
from aitp.policy.retry import LONGEST_DELAY_SECONDS
from aitp.tasks import QueueKey

# Tasks that are ready, but not before a moment that is set or before their twin, are called waiting; the table has one
# state for all.
SHOWN_STATE = "IIF(state = 'ready' AND (due_at IS NOT NULL OR twin_of IS NOT NULL), 'waiting', state)"


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

    @property
    def held(self) -> int:
        """Tasks that are not dealt with yet."""
        return self.ready + self.waiting + self.claimed + self.finished


def snapshot(path: Path, *, recovery: float = 60.0, now: float | None = None) -> Snapshot:
    """Read the ledger. `recovery`: seconds from a breaker's opening to its probe. Raises LedgerError."""
    with reading(path, now) as (connection, moment):
        return _read(connection, moment, recovery, free_bytes(path))


@contextmanager
def reading(path: Path, now: float | None = None) -> Iterator[tuple[Connection, float]]:
    """One consistent state of the ledger, and the time. Raises LedgerError, as it does for what fails of it within."""
    with as_ledger_error(path):  # it may lie where this user may not look
        if not path.exists():
            raise no_ledger(path)
    connection = open_read_only(path)
    try:
        with as_ledger_error(path):
            connection.execute("BEGIN")
            version = version_in(connection, path)
            if version == 0 and not has_tables(connection):
                raise empty_ledger(path)
            if version != VERSION:
                raise LedgerError(f"the ledger {path} has version {version}, this release reads {VERSION}")
            yield connection, time.time() if now is None else now
    except (TypeError, ValueError, LookupError, OverflowError) as error:
        if _is_damage(path, error):
            raise _not_ours(path, error) from error
        raise
    finally:
        connection.close()


class QueueInUse(NamedTuple):
    """A kind that the ledger knows, and whether it has tasks of it now."""

    queue: QueueKey
    in_hand: bool


def queues_in_use(path: Path) -> list[QueueInUse]:
    """The kinds of all tasks that are there, or were not long ago. Raises LedgerError."""
    with reading(path) as (connection, _):
        found = connection.execute(
            "SELECT type, model, failed_at, id IN (SELECT kind FROM tasks) FROM kinds ORDER BY id"
        )
        return [QueueInUse(QueueKey(*facts), bool(in_hand)) for *facts, in_hand in found]


def version_of(path: Path) -> int | None:
    """The version of the ledger at `path`, whatever release it is of; None if there is none yet, 0 if it is empty.

    Raises LedgerError, MisplacedLedger for what never was a ledger.
    """
    with as_ledger_error(path):  # it may lie where this user may not look
        if not path.exists():
            return None
    connection = open_read_only(path)
    try:
        with as_ledger_error(path):
            return version_in(connection, path)
    except (TypeError, ValueError) as error:
        raise _not_ours(path, error) from error
    finally:
        connection.close()


def _is_damage(path: Path, error: Exception) -> bool:
    """Whether it is the ledger that made the reading code raise this: `aitp ledger check` would say so then.

    In a sound one it is a bug of ours, not to be hidden behind what would have people recover their ledger.
    """
    if isinstance(error, UnicodeDecodeError):
        return True  # of a text, by apsw
    try:
        return not check(path, quick=True).sound
    except LedgerError:
        return False


def _not_ours(path: Path, error: Exception) -> LedgerError:
    """SQLite finds no fault in the file, but what is read is not what was written."""
    return LedgerError(
        f"the ledger {path} is damaged ({type(error).__name__} in what it holds): see `aitp ledger check`"
    )


def _read(connection: Connection, now: float, recovery: float, disk_free: int) -> Snapshot:
    strategy, paused = connection.execute("SELECT strategy, paused FROM ledger").get
    limits = {period.value: use for period, use in use_of_limits(connection, now).items()}
    polled_at, problem = connection.execute("SELECT succeeded_at, problem FROM polls").get
    counts = _counts(connection)
    oldest_ready = connection.execute("SELECT MIN(entered_at) FROM tasks WHERE state = 'ready'").get
    oldest_finished = connection.execute(
        "SELECT MIN(finished_at) FROM results JOIN tasks ON tasks.seq = results.seq WHERE state = 'finished'"
    ).get
    return Snapshot(
        taken_at=now,
        strategy=str(strategy),
        limits_enabled=bool(limits),
        paused=bool(paused),
        limits=limits,
        breakers={
            service: BreakerView(
                state, failures, opened_at, None if opened_at is None else min(opened_at, now) + recovery, reason
            )
            for service, state, failures, opened_at, reason in connection.execute(
                "SELECT service, state, failures, opened_at, reason FROM breakers"
            )
        },
        cooldowns=tuple(
            CooldownView(*row)
            for row in connection.execute(
                f"SELECT provider, model, until, reason FROM cooldowns WHERE {IN_FORCE.format('?1')}"
                " ORDER BY provider, model",
                (now,),
            )
        ),
        paused_processors=dict(
            connection.execute(
                "SELECT type, paused_until FROM processors WHERE paused_until > ? AND paused_until <= ?",
                (now, now + PAUSE_SECONDS),
            )
        ),
        **counts,
        unreadable=int(connection.execute("SELECT COUNT(*) FROM unreadable").get),
        oldest_ready_age=_age(oldest_ready, now),
        oldest_finished_age=_age(oldest_finished, now),
        last_poll_at=polled_at,
        last_poll_problem=problem,
        disk_free=disk_free,
        budgets={period.value: use for period, use in use_of_budgets(connection, now).items()},
        unpriced=unpriced_models(connection),
        quarantines=tuple(
            QuarantineView(*row)
            for row in connection.execute(
                # One that nobody is left to be sent to says nothing any more after a while.
                "SELECT provider, model, type, culprit, reason, paused_until FROM worlds"
                " WHERE paused_until > ? ORDER BY provider, model, type",
                (now - LONGEST_DELAY_SECONDS,),
            )
        ),
        profiles=tuple(
            ProfileView(provider, model, tuple(left_out.split()), reason, since)
            for provider, model, left_out, reason, since in connection.execute(
                "SELECT provider, model, left_out, reason, since FROM request_profiles"
                " WHERE since > ? AND left_out <> '' ORDER BY provider, model",
                (now - PROFILE_SECONDS,),
            )
        ),
    )


def _counts(connection: Connection) -> dict[str, int]:
    """Tasks by state; those that are not due yet, or wait for a twin, count as waiting. One walk over what is held."""
    counts = dict.fromkeys(("ready", "waiting", "claimed", "finished", "dead"), 0)
    rows: list[Row] = connection.execute(f"SELECT {SHOWN_STATE} AS what, COUNT(*) FROM tasks GROUP BY what").fetchall()
    return counts | dict(rows)


def _age(instant: float | None, now: float) -> float:
    return 0.0 if instant is None else max(0.0, now - instant)
