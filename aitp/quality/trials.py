"""What each task type is tried with, and how its result is judged: a `Trial` a type.

Severity is given the people, topics and area that were expected, not those that were found: its figures then speak of
itself alone, whatever the other processors do. Where there is knowledge, these get their Wikidata ids as in service.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from aitp.processors.context import Context
from aitp.processors.linking import linked_people, linked_subjects
from aitp.quality.labels import LabelledText
from aitp.quality.scoring import Names, Score, compare_choice, compare_levels, compare_sets
from aitp.tasks import TaskType


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
