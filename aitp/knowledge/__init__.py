"""What is known of people, topics and places beyond a task's text: the shapes, for whoever asks and whoever answers.

`Knowledge` is what processors are given. Absence and ignorance are never the same: an empty `find` and a None of
`entities` say that there is no such thing, a None within a `Standing` says that nobody knows. A source that is down
raises (`ServiceFault("wikidata")`, `CooldownRequired("wikidata")`): the task waits, and no result is emptied by it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

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
