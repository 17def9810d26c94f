"""The arithmetic: sets of names, choices out of a list, and levels, each compared with what was expected. Pure.

Names are compared folded (without case and accents), and a thing may go by several. A score adds up over texts, and
answers with figures; a figure is None where there is nothing to divide by, which is neither 0 nor 1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, Self, get_args

from aitp.processors.defining_severity import Level
from aitp.processors.folding import folded

LEVELS: Sequence[str] = get_args(Level)
"""All severities, the most severe one first."""

Names = Sequence[str]
"""What one thing is called: any of these."""

Figures = Mapping[str, float | None]


class Score(Protocol):
    """What was counted over a number of texts."""

    def __add__(self, other: Self) -> Self: ...

    def figures(self) -> Figures:
        """What is shown of it, in that order."""


@dataclass(frozen=True, slots=True)
class SetScore:
    """`hits`: things that were expected and found; `exact`: texts with all that was expected and nothing else."""

    texts: int = 0
    exact: int = 0
    hits: int = 0
    found: int = 0
    expected: int = 0

    def __add__(self, other: SetScore) -> SetScore:
        return SetScore(
            self.texts + other.texts,
            self.exact + other.exact,
            self.hits + other.hits,
            self.found + other.found,
            self.expected + other.expected,
        )

    def figures(self) -> Figures:
        return {
            "precision": _share(self.hits, self.found),
            "recall": _share(self.hits, self.expected),
            "F1": _share(2 * self.hits, self.found + self.expected),
            "exact": _share(self.exact, self.texts),
        }


@dataclass(frozen=True, slots=True)
class ChoiceScore:
    """`agreed`: texts with the choice that was expected; `accepted`: with that one, or another that will do."""

    texts: int = 0
    agreed: int = 0
    accepted: int = 0

    def __add__(self, other: ChoiceScore) -> ChoiceScore:
        return ChoiceScore(self.texts + other.texts, self.agreed + other.agreed, self.accepted + other.accepted)

    def figures(self) -> Figures:
        return {"agreement": _share(self.agreed, self.texts), "accepted": _share(self.accepted, self.texts)}


@dataclass(frozen=True, slots=True)
class LevelScore:
    """`off`: levels between what was found and what was expected, added up; `higher`: the same, with a sign."""

    texts: int = 0
    agreed: int = 0
    within_one: int = 0
    off: int = 0
    higher: int = 0

    def __add__(self, other: LevelScore) -> LevelScore:
        return LevelScore(
            self.texts + other.texts,
            self.agreed + other.agreed,
            self.within_one + other.within_one,
            self.off + other.off,
            self.higher + other.higher,
        )

    def figures(self) -> Figures:
        return {
            "agreement": _share(self.agreed, self.texts),
            "within one": _share(self.within_one, self.texts),
            "mean distance": _share(self.off, self.texts),
            "mean bias": _share(self.higher, self.texts),
        }


def compare_sets(found: Sequence[Names], expected: Sequence[Names], optional: Sequence[Names] = ()) -> SetScore:
    """One text. What is `optional` is neither missed nor held against anybody; a thing found twice is wrong once."""
    matched = _pairs(found, expected)
    rest = [names for number, names in enumerate(found) if number not in matched]
    counted = len(found) - len(_pairs(rest, optional))
    exact = len(matched) == counted == len(expected)
    return SetScore(1, int(exact), len(matched), counted, len(expected))


def compare_choice(chosen: str, expected: str, others: Sequence[str] = ()) -> ChoiceScore:
    """One text."""
    agreed = folded(chosen) == folded(expected)
    accepted = agreed or folded(chosen) in map(folded, others)
    return ChoiceScore(1, int(agreed), int(accepted))


def compare_levels(found: str, expected: str) -> LevelScore:
    """One text. `higher` is positive where the level found is more severe than expected."""
    higher = LEVELS.index(expected) - LEVELS.index(found)
    off = abs(higher)
    return LevelScore(1, int(off == 0), int(off <= 1), off, higher)


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def _pairs(found: Sequence[Names], expected: Sequence[Names]) -> set[int]:
    """Which of `found` have a partner, when as many as possible have one each (augmenting paths, Kuhn)."""
    wanted = [set(map(folded, names)) for names in expected]
    fits = [[number for number, names in enumerate(wanted) if names.intersection(map(folded, each))] for each in found]
    taken: dict[int, int] = {}

    def place(finder: int, tried: set[int]) -> bool:
        for number in fits[finder]:
            if number not in tried:
                tried.add(number)
                if number not in taken or place(taken[number], tried):
                    taken[number] = finder
                    return True
        return False

    for finder in range(len(found)):
        place(finder, set())
    return set(taken.values())
