"""Wikidata: the action API's wbsearchentities, wbgetentities, linkshere and siteinfo, and the REST API's pageviews.

A closed world (`wikidata_things.py`, and `things` can be added to). Every call is written down in `calls`. Answers are
packed with gzip for clients that take it. Switches, which may be changed at any time:

    lag_seconds   of the database: calls with a smaller `maxlag` get an error with status 200 and Retry-After
    retry_after   what that header says
    without       parts and properties that no item has: "sitelinks", "claims", "aliases", "P8687", …
    nonsense      a body that is answered to everything instead, with status 200
    redirects     ids that stand for others
"""

from __future__ import annotations

import gzip
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

import orjson

from aitp.demo.faults import Fault
from aitp.demo.http import HttpServer
from aitp.demo.wikidata_things import Thing, strangers, things
from aitp.demo.wire import Request, Response, json_response

API_PATH = "/w/api.php"
VIEWS_PATH = "/api/rest_v1/metrics/pageviews/per-article/"
MOST_IDS, MOST_HITS, MOST_LINKS = 50, 50, 500
FALLBACK = {"pt": ("pt", "en"), "pt-br": ("pt", "en"), "en": ("en",)}


@dataclass(frozen=True, slots=True)
class Call:
    """One call: of what kind (an action, a prop, "pageviews"), about which names, by whom, and when."""

    kind: str
    names: tuple[str, ...]
    agent: str
    maxlag: str | None
    received_monotonic: float


class _Error(Exception):
    def __init__(self, code: str, info: str, headers: tuple[tuple[str, str], ...] = (), **more: Any) -> None:
        super().__init__(code)
        self.headers = (("MediaWiki-API-Error", code), *headers)
        self.document = {"error": {"code": code, "info": info, **more}, "servedby": "demo"}


