"""Rate limits: how much was sent to providers, how much room is left, and when more comes.

The unit is one task sent to a provider once. What is counted is (completions in the window) + (claimed tasks, each a
reservation), so that N processes together exceed no window. The limits in force are those published in the ledger at
load and reload. The claim asks for room, the finish counts.

Completions, one row for each task that was sent and whose attempt has ended, are the memory of the limits. Ids are
contiguous (but for `used_up`) and times never decrease with them, so how many there are since some moment is a
difference of two ids found by index: no query grows with history. Those that came together share a moment, and only the
first of them is in the index: a batch of 32 is one entry there. `rate_limits` mirrors the counts of the current
calendar windows, for people and tools that know the table.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple
from zoneinfo import ZoneInfo

from aitp.ledger.engine import Connection, Row
from aitp.ledger.queue import CLAIMED
from aitp.policy.windows import LONGEST_WINDOW_SECONDS, ROLLING_SECONDS, fixed_window, rolling_window
from aitp.tasks import Period, Strategy

# At each poll: more than a poll brings in, so that the table cannot outgrow its windows.
PRUNE_ROWS = 10_000
# A completion leaves a rolling window when it is exactly as old as the window; a float sum may fall just short of it.
ROUNDING_SECONDS = 0.001


@dataclass(frozen=True, slots=True)
class LimitUse:
    """One period: tasks counted now, the limit, and when at least one more fits (None: now, or when a call ends).

    `ends_at`: when the window of a fixed limit ends (None: it is a rolling one).
    """

    current: int
    limit: int
    remaining: int
    frees_at: float | None
    ends_at: float | None = None


@dataclass(frozen=True, slots=True)
class Room:
    """Tasks that may be claimed now (None: any number), and if none, when that changes (None: when a call ends).

    `exceeded`: limits that are found exhausted for the first time in their windows.
    """

    count: int | None
    frees_at: float | None = None
    exceeded: Mapping[Period, LimitUse] = field(default_factory=dict)


class Counted(NamedTuple):
    """The last completion (None: there is none), and the span in which `rate_limits` has the present windows: a row of
    `COUNTED`, a select list.
    """

    newest_id: int | None
    newest_at: float | None
    mirrored_since: str | None
    mirrored_until: str | None


class Basis(NamedTuple):
    """What windows are counted from: a row of `BASIS`, for the select list of a query on `ledger`.

    `in_force`: the limits in one text, to be compared only (None: there are none). By other ones than these first three
    what was counted says nothing.
    """

    strategy: str
    timezone: str
    in_force: str | None
    newest: int | None
    reserved: int

    @property
    def used(self) -> int:
        """Grows by one with each task that is claimed, and stays when its attempt ends."""
        return (self.newest or 0) + self.reserved


def _first_since(moment: str) -> str:
    """The id of the first completion that is not earlier, NULL if there is none; for a select list."""
    # Served by task_completions_first. Whatever else happened at that moment has higher ids.
    first = f"SELECT id FROM task_completions WHERE is_first = 1 AND completed_at >= {moment}"
    return f"({first} ORDER BY completed_at, id LIMIT 1)"


# The id of the last completion, NULL before the first; for a select list.
# Not MAX(id): PostgreSQL keeps the plan that it made when there was one row, and walks all that came since by it.
_LAST = "FROM task_completions WHERE id > 0 ORDER BY id DESC LIMIT 1"
NEWEST = f"(SELECT id {_LAST})"
# The claimed tasks are counted in tasks_claimed.
BASIS = (
    "strategy, timezone, (SELECT group_concat(period || ' ' || allowed) FROM limits),"
    f" {NEWEST}, (SELECT COUNT(*) FROM tasks WHERE {CLAIMED})"
)
COUNTED = (
    f"{NEWEST}, (SELECT completed_at {_LAST}),"
    " (SELECT MAX(window_start) FROM rate_limits), (SELECT MIN(window_end) FROM rate_limits)"
)
_STARTS = "CASE period " + " ".join(f"WHEN '{period}' THEN ?" for period in Period) + " END"
_FIRSTS = f"SELECT period, allowed, {_first_since(_STARTS)} FROM limits"


class Limits:
    """The room in the limits, as one process knows it."""

    def __init__(self) -> None:
        # By how windows were cut, and when: there was room until so many in all are used.
        self._reach: tuple[tuple[object, ...], float, int] = (), 0.0, 0

    def room(self, connection: Connection, now: float, basis: Basis, enough: int) -> Room:
        """How many more tasks may be claimed now: exactly, or some number above `enough` if there is more room.

        Marks newly exhausted limits as warned about.
        """
        known = self.room_at_least(now, basis)
        if known is not None and known > enough:
            return Room(known)
        uses = _uses(connection, now, basis)
        room = min((use.limit - use.current for use in uses.values()), default=None)
        self._reach = ((), 0.0, 0) if room is None else (basis[:3], now, room + basis.used)
        if room is None or room > 0:
            return Room(room)
        exhausted = {period: use for period, use in uses.items() if use.remaining == 0}
        news = {period: use for period, use in exhausted.items() if _is_news(connection, period, use, now)}
        return Room(0, until_room(exhausted.values()), news)

    def room_at_least(self, now: float, basis: Basis) -> int | None:
        """What this process last found, less all that came since; None: find out.

        Windows only move on, and a completion only ever gets an earlier time: so there is that much room at the least.
        Spares the searches, a third of a claim's pages, while limits are far away.
        """
        cut, at, reach = self._reach
        return reach - basis.used if basis[:3] == cut and at <= now else None


def publish_limits(
    connection: Connection, now: float, strategy: str, timezone: str, allowed: Mapping[str, int]
) -> None:
    """Put the limits of newly loaded settings in force; periods that are not in `allowed` are switched off."""
    zone = ZoneInfo(timezone)
    connection.execute("UPDATE ledger SET strategy = ?, timezone = ?", (Strategy(strategy).value, zone.key))
    for period in Period:
        # Whoever was warned of a limit that stays as it is was warned.
        limit = allowed.get(period, 0)
        connection.execute("DELETE FROM limits WHERE period = ? AND allowed <> ?", (period, limit))
        if limit > 0:
            connection.execute(
                "INSERT INTO limits (period, allowed) VALUES (?, ?) ON CONFLICT (period) DO NOTHING",
                (period, limit),
            )
    _mirror_windows(connection, now, zone)


def count(connection: Connection, task_type: str, task_ids: Sequence[str], now: float, before: Counted) -> None:
    """Record tasks of one type that were sent to a provider and whose attempt has ended now."""
    if not task_ids:
        return
    at = max(now, before.newest_at or now)  # set back by less than the ledger's clock takes note of
    first = (before.newest_id or 0) + 1
    connection.executemany(
        "INSERT INTO task_completions (id, completed_at, task_type, task_id, is_first) VALUES (?, ?, ?, ?, ?)",
        [(first + number, at, task_type, task_id, number == 0) for number, task_id in enumerate(task_ids)],
    )
    stamp = _stamp(at)
    if (before.mirrored_since or "~") <= stamp < (before.mirrored_until or ""):
        connection.execute(_MIRROR_MORE, (len(task_ids), stamp))
    else:  # one of the mirrored windows has ended
        _mirror_windows(connection, at, zone_in_force(connection))


def use_of_limits(connection: Connection, now: float) -> dict[Period, LimitUse]:
    """The state of every limit in force, shortest period first. Reads only."""
    return _uses(connection, now, present_basis(connection))


def until_room(exhausted: Iterable[LimitUse]) -> float | None:
    """When all of these have room; None: when a call ends."""
    times = [math.inf if use.frees_at is None else use.frees_at for use in exhausted]
    return None if math.inf in times else max(times)


def zone_in_force(connection: Connection) -> ZoneInfo:
    """By which calendars are cut, by the settings in force."""
    return ZoneInfo(connection.execute("SELECT timezone FROM ledger").get)


def present_basis(connection: Connection) -> Basis:
    """A `Basis` by itself, for who has no other query on `ledger` to make."""
    return Basis(*connection.execute(f"SELECT {BASIS} FROM ledger").get)


def _uses(connection: Connection, now: float, basis: Basis) -> dict[Period, LimitUse]:
    rolling, zone = basis.strategy == Strategy.ROLLING, ZoneInfo(basis.timezone)
    windows = {period: rolling_window(period, now) if rolling else fixed_window(period, now, zone) for period in Period}
    rows: list[Row] = connection.execute(_FIRSTS, tuple(window.start for window in windows.values())).fetchall()
    found = {period: (allowed, first) for period, allowed, first in rows}
    after_newest, uses = (basis.newest or 0) + 1, {}
    for period, window in windows.items():
        if period in found:
            limit, first = found[period]
            first = after_newest if first is None else first
            current, frees_at = after_newest - first + basis.reserved, None
            if current >= limit > basis.reserved:
                frees_at = _leaves_at(connection, period, first + current - limit) if rolling else window.end
            ends_at = None if rolling else window.end
            uses[period] = LimitUse(current, limit, max(0, limit - current), frees_at, ends_at)
    return uses


def _leaves_at(connection: Connection, period: Period, number: int) -> float:
    """When a completion, and with it all before it, will have left the rolling window."""
    completed_at = connection.execute(
        # The next one, where numbers are left out: of their moment as well.
        "SELECT completed_at FROM task_completions WHERE id >= ? ORDER BY id LIMIT 1",
        (number,),
    ).get
    return float(completed_at) + ROLLING_SECONDS[period] + ROUNDING_SECONDS


def _is_news(connection: Connection, period: Period, use: LimitUse, now: float) -> bool:
    """Whether nobody was warned yet that this limit is exhausted in its present window; from now on somebody was."""
    quiet_until = now + ROLLING_SECONDS[period] if use.ends_at is None else use.ends_at
    connection.execute(
        "UPDATE limits SET warned_until = ? WHERE period = ? AND warned_until <= ?", (quiet_until, period, now)
    )
    return connection.changes() > 0


# Completions

# The task of a completion before which numbers are left out, up to the one before it: they count, at its moment.
LEFT_OUT = "all that was allowed"


def used_up(allowed: int, at: float) -> list[tuple[int, float, str]]:
    """The completions (id, time, task) of so many tasks of which nothing is known, in as few rows as count for them."""
    rows = [(1, at, "")] if allowed else []
    if allowed > 1:
        rows.append((allowed, at, LEFT_OUT))
    return rows


_MIRROR_MORE = "UPDATE rate_limits SET current_count = current_count + ?, last_updated = ?"
_MIRROR_ANEW = (
    "INSERT INTO rate_limits (time_period, current_count, window_start, window_end, last_updated)"
    " VALUES (?, ?, ?, ?, ?)"
    " ON CONFLICT (time_period) DO UPDATE SET current_count = excluded.current_count,"
    " window_start = excluded.window_start, window_end = excluded.window_end, last_updated = excluded.last_updated"
)


def _stamp(instant: float) -> str:
    """As `rate_limits` has it: UTC seconds as text."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(instant))


