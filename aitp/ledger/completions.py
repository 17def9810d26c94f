"""Completions: one row for each task that was sent to a provider and whose attempt has ended, the memory of the limits.

Ids are contiguous and times never decrease with them, so how many there are since some moment is a difference of two
ids found by index: no query grows with history. Those that came together share a moment, and only the first of them is
in the index: a batch of 32 is one entry there. `rate_limits` mirrors the counts of the current calendar windows, for
people and tools that know the table. Everything runs inside a transaction of the caller's.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from zoneinfo import ZoneInfo

import apsw
import orjson

from aitp.ledger.database import Row
from aitp.policy.windows import LONGEST_WINDOW_SECONDS, Period, fixed_window

# At each poll: more than a poll brings in, so that the table cannot outgrow its windows.
PRUNE_ROWS = 10_000

# The id of the last one, and when it was, NULL before the first; for a select list.
NEWEST = "(SELECT MAX(id) FROM task_completions)"
NEWEST_AT = f"(SELECT completed_at FROM task_completions WHERE id = {NEWEST})"

_NEWEST = f"SELECT id, completed_at FROM task_completions WHERE id = {NEWEST}"
# `rate_limits` has UTC seconds as text.
_MIRROR_MORE = (
    "UPDATE rate_limits SET current_count = current_count + ?1, last_updated = datetime(?2, 'unixepoch')"
    " WHERE window_start <= datetime(?2, 'unixepoch') AND window_end > datetime(?2, 'unixepoch')"
)
_MIRROR_ANEW = (
    "INSERT OR REPLACE INTO rate_limits (time_period, current_count, window_start, window_end, last_updated)"
    " VALUES (?, ?, datetime(?, 'unixepoch'), datetime(?, 'unixepoch'), datetime(?, 'unixepoch'))"
)


def first_since(moment: str) -> str:
    """The id of the first completion that is not earlier, NULL if there is none; for a select list."""
    # Served by task_completions_first. Whatever else happened at that moment has higher ids.
    first = f"SELECT id FROM task_completions WHERE is_first = 1 AND completed_at >= {moment}"
    return f"({first} ORDER BY completed_at, id LIMIT 1)"


def newest_completion(connection: apsw.Connection) -> tuple[int, float]:
    """(id, time) of the last completion; (0, 0) before the first."""
    rows: list[Row] = connection.execute(_NEWEST).fetchall()
    return rows[0] if rows else (0, 0.0)


def first_completions(connection: apsw.Connection, since: Sequence[float]) -> list[int | None]:
    """For each of these moments, the id of the first completion that is not earlier. One search in the index each."""
    columns = ", ".join(first_since("?") for _ in since)
    rows: list[Row] = connection.execute(f"SELECT {columns}", tuple(since)).fetchall()
    return list(rows[0])


def completed_at(connection: apsw.Connection, number: int) -> float:
    """When the completion of that id was."""
    return float(connection.execute("SELECT completed_at FROM task_completions WHERE id = ?", (number,)).get)


def record_completions(connection: apsw.Connection, task_type: str, task_ids: Sequence[str], now: float) -> bool:
    """The attempts at these tasks have ended now. False: a mirrored window has ended, so they are to be mirrored anew.

    None there may be from the future: `restamp` comes first.
    """
    connection.execute(
        "INSERT INTO task_completions (completed_at, task_type, task_id, is_first)"
        " SELECT ?, ?, value, key = 0 FROM json_each(?)",
        (now, task_type, orjson.dumps(task_ids).decode()),
    )
    connection.execute(_MIRROR_MORE, (len(task_ids), now))
    return connection.changes() == len(Period)


def restamp(connection: apsw.Connection, now: float, zone: ZoneInfo) -> None:
    """The clock was set back: completions from the future (there are some) happened now at the latest."""
    [first] = first_completions(connection, [math.nextafter(now, math.inf)])
    connection.execute("UPDATE task_completions SET completed_at = ? WHERE id >= ?", (now, first))
    mirror_windows(connection, now, zone)


def mirror_windows(connection: apsw.Connection, now: float, zone: ZoneInfo) -> None:
    """Count the current calendar windows anew."""
    windows = [fixed_window(period, now, zone) for period in Period]
    newest, _ = newest_completion(connection)
    firsts = first_completions(connection, [window.start for window in windows])
    connection.executemany(
        _MIRROR_ANEW,
        [
            (
                period.value,
                0 if first is None else newest + 1 - first,
                window.start,
                window.end,
                now,
            )
            for period, window, first in zip(Period, windows, firsts, strict=True)
        ],
    )


def prune_completions(connection: apsw.Connection, now: float) -> None:
    """Forget some of the completions that no window can reach any more. The newest row stays: ids go on from it."""
    [needed] = first_completions(connection, [now - LONGEST_WINDOW_SECONDS])
    newest, _ = newest_completion(connection)
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
