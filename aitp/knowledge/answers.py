"""What is taken from Wikidata's answers. Pure: bytes in, values that a cache can keep as JSON out.

An answer of another shape raises (ValueError, LookupError, TypeError, AttributeError): a fault, never "there is none".
What a well-formed item leaves out (followers, say) is None. Shapes: doc.wikimedia.org/Wikibase, "JSON".
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

import orjson

T = TypeVar("T")


def candidates(body: bytes) -> list[dict[str, str]]:
    """Of wbsearchentities: `{id, label, description}`, best first."""
    texts = {"id": None, "label": "", "description": ""}
    return [{t: _a(str, hit.get(t, texts[t])) for t in texts} for hit in _a(list, orjson.loads(body)["search"])]


def items(body: bytes, ids: Iterable[str], language: str, wikis: Mapping[str, str]) -> dict[str, dict[str, Any] | None]:
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


def links(body: bytes, titles: Iterable[str]) -> tuple[dict[str, int], dict[str, str]]:
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


def views(body: bytes) -> int | None:
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