def completions_since(connection: Connection, moment: float) -> int:
    """How many there are that are not earlier. Two searches in indexes."""
    first, newest = connection.execute(f"SELECT {_first_since('?')}, {NEWEST}", (moment,)).get
    return 0 if first is None else int(newest + 1 - first)


def completed_by_now(connection: Connection, now: float) -> None:
    """The clock was set: completions that would lie in the future happened now, and other windows are present."""
    first = connection.execute(f"SELECT {_first_since('?')}", (math.nextafter(now, math.inf),)).get
    if first is not None:
        connection.execute("UPDATE task_completions SET completed_at = ? WHERE id >= ?", (now, first))
    _mirror_windows(connection, now, zone_in_force(connection))


def _mirror_windows(connection: Connection, now: float, zone: ZoneInfo) -> None:
    """Count the current calendar windows anew."""
    windows = {period: fixed_window(period, now, zone) for period in Period}
    connection.executemany(
        _MIRROR_ANEW,
        [
            (
                period.value,
                completions_since(connection, window.start),
                _stamp(window.start),
                _stamp(window.end),
                _stamp(now),
            )
            for period, window in windows.items()
        ],
    )


def prune_completions(connection: Connection, now: float) -> None:
    """Forget some of the completions that no window can reach any more. The newest row stays: ids go on from it."""
    needed, newest = connection.execute(f"SELECT {_first_since('?')}, {NEWEST}", (now - LONGEST_WINDOW_SECONDS,)).get
    connection.execute(
        "DELETE FROM task_completions WHERE id < ?1 AND id < ?2 + (SELECT MIN(id) FROM task_completions)",
        (newest if needed is None else needed, PRUNE_ROWS),
    )
    if connection.changes():
        # The first of its moment may be gone: after a clock that was set forward is set back, this one is looked for.
        connection.execute(
            "UPDATE task_completions SET is_first = 1"
            " WHERE id = (SELECT MIN(id) FROM task_completions) AND is_first = 0"
        )


