"""Wikidata as `Knowledge`: everything in as few calls as may be, through a cache that all processes share.

Each part of an answer is kept as it comes: after an outage half-way only the rest is asked for. Made after fork.

Polite: a User-Agent with a contact, maxlag, pauses as told, a token if there is one; of all processes on this host
three ask at a time, Wikimedia's own servers a few times a second (mediawiki.org, API:Etiquette and Wikimedia APIs/Rate
limits). `bound` bounds each request, with the `turn` that it waits for; the `gate` (in the ledger) is around that,
never within. No retries.
"""

from __future__ import annotations

import errno
import random
import re
import select
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, TypeVar
from urllib.parse import quote, urlencode

import orjson
from ratelimit import limits, sleep_and_retry  # type: ignore[import-untyped]

from aitp.errors import AitpError, CooldownRequired, CredentialsRefused, RetryableError, ServiceFault
from aitp.http import USER_AGENT, Answer, NoAnswer, TooLong, Wire, whole_body
from aitp.knowledge import MOST_LINKS, Entity, Knowledge, Standing
from aitp.ledger.breakers import BreakerChange
from aitp.ledger.ledger import Ledger
from aitp.policy.retry import pause_seconds
from aitp.settings import Settings
from aitp.tasks import Service

WIKIDATA = Service.WIKIDATA.value
# One host serves the pageviews of all of Wikimedia; another Wikidata is expected to serve its own.
VIEW_HOSTS = {"https://www.wikidata.org": "https://wikimedia.org"}
VIEWS = "/api/rest_v1/metrics/pageviews/per-article"
FIXED = {"format": "json", "formatversion": "2", "maxlag": "5"}
MOST_BYTES, ERROR_BYTES = 16 * 2**20, 65_536
CALLS, MARGIN_SECONDS = 5, 5.0  # of one worker in a second
# Who binds such a name (unix(7), abstract sockets) has it until his process ends: all users and ledgers of a host share
# these, as they share the address that Wikimedia counts by.
TURNS = tuple(f"\0aitp asks Wikidata {number}" for number in range(3))
LEAST_SECONDS, LONGEST_WAIT_SECONDS = 1.0, 30.0  # of a turn at Wikimedia's own servers; for one
WITH_TOKEN_SECONDS = 0.1  # of a turn, where Wikimedia knows who asks

Gate = Callable[[], AbstractContextManager[None]]
Bound = Callable[[float], AbstractContextManager[object]]
T = TypeVar("T")

BATCH, LONGEST_NAME = 50, 250  # ids in one call, letters in a label
ID, HIGHEST_ID = re.compile(r"Q[1-9][0-9]{0,9}"), 2**31 - 1
SEARCH = {"action": "wbsearchentities", "type": "item", "limit": "7"}
GET = {"action": "wbgetentities", "props": "labels|descriptions|aliases|claims|sitelinks", "languagefallback": "1"}
LINKS = {"action": "query", "prop": "linkshere", "lhprop": "pageid", "lhnamespace": "0", "lhlimit": str(MOST_LINKS)}


class Wikidata(Knowledge):
    """For the worker in `slot`. `bound(seconds)` bounds one request; `observe` hears of Wikidata's breaker."""

    available = True

    def __init__(
        self, settings: Settings, ledger: Ledger, slot: int, bound: Bound, observe: Callable[[BreakerChange], None]
    ) -> None:
        self._api = Api(settings, partial(ledger.services.call, WIKIDATA, slot, observe), bound)
        self._services = ledger.services
        self._base_url = settings.wikidata_base_url.rstrip("/")
        self._look_up = partial(ledger.cache.through, f"wikidata {self._base_url}")
        self._language = settings.result_language
        # Where pageviews are counted: the first that has an article.
        self._wikis = {f"{each}wiki": f"{each}.wikipedia" for each in (self._language.partition("-")[0], "en")}
        self.close = self._api.close

    def is_well(self) -> bool:
        return self._services.is_well(WIKIDATA)

    def ready(self) -> None:
        """Before anything is bought: raise if look-ups are refused now. A probe that is due is this, a small call."""
        if not self.is_well():
            self._api.query(lambda body: orjson.loads(body)["query"], action="query", meta="siteinfo")

    def find(self, name: str, language: str) -> Sequence[str]:
        name = " ".join(name.encode(errors="replace").decode().split())
        if not name or len(name) > LONGEST_NAME:
            return ()
        fetch = partial(self._search, language=language, uselang=language)
        found: list[str] = self._look_up(f"hits {language}", [name], fetch)[name]
        return found

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
        return ({name: self._api.query(read_hits, search=name, **SEARCH, **call)} for name in names)

    def _items(self, ids: Sequence[str], language: str) -> dict[str, Any]:
        """What is kept of each. What can be no id is no item: for one such, Wikidata would refuse a whole batch."""
        possible = [id_ for id_ in ids if ID.fullmatch(id_) and int(id_[1:]) <= HIGHEST_ID]
        found = self._look_up(f"item {language}", possible, partial(self._fetch_items, language=language))
        return {id_: found.get(id_) for id_ in ids}

    def _fetch_items(self, ids: list[str], language: str, most: int = BATCH) -> Iterator[Mapping[str, Any]]:
        for some in (ids[start : start + most] for start in range(0, len(ids), most)):
            read = partial(read_items, ids=some, language=language, wikis=self._wikis)
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
                read = partial(read_links, titles=[*seen])
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
        return ({article: self._api.pageviews(read_views, article, first, last)} for article in articles)


