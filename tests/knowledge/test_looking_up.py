"""What is found, what is known to be nothing, what is unknown; and in how few calls."""

from __future__ import annotations

import os
from collections import Counter

import pytest

from aitp.demo.wikidata_api import WikidataApi
from aitp.demo.wikidata_things import OWN
from aitp.errors import ServiceFault
from aitp.knowledge import Knowledge, Standing, wikidata
from tests.knowledge.desk import Desk

STRANGERS = [f"Q{OWN + 1_000 + number}" for number in range(120)]


def test_it_is_a_source_of_knowledge(desk: Desk) -> None:
    source: Knowledge = desk.wikidata
    assert source.available


def test_a_search_finds_the_best_first_in_the_language_asked_for(desk: Desk) -> None:
    found = desk.wikidata.find("  mudança\nclimática ", "pt")
    assert found == ["Q125928"]
    assert desk.wikidata.find("climate change", "en")[0] == "Q125928"


def test_a_search_for_what_nobody_is_called_finds_nothing(desk: Desk) -> None:
    assert list(desk.wikidata.find("Xyzzy Plugh", "pt")) == []


@pytest.mark.parametrize("name", ["", "  ", "x" * 251])
def test_what_can_be_no_name_is_not_even_asked_for(desk: Desk, name: str) -> None:
    assert list(desk.wikidata.find(name, "pt")) == []
    assert not desk.server.calls


def test_a_name_may_hold_anything(desk: Desk) -> None:
    for name in ("a|b&search=Brasil#", "\ud800 lone", "100% + 1", "éxyzzy\u0301", "\x00xyzzy"):
        assert list(desk.wikidata.find(name, "pt")) == []


def test_an_item_is_what_wikidata_says_it_is(desk: Desk) -> None:
    entity = desk.wikidata.entities(["Q7817"], "pt")["Q7817"]
    assert entity is not None
    assert (entity.id, entity.url) == ("Q7817", f"{desk.server.url}/wiki/Q7817")
    assert (entity.label, entity.description) == ("Organização Mundial da Saúde", "instituição")
    assert entity.aliases == ("OMS", "WHO")
    assert entity.instance_of == ("Q484652",)


def test_what_does_not_exist_is_none_and_what_is_no_id_is_not_sent(desk: Desk) -> None:
    ids = ["Q937", "Q2147483640", "Q99999999999", "Q2147483648", "P31", "Q", "Q0", "", "q937", "Q937|Q42"]
    found = desk.wikidata.entities(ids, "pt")
    assert list(found) == ids
    assert [id_ for id_, entity in found.items() if entity] == ["Q937"]
    assert [call.names for call in desk.server.calls] == [("Q937", "Q2147483640")]


def test_an_id_that_stands_for_another_is_that_other(desk: Desk) -> None:
    desk.server.redirects["Q990001005"] = "Q937"
    entity = desk.wikidata.entities(["Q990001005"], "pt")["Q990001005"]
    assert entity is not None
    assert (entity.id, entity.label) == ("Q937", "Albert Einstein")
    standing = desk.wikidata.standing(["Q990001005"])["Q990001005"]
    assert standing == desk.wikidata.standing(["Q937"])["Q937"]


def test_the_standing_is_what_the_world_says(desk: Desk) -> None:
    ids = ["Q937", "Q8023", "Q283", STRANGERS[0]]
    found = desk.wikidata.standing(ids)
    for id_ in ids:
        thing = desk.server.things[id_]
        assert found[id_] == Standing(
            sitelinks=thing.sitelinks,
            statements=thing.statements,
            inbound_links=min(thing.links, 500),
            pageviews=thing.views,
            followers=thing.followers,
            positions=thing.positions,
            awards=thing.awards,
        )