# Calls that one provider makes in another's stead: counted by UTC day in the claim's transaction, and so bounded. What
# was counted stays counted, whatever becomes of the process: a kill cannot make room. Only a claim that was never sent
# gives its part back. Where a recovery could not read the counts, the day's are used up. Only providers of other
# packages have such a bound (`aitp.policy.routing.Rules`).

DAY_SECONDS = 86_400
UNKNOWN = ""  # the provider of a row that stands for all whose counts are lost
ALL_SENT = 2**31


def stand_ins_sent(connection: Connection, provider: str, now: float) -> int:
    """How many calls were made in the stead of `provider` today."""
    return int(
        connection.execute(
            # A clock that is set back makes no room: a day that was begun goes on.
            "SELECT COALESCE(MAX(sent), 0) FROM stand_ins WHERE provider IN (?, ?) AND day >= ?",
            (provider, UNKNOWN, day_of(now)),
        ).get
    )


def count_stand_ins(connection: Connection, provider: str, now: float, calls: int) -> int:
    """Count so many more; the day that they count for."""
    return int(
        connection.execute(
            "INSERT INTO stand_ins (provider, day, sent) VALUES (?1, ?2, ?3) ON CONFLICT (provider) DO UPDATE SET"
            " sent = CASE WHEN stand_ins.day >= excluded.day THEN stand_ins.sent ELSE 0 END + excluded.sent,"
            " day = CASE WHEN stand_ins.day >= excluded.day THEN stand_ins.day ELSE excluded.day END RETURNING day",
            (provider, day_of(now), calls),
        ).get
    )


def give_stand_ins_back(connection: Connection, provider: str, day: int, calls: int) -> None:
    """So many of those that were counted for `day` were never sent."""
    connection.execute(
        "UPDATE stand_ins SET sent = sent - ?1 WHERE provider = ?2 AND day = ?3 AND sent >= ?1", (calls, provider, day)
    )


def day_of(now: float) -> int:
    """Days since 1970, UTC."""
    return int(now // DAY_SECONDS)


def next_day(now: float) -> float:
    """When they are counted anew."""
    return float((day_of(now) + 1) * DAY_SECONDS)
