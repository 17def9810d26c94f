"""The ledger's clock: the machine's, and what becomes of the instants in the ledger when somebody sets it.

Wall time is needed: limits go by calendars, people read it, and a machine that was off knows no other. But it is set,
by people, by NTP, by whoever resumes a machine. The time since the machine started is not, so the difference of the two
tells by how much. The ledger holds that difference. Each transaction begins by comparing with it (`sqlite`); the first
one that finds another difference calls `follow`, and in that same transaction all instants follow, once for all
processes. Nothing else in this room knows that clocks are set.

Promised: what waits for an instant, or is measured from one, goes on to do so in real seconds, to within one (twice
TOLERANCE_SECONDS), however the clock is set. What was sent and spent stays where it was on the calendar, but never lies
in the future: a clock that is set back makes no room.
"""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Protocol

from aitp.ledger.budgets import spent_by_now
from aitp.ledger.engine import Connection
from aitp.ledger.limits import completed_by_now
from aitp.ledger.worlds import moved

# NTP slews for less, and two readings are never of the same moment.
TOLERANCE_SECONDS = 0.5
# Between the readings before and after one of the wall clock: of a process that was stopped there, nothing is believed.
APART_SECONDS = 0.1

# By table: instants that something waits for, or is measured from.
FOLLOWING = {
    "tasks": ("due_at", "entered_at"),
    "results": ("finished_at", "refused_at"),
    "tombstones": ("delivered_at",),
    "polls": ("began_at", "regular_at", "succeeded_at"),
    "breakers": ("opened_at",),
    "cooldowns": ("until", "since"),
    "processors": ("paused_until",),
    "cache": ("expires_at",),
    "answers": ("finished_at",),
    "recent_errors": ("first_at", "last_at"),
    "worlds": ("tried_at", "paused_until"),
    "request_profiles": ("since",),
    "hosts": ("seen_at",),
    "absences": ("since",),
}
# All others stay. Limits and budgets go by the calendar: only what was completed or spent in what is the future now was
# so just now. A limit is said to be exhausted once more; what a budget has said holds for a window of its calendar.
STAYING = {
    "task_completions": ("completed_at",),
    "spending": ("starts", "ends"),
    "limits": ("warned_until",),
    "budgets": ("warned_until", "kept_back_until"),
}

OFFSET = "SELECT clock_offset FROM ledger"
BOOT = Path("/proc/sys/kernel/random/boot_id")


class Clock(Protocol):
    """Called, it gives UTC seconds, which people and machines may set."""

    @property
    def boot(self) -> str:
        """Another one each time the machine starts; empty where that is not to be had."""

    def __call__(self) -> float: ...

    def uptime(self) -> float:
        """Seconds since the machine started, while it was suspended too: nobody sets them."""


class MachineClock:
    """The machine's."""

    def __call__(self) -> float:
        return time.time()

    def uptime(self) -> float:
        return time.clock_gettime(time.CLOCK_BOOTTIME)

    @property
    def boot(self) -> str:
        try:
            return BOOT.read_text().strip()
        except OSError:  # hidden from the service by its unit (ProcSubset=pid)
            return ""


def follow(connection: Connection, clock: Clock, told: float) -> tuple[float, float]:
    """Have the ledger's instants follow the clock, if it was set, in the caller's transaction.

    Returns the present time, and by how much it is ahead of the time since the machine started, for the ledger. By that
    the caller knows the next step, if the transaction comes to something. `told`: what this process was told last, not
    a number if nothing.
    """
    boot, known = connection.execute("SELECT boot, clock_offset FROM ledger").get
    here = clock.boot
    now, offset = _read(clock)
    if known is not None:
        delta = offset - known
        if abs(delta) <= TOLERANCE_SECONDS:
            return now, known  # another process found it
        # Who was told anything agreed with the ledger then, and lives since; so does the machine.
        if math.isnan(told) and not (here and boot == here):
            # It was started anew, or may have been, and how long it was off only its wall clock knows. But it cannot be
            # earlier now than what has already happened.
            last = latest(connection)
            delta = 0.0 if last is None else min(0.0, now - last)
        if delta:
            _step(connection, delta, now)
    connection.execute("UPDATE ledger SET boot = ?, clock_offset = ?", (here, offset))
    return now, offset


def _read(clock: Clock) -> tuple[float, float]:
    """The time, and by how much it is ahead, read closely one after the other."""
    while True:
        before, now, after = clock.uptime(), clock(), clock.uptime()
        if after - before < APART_SECONDS:
            return now, now - after


def latest(connection: Connection) -> float | None:
    """When the last of what the ledger tells of happened."""
    last = connection.execute(_LATEST).get
    return None if last is None else float(last)


_LATEST = (
    "SELECT MAX(latest) FROM ("
    " SELECT MAX(began_at) AS latest FROM polls UNION ALL SELECT MAX(succeeded_at) FROM polls"
    " UNION ALL SELECT MAX(entered_at) FROM tasks UNION ALL SELECT MAX(finished_at) FROM results"
    " UNION ALL SELECT MAX(delivered_at) FROM tombstones UNION ALL SELECT MAX(last_at) FROM recent_errors"
    " UNION ALL SELECT MAX(completed_at) FROM task_completions WHERE is_first = 1"
    ") AS happened"
)


def _step(connection: Connection, delta: float, now: float) -> None:
    """The clock was set by `delta` seconds, and it is `now` by it. A walk over what is held; sizes stay as they are."""
    for table, columns in FOLLOWING.items():
        settings = ", ".join(f"{column} = {column} + ?1" for column in columns)
        connection.execute(f"UPDATE {table} SET {settings}", (delta,))
    connection.execute("UPDATE limits SET warned_until = 0")
    connection.execute("DELETE FROM minutes WHERE minute > ?", (int(now // 60),))
    completed_by_now(connection, now)
    spent_by_now(connection, now)
    moved(connection)
