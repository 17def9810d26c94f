"""From names to Wikidata's ids: one search a name, and one fetch for all the hits together.

Nothing here guesses. A search hits whatever *begins* with the name, so that a topic or an area is linked only if the
name is the hit's label or one of its aliases. An outage raises; ids are left out only by an answer.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Collection, Iterable
from functools import partial
from typing import TypeVar

from aitp.knowledge import Entity, Knowledge

T = TypeVar("T")


def folded(text: str) -> str:
    """`text` for comparison: "São  Paulo" and "SAO PAULO" are the same."""
    bare = "".join(c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c))
    # Twice, because folding may bring accents of its own: İ becomes i and a dot.
    again = "".join(c for c in unicodedata.normalize("NFKD", bare.casefold()) if not unicodedata.combining(c))
    return " ".join(again.split())


def occurs(phrase: str, text: str) -> bool:
    """Whether `phrase` stands in `text`. Nothing but accents or blanks stands nowhere."""
    return bool(wanted := folded(phrase)) and wanted in folded(text)


def first_of_each(items: Iterable[T], name: Callable[[T], str]) -> list[T]:
    """`items` without those whose name, folded, is that of an earlier one."""
    kept: dict[str, T] = {}
    for item in items:
        kept.setdefault(folded(name(item)), item)
    return list(kept.values())


# Pages about names and articles, not about what is named.
NO_SUBJECTS = frozenset({"Q4167410", "Q101352", "Q202444", "Q13442814", "Q4167836", "Q13406463"})
MOST_CANDIDATES = 7

Choice = Callable[[str, list[Entity]], Entity | None]


def linked_people(
    names: Iterable[str], knowledge: Knowledge, language: str, classes: Collection[str]
) -> dict[str, Entity | None]:
    """The personality, of one of these `classes`, that each name means: one that is called so, else the first hit."""
    return _linked(names, knowledge, language, partial(_personality, classes))


def linked_subjects(names: Iterable[str], knowledge: Knowledge, language: str) -> dict[str, Entity | None]:
    """The subject that each name means: the first hit that is called so."""
    return _linked(names, knowledge, language, _subject)


def link(entity: Entity | None, language: str) -> dict[str, str | None]:
    """How a result names what it is about: by an id, null where there is none."""
    return {"wikidataId": entity.id if entity else None, "language": language}


def _linked(names: Iterable[str], knowledge: Knowledge, language: str, choice: Choice) -> dict[str, Entity | None]:
    hits = {name: knowledge.find(name, language)[:MOST_CANDIDATES] for name in names}
    ids = list(dict.fromkeys(id_ for found in hits.values() for id_ in found))
    entities = knowledge.entities(ids, language) if ids else {}
    return {name: choice(name, [e for id_ in found if (e := entities.get(id_))]) for name, found in hits.items()}


def _personality(classes: Collection[str], name: str, entities: list[Entity]) -> Entity | None:
    people = [entity for entity in entities if set(entity.instance_of).intersection(classes)]
    return next((entity for entity in people if _is_called(entity, name)), people[0] if people else None)


def _subject(name: str, entities: list[Entity]) -> Entity | None:
    return next((e for e in entities if _is_called(e, name) and not NO_SUBJECTS.intersection(e.instance_of)), None)


def _is_called(entity: Entity, name: str) -> bool:
    return folded(name) in {folded(each) for each in (entity.label, *entity.aliases)}
