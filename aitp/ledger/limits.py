"""Rate limits: how much was sent to providers, how much room is left, and when more comes.

The unit is one task sent to a provider once. What is counted is (completions in the window) + (claimed tasks, each a
reservation), so that N processes together exceed no window. Times in `task_completions` never decrease with the id and
ids are contiguous, so a count is the difference of two ids found by index: no query grows with history.

Everything but `publish` runs inside a transaction of the caller's.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import apsw

from aitp.ledger.database import Database
from aitp.policy.windows import (
    LONGEST_WINDOW_SECONDS,
    ROLLING_SECONDS,
    Period,
    Strategy,
    Window,
    fixed_window,
    rolling_window,
)
from aitp.tasks import Task

# At each poll: more than a poll brings in, so that the table cannot outgrow its windows.
PRUNE_ROWS = 10_000

# A completion leaves a rolling window when it is exactly as old as the window; a float sum may fall just short of it.
ROUNDING_SECONDS = 0.001


@dataclass(frozen=True, slots=True)
class LimitUse:
    """One period: tasks counted now, the limit, and when at least one more fits (None: now, or when a call ends)."""

    current: int
    limit: int
    remaining: int
    frees_at: float | None


@dataclass(frozen=True, slots=True)
class Exceeded:
    """A limit found exhausted for the first time in its window."""

    period: str
    current: int
    limit: int
    frees_at: float | None


@dataclass(frozen=True, slots=True)
class Room:
    """Tasks that may be claimed now (None: any number), and if none, when that changes (None: when a call ends)."""

    count: int | None
    frees_at: float | None = None
    exceeded: tuple[Exceeded, ...] = ()


class Limits:
    """The limits in force, as published in the ledger at load and reload."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def publish(self, strategy: str, timezone: str, allowed: Mapping[str, int]) -> None:
        """Put the limits of newly loaded settings in force; periods that are not in `allowed` are switched off."""
        with self._database.transaction() as connection:
            connection.execute(
                "UPDATE ledger SET strategy = ?, timezone = ?", (Strategy(strategy).value, ZoneInfo(timezone).key)
            )
            before = dict(connection.execute("SELECT period, allowed FROM limits"))
            for period, limit in before.items():
                if allowed.get(period, 0) != limit:
                    connection.execute("DELETE FROM limits WHERE period = ?", (period,))
            for period, limit in allowed.items():
                if limit > 0:
                    connection.execute(
                        "INSERT OR IGNORE INTO limits (period, allowed) VALUES (?, ?)", (Period(period).value, limit)
                    )

    def room(self, connection: apsw.Connection, now: float) -> Room:
        """How many more tasks may be claimed now. Marks newly exhausted limits as warned about."""
        uses = use_of_limits(connection, now)
        exhausted = {period: use for period, use in uses.items() if use.remaining == 0}
        if not exhausted:
            return Room(min((use.remaining for use in uses.values()), default=None))
        times = [use.frees_at for use in exhausted.values()]
        frees_at = None if None in times else max(time for time in times if time is not None)
        return Room(0, frees_at, tuple(self._newly_exceeded(connection, exhausted, now)))

    def _newly_exceeded(
        self, connection: apsw.Connection, exhausted: Mapping[Period, LimitUse], now: float
    ) -> Iterable[Exceeded]:
        strategy, zone = strategy_and_zone(connection)
        for period, use in exhausted.items():
            rolling = strategy is Strategy.ROLLING
            quiet_until = now + ROLLING_SECONDS[period] if rolling else fixed_window(period, now, zone).end
            changed = connection.execute(
                # A mark beyond what would be set now is left over from before the clock was set back.
                "UPDATE limits SET warned_until = ?1 WHERE period = ?2 AND (warned_until <= ?3 OR warned_until > ?1)"
                " RETURNING 1",
                (quiet_until, period.value, now),
            ).fetchall()
            if changed:
                yield Exceeded(period.value, use.current, use.limit, use.frees_at)

    def count(self, connection: apsw.Connection, tasks: Iterable[Task], now: float) -> None:
        """Record tasks that were sent to a provider and whose attempt has ended now, and mirror the fixed windows."""
        rows = [(now, task.kind.type, task.id) for task in tasks]
        if not rows:
            return
        restamp(connection, now)
        connection.executemany("INSERT INTO task_completions (completed_at, task_type, task_id) VALUES (?, ?, ?)", rows)
        _, zone = strategy_and_zone(connection)
        for period in Period:
            window = fixed_window(period, now, zone)
            connection.execute(
                "INSERT OR REPLACE INTO rate_limits "
                "(time_period, current_count, window_start, window_end, last_updated) VALUES (?, ?, ?, ?, ?)",
                (
                    period.value,
                    _completions(connection, window, inclusive=True)[0],
                    _text(window.start),
                    _text(window.end),
                    _text(now),
                ),
            )

    def prune(self, connection: apsw.Connection, now: float) -> None:
        """Forget some of the completions that no window can reach any more. The newest row stays: ids go on from it."""
        # Served by task_completions_time; ids and times rise together, so this takes rows from the low end only.
        connection.execute(
            "DELETE FROM task_completions WHERE id IN ("
            "  SELECT id FROM task_completions WHERE completed_at < ?1"
            "  AND id < (SELECT MAX(id) FROM task_completions) ORDER BY completed_at, id LIMIT ?2)",
            (now - LONGEST_WINDOW_SECONDS, PRUNE_ROWS),
        )


