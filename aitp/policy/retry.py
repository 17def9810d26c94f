"""How long to wait before another try: by our back-off, and by what a server says, in a header or in words. Pure."""

from __future__ import annotations

import re
from datetime import UTC

DEFAULT_PAUSE_SECONDS = 5.0
SHORTEST_PAUSE_SECONDS = 1.0  # a service that says 0 wants a pause all the same, or it would not have said 429
LONGEST_PAUSE_SECONDS = 3_600.0

SECONDS = re.compile(r"[0-9]{1,15}(\.[0-9]*)?")
_UNITS = {"us": 1e-6, "µs": 1e-6, "ms": 1e-3, "milli": 1e-3, "s": 1.0, "m": 60.0, "h": 3_600.0, "d": 86_400.0}
_DURATION = r"(?:\d{1,12}(?:\.\d{1,12})?(?:ms|us|µs|[dhms]))+"
_AMOUNT = (
    r"\d{1,9}(?:\.\d{1,9})?\s*(?:milliseconds?|ms|seconds?|secs?|s|minutes?|mins?|m|hours?|hrs?|h|days?|d)(?![a-z])"
)
_IN_WORDS = rf"\b(?:again|retry|wait|resets?)\b\D{{0,40}}?({_AMOUNT}(?:[\s,]*(?:and\s+)?{_AMOUNT}){{0,3}})"


def parse_retry_after(value: str | None, now: float) -> float | None:
    """Seconds to wait by a Retry-After header (RFC 9110 §10.2.3: seconds, or an HTTP date), 0 at least.

    `now`: UTC seconds since 1970. None if the header is absent or says nothing that can be read. Callers cap it.
    """
    if value is None:
        return None
    text = value.strip()
    if SECONDS.fullmatch(text):
        return float(text)
    from email.utils import parsedate_to_datetime  # not above: `aitp status` reads no date

    try:
        moment = parsedate_to_datetime(text)
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=UTC)
        return max(0.0, moment.timestamp() - now)
    except (ValueError, OverflowError, TypeError, IndexError):
        return None


def delay_in_words(text: str) -> float | None:
    """Seconds to wait by a sentence in lower case: "try again in 1m26.4s", "please retry after 20 seconds"."""
    return _sum(found[1]) if (found := re.search(_IN_WORDS, text)) else None


def _sum(amounts: str) -> float:
    found = re.findall(r"([\d.]+)\s*(milli|ms|us|µs|[smhd])", amounts)
    return sum(float(number) * _UNITS[unit] for number, unit in found)


def pause_seconds(value: str | None, now: float) -> float:
    """How long to leave a service alone that answered 429: what its Retry-After says, from 1 s to an hour; else 5 s."""
    wanted = parse_retry_after(value, now)
    if wanted is None:
        return DEFAULT_PAUSE_SECONDS
    return min(max(wanted, SHORTEST_PAUSE_SECONDS), LONGEST_PAUSE_SECONDS)


def parse_duration(text: str | None) -> float | None:
    """Seconds in `text`, None where it is no duration. A plain number counts as seconds."""
    text = (text or "").strip()
    if re.fullmatch(r"\d{1,13}(?:\.\d{1,12})?", text):
        return float(text)
    return _sum(text) if re.fullmatch(_DURATION, text) else None


# Waiting before another try

SPREAD = (0.75, 1.25)
# A lone suspect costs some thirty sends a day.
LONGEST_DELAY_SECONDS = 3_600.0


def retry_delay(attempt: int, factor: float, spread: float, longest: float = LONGEST_DELAY_SECONDS) -> float:
    """Seconds to wait after failed attempt number `attempt`, counting from 1: factor ** attempt × `spread`.

    `longest` at most. `spread` is the caller's draw from uniform(0.75, 1.25), so that tasks which failed together don't
    return together.
    """
    try:
        delay = factor**attempt
    except OverflowError:
        delay = longest
    # Cut before the spread is applied: cut afterwards, most of the longest delays would be the same.
    return min(delay, longest / SPREAD[1]) * spread


def pause_delay(pauses: int, recovery: float, longest: float = LONGEST_DELAY_SECONDS) -> float:
    """Seconds until a world that was paused is probed: `recovery`, twice as long after each probe that failed."""
    return max(recovery, min(longest, recovery * 2.0 ** min(pauses, 32)))
