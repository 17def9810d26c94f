"""What each task type is tried with, and how its result is judged: a `Trial` a type, and the arithmetic. Pure.

Names are compared folded (without case and accents), and a thing may go by several. Scores add up over texts, to
figures; a figure is None where there is nothing to divide by, which is neither 0 nor 1.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

from aitp.processors import Context
from aitp.processors.defining_severity import Level
from aitp.processors.linking import folded, linked_people, linked_subjects
from aitp.quality.labels import LabelledText
from aitp.tasks import TaskType

LEVELS: Sequence[str] = get_args(Level)
"""All severities, the most severe one first."""

Names = Sequence[str]
"""What one thing is called: any of these."""

Score = Mapping[str, tuple[int, int]]
"""Of one text, or added up over many: by figure, what is to be divided, and by what."""

Figures = Mapping[str, float | None]


def figures(scores: Iterable[Score]) -> Figures:
    """What is shown of them all together, in the order of the scores."""
    parts: dict[str, int] = {}
    wholes: Counter[str] = Counter()
    for score in scores:
        for name, (part, whole) in score.items():
            parts[name] = parts.get(name, 0) + part
            wholes[name] += whole
    return {name: part / wholes[name] if wholes[name] else None for name, part in parts.items()}


def compare_sets(found: Sequence[Names], expected: Sequence[Names], optional: Sequence[Names] = ()) -> Score:
    """One text. What is `optional` is neither missed nor held against anybody; a thing found twice is wrong once.

    `exact`: texts with all that was expected and nothing else.
    """
    matched = _pairs(found, expected)
    rest = [names for number, names in enumerate(found) if number not in matched]
    counted, hits = len(found) - len(_pairs(rest, optional)), len(matched)
    return {
        "precision": (hits, counted),
        "recall": (hits, len(expected)),
        "f1": (2 * hits, counted + len(expected)),
        "exact": (int(hits == counted == len(expected)), 1),
    }


def compare_choice(chosen: str, expected: str, others: Sequence[str] = ()) -> Score:
    """One text: the choice that was expected; that one, or another that will do."""
    agreed = folded(chosen) == folded(expected)
    return {"agreement": (int(agreed), 1), "accepted": (int(agreed or folded(chosen) in map(folded, others)), 1)}


def compare_levels(found: str, expected: str) -> Score:
    """One text. The bias is positive where the level found is more severe than expected."""
    higher = LEVELS.index(expected) - LEVELS.index(found)
    off = abs(higher)
    return {
        "agreement": (int(off == 0), 1),
        "within_one": (int(off <= 1), 1),
        "mean_distance": (off, 1),
        "mean_bias": (higher, 1),
    }


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
