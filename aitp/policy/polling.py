"""When to poll the task API next, how many tasks to ask for, and what a page leaves open. Pure; inbox and relay ask.

A server may give fewer tasks than it is asked for because there are no more, or because it caps its pages: at any
number, without a word. But a cap shows in its longest pages: nothing shorter was capped.
"""

from __future__ import annotations

from dataclasses import dataclass

from aitp.policy.retry import retry_delay

# However much there is to do, a poll starts at most this often.
SHORTEST_PAUSE_SECONDS = 1.0
# After failed polls, however seldom the regular ones are.
LONGEST_PAUSE_SECONDS = 60.0

MOST_DOUBLINGS = 16

# Room for more than one interval's work, because the rate of the last minute may rise.
MARGIN = 2


@dataclass(frozen=True, slots=True)
class PollFacts:
    """What the decision rests on. Instants are UTC seconds, none of the past ones later than `now`.

    `began_at`: the last poll (None: never). `regular_at`: when that one wanted the next. `failures`: failed polls in a
    row. `more_there`: it left tasks behind. `full`: a limit has no room; `room_at`: until when, if that is known.
    `awaited`: deliveries wait for what a poll says of the task API.
    """

    now: float
    interval: float
    began_at: float | None
    regular_at: float | None
    failures: int
    more_there: bool
    delivered_since: bool
    ready: int
    low_water: int
    appetite: int
    inbox_limit: int
    full: bool = False
    room_at: float | None = None
    asked: bool = False
    awaited: bool = False


def next_poll_at(facts: PollFacts) -> float:
    """When the next poll is due: `facts.now` or earlier means now.

    A person's wish goes first, then whoever waits for the poll. Otherwise never while there is plenty to do and the
    limits have no room for it, or while more is held than could be claimed before the next regular poll; at once while
    more is known to be there, or when deliveries may have created tasks and little is left; else at the regular time.
    """
    if facts.asked or facts.began_at is None:
        return facts.now
    soonest = facts.began_at + SHORTEST_PAUSE_SECONDS
    if facts.awaited:
        return soonest
    if facts.failures:
        pause = min(retry_delay(facts.failures, 2.0, 1.0), facts.interval, LONGEST_PAUSE_SECONDS)
        return max(facts.began_at + pause, soonest)
    regular_at = facts.began_at + facts.interval
    if facts.regular_at is not None:
        regular_at = min(regular_at, facts.regular_at)
    regular_at = max(regular_at, soonest)
    plenty = facts.ready >= min(facts.low_water, facts.inbox_limit)
    if facts.full:
        return max(facts.room_at, soonest) if plenty and facts.room_at is not None else regular_at
    if facts.ready >= min(facts.appetite, facts.inbox_limit):
        return max(regular_at, facts.now + facts.interval)
    if facts.more_there or (facts.delivered_since and not plenty):
        return soonest
    return regular_at


def appetite(tasks_per_second: float, interval: float, workers: int, batch_size: int) -> int:
    """How many tasks could be claimed before the next regular poll: two rounds of all workers, or the going rate."""
    return max(MARGIN * workers * batch_size, round(MARGIN * tasks_per_second * interval))


def page_limit(held: int, ready: int, wanted: int, inbox_limit: int, concurrency: int, barren: int = 0) -> int:
    """The `limit` to ask for: what is held (a server that honours it lists that too), and what is wanted on top.

    `barren`: pages in a row that were as long as was asked for, and brought nothing. A list may have more in front of
    what is new than is known of here (a task twice, one of another user's): each page is twice as long then.
    """
    limit = max(2 * concurrency, held + max(0, min(wanted, inbox_limit) - ready))
    return min(limit << min(barren, MOST_DOUBLINGS), max(limit, MARGIN * (held + inbox_limit)))


def is_complete(documents: int, limit: int, longest: int) -> bool:
    """Whether a page of so many documents held everything that is pending, so that what it does not list is gone.

    `longest`: the most that one page of this server held so far: its cap, if it has one, is no less. Only a page that
    is shorter than that and not as long as was asked for cannot have been cut. (An empty one never was.)
    """
    return documents == 0 or (documents < longest and documents != limit)


def may_hold_more(documents: int, limit: int, longest: int, entered: int) -> bool:
    """Whether the next page may bring more at once: this one is as long as it could be.

    A page that may be capped but brought nothing new (`entered`) would be followed by the same one.
    """
    return documents == limit or (longest <= documents < limit and entered > 0)