def test_what_is_missing_is_unknown_and_never_zero(desk: Desk) -> None:
    desk.server.without = {"sitelinks", "P8687", "P39", "P166"}
    found = desk.wikidata.standing(["Q937", "Q2147483640"])
    einstein = found["Q937"]
    assert (einstein.sitelinks, einstein.pageviews, einstein.followers) == (None, None, None)
    assert (einstein.positions, einstein.awards) == (None, None)
    assert einstein.inbound_links is not None
    assert found["Q2147483640"] == Standing()


def test_an_item_without_its_statements_is_nonsense_and_no_item_of_no_class(desk: Desk) -> None:
    desk.server.without = {"claims"}
    with pytest.raises(ServiceFault):
        desk.wikidata.entities(["Q937"], "pt")


def test_120_items_take_as_few_calls_as_can_be(desk: Desk) -> None:
    desk.wikidata.entities(STRANGERS, "pt")
    found = desk.wikidata.standing(STRANGERS)
    links = {id_: desk.server.things[id_].links for id_ in STRANGERS}
    assert {id_: standing.inbound_links for id_, standing in found.items()} == links
    calls = Counter(desk.server.kinds())
    assert calls["wbgetentities"] == 3
    assert calls["linkshere"] <= sum(links.values()) // 500 + 3
    assert calls["pageviews"] <= sum(desk.server.things[id_].sitelinks > 0 for id_ in STRANGERS)
    assert max(len(call.names) for call in desk.server.calls) == 50


def test_those_with_many_links_hide_none_of_the_others(desk: Desk) -> None:
    ids = list(desk.server.things)[:44] + STRANGERS[:6]
    found = desk.wikidata.standing(ids)
    assert {id_: found[id_].inbound_links for id_ in ids} == {
        id_: min(desk.server.things[id_].links, 500) for id_ in ids
    }
    links = [desk.server.things[id_].links for id_ in ids]
    assert desk.server.kinds().count("linkshere") <= sum(links) // 500 + 2 * sum(each >= 500 for each in links) + 1


def test_an_answer_longer_than_anybody_wants_is_asked_for_in_parts(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wikidata, "MOST_BYTES", 300_000)
    found = desk.wikidata.entities(STRANGERS[:50], "pt")
    assert all(found.values())
    assert desk.breaker == "closed"
    assert [len(call.names) for call in desk.server.calls][:2] == [50, 25]


def test_what_was_found_is_not_asked_for_again_by_anyone_for_a_day(desk: Desk) -> None:
    def look() -> object:
        wikidata = desk.opened(102)
        return wikidata.find("Brasil", "pt"), wikidata.entities(["Q937", "Q8023"], "pt"), wikidata.standing(["Q937"])

    first = look()
    calls = len(desk.server.calls)
    pid = os.fork()
    if pid == 0:
        desk = Desk(desk.server, desk.path)
        os._exit(0 if look() == first else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert len(desk.server.calls) == calls
    desk.clock.go(86_401)
    assert look() == first
    assert len(desk.server.calls) == 2 * calls


def test_that_there_is_nothing_is_kept_as_well_but_not_for_long(desk: Desk) -> None:
    for _ in range(2):
        assert list(desk.wikidata.find("Xyzzy", "pt")) == []
        assert desk.wikidata.entities(["Q2147483640"], "pt") == {"Q2147483640": None}
    assert desk.server.kinds() == ["wbsearchentities", "wbgetentities"]
    desk.clock.go(3_601)
    desk.wikidata.find("Xyzzy", "pt")
    assert len(desk.server.calls) == 3


def test_languages_are_kept_apart(desk: Desk) -> None:
    labels = [entity.label for each in ("pt", "en") if (entity := desk.wikidata.entities(["Q517"], each)["Q517"])]
    assert labels == ["Napoleão Bonaparte", "Napoleon"]


def test_another_server_is_another_wikidata(desk: Desk) -> None:
    desk.wikidata.find("Xyzzy", "pt")
    with WikidataApi() as other:
        elsewhere = Desk(other, desk.path)
        elsewhere.wikidata.find("Xyzzy", "pt")
        assert len(other.calls) == 1
        elsewhere.close()
