"""What each task type is tried with, and how its result is judged: a `Trial` a type, and the arithmetic. Pure.

Names are compared folded (without case and accents), and a thing may go by several. A score adds up over texts, and
answers with figures; a figure is None where there is nothing to divide by, which is neither 0 nor 1.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import astuple, dataclass
from typing import Any, Self, get_args

from aitp.processors import Context
from aitp.processors.defining_severity import Level
from aitp.processors.linking import folded, linked_people, linked_subjects
from aitp.quality.labels import LabelledText
from aitp.tasks import TaskType

LEVELS: Sequence[str] = get_args(Level)
"""All severities, the most severe one first."""

Names = Sequence[str]
"""What one thing is called: any of these."""

Figures = Mapping[str, float | None]


@dataclass(frozen=True, slots=True)
class Score:
    """What was counted over so many `texts`."""

    texts: int = 0

    def __add__(self, other: Self) -> Self:
        return type(self)(*map(sum, zip(astuple(self), astuple(other), strict=True)))

    def figures(self) -> Figures:
        """What is shown of it, in that order."""
        raise NotImplementedError


@dataclass(frozen=True, slots=True)
class SetScore(Score):
    """`hits`: things that were expected and found; `exact`: texts with all that was expected and nothing else."""

    exact: int = 0
    hits: int = 0
    found: int = 0
    expected: int = 0

    def figures(self) -> Figures:
        return {
            "precision": _share(self.hits, self.found),
            "recall": _share(self.hits, self.expected),
            "F1": _share(2 * self.hits, self.found + self.expected),
            "exact": _share(self.exact, self.texts),
        }


@dataclass(frozen=True, slots=True)
class ChoiceScore(Score):
    """`agreed`: texts with the choice that was expected; `accepted`: with that one, or another that will do."""

    agreed: int = 0
    accepted: int = 0

    def figures(self) -> Figures:
        return {"agreement": _share(self.agreed, self.texts), "accepted": _share(self.accepted, self.texts)}


@dataclass(frozen=True, slots=True)
class LevelScore(Score):
    """`off`: levels between what was found and what was expected, added up; `higher`: the same, with a sign."""

    agreed: int = 0
    within_one: int = 0
    off: int = 0
    higher: int = 0

    def figures(self) -> Figures:
        return {
            "agreement": _share(self.agreed, self.texts),
            "within one": _share(self.within_one, self.texts),
            "mean distance": _share(self.off, self.texts),
            "mean bias": _share(self.higher, self.texts),
        }


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None


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


def _all_that_is_expected(labelled: LabelledText, context: Context) -> dict[str, Any]:
    """Severity is given what was expected, not what was found: its figures speak of itself alone, whatever the other
    processors do. Where there is knowledge, people and subjects get their Wikidata ids as in service."""
    topics, people = [[names[0] for names in things] for things in (labelled.topics, labelled.people)]
    area = labelled.area[0]
    ids: dict[str, str] = {}
    if context.knowledge.available:
        subjects = linked_subjects([area, *topics], context.knowledge, labelled.language)
        persons = linked_people(people, context.knowledge, labelled.language, context.personality_classes)
        ids = {name: entity.id for name, entity in {**subjects, **persons}.items() if entity}

    def touched(name: str) -> dict[str, Any]:
        return {"name": name, "wikidataId": ids.get(name), "language": labelled.language}

    return {
        "text": labelled.text,
        "impactArea": touched(area),
        "topics": [touched(topic) for topic in topics],
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
    return compare_sets([[topic["name"]] for topic in result], labelled.topics, labelled.optional_topics)


TRIALS: Mapping[str, Trial] = {
    TaskType.IDENTIFYING_DATA.value: Trial(lambda labelled, _: {"text": labelled.text}, _people),
    TaskType.DEFINING_TOPICS.value: Trial(lambda labelled, _: {"text": labelled.text}, _topics),
    TaskType.DEFINING_IMPACT_AREA.value: Trial(
        lambda labelled, _: {"text": labelled.text, "options": list(labelled.areas)},
        lambda result, labelled: compare_choice(result["name"], labelled.area[0], labelled.area[1:]),
    ),
    TaskType.DEFINING_SEVERITY.value: Trial(
        _all_that_is_expected, lambda result, labelled: compare_levels(result["severity"], labelled.severity)
    ),
}
