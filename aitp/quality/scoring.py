"""Labelled texts, and how good results for them are: what each task type is tried with, and how its result is judged.

Labels are what people expect the processors to find: one JSON file a language (bench/quality/*.json). A file that would
make figures mean something else than they say (two people of one name in a text, a person who is not in it, an area off
the list) is refused as a whole.

Judging is pure. Names are compared folded (without case and accents), and a thing may go by several. Scores add up over
texts, to figures; a figure is None where there is nothing to divide by, which is neither 0 nor 1.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, zip_longest
from pathlib import Path
from typing import Annotated, Any, Self, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from aitp.errors import ConfigurationError
from aitp.processors import Context
from aitp.processors.defining_severity import Level
from aitp.processors.linking import folded, linked_people, linked_subjects, occurs
from aitp.tasks import TaskType

# ── labels ───────────────────────────────────────────────────────────────────────────────────────────────────────────
Name = Annotated[str, Field(min_length=1, max_length=200)]
AllNames = Annotated[tuple[Name, ...], Field(min_length=1)]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class LabelledText(_Part):
    """One text. Each thing has all its names; `area`: what is expected, then what would do as well.

    What is optional may be found or not. `hard`: what is difficult about it, for people.
    """

    id: Annotated[str, Field(pattern=r"^[a-z]{2}-\d{2,3}$")]
    hard: str
    text: Annotated[str, Field(min_length=1, max_length=10_000)]
    people: tuple[AllNames, ...]
    optional_people: tuple[AllNames, ...] = ()
    topics: Annotated[tuple[AllNames, ...], Field(min_length=1)]
    optional_topics: tuple[AllNames, ...] = ()
    area: AllNames
    severity: Level
    language: str = ""
    areas: tuple[Name, ...] = ()

    @model_validator(mode="after")
    def _is_sound(self) -> Self:
        people, topics = (*self.people, *self.optional_people), (*self.topics, *self.optional_topics)
        for kind, things in (("people", people), ("topics", topics)):
            counts = Counter(chain.from_iterable({*map(folded, names)} for names in things))
            if twice := sorted(name for name, count in counts.items() if count > 1):
                raise ValueError(f"{self.id}: {kind}: two of them go by the name {twice[0]}")
        for names in people:
            if not any(occurs(name, self.text) for name in names):
                raise ValueError(f"{self.id}: people: {names[0]} is not mentioned in the text by any of the names")
        return self


class _Labels(_Part):
    language: Annotated[str, Field(pattern=r"^[a-z]{2}$")]
    areas: Annotated[tuple[Name, ...], Field(min_length=2)]
    texts: Annotated[tuple[LabelledText, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _areas_are_listed(self) -> Self:
        for text in self.texts:
            if unlisted := [area for area in text.area if area not in self.areas]:
                raise ValueError(f"{text.id}: area: {unlisted[0]} is none of the file's areas")
        return self


def load_labels(directory: Path) -> list[LabelledText]:
    """All texts of the files in `directory`, the languages in turn, so that the first few are of each.

    ConfigurationError: there are none, or a file cannot be used.
    """
    files = [_read(path) for path in sorted(directory.glob("*.json"))]
    if not files:
        raise ConfigurationError(
            [f"{directory}: no labelled texts (*.json) there; name their directory (they come with aitp's sources)"]
        )
    languages = [
        [text.model_copy(update={"language": file.language, "areas": file.areas}) for text in file.texts]
        for file in files
    ]
    texts = [text for row in zip_longest(*languages) for text in row if text is not None]
    if twice := [id_ for id_, count in Counter(text.id for text in texts).items() if count > 1]:
        raise ConfigurationError([f"{directory}: two texts are called {twice[0]}"])
    return texts


def _read(path: Path) -> _Labels:
    try:
        return _Labels.model_validate_json(path.read_bytes())
    except OSError as error:
        raise ConfigurationError([f"{path}: cannot be read ({error.strerror})"]) from error
    except ValidationError as error:
        faults = error.errors(include_url=False, include_input=False)
        raise ConfigurationError([f"{path}: {'.'.join(map(str, f['loc']))}: {f['msg']}" for f in faults]) from error


# ── scores ───────────────────────────────────────────────────────────────────────────────────────────────────────────
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
