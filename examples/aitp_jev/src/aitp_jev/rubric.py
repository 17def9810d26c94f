"""From Jev's probabilities to one of ten levels of severity. Pure; the table of cases is in the tests."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

YES = 0.5
TOP = 3  # the band above `high`
BANDS = ("low", "medium", "high")
# The band by the likeliest level of harm.
IF_CONTESTABLE, IF_NOT = (0, 1, 2, 3), (0, 0, 1, 2)


class Severity(NamedTuple):
    """`level` is the result; the rest is how it came about. `harm`: the likeliest level of harm, b."""

    level: str
    harm: int
    matrix: int
    reach: int
    band: int
    digit: int


def severity(p: Sequence[float], checkable: float, contestable: float, reach: int) -> Severity:
    """`p`: the probabilities of the four levels of harm, in order; the others: how likely is a yes."""
    harm = max(range(len(p)), key=lambda level: (p[level], -level))  # of equals the lower one
    matrix = (IF_CONTESTABLE if contestable >= YES else IF_NOT)[harm]
    if checkable < YES:
        matrix = reach = 0
    band = min(max(matrix + reach, 0), TOP)
    deviation = sum(level * share for level, share in enumerate(p)) / sum(p) - harm
    digit = 1 if deviation < -1 / 6 else 3 if deviation > 1 / 6 else 2
    level = "critical" if band == TOP else f"{BANDS[band]}_{digit}"
    return Severity(level, harm, matrix, reach, band, digit)


def reach_of(followers: Sequence[int | None], thresholds: Sequence[tuple[int, int]]) -> int:
    """By how much the most followed of those who are concerned moves the band. Unknown, and nobody: not at all."""
    known = max((count for count in followers if count), default=0)
    if not known:
        return 0
    return next((reach for least, reach in sorted(thresholds, reverse=True) if least <= known), 0)
