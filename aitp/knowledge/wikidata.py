"""Wikidata as `Knowledge`: everything in as few calls as may be, through a cache that all processes share.

Each part of an answer is kept as it comes: after an outage half-way only the rest is asked for. Made after fork.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import orjson

from aitp.knowledge import MOST_LINKS, Candidate, Entity, Standing, answers
from aitp.knowledge.api import WIKIDATA, Api, Bound, Oversized
from aitp.ledger import BreakerChange, Ledger
from aitp.settings import Settings

BATCH, LONGEST_NAME = 50, 250  # ids in one call, letters in a label
ID, HIGHEST_ID = re.compile(r"Q[1-9][0-9]{0,9}"), 2**31 - 1
SEARCH = {"action": "wbsearchentities", "type": "item", "limit": "7"}
GET = {"action": "wbgetentities", "props": "labels|descriptions|aliases|claims|sitelinks", "languagefallback": "1"}
LINKS = {"action": "query", "prop": "linkshere", "lhprop": "pageid", "lhnamespace": "0", "lhlimit": str(MOST_LINKS)}


class Wikidata:
    """For the worker in `slot`. `bound(seconds)` bounds one request; `observe` hears of Wikidata's breaker."""

    available = True

    def __init__(
        self, settings: Settings, ledger: Ledger, slot: int, bound: Bound, observe: Callable[[BreakerChange], None]
    ) -> None:
        self._api = Api(settings, partial(ledger.services.call, WIKIDATA, slot, observe), bound, ledger.locks.turn)
        self.is_well = partial(ledger.services.is_well, WIKIDATA)
        self._base_url = settings.wikidata_base_url.rstrip("/")
        self._look_up = partial(ledger.cache.through, f"wikidata {self._base_url}")
        self._language = settings.result_language
        # Where pageviews are counted: the first that has an article.
        self._wikis = {f"{each}wiki": f"{each}.wikipedia" for each in (self._language.partition("-")[0], "en")}
        self.close = self._api.reset

    def ready(self) -> None:
        """Before anything is bought: raise if look-ups are refused now. A probe that is due is this, a small call."""
        if not self.is_well():
            self._api.query(lambda body: orjson.loads(body)["query"], action="query", meta="siteinfo")

    def find(self, name: str, language: str) -> Sequence[Candidate]:
        name = " ".join(name.encode(errors="replace").decode().split())
        if not name or len(name) > LONGEST_NAME:
            return ()
        fetch = partial(self._search, language=language, uselang=language)
        return [Candidate(**hit) for hit in self._look_up(f"search {language}", [name], fetch)[name]]

    def entities(self, ids: Sequence[str], language: str) -> Mapping[str, Entity | None]:
        def entity(item: Mapping[str, Any]) -> Entity:
            texts = (item["label"], item["description"], tuple(item["aliases"]), tuple(item["instance_of"]))
            return Entity(item["id"], f"{self._base_url}/wiki/{item['id']}", *texts)

        return {id_: item and entity(item) for id_, item in self._items(ids, language).items()}

    def standing(self, ids: Sequence[str]) -> Mapping[str, Standing]:
        items = self._items(ids, self._language)
        there = [item for item in items.values() if item]
        links = self._look_up("links", [item["id"] for item in there], self._count_links)
        views = self._look_up("views", [item["article"] for item in there if item["article"]], self._count_views)

        def standing(item: dict[str, Any]) -> Standing:
            counts = {each: item[each] for each in ("sitelinks", "statements", "followers", "positions", "awards")}
            return Standing(inbound_links=links[item["id"]], pageviews=views.get(item["article"]), **counts)

        return {id_: standing(item) if item else Standing() for id_, item in items.items()}

    def _search(self, names: list[str], **call: str) -> Iterator[Mapping[str, Any]]:
        return ({name: self._api.query(answers.candidates, search=name, **SEARCH, **call)} for name in names)

    def _items(self, ids: Sequence[str], language: str) -> dict[str, Any]:
        """What is kept of each. What can be no id is no item: for one such, Wikidata would refuse a whole batch."""
        possible = [id_ for id_ in ids if ID.fullmatch(id_) and int(id_[1:]) <= HIGHEST_ID]
        found = self._look_up(f"item {language}", possible, partial(self._fetch_items, language=language))
        return {id_: found.get(id_) for id_ in ids}

    def _fetch_items(self, ids: list[str], language: str, most: int = BATCH) -> Iterator[Mapping[str, Any]]:
        for some in (ids[start : start + most] for start in range(0, len(ids), most)):
            read = partial(answers.items, ids=some, language=language, wikis=self._wikis)
            try:
                yield self._api.query(read, ids="|".join(some), languages=language, **GET)
            except Oversized:
                if len(some) == 1:
                    raise
                yield from self._fetch_items(some, language, (len(some) + 1) // 2)

    def _count_links(self, ids: list[str]) -> Iterator[Mapping[str, int]]:
        """An answer lists so many links of all its titles together, title by title: whoever has more hides the rest."""
        for start in range(0, len(ids), BATCH):
            seen, more = dict.fromkeys(ids[start : start + BATCH], 0), dict[str, str]()
            while seen:
                read = partial(answers.links, titles=[*seen])
                here, more = self._api.query(read, titles="|".join(seen), **LINKS, **more)
                total = {title: min(seen[title] + here[title], MOST_LINKS) for title in seen}
                if more and MOST_LINKS not in total.values():
                    seen = total
                    continue
                # Leave out those that are complete or have as many as count, and begin again with the others.
                done = {t for t in total if not more or total[t] == MOST_LINKS or (seen[t] and not here[t])}
                yield {title: total[title] for title in done}
                seen, more = {title: 0 for title in seen if title not in done}, {}

    def _count_views(self, articles: list[str]) -> Iterator[Mapping[str, int | None]]:
        first, last = (f"{datetime.now(UTC) - timedelta(days):%Y%m%d}" for days in (30, 1))
        return ({article: self._api.pageviews(answers.views, article, first, last)} for article in articles)
