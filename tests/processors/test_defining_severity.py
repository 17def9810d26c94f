"""Severity: one of ten levels, judged with all that is known and with what is unknown said to be so."""

from __future__ import annotations

from typing import Any, get_args

import orjson
import pytest

from aitp.demo.callbacks import SEVERITIES
from aitp.errors import NonRetryableError, ServiceFault, UselessAnswer
from aitp.knowledge import Standing
from aitp.processors import PROCESSORS
from aitp.processors.task_types import Level
from tests.processors.models import Encyclopedia, ScriptedModel, context, result_of

TYPE = "defining_severity"
DOCUMENT = {
    "text": "A vacina muda o DNA.",
    "model": "o3",
    "impactArea": {"name": "Saúde", "language": "pt", "wikidataId": "Q12147"},
    "topics": [{"name": "Vacina", "wikidataId": "Q134808", "language": "pt"}, {"name": "DNA", "wikidataId": None}],
    "personalities": [{"name": "Oswaldo Cruz"}, {"name": "Carlos Chagas", "wikidataId": "Q311145"}],
}


def test_the_levels_are_those_that_the_task_api_takes() -> None:
    assert set(get_args(Level)) == SEVERITIES


@pytest.mark.parametrize("level", get_args(Level))
def test_each_level_is_a_result(level: str) -> None:
    assert result_of(TYPE, DOCUMENT, ScriptedModel({"severity": level})) == {"severity": level}


@pytest.mark.parametrize("said", ["high", "CRITICAL", "low_4", "apocalyptic", "", 3, None])
def test_nothing_else_is(said: object) -> None:
    with pytest.raises(UselessAnswer, match="severity: "):
        result_of(TYPE, DOCUMENT, ScriptedModel({"severity": said}))


def asked(document: object, knowledge: Encyclopedia | None = None) -> Any:
    model = ScriptedModel({"severity": "low_1"})
    result_of(TYPE, document, model, context(knowledge))
    return orjson.loads(model.questions[0].messages[1].content)


def test_the_standing_of_everything_comes_from_one_question() -> None:
    knowledge = Encyclopedia(standings={"Q311145": Standing(sitelinks=0, awards=7)})
    data = asked(DOCUMENT, knowledge)

    assert knowledge.calls == [("standing", ["Q12147", "Q134808", "Q311145"])]
    assert data["personalities"][1] == {
        "name": "Carlos Chagas",
        "sitelinks": 0,
        "statements": "unknown",
        "inbound_links": "unknown",
        "pageviews": "unknown",
        "followers": "unknown",
        "positions": "unknown",
        "awards": 7,
    }


@pytest.mark.parametrize(
    ("links", "shown"), [(None, "unknown"), (0, 0), (499, 499), (500, "500 or more"), (501, "500 or more")]
)
def test_links_are_counted_to_a_bound_that_is_said_to_be_one(links: int | None, shown: object) -> None:
    data = asked(DOCUMENT, Encyclopedia(standings={"Q12147": Standing(inbound_links=links, pageviews=10_000)}))

    assert (data["impact_area"]["inbound_links"], data["impact_area"]["pageviews"]) == (shown, 10_000)
    assert "500 or more" in context().prompt(TYPE)


def test_nothing_found_is_not_the_same_as_not_known() -> None:
    data = asked({"text": "x", "topics": [], "personalities": None})

    assert (data["impact_area"], data["topics"], data["personalities"]) == ("unknown", [], "unknown")


def test_what_has_no_id_is_unknown_in_all_respects() -> None:
    data = asked(DOCUMENT, Encyclopedia())

    assert set(data["topics"][1].values()) == {"DNA", "unknown"}
    assert set(data["personalities"][0].values()) == {"Oswaldo Cruz", "unknown"}


@pytest.mark.parametrize("missing", ["impactArea", "topics", "personalities"])
@pytest.mark.parametrize("as_null", [True, False])
def test_each_finding_may_be_null_or_missing(missing: str, as_null: bool) -> None:
    document = {key: value for key, value in DOCUMENT.items() if key != missing} | ({missing: None} if as_null else {})

    assert asked(document)["impact_area" if missing == "impactArea" else missing] == "unknown"


def test_a_text_alone_is_enough() -> None:
    assert asked("Só um texto.") == {
        "text": "Só um texto.",
        "impact_area": "unknown",
        "topics": "unknown",
        "personalities": "unknown",
    }


@pytest.mark.parametrize("id_", ["", "12", "P31", "Qx", "Q", 7, {}, "Q1|Q2"])
def test_an_id_that_is_none_is_never_looked_up(id_: object) -> None:
    knowledge = Encyclopedia()
    asked({"text": "x", "topics": [{"name": "y", "wikidataId": id_}]}, knowledge)

    assert knowledge.calls == []


@pytest.mark.parametrize(
    "more", [{"topics": "x"}, {"topics": [{}]}, {"personalities": [7]}, {"impactArea": {"name": ""}}, {"topics": {}}]
)
def test_findings_of_another_form_are_invalid_content(more: dict[str, Any]) -> None:
    with pytest.raises(NonRetryableError, match=r"content\.(topics|personalities|impactArea)"):
        PROCESSORS[TYPE].parse(DOCUMENT | more)


def test_content_survives_the_ledger_under_the_apis_names() -> None:
    content = PROCESSORS[TYPE].parse(DOCUMENT)

    assert PROCESSORS[TYPE].load(content.to_json()) == content
    assert orjson.loads(content.to_json())["impactArea"] == {"name": "Saúde", "wikidataId": "Q12147"}


def test_the_same_content_makes_the_same_question_to_the_letter() -> None:
    knowledge = Encyclopedia(standings={"Q311145": Standing(sitelinks=3)})
    models = [ScriptedModel({"severity": "low_1"}) for _ in range(2)]
    for model in models:
        result_of(TYPE, DOCUMENT, model, context(knowledge))

    assert models[0].questions == models[1].questions


def test_an_outage_of_wikidata_delays_before_anything_is_bought() -> None:
    model, knowledge = ScriptedModel({"severity": "low_1"}), Encyclopedia()
    knowledge.down = ServiceFault("wikidata", "503")
    with pytest.raises(ServiceFault):
        result_of(TYPE, DOCUMENT, model, context(knowledge))

    assert model.questions == []
