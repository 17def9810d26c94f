"""Whether this machine's clock is right, by the Date headers of the servers' answers (RFC 9110 §6.6.1). Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC
from email.utils import parsedate_to_datetime

from aitp.commands.findings import Finding, Severity, fine

ROUNDING_SECONDS = 1.0  # a Date header has whole seconds
TOLERATED_SECONDS = 30.0


def ahead_of(header: str | None, sent_at: float, received_at: float) -> float | None:
    """Seconds by which our clock is ahead of a server's; negative if behind. None without a readable Date.

    `header`: its Date; `sent_at` and `received_at` by our clock, in between it was written. What lies within that, and
    within the second that it leaves out, is no difference.
    """
    try:
        theirs = parsedate_to_datetime(header or "")
    except ValueError:
        return None
    if theirs.tzinfo is None:
        theirs = theirs.replace(tzinfo=UTC)
    earliest, latest = theirs.timestamp(), theirs.timestamp() + ROUNDING_SECONDS
    if sent_at > latest:
        return sent_at - latest
    return min(0.0, received_at - earliest)


def of_clocks(ahead: Mapping[str, float]) -> Iterator[Finding]:
    """`ahead`: by server, the seconds that our clock is ahead of it. If all servers agree, it is ours that is wrong."""
    wrong = {server: seconds for server, seconds in ahead.items() if abs(seconds) > TOLERATED_SECONDS}
    if not ahead:
        return
    if not wrong:
        yield fine("clock", f"agrees with that of {', '.join(ahead)}")
    elif len(wrong) == len(ahead):
        some = max(wrong.values(), key=abs)
        yield Finding(
            Severity.WARNING,
            "clock",
            f"this machine's clock is {_amount(some)} of that of {', '.join(wrong)}",
            "Calendar limits begin and end at the wrong moment, logs mislead, and certificates may count as invalid",
            "Have it set by NTP: timedatectl set-ntp true",
        )
    else:
        for server, seconds in wrong.items():
            yield Finding(
                Severity.NOTE,
                "clock",
                f"this machine's clock is {_amount(seconds)} of that of the {server} alone",
                "That server's clock is wrong, most likely: the others agree with ours",
                "Tell those who run it",
            )


def _amount(seconds: float) -> str:
    return f"{abs(seconds):,.0f} s {'ahead' if seconds > 0 else 'behind'}"
