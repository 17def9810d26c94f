"""How the page writes figures: short, and never failing for a value that makes no sense. Pure."""

from __future__ import annotations

from datetime import UTC, datetime


def duration(seconds: float) -> str:
    """`42 s`, `12 min`, `3 h`, `5 d`: two units are never mixed, and what is below 0 is 0."""
    seconds = max(0.0, seconds)
    if seconds >= 1e12:
        return f"{seconds:.0e} s"
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:,.0f} {unit}"
    return f"{seconds:.0f} s"


def call_time(seconds: float) -> str:
    """Seconds that a call took, to the precision that tells something."""
    if seconds < 1:
        return f"{1000 * seconds:.0f} ms"
    return f"{seconds:.1f} s" if seconds < 100 else duration(seconds)


def counted(number: int, noun: str) -> str:
    """`1 result`, `2,000 results`."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def instant(seconds: float, form: str = "%Y-%m-%d %H:%M:%S UTC") -> str:
    """A moment in UTC; what no calendar has (a garbled file holds it) as its number."""
    try:
        return datetime.fromtimestamp(seconds, UTC).strftime(form)
    except (OverflowError, ValueError, OSError):
        return f"{seconds:.3g}"
