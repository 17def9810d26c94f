"""The demo's Wikidata: that it answers and refuses as the real one does."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import requests

from aitp.demo.faults import Fault
from aitp.demo.wikidata_api import WikidataApi
from aitp.demo.world import World


@pytest.fixture
def wikidata() -> Iterator[WikidataApi]:
    with WikidataApi(made_up=60) as server:
        yield server


def get(wikidata: WikidataApi, path: str = "/w/api.php", **query: Any) -> requests.Response:
    with requests.Session() as session:
        session.trust_env = False
        session.headers["User-Agent"] = "test/1 (nobody)"
        return session.get(wikidata.url + path, params={"format": "json", **query})


def act(wikidata: WikidataApi, **query: Any) -> Any:
    return get(wikidata, **query).json()


def test_a_search_goes_by_the_beginning_of_names_without_regard_to_accents(wikidata: WikidataApi) -> None:
    found = act(wikidata, action="wbsearchentities", search="organizacao das nacoes", language="pt", uselang="pt")
    assert [hit["label"] for hit in found["search"]] == ["Organização das Nações Unidas"]
    assert act(wikidata, action="wbsearchentities", search="xyzzy", language="pt")["search"] == []


def test_items_come_with_what_was_asked_for_and_in_that_language(wikidata: WikidataApi) -> None:
    item = act(wikidata, action="wbgetentities", ids="Q84263196", props="labels|claims", languages="pt")
    entity = item["entities"]["Q84263196"]
    assert set(entity) == {"type", "id", "labels", "claims"}
    assert entity["labels"]["pt"]["value"] == "COVID-19"


def test_what_does_not_exist_is_missing_and_what_is_no_id_is_an_error(wikidata: WikidataApi) -> None:
    there = act(wikidata, action="wbgetentities", ids="Q937|Q2147483647")["entities"]
    assert there["Q2147483647"] == {"id": "Q2147483647", "missing": ""}
    assert act(wikidata, action="wbgetentities", ids="Q937|P31")["error"]["code"] == "no-such-entity"


def test_more_than_fifty_ids_are_refused(wikidata: WikidataApi) -> None:
    answer = get(wikidata, action="wbgetentities", ids="|".join(f"Q{number}" for number in range(1, 52)))
    assert answer.json()["error"]["code"] == "toomanyvalues"
    assert answer.headers["MediaWiki-API-Error"] == "toomanyvalues"


def test_links_of_all_titles_share_one_limit_and_go_on_where_they_stopped(wikidata: WikidataApi) -> None:
    titles = ["Q937", "Q7186", "Q283", "Q990001000"]
    counted, more, calls = dict.fromkeys(titles, 0), dict[str, str](), 0
    while True:
        query = {"action": "query", "prop": "linkshere", "titles": "|".join(titles), "lhlimit": "100"}
        answer = act(wikidata, formatversion=2, **query, **more)
        calls += 1
        for page in answer["query"]["pages"]:
            counted[page["title"]] += len(page.get("linkshere", []))
        if not (more := answer.get("continue", {})):
            break
    assert counted == {title: wikidata.things[title].links for title in titles}
    assert calls > 1


def test_views_are_those_of_an_article(wikidata: WikidataApi) -> None:
    path = "/api/rest_v1/metrics/pageviews/per-article/pt.wikipedia/all-access/user/Albert_Einstein/daily/1/2"
    days = get(wikidata, path).json()["items"]
    assert (len(days), sum(day["views"] for day in days)) == (30, wikidata.things["Q937"].views)
    assert get(wikidata, path.replace("Albert", "Alfred")).status_code == 404


def test_a_lagging_database_answers_those_who_ask_for_less_lag(wikidata: WikidataApi) -> None:
    wikidata.lag_seconds = 8
    answer = get(wikidata, action="wbsearchentities", search="Brasil", language="pt", maxlag=5)
    assert (answer.status_code, answer.json()["error"]["code"]) == (200, "maxlag")
    assert answer.headers["Retry-After"] == "5"
    assert act(wikidata, action="wbsearchentities", search="Brasil", language="pt")["search"]


def test_a_client_without_a_name_is_refused(wikidata: WikidataApi) -> None:
    assert requests.get(wikidata.url + "/w/api.php", timeout=5).status_code == 403


def test_faults_and_nonsense_come_to_order_and_calls_are_noted(wikidata: WikidataApi) -> None:
    wikidata.faults.add(Fault(status=429, headers={"Retry-After": "7"}, times=1))
    assert get(wikidata, action="query", meta="siteinfo").headers["Retry-After"] == "7"
    wikidata.nonsense = '{"search": "yes"}'
    assert act(wikidata, action="wbgetentities", ids="Q42|Q5") == {"search": "yes"}
    assert [(call.kind, call.names) for call in wikidata.calls] == [("wbgetentities", ("Q42", "Q5"))]


def test_parts_can_be_left_out(wikidata: WikidataApi) -> None:
    wikidata.without = {"sitelinks", "P31"}
    entity = act(wikidata, action="wbgetentities", ids="Q937")["entities"]["Q937"]
    assert "sitelinks" not in entity
    assert "P31" not in entity["claims"]


def test_the_world_has_it() -> None:
    with World({"wikidata_api": {"made_up": 1}}) as world:
        assert world.environment()["WIKIDATA_BASE_URL"] == world.servers["wikidata_api"].url
        assert "Q990001000" in world.wikidata_api.things