# ── asking ───────────────────────────────────────────────────────────────────────────────────────────────────────────


class Oversized(RetryableError):
    """The answer is longer than anybody wants to read: no fault, ask for less."""


@contextmanager
def turn(least_seconds: float = 0.0) -> Iterator[None]:
    """Be one of three on this host who ask now, for `least_seconds` at least: three take turns of a second, and so ask
    three times a second. Waits for it, and raises CooldownRequired after LONGEST_WAIT_SECONDS; does not nest."""
    give_up = time.monotonic() + LONGEST_WAIT_SECONDS
    with socket.socket(socket.AF_UNIX) as place:
        while not any(_is_free(place, name) for name in random.sample(TURNS, len(TURNS))):
            if time.monotonic() > give_up:
                said = "other processes of this host have been asking Wikidata all the time"
                raise CooldownRequired(WIKIDATA, said, seconds=MARGIN_SECONDS, model=None)
            select.select((), (), (), random.uniform(0.01, 0.05))
        until = time.monotonic() + least_seconds
        try:
            yield
        finally:
            select.select((), (), (), max(0.0, until - time.monotonic()))


def _is_free(place: socket.socket, name: str) -> bool:
    try:
        place.bind(name)
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise
        return False
    return True


def headers_of(settings: Settings) -> dict[str, str]:
    """Who asks, as Wikimedia wants to be told."""
    contact, token = settings.wikidata_contact or "its operator has set no contact", settings.wikidata_token
    agent = f"{USER_AGENT} ({contact})"
    authorization = {} if token is None else {"Authorization": f"Bearer {token.get_secret_value()}"}
    return {"User-Agent": agent, "Accept": "application/json", **authorization}


class Api:
    """The two APIs. `read` makes a value of a body; what it raises says that the answer is nonsense."""

    def __init__(self, settings: Settings, gate: Gate, bound: Bound) -> None:
        self._base_url = settings.wikidata_base_url.rstrip("/")
        self._gate, self._bound = gate, bound
        self._timeout, self._trust = settings.request_timeout, settings.trust
        self._headers = {**headers_of(settings), "Accept-Encoding": "gzip"}
        least = WITH_TOKEN_SECONDS if settings.wikidata_token else LEAST_SECONDS
        self._turn = partial(turn, least if self._base_url in VIEW_HOSTS else 0.0)
        self._wait_for_turn = sleep_and_retry(limits(CALLS, 1.0)(lambda: None))
        self._wires: dict[str, Wire] = {}

    def query(self, read: Callable[[bytes], T], **parameters: str) -> T:
        """One call of the action API. Raises Oversized as well."""
        return self._ask(self._base_url, "/w/api.php?" + urlencode({**parameters, **FIXED}), read)

    def pageviews(self, read: Callable[[bytes], T], article: str, first: str, last: str) -> T:
        """The days from `first` to `last` (YYYYMMDD) of `project/title`; no days if nothing is known of them."""
        project, _, title = article.partition("/")
        path = f"{VIEWS}/{project}/all-access/user/{quote(title.replace(' ', '_'), safe='')}/daily/{first}/{last}"
        return self._ask(VIEW_HOSTS.get(self._base_url, self._base_url), path, read, b'{"items": []}')

    def close(self) -> None:
        """End the connections."""
        for wire in self._wires.values():
            wire.close()

    def _ask(self, host: str, target: str, read: Callable[[bytes], T], absent: bytes = b"") -> T:
        with self._gate():
            answer, body = self._get(host, host + target)
            if answer.status == 404 and absent:
                body = absent
            elif error := _error(answer, body):
                raise error
            try:
                return read(body)
            except (ValueError, LookupError, TypeError, AttributeError, OverflowError):
                raise ServiceFault(WIKIDATA, "Wikidata answered something else than what was asked for") from None

    def _get(self, host: str, url: str) -> tuple[Answer, bytes]:
        wire = self._wires[host] = self._wires.get(host) or Wire(host, self._timeout, self._trust)
        try:
            with self._bound(self._timeout + LONGEST_WAIT_SECONDS + MARGIN_SECONDS):
                self._wait_for_turn()
                with self._turn():
                    answer = wire.send("GET", url, self._headers)
                    return answer, whole_body(answer, MOST_BYTES, self._timeout)
        except TooLong as failure:
            raise Oversized(f"Wikidata {failure}") from None
        except NoAnswer as failure:
            raise ServiceFault(WIKIDATA, f"Wikidata {failure}: look at WIKIDATA_BASE_URL") from None


