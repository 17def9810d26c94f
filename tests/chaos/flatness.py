"""Whether a figure stays flat: judged by the slope over a run and not by eye. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

# The first part of a run is warming up: buffers grow to their size, history to its bounds.
WARM_UP = 0.4


@dataclass(frozen=True, slots=True)
class Bound:
    """What a figure may grow by over the run after its warm-up, and what it may come to at most."""

    growth: float
    most: float = float("inf")


@dataclass(frozen=True, slots=True)
class Finding:
    """One figure's course. `growth`: the fitted slope over the run after the warm-up."""

    name: str
    first: float
    last: float
    peak: float
    growth: float
    bound: Bound

    @property
    def flat(self) -> bool:
        return self.growth <= self.bound.growth and self.peak <= self.bound.most


def judge(samples: Sequence[tuple[float, Mapping[str, float]]], bounds: Mapping[str, Bound]) -> list[Finding]:
    """What each figure did. `samples`: (seconds, figures). A figure's bound: of the longest name it begins with."""
    settled = samples[int(len(samples) * WARM_UP) :]
    names = sorted({name for _, figures in samples for name in figures})
    findings = []
    for name in names:
        course = [(at, figures[name]) for at, figures in settled if name in figures]
        if len(course) < 3:
            continue
        values = [value for _, value in course]
        findings.append(
            Finding(name, values[0], values[-1], max(values), fitted_growth(course), _bound_of(name, bounds))
        )
    return findings


def fitted_growth(course: Sequence[tuple[float, float]]) -> float:
    """The slope of the line through a course (Theil and Sen: the median of all slopes, so that peaks weigh little),
    over its whole length."""
    chosen = course[:: max(1, len(course) // 200)]
    slopes = [
        (later - earlier) / (end - begin)
        for number, (begin, earlier) in enumerate(chosen)
        for end, later in chosen[number + 1 :]
        if end > begin
    ]
    return statistics.median(slopes) * (course[-1][0] - course[0][0]) if slopes else 0.0


def _bound_of(name: str, bounds: Mapping[str, Bound]) -> Bound:
    fitting = [prefix for prefix in bounds if name.startswith(prefix)]
    return bounds[max(fitting, key=len)]
