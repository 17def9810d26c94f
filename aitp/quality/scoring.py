"""The arithmetic: sets of names, choices out of a list, and levels, each compared with what was expected. Pure.

Names are compared folded (without case and accents), and a thing may go by several. A score adds up over texts, and
answers with figures; a figure is None where there is nothing to divide by, which is neither 0 nor 1.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, Self, get_args

from aitp.processors.base import Context
from aitp.processors.defining_severity import Level
from aitp.processors.linking import folded, linked_people, linked_subjects
from aitp.quality.labels import LabelledText
from aitp.tasks import TaskType

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


@dataclass(frozen=True, slots=True)
class Trial:
    """`content`: the task's content for a text; it may ask Wikidata. `score`: of a result (parsed JSON) for a text."""

    content: Callable[[LabelledText, Context], dict[str, Any]]
    score: Callable[[Any, LabelledText], Score]


def _text(labelled: LabelledText, context: Context) -> dict[str, Any]:
    return {"text": labelled.text}


def _text_and_options(labelled: LabelledText, context: Context) -> dict[str, Any]:
    return {"text": labelled.text, "options": list(labelled.areas)}


def _all_that_is_expected(labelled: LabelledText, context: Context) -> dict[str, Any]:
    topics, people = [[names[0] for names in things] for things in (labelled.topics, labelled.people)]
    area = labelled.area[0]
    ids: dict[str, str] = {}
    if context.knowledge.available:
        subjects = linked_subjects([area, *topics], context.knowledge, labelled.language)
        persons = linked_people(people, context.knowledge, labelled.language, context.personality_classes)
        ids = {name: entity.id for name, entity in {**subjects, **persons}.items() if entity}

    def touched(name: str) -> dict[str, Any]:
        return {"name": name, "wikidataId": ids.get(name)}

    return {
        "text": labelled.text,
        "impactArea": {**touched(area), "language": labelled.language},
        "topics": [{**touched(topic), "language": labelled.language} for topic in topics],
        "personalities": [touched(person) for person in people],
    }


def _people(result: Any, labelled: LabelledText) -> Score:
    found: list[Names] = []
    for person in result["personalities"]:
        # Not `mentioned_as`: whoever takes the right words for the wrong person is wrong.
        known = person["wikidata"] or {"label": "", "aliases": []}
        found.append([name for name in (person["name"], known["label"], *known["aliases"]) if name])
    return compare_sets(found, labelled.people, labelled.optional_people)


def _topics(result: Any, labelled: LabelledText) -> Score:
    found: Sequence[Names] = [[topic["name"]] for topic in result]
    return compare_sets(found, labelled.topics, labelled.optional_topics)


def _area(result: Any, labelled: LabelledText) -> Score:
    return compare_choice(result["name"], labelled.area[0], labelled.area[1:])


def _severity(result: Any, labelled: LabelledText) -> Score:
    return compare_levels(result["severity"], labelled.severity)


TRIALS: Mapping[str, Trial] = {
    TaskType.IDENTIFYING_DATA.value: Trial(_text, _people),
    TaskType.DEFINING_TOPICS.value: Trial(_text, _topics),
    TaskType.DEFINING_IMPACT_AREA.value: Trial(_text_and_options, _area),
    TaskType.DEFINING_SEVERITY.value: Trial(_all_that_is_expected, _severity),
}
