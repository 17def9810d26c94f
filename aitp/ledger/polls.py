"""Polls: one at a time over all processes, when one is due, and what became of the last one.

`begin` decides and takes the poll for a slot; `end` or `fail` closes it. The inbox brings them together with what
is admitted in between. Everything runs inside a transaction of the caller's.
"""

from __future__ import annotations

from dataclasses import dataclass

import apsw

from aitp.ledger.claims import Because
from aitp.ledger.completions import first_completions, newest_completion
from aitp.ledger.cooldowns import IN_FORCE
from aitp.ledger.due import CLAIMABLE, follow_clock
from aitp.ledger.limits import Limits
from aitp.policy.deliveries import awaits_poll
from aitp.policy.polling import PollFacts, appetite, page_limit
from aitp.tasks import Service


@dataclass(frozen=True, slots=True)
class PollTerms:
    """What the polling decision needs from the settings: seconds, tasks, processes."""

    interval: float
    concurrency: int
    batch_size: int


@dataclass(frozen=True, slots=True)
class Poll:
    """A poll that this slot may now make: ask for `limit` tasks. `began_sequence` orders it among deliveries.

    `began_uptime`: `began_at` by the clock that nobody sets, see Database. `longest_page`: the most documents that a
    page of this server has held.
    """

    slot: int
    began_sequence: int
    began_at: float
    limit: int
    began_uptime: float
    longest_page: int = 0


@dataclass(frozen=True, slots=True)
class NotYet:
    """No poll now; the next is due at `until` (None: when something else happens first).

    `because`: what keeps even a poll that is asked for from being made (None: nothing does, it is not due).
    """

    until: float | None
    because: Because | None = None


def poll_facts(
    connection: apsw.Connection,
    terms: PollTerms,
    now: float,
    limits: Limits,
    inbox_limit: int,
    *,
    asked: bool,
    awaited: bool,
) -> PollFacts:
    """What the polling decision rests on."""
    full = list(limits.full(connection, now))
    room_times = [use.frees_at for use in full if use.frees_at is not None]
    began_at = connection.execute("SELECT began_at FROM polls").get
    if began_at is not None and began_at > now:
        # From before the clock was set back: else polls, and all that waits, would wait for that time to return.
        connection.execute("UPDATE polls SET began_at = ?", (now,))
        follow_clock(connection, began_at - now, now)
    began_at, regular_at, failures, more_there, delivered_since = connection.execute(
        # Served by tombstones_sequence.
        "SELECT began_at, regular_at, failures, more_there,"
        " EXISTS (SELECT 1 FROM tombstones WHERE sequence > began_sequence) FROM polls"
    ).get
    (first,) = first_completions(connection, [now - 60.0])
    recent = 0 if first is None else newest_completion(connection)[0] + 1 - first
    return PollFacts(
        now=now,
        interval=terms.interval,
        began_at=began_at,
        regular_at=regular_at,
        failures=failures,
        # What is there can't be taken in while the inbox is full, of twins that wait for one another for instance.
        more_there=bool(more_there) and waiting_count(connection) < inbox_limit,
        delivered_since=bool(delivered_since),
        ready=ready_count(connection),
        low_water=terms.concurrency * terms.batch_size,
        appetite=appetite(recent / 60.0, terms.interval, terms.concurrency, terms.batch_size),
        inbox_limit=inbox_limit,
        full=bool(full),
        room_at=max(room_times) if len(room_times) == len(full) and full else None,
        asked=asked,
        awaited=awaited,
    )


def begin(
    connection: apsw.Connection, slot: int, sequence: int, facts: PollFacts, concurrency: int, uptime: float
) -> Poll:
    """Take the poll for `slot`. Closed by `end` or `fail`, or by the end of the slot's process."""
    connection.execute(
        "UPDATE polls SET slot = ?, began_sequence = ?, began_at = ?, regular_at = NULL", (slot, sequence, facts.now)
    )
    held = int(
        # All that may fill a page: what is in the ledger, what was set aside, what the list still shows by its lag.
        connection.execute(
            "SELECT (SELECT COUNT(*) FROM tasks) + (SELECT COUNT(*) FROM unreadable)"
            " + (SELECT COUNT(*) FROM tombstones)"
        ).get
    )
    limit = page_limit(held, facts.ready, facts.appetite, facts.inbox_limit, concurrency)
    longest_page = int(connection.execute("SELECT longest_page FROM polls").get)
    return Poll(slot, sequence, facts.now, limit, uptime, longest_page)


def is_awaited(connection: apsw.Connection, threshold: int) -> bool:
    """Whether deliveries wait for a poll, which is to tell if the task API or their results are at fault."""
    failures = connection.execute(
        "SELECT failures FROM breakers, ledger WHERE service = ? AND state = 'closed' AND failures > 0 AND NOT paused",
        (Service.API.value,),
    ).get
    return failures is not None and awaits_poll(failures, threshold)


def quiet_until(connection: apsw.Connection, now: float) -> float | None:
    """Until when the task API or the authorization server has asked all processes to be quiet (429)."""
    until = connection.execute(_QUIET_UNTIL, (Service.API.value, Service.OAUTH.value, now)).get
    return None if until is None else float(until)


_QUIET_UNTIL = f"SELECT MAX(until) FROM cooldowns WHERE provider IN (?1, ?2) AND {IN_FORCE.format('?3')}"


def is_underway(connection: apsw.Connection) -> bool:
    """Whether someone polls now."""
    return connection.execute("SELECT 1 FROM polls WHERE slot IS NOT NULL").get is not None


def is_current(connection: apsw.Connection, poll: Poll) -> bool:
    """Whether the poll is still its slot's: not closed, not taken over."""
    owner = connection.execute(
        "SELECT 1 FROM polls WHERE slot = ? AND began_sequence = ?", (poll.slot, poll.began_sequence)
    )
    return owner.get is not None


def end(
    connection: apsw.Connection, now: float, longest_page: int, more_there: bool, regular_at: float, problem: str | None
) -> None:
    """Close a poll that got its answer."""
    connection.execute(
        "UPDATE polls SET slot = NULL, regular_at = ?, succeeded_at = ?, failures = 0, longest_page = ?,"
        " more_there = ?, problem = ?",
        (regular_at, now, longest_page, more_there, problem),
    )


def fail(connection: apsw.Connection, problem: str) -> None:
    """Close a poll that got no whole answer."""
    connection.execute("UPDATE polls SET slot = NULL, failures = failures + 1, problem = ?", (problem,))


def ready_count(connection: apsw.Connection) -> int:
    """Tasks that may be claimed, now or later. Counted in tasks_ready and tasks_later, no row is read."""
    return int(
        connection.execute(
            f"SELECT (SELECT COUNT(*) FROM tasks WHERE {CLAIMABLE})"
            " + (SELECT COUNT(*) FROM tasks WHERE due_at IS NOT NULL AND state = 'ready')"
        ).get
    )


def waiting_count(connection: apsw.Connection) -> int:
    """What INBOX_LIMIT bounds: all that is still to be run, and those that wait for it. Counted in indexes."""
    twins = connection.execute("SELECT COUNT(*) FROM tasks WHERE twin_of IS NOT NULL").get
    return ready_count(connection) + int(twins)
