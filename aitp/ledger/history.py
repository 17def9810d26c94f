"""What was lately: the last hour by the minute, and the last troubles by what they were. For people to look at.

Nothing is decided by it, and it never grows: minutes are pruned by polls, of troubles the newest few stay, and the same
one again is counted instead of kept twice. Reasons come from our own errors, which hold no text of a task and no
secret. The writers run inside a transaction of the caller's; `read_history` opens, reads and closes by itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from aitp.ledger.engine import Connection
from aitp.ledger.views import reading
from aitp.tasks import Ending, Outcome

MINUTES_SHOWN = 60
MINUTES_KEPT = 120
TROUBLES_KEPT = 50
LONGEST_REASON = 500

# Endings that are nobody's trouble: a batch that was halved goes on, a call that a stop cut short was let go.
_UNTROUBLED = (Ending.SUCCEEDED, Ending.SPLIT, Ending.ABANDONED)


@dataclass(frozen=True, slots=True)
class Minute:
    """Calls to providers that ended in one minute. `at`: its beginning, UTC seconds; `seconds` of all calls together.

    `succeeded`, `failed` and `returned` (tried again later, or elsewhere) are attempts at tasks.
    """

    at: float
    calls: int = 0
    succeeded: int = 0
    failed: int = 0
    returned: int = 0
    seconds: float = 0.0
    slowest: float = 0.0


@dataclass(frozen=True, slots=True)
class Trouble:
    """Something that went wrong `times` times, last at `last_at` (UTC seconds) with the task `task_id`, if any.

    `source`: the service concerned; `ending`: what it came to.
    """

    source: str
    type: str
    ending: str
    reason: str
    first_at: float
    last_at: float
    times: int
    task_id: str


@dataclass(frozen=True, slots=True)
class History:
    """Every minute of the last hour, the present one last, those without calls included; the last troubles first."""

    minutes: tuple[Minute, ...] = ()
    troubles: tuple[Trouble, ...] = ()


def note_call(connection: Connection, now: float, provider: str, seconds: float, outcomes: Sequence[Outcome]) -> None:
    """A call to `provider` that took `seconds` has ended now with these outcomes. One statement if all is well."""
    endings = [outcome.ending for outcome in outcomes]
    succeeded, failed = endings.count(Ending.SUCCEEDED), 0
    if succeeded < len(endings):
        failed = endings.count(Ending.FAILED) + endings.count(Ending.BUG)
        _note_outcomes(connection, now, provider, outcomes)
    connection.execute(
        "INSERT INTO minutes (minute, calls, succeeded, failed, returned, seconds, slowest)"
        " VALUES (?1, 1, ?2, ?3, ?4, ?5, ?5)"
        " ON CONFLICT (minute) DO UPDATE SET calls = calls + 1, succeeded = succeeded + ?2, failed = failed + ?3,"
        " returned = returned + ?4, seconds = seconds + ?5, slowest = MAX(slowest, ?5)",
        (int(now // 60), succeeded, failed, len(endings) - succeeded - failed, max(0.0, seconds)),
    )


def _note_outcomes(connection: Connection, now: float, provider: str, outcomes: Iterable[Outcome]) -> None:
    """Note what went wrong with these tasks, each reason once."""
    reasons: dict[tuple[str, str, str], list[str]] = {}
    for outcome in outcomes:
        if outcome.ending not in _UNTROUBLED:
            key = (outcome.task.queue.type, outcome.ending.value, outcome.reason)
            reasons.setdefault(key, []).append(outcome.task.id)
    for (type_, ending, reason), task_ids in reasons.items():
        note_trouble(connection, now, provider, ending, reason, type_, task_ids)


def note_trouble(
    connection: Connection,
    now: float,
    source: str,
    ending: str,
    reason: str,
    type_: str = "",
    task_ids: Sequence[str] = (),
) -> None:
    """Note one trouble, or that it came again, with each of these tasks or with none."""
    connection.execute(
        "INSERT INTO troubles (source, type, ending, reason, first_at, last_at, times, task_id)"
        " VALUES (?1, ?2, ?3, ?4, ?5, ?5, ?6, ?7)"
        " ON CONFLICT (source, type, ending, reason)"
        " DO UPDATE SET last_at = ?5, times = times + ?6, task_id = ?7",
        (source, type_, ending, reason[:LONGEST_REASON], now, max(1, len(task_ids)), task_ids[-1] if task_ids else ""),
    )
    connection.execute(
        "DELETE FROM troubles WHERE number IN"
        " (SELECT number FROM troubles ORDER BY last_at DESC, number DESC LIMIT -1 OFFSET ?)",
        (TROUBLES_KEPT,),
    )


def prune_minutes(connection: Connection, now: float) -> None:
    """Forget the minutes that nobody looks at any more, and those that a clock set back has put into the future."""
    minute = int(now // 60)
    connection.execute("DELETE FROM minutes WHERE minute < ? OR minute > ?", (minute - MINUTES_KEPT, minute))


def read_history(path: Path, now: float | None = None) -> History:
    """Read what the page shows of the past. Raises LedgerError."""
    with reading(path, now) as (connection, moment):
        return _read(connection, int(moment // 60))


def _read(connection: Connection, present: int) -> History:
    first = present - MINUTES_SHOWN + 1
    known = {
        minute: Minute(60.0 * minute, *counts)
        for minute, *counts in connection.execute(
            "SELECT minute, calls, succeeded, failed, returned, seconds, slowest FROM minutes"
            " WHERE minute BETWEEN ? AND ?",
            (first, present),
        )
    }
    troubles = connection.execute(
        "SELECT source, type, ending, reason, first_at, last_at, times, task_id FROM troubles"
        " ORDER BY last_at DESC, number DESC LIMIT ?",
        (TROUBLES_KEPT,),
    )
    return History(
        tuple(known.get(minute, Minute(60.0 * minute)) for minute in range(first, present + 1)),
        tuple(Trouble(*row) for row in troubles),
    )
