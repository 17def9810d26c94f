"""What is known of people, topics and places beyond a task's text: the shapes, for whoever asks and whoever answers.

`Knowledge` is what processors are given. Absence and ignorance are never the same: an empty `find` and a None of
`entities` say that there is no such thing, a None within a `Standing` says that nobody knows. A source that is down
raises (`ServiceFault("wikidata")`, `CooldownRequired("wikidata")`): the task waits, and no result is emptied by it.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")

MOST_LINKS = 500  # what one call lists; for more than that it stands, too


@dataclass(frozen=True, slots=True)
class Entity:
    """One thing. `id`: Q and digits; texts are empty where there are none in that language.

    `instance_of`: the ids of its P31, without deprecated ones; `url`: its page, for people to open.
    """

    id: str
    url: str
    label: str = ""
    description: str = ""
    aliases: tuple[str, ...] = ()
    instance_of: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Standing:
    """How much the world takes notice of an entity. None is unknown, and never zero."""

    sitelinks: int | None = None
    statements: int | None = None
    inbound_links: int | None = None  # MOST_LINKS: that many or more
    pageviews: int | None = None  # of the last 30 days
    followers: int | None = None  # P8687
    positions: int | None = None  # P39
    awards: int | None = None  # P166


class Knowledge:
    """Where to look things up. Calls block, and raise the errors of `aitp.errors` only.

    This one, for WIKIDATA_ENABLED=false, asks nobody: everything is unknown.
    """

    # False: nothing is looked up at all, and what the methods return means "unknown".
    available = False

    def is_well(self) -> bool:
        """Whether look-ups are let through now; for what can do without. Asks nobody."""
        return False

    def ready(self) -> None:
        """Before anything is bought: raise if look-ups are refused now."""

    def find(self, name: str, language: str) -> Sequence[str]:
        """The ids of what goes by that name, best first. Empty: nothing does."""
        return ()

    def entities(self, ids: Sequence[str], language: str) -> Mapping[str, Entity | None]:
        """All of `ids`, in as few calls as may be. None: there is no such entity."""
        return dict.fromkeys(ids)

    def standing(self, ids: Sequence[str]) -> Mapping[str, Standing]:
        """The standing of all of `ids`, in as few calls as may be."""
        return dict.fromkeys(ids, Standing())


# From names to ids: one search a name, and one fetch for all the hits together. Nothing here guesses: a search hits
# whatever *begins* with the name, so that a topic or an area is linked only if the name is the hit's label or one of
# its aliases. An outage raises; ids are left out only by an answer.

# Pages about names and articles, not about what is named.
NO_SUBJECTS = frozenset({"Q4167410", "Q101352", "Q202444", "Q13442814", "Q4167836", "Q13406463"})
MOST_CANDIDATES = 7


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


def linked(
    names: Iterable[str], knowledge: Knowledge, language: str, classes: Collection[str] | None = None
) -> dict[str, Entity | None]:
    """What each name means: the first hit that is a subject, and called so.

    With `classes` the personality that is of one of these: the first one that is called so, else the first hit.
    """
    hits = {name: knowledge.find(name, language)[:MOST_CANDIDATES] for name in names}
    ids = list(dict.fromkeys(id_ for found in hits.values() for id_ in found))
    entities = knowledge.entities(ids, language) if ids else {}

    def choice(name: str, found: list[Entity]) -> Entity | None:
        if classes is None:
            fitting = [entity for entity in found if NO_SUBJECTS.isdisjoint(entity.instance_of)]
        else:
            fitting = [entity for entity in found if not set(classes).isdisjoint(entity.instance_of)]
        names_of = ((entity, (entity.label, *entity.aliases)) for entity in fitting)
        called_so = (entity for entity, names in names_of if folded(name) in map(folded, names))
        return next(called_so, fitting[0] if classes is not None and fitting else None)

    return {name: choice(name, [e for id_ in found if (e := entities.get(id_))]) for name, found in hits.items()}


def link(entity: Entity | None, language: str) -> dict[str, str | None]:
    """How a result names what it is about: by an id, null where there is none."""
    return {"wikidataId": entity.id if entity else None, "language": language}