def restamp(connection: apsw.Connection, now: float) -> None:
    """After the clock was set back: completions from the future happened now at the latest."""
    connection.execute("UPDATE task_completions SET completed_at = ?1 WHERE completed_at > ?1", (now,))


def strategy_and_zone(connection: apsw.Connection) -> tuple[Strategy, ZoneInfo]:
    strategy, zone = connection.execute("SELECT strategy, timezone FROM ledger").get
    return Strategy(strategy), ZoneInfo(zone)


def use_of_limits(connection: apsw.Connection, now: float) -> dict[Period, LimitUse]:
    """The state of every limit in force, shortest period first. Reads only."""
    allowed = {Period(period): int(limit) for period, limit in connection.execute("SELECT period, allowed FROM limits")}
    if not allowed:
        return {}
    strategy, zone = strategy_and_zone(connection)
    reserved = int(connection.execute("SELECT COUNT(*) FROM tasks WHERE state = 'claimed'").get)
    uses = {}
    for period in (period for period in Period if period in allowed):
        rolling = strategy is Strategy.ROLLING
        window = rolling_window(period, now) if rolling else fixed_window(period, now, zone)
        completed, first = _completions(connection, window, inclusive=not rolling)
        current, limit = completed + reserved, allowed[period]
        frees_at = None
        if current >= limit and reserved < limit:
            frees_at = _frees_at(connection, period, first + current - limit, now) if rolling else window.end
        uses[period] = LimitUse(current, limit, max(0, limit - current), frees_at)
    return uses


def _completions(connection: apsw.Connection, window: Window, *, inclusive: bool) -> tuple[int, int]:
    """(number of completions in the window, id of the first of them). A fixed window includes its start.

    Served by task_completions_time and the row id: two look-ups, however long the history.
    """
    comparison = ">=" if inclusive else ">"
    row = connection.execute(
        f"SELECT id FROM task_completions WHERE completed_at {comparison} ? ORDER BY completed_at, id LIMIT 1",
        (window.start,),
    ).fetchone()
    if row is None:
        return 0, 0
    newest = int(connection.execute("SELECT MAX(id) FROM task_completions").get)
    first = int(row[0])
    return newest - first + 1, first


def _frees_at(connection: apsw.Connection, period: Period, last: int, now: float) -> float:
    """When completion `last`, and with it all before it, will have left the rolling window: room for one more task."""
    completed_at = float(connection.execute("SELECT completed_at FROM task_completions WHERE id = ?", (last,)).get)
    # One from the future (the clock was set back) will be taken as having happened now.
    return min(completed_at, now) + ROLLING_SECONDS[period] + ROUNDING_SECONDS


def _text(instant: float) -> str:
    return datetime.fromtimestamp(instant, UTC).strftime("%Y-%m-%d %H:%M:%S")
