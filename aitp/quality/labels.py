"""Labelled texts: what people expect the processors to find. One JSON file a language (bench/quality/*.json).

A file that would make figures mean something else than they say (two people of one name in a text, a person who is
not in it, an area off the list) is refused as a whole.
"""

from __future__ import annotations

from collections import Counter
from itertools import chain, zip_longest
from pathlib import Path
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from aitp.errors import ConfigurationError
from aitp.processors.defining_severity import Level
from aitp.processors.linking import folded, occurs

Name = Annotated[str, Field(min_length=1, max_length=200)]
Names = Annotated[tuple[Name, ...], Field(min_length=1)]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class LabelledText(_Part):
    """One text. Each thing has all its names; `area`: what is expected, then what would do as well.

    What is optional may be found or not. `hard`: what is difficult about it, for people.
    """

    id: Annotated[str, Field(pattern=r"^[a-z]{2}-\d{2,3}$")]
    hard: str
    text: Annotated[str, Field(min_length=1, max_length=10_000)]
    people: tuple[Names, ...]
    optional_people: tuple[Names, ...] = ()
    topics: Annotated[tuple[Names, ...], Field(min_length=1)]
    optional_topics: tuple[Names, ...] = ()
    area: Names
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
