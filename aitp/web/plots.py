"""The last hour as two small plots: tasks a minute, seconds a call. Inline SVG, one place a minute, no axes to read.

What a plot shows is told in words as well: in its label for who cannot see it, and minute by minute under the pointer.
Pure, over `History.minutes`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from aitp.ledger.stats import Minute
from aitp.web.figures import call_time, counted, instant
from aitp.web.markup import Html, text

WIDTH, HEIGHT, STEP = 600, 88, 10  # a minute is STEP wide


def throughput(minutes: Sequence[Minute]) -> Html:
    """Tasks that ended in each minute: succeeded, and failed on top of them."""
    highest = _ceiling(max((minute.succeeded + minute.failed for minute in minutes), default=0))

    def bars(place: int, minute: Minute) -> str:
        done = _height(minute.succeeded, highest)
        failed = _height(minute.failed, highest)
        return _bar(place, 0, done, "done") + _bar(place, done, failed, "failed")

    succeeded, failed = sum(minute.succeeded for minute in minutes), sum(minute.failed for minute in minutes)
    label = (
        f"Tasks a minute in the last hour: {succeeded:,} succeeded, {failed:,} failed; the scale ends at {highest:,}"
    )
    return _plot("Tasks a minute", f"{highest:,}", label, minutes, bars, _told_of_tasks)


def latency(minutes: Sequence[Minute]) -> Html:
    """How long calls took: the mean of each minute, and the slowest one behind it."""
    highest = max((minute.slowest for minute in minutes), default=0.0)

    def bars(place: int, minute: Minute) -> str:
        slowest = _bar(place, 0, _height(minute.slowest, highest), "slowest")
        return slowest + _bar(place, 0, _height(mean(minute), highest), "mean")

    label = (
        f"Duration of calls in the last hour: mean and slowest of each minute; the slowest took {call_time(highest)}"
    )
    return _plot("Duration of a call: mean, slowest", call_time(highest), label, minutes, bars, _told_of_calls)


def mean(minute: Minute) -> float:
    """Seconds a call."""
    return minute.seconds / minute.calls if minute.calls else 0.0


def _plot(
    title: str,
    highest: str,
    label: str,
    minutes: Sequence[Minute],
    bars: Callable[[int, Minute], str],
    told: Callable[[Minute], str],
) -> Html:
    marks = "".join(
        f"<g><title>{text(told(minute))}</title>"
        f'<rect class="under" x="{STEP * place}" width="{STEP}" height="{HEIGHT}"/>{bars(place, minute)}</g>'
        for place, minute in enumerate(minutes)
        if minute.calls
    )
    first = instant(minutes[0].at, "%H:%M") if minutes else ""
    empty = "" if marks else '<p class="none">No calls in the last hour.</p>'
    return Html(
        f'<figure><figcaption>{text(title)}<span class="top">{text(highest) if marks else ""}</span></figcaption>'
        f'<div class="plot"><svg viewBox="0 0 {WIDTH} {HEIGHT}" preserveAspectRatio="none" role="img"'
        f' aria-label="{text(label)}">{marks}</svg>{empty}</div>'
        f'<p class="ends" aria-hidden="true"><span>{first}</span><span>now</span></p></figure>'
    )


def _bar(place: int, bottom: float, height: float, kind: str) -> str:
    if height <= 0:
        return ""
    top = HEIGHT - bottom - height
    return f'<rect class="{kind}" x="{STEP * place + 1}" y="{top:.1f}" width="{STEP - 2}" height="{height:.1f}"/>'


def _height(value: float, highest: float) -> float:
    """Anything above 0 can be seen."""
    return max(1.5, HEIGHT * value / highest) if value > 0 and highest > 0 else 0.0


def _ceiling(highest: int) -> int:
    """The next of 5, 10, 20, 50, 100, …, so that the scale does not move with each task."""
    scales = (digit * 10**power for power in range(30) for digit in (5, 10, 20))
    return int(next(scale for scale in scales if scale >= highest))


def _told_of_tasks(minute: Minute) -> str:
    parts = [f"{minute.succeeded:,} succeeded"]
    if minute.failed:
        parts.append(f"{minute.failed:,} failed")
    if minute.returned:
        parts.append(f"{minute.returned:,} put back")
    return f"{instant(minute.at, '%H:%M')}: {', '.join(parts)}"


def _told_of_calls(minute: Minute) -> str:
    took = f"mean {call_time(mean(minute))}, slowest {call_time(minute.slowest)}"
    return f"{instant(minute.at, '%H:%M')}: {counted(minute.calls, 'call')}, {took}"