def _error(answer: Answer, body: bytes) -> AitpError | None:
    """What an answer that is none means. The action API's own errors come with status 200."""
    status, pause, code = answer.status, answer.headers.get("Retry-After"), ""
    if status == 200:
        try:
            code = str(orjson.loads(body if len(body) <= ERROR_BYTES else b"{}")["error"]["code"])
        except (ValueError, LookupError, TypeError):
            return None
    said = f"Wikidata answered {status}{code and f' ({code[:60]!r})'}"
    if code in ("maxlag", "ratelimited") or status == 429 or (status == 503 and pause is not None):
        return CooldownRequired(WIKIDATA, said, seconds=pause_seconds(pause, time.time()), model=None)
    if status in (401, 403):
        return CredentialsRefused(
            WIKIDATA, f"{said}: it wants no calls from here: look at WIKIDATA_CONTACT and WIKIDATA_TOKEN"
        )
    return ServiceFault(WIKIDATA, f"{said}: look at WIKIDATA_BASE_URL" if 300 <= status < 500 else said)


# ── reading ──────────────────────────────────────────────────────────────────────────────────────────────────────────
#
# Bytes in, values that a cache can keep as JSON out. An answer of another shape raises (ValueError, LookupError,
# TypeError, AttributeError): a fault, never "there is none". What a well-formed item leaves out (followers, say) is
# None. Shapes: doc.wikimedia.org/Wikibase, "JSON".


def read_hits(body: bytes) -> list[str]:
    """Of wbsearchentities: the ids, best first."""
    return [_a(str, hit["id"]) for hit in _a(list, orjson.loads(body)["search"])]


def read_items(
    body: bytes, ids: Iterable[str], language: str, wikis: Mapping[str, str]
) -> dict[str, dict[str, Any] | None]:
    """Of wbgetentities: what is kept of each of `ids`, which must all be there; None: there is no such item."""
    found = dict(orjson.loads(body)["entities"])
    found |= {item["redirects"]["from"]: item for item in found.values() if "redirects" in item}
    return {id_: None if "missing" in found[id_] else _item(found[id_], language, wikis) for id_ in ids}


def _item(item: dict[str, Any], language: str, wikis: Mapping[str, str]) -> dict[str, Any]:
    claims = _map(item["claims"])
    valid = {name: [each for each in stated if each["rank"] != "deprecated"] for name, stated in claims.items()}
    links = _map(item.get("sitelinks"))

    def text(part: str) -> str:
        return _a(str, _map(item.get(part)).get(language, {"value": ""})["value"])

    def count(property_: str) -> int | None:
        stated = valid.get(property_)
        return sum(each["mainsnak"]["snaktype"] != "novalue" for each in stated) if stated else None

    def values(property_: str) -> list[dict[str, Any]]:
        snaks = (each["mainsnak"] for each in valid.get(property_, ()))
        return [snak["datavalue"]["value"] for snak in snaks if snak["snaktype"] == "value"]

    return {
        "id": _a(str, item["id"]),
        "label": text("labels"),
        "description": text("descriptions"),
        "aliases": [_a(str, alias["value"]) for alias in _map(item.get("aliases")).get(language, ())],
        "instance_of": [_a(str, value["id"]) for value in values("P31")],
        # `project/title` where views are counted, or empty.
        "article": next((f"{wikis[wiki]}/{links[wiki]['title']}" for wiki in wikis if wiki in links), ""),
        "sitelinks": None if item.get("sitelinks") is None else len(links),
        "statements": sum(map(len, claims.values())),
        # One statement for each network and year.
        "followers": max((int(float(value["amount"])) for value in values("P8687")), default=None),
        "positions": count("P39"),
        "awards": count("P166"),
    }


def read_links(body: bytes, titles: Iterable[str]) -> tuple[dict[str, int], dict[str, str]]:
    """Of prop=linkshere: links to each of `titles` in this answer, and how to go on (empty: that was all).

    Of the parameters that it would have us send, those of this module alone: any other would change what we ask.
    """
    answer = orjson.loads(body)
    pages = {page["title"]: len(_a(list, page.get("linkshere", []))) for page in answer["query"]["pages"]}
    told = answer.get("continue", {})
    more = {name: str(told[name]) for name in ("lhcontinue", "continue") if name in told}
    if told and "lhcontinue" not in more:
        raise ValueError("it goes on with something else")
    if more and not any(pages.values()):
        raise ValueError("it would go on for ever")
    return {title: pages[title] for title in titles}, more


def read_views(body: bytes) -> int | None:
    """Of pageviews per article: the sum of its days."""
    days = [_a(int, day["views"]) for day in _a(list, orjson.loads(body)["items"])]
    return sum(days) if days else None


def _a(kind: type[T], given: object) -> T:
    if not isinstance(given, kind):
        raise TypeError(f"not a {kind.__name__}")
    return given


def _map(given: object) -> dict[str, Any]:
    """PHP writes an empty map as an empty list."""
    return {} if given in (None, []) else _a(dict, given)