class WikidataApi(HttpServer):
    """See above. `made_up`: so many people whom nobody knows are there as well, from Q990001000 on."""

    def __init__(self, port: int = 0, *, made_up: int = 0, latency_seconds: float = 0.0, fault_seed: int = 0) -> None:
        super().__init__(port, latency_seconds=latency_seconds, fault_seed=fault_seed)
        self.things: dict[str, Thing] = {}
        self.redirects: dict[str, str] = {}
        self.lag_seconds = 0.0
        self.retry_after = "5"
        self.without: set[str] = set()
        self.nonsense = ""
        self.calls: list[Call] = []
        self.add(things())
        self.add(strangers(made_up))

    def add(self, more: Iterable[Thing]) -> None:
        """Let these be known as well."""
        self.things |= {thing.id: thing for thing in more}

    def kinds(self) -> list[str]:
        """What was called, in order."""
        return [call.kind for call in list(self.calls)]

    def answer(self, request: Request, fault: Fault | None) -> Response:
        query = request.query
        if request.method != "GET" or not (request.path == API_PATH or request.path.startswith(VIEWS_PATH)):
            return self.error(404, request)
        if request.path == API_PATH:
            kind = query.get("prop") if query.get("action") == "query" and "prop" in query else query.get("action", "")
            names = query.get("search") or query.get("ids") or query.get("titles") or ""
            asked = tuple(names.split("|")) if names else ()
        else:
            kind, asked = "pageviews", (unquote(request.path.removeprefix(VIEWS_PATH)),)
        agent = request.headers.get("user-agent", "")
        self.calls.append(Call(str(kind), asked, agent, query.get("maxlag"), request.received_monotonic))
        if not agent or agent.startswith("python-requests"):
            return json_response(403, {"title": "Please set a user-agent and respect our robot policy."})
        if self.nonsense:
            return Response(200, self.nonsense.encode())
        try:
            document = self._pageviews(request) if kind == "pageviews" else self._act(query)
        except _Error as error:
            return json_response(200, error.document, error.headers)
        if document is None:
            return self.error(404, request)
        return _packed(document, request)

    def error(self, status: int, request: Request) -> Response:
        """As the REST API says it."""
        return json_response(status, {"type": "about:blank", "title": "Not found.", "status": status})

    def _act(self, query: dict[str, str]) -> dict[str, Any]:
        if "maxlag" in query and self.lag_seconds > float(query["maxlag"]):
            lag = f"{self.lag_seconds:g}"
            headers = (("Retry-After", self.retry_after), ("X-Database-Lag", lag))
            raise _Error("maxlag", f"Waiting for demo: {lag} seconds lagged.", headers, lag=self.lag_seconds)
        match query.get("action"), query.get("prop"), query.get("meta"):
            case "wbsearchentities", _, _:
                return self._search(query)
            case "wbgetentities", _, _:
                return self._entities(query)
            case "query", "linkshere", _:
                return self._links(query)
            case "query", None, "siteinfo":
                return {"batchcomplete": True, "query": {"general": {"sitename": "Wikidata"}}}
            case action, _, _:
                raise _Error("badvalue", f'Unrecognized value for parameter "action": {action}.')

    def _search(self, query: dict[str, str]) -> dict[str, Any]:
        for needed in ("search", "language"):
            if not query.get(needed):
                raise _Error("missingparam", f'The "{needed}" parameter must be set.')
        languages, wanted = _languages(query["language"]), _folded(query["search"])
        hits = []
        for thing in self.things.values():
            names = [thing.labels[each] for each in languages] + [n for each in languages for n in thing.aliases[each]]
            matching = [name for name in names if _folded(name).startswith(wanted)]
            if matching:
                exact = any(_folded(name) == wanted for name in matching)
                hits.append((not exact, -thing.links, thing.id, thing, matching[0]))
        limit = min(int(query.get("limit", 7)), MOST_HITS)
        shown = _languages(query.get("uselang", "en"))[0]
        found = [
            {
                "id": thing.id,
                "title": thing.id,
                "concepturi": f"http://www.wikidata.org/entity/{thing.id}",
                "label": thing.labels[shown],
                "description": thing.descriptions[shown],
                "match": {"type": "label", "language": languages[0], "text": text},
            }
            for _, _, _, thing, text in sorted(hits, key=lambda hit: hit[:3])[:limit]
        ]
        return {"searchinfo": {"search": query["search"]}, "search": found, "success": 1}

    def _entities(self, query: dict[str, str]) -> dict[str, Any]:
        ids = query.get("ids", "").split("|")
        if len(ids) > MOST_IDS:
            raise _Error("toomanyvalues", f'Too many values supplied for parameter "ids". The limit is {MOST_IDS}.')
        for id_ in ids:
            if not (id_[:1] == "Q" and id_[1:].isdecimal() and 0 < int(id_[1:]) < 2**31):
                raise _Error("no-such-entity", f'Could not find an entity with the ID "{id_}".', id=id_)
        parts = query.get("props", "labels|descriptions|aliases|claims|sitelinks").split("|")
        return {"entities": {id_: self._entity(id_, parts, query.get("languages", "en")) for id_ in ids}, "success": 1}

    def _entity(self, id_: str, parts: list[str], language: str) -> dict[str, Any]:
        thing = self.things.get(self.redirects.get(id_, id_))
        if thing is None:
            return {"id": id_, "missing": ""}
        spoken = _languages(language)[0]

        def text(value: str) -> dict[str, str]:
            return {"language": spoken, "for-language": language, "value": value}

        whole: dict[str, Any] = {
            "labels": {language: text(thing.labels[spoken])},
            "descriptions": {language: text(thing.descriptions[spoken])},
            "aliases": {language: [text(each) for each in thing.aliases[spoken]]} if thing.aliases[spoken] else [],
            "claims": {name: stated for name, stated in _claims(thing).items() if name not in self.without},
            "sitelinks": {site: {"site": site, "title": title, "badges": []} for site, title in _sites(thing).items()},
        }
        entity = {"type": "item", "id": thing.id}
        entity |= {part: whole[part] for part in parts if part in whole and part not in self.without}
        return entity | ({"redirects": {"from": id_, "to": thing.id}} if id_ in self.redirects else {})

    def _links(self, query: dict[str, str]) -> dict[str, Any]:
        titles = query["titles"].split("|")
        if len(titles) > MOST_IDS:
            raise _Error("toomanyvalues", f'Too many values supplied for parameter "titles". The limit is {MOST_IDS}.')
        room = min(int(query.get("lhlimit", 10)), MOST_LINKS)
        first, skip = (int(part) for part in query.get("lhcontinue", "0|0").split("|"))
        pages: list[dict[str, Any]] = []
        more: dict[str, str] = {}
        for place, title in enumerate(sorted(titles)):
            thing = self.things.get(title)
            page: dict[str, Any] = {"ns": 0, "title": title} | ({} if thing else {"missing": True})
            begin = skip if place == first else 0
            count = min(room, thing.links - begin) if thing and place >= first and not more else 0
            if count:
                page["linkshere"] = [{"pageid": begin + number} for number in range(count)]
            room -= count
            if thing and place >= first and not more and begin + count < thing.links:
                more = {"lhcontinue": f"{place}|{begin + count}", "continue": "||"}
            pages.append(page)
        return {"query": {"pages": pages}} | ({"continue": more} if more else {"batchcomplete": True})

    def _pageviews(self, request: Request) -> dict[str, Any] | None:
        project, _, _, title, *_ = (unquote(part) for part in request.path.removeprefix(VIEWS_PATH).split("/"))
        site = project.replace(".wikipedia", "wiki")
        wanted = title.replace("_", " ")
        thing = next((each for each in self.things.values() if _sites(each).get(site) == wanted), None)
        if thing is None or thing.views is None:
            return None
        days = [thing.views // 30 + (day < thing.views % 30) for day in range(30)]
        return {"items": [{"project": project, "article": title, "views": views} for views in days]}


def _claims(thing: Thing) -> dict[str, Any]:
    items = {"P31": thing.classes, "P39": _ids(thing.positions), "P166": _ids(thing.awards)}
    claims = {
        name: [_statement("wikibase-entityid", {"entity-type": "item", "id": each}) for each in ids]
        for name, ids in items.items()
        if ids
    }
    if thing.followers is not None:
        years = [{"amount": f"+{count}", "unit": "1"} for count in (thing.followers // 2, thing.followers)]
        claims["P8687"] = [_statement("quantity", year) for year in years]
    fill = thing.statements - sum(map(len, claims.values()))
    return claims | {"P646": [_statement("string", f"/m/{number}") for number in range(max(0, fill))]}


def _statement(kind: str, value: object) -> dict[str, Any]:
    snak = {"snaktype": "value", "datavalue": {"value": value, "type": kind}}
    return {"mainsnak": snak, "type": "statement", "rank": "normal"}


def _ids(count: int | None) -> list[str]:
    return [f"Q{990_900_000 + number}" for number in range(count or 0)]


def _sites(thing: Thing) -> dict[str, str]:
    sites = ["enwiki", "ptwiki", *(f"x{number}wiki" for number in range(300))][: thing.sitelinks]
    return {site: thing.labels["pt" if site == "ptwiki" else "en"] for site in sites}


def _languages(language: str) -> tuple[str, ...]:
    return FALLBACK.get(language, ("en",))


def _folded(name: str) -> str:
    plain = unicodedata.normalize("NFKD", name.casefold())
    return " ".join("".join(each for each in plain if not unicodedata.combining(each)).split())


def _packed(document: object, request: Request) -> Response:
    body = orjson.dumps(document)
    if "gzip" not in request.headers.get("accept-encoding", ""):
        return Response(200, body)
    return Response(200, gzip.compress(body, 1), (("Content-Encoding", "gzip"), ("Vary", "Accept-Encoding")))
