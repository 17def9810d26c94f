"""People: grounded in the text and in Wikidata, dropped only by an answer, never by silence."""

from __future__ import annotations

from typing import Any

import pytest

from aitp.errors import CooldownRequired, RetryableError, ServiceFault, UselessAnswer
from aitp.processors import PROCESSORS
from aitp.settings import CHAT_MODEL
from tests.processors.models import Encyclopedia, Notebook, ScriptedModel, context, person, result_of

TEXT = "O presidente Lula visitou o túmulo de Getúlio Vargas; a PETROBRAS não comentou."
TYPE = "identifying_data"


def named(name: str, mentioned_as: str, **more: Any) -> dict[str, Any]:
    return {"name": name, "mentioned_as": mentioned_as, "confidence": 0.9, "context": "É citado.", **more}


def answer(*people: dict[str, Any]) -> dict[str, Any]:
    return {"personalities": list(people)}


VARGAS = person("Q156844", "Getúlio Vargas", "Getúlio Dornelles Vargas")


def test_a_personality_has_all_that_the_task_api_takes() -> None:
    knowledge = Encyclopedia(VARGAS)
    said = answer(named("Getúlio Vargas", "Getúlio Vargas"))

    assert result_of(TYPE, TEXT, ScriptedModel(said), context(knowledge)) == {
        "personalities": [
            {
                "name": "Getúlio Vargas",
                "mentioned_as": "Getúlio Vargas",
                "confidence": 0.9,
                "context": "É citado.",
                "wikidata": {
                    "id": "Q156844",
                    "url": "https://www.wikidata.org/wiki/Q156844",
                    "label": "Getúlio Vargas",
                    "description": "somebody",
                    "aliases": ["Getúlio Dornelles Vargas"],
                },
            }
        ]
    }


def names(document: object, model: ScriptedModel, knowledge: Encyclopedia | None) -> list[str]:
    found = result_of(TYPE, document, model, context(knowledge))
    return [each["name"] for each in found["personalities"]]


def test_a_text_about_nobody_has_an_empty_list_after_one_call() -> None:
    model, knowledge = ScriptedModel(answer()), Encyclopedia()

    assert names("Chove em Manaus.", model, knowledge) == []
    assert len(model.questions) == 1
    assert knowledge.calls == []


@pytest.mark.parametrize("mention", ["getulio vargas", "GETÚLIO  VARGAS", "Getu\u0301lio Vargas", "Petrobras"])
def test_a_mention_is_found_without_regard_to_case_and_accents(mention: str) -> None:
    assert names(TEXT, ScriptedModel(answer(named("X", mention))), Encyclopedia(person("Q1", "X"))) == ["X"]


def test_a_mention_that_is_not_in_the_text_is_asked_for_again() -> None:
    wrong, right = named("Getúlio Vargas", "Getúlio Dornelles Vargas"), named("Getúlio Vargas", "Getúlio Vargas")
    model = ScriptedModel(answer(wrong), answer(right))

    assert names(TEXT, model, Encyclopedia(VARGAS)) == ["Getúlio Vargas"]
    assert "personalities.0.mentioned_as: does not occur in the text" in model.questions[1].messages[-1].content


def test_who_still_does_not_occur_is_dropped_and_the_others_stay() -> None:
    said = answer(named("Dom Pedro II", "Dom Pedro II"), named("Getúlio Vargas", "Getúlio Vargas"))

    assert names(TEXT, ScriptedModel(said), Encyclopedia(VARGAS, person("Q2", "Dom Pedro II"))) == ["Getúlio Vargas"]


@pytest.mark.parametrize("mention", ["Dom Pedro II", "\u0301", " \u0301 "])
def test_if_nobody_occurs_the_task_fails_rather_than_find_nobody(mention: str) -> None:
    with pytest.raises(UselessAnswer, match="mentioned_as: does not occur in the text") as raised:
        names(TEXT, ScriptedModel(answer(named("Dom Pedro II", mention))), Encyclopedia())

    assert raised.value.answers == 2


@pytest.mark.parametrize(
    ("kind", "kept"), [("Q5", 1), ("Q891723", 1), ("Q1153191", 1), ("Q7188", 1), ("Q7278", 0), ("Q4830453", 0)]
)
def test_people_public_companies_and_online_newspapers_are_personalities(kind: str, kept: int) -> None:
    said = answer(named("Petrobras", "PETROBRAS"))

    assert len(names(TEXT, ScriptedModel(said), Encyclopedia(person("Q1", "Petrobras", kind=kind)))) == kept


def test_of_several_hits_the_one_that_is_called_so_is_meant() -> None:
    knowledge = Encyclopedia(person("Q1", "Lula da Silva Santos"), person("Q2", "Luiz Inácio", "Lula"))
    found = result_of(TYPE, TEXT, ScriptedModel(answer(named("Lula", "Lula"))), context(knowledge))

    assert found["personalities"][0]["wikidata"]["id"] == "Q2"


def test_if_none_is_called_so_the_first_person_is_meant() -> None:
    knowledge = Encyclopedia(person("Q3", "Lula (banda)", kind="Q215380"), person("Q1", "Lula da Silva"))
    found = result_of(TYPE, TEXT, ScriptedModel(answer(named("Lula", "Lula"))), context(knowledge))

    assert found["personalities"][0]["wikidata"]["id"] == "Q1"


def test_who_is_named_twice_is_listed_once_in_the_order_of_the_answer() -> None:
    said = answer(
        named("Getúlio Vargas", "Getúlio Vargas"),
        named("Lula", "Lula"),
        named("GETULIO VARGAS", "Vargas"),
        named("Luiz Inácio Lula da Silva", "presidente Lula"),
    )
    knowledge = Encyclopedia(VARGAS, person("Q2", "Luiz Inácio Lula da Silva", "Lula"))

    assert names(TEXT, ScriptedModel(said), knowledge) == ["Getúlio Vargas", "Lula"]


def test_all_entities_are_fetched_in_one_call() -> None:
    knowledge = Encyclopedia(VARGAS, person("Q2", "Lula"), person("Q3", "Petrobras", kind="Q891723"))
    said = answer(named("Getúlio Vargas", "Getúlio Vargas"), named("Lula", "Lula"), named("Petrobras", "PETROBRAS"))
    names(TEXT, ScriptedModel(said), knowledge)

    assert [what for what, _ in knowledge.calls] == ["find", "find", "find", "entities"]


def test_who_has_no_entity_is_dropped_when_wikidata_answered() -> None:
    said = answer(named("Getúlio Vargas", "Getúlio Vargas"), named("Lula", "Lula"))

    assert names(TEXT, ScriptedModel(said), Encyclopedia(VARGAS)) == ["Getúlio Vargas"]
    assert names(TEXT, ScriptedModel(said), Encyclopedia()) == []


def test_with_wikidata_switched_off_all_are_kept_without_an_entity() -> None:
    found = result_of(TYPE, TEXT, ScriptedModel(answer(named("Lula", "Lula"))), context())

    assert [(each["name"], each["wikidata"]) for each in found["personalities"]] == [("Lula", None)]


@pytest.mark.parametrize(
    "outage",
    [ServiceFault("wikidata", "503"), CooldownRequired("wikidata", "maxlag", seconds=5, model=None)],
)
def test_an_outage_of_wikidata_delays_the_result_and_buys_nothing_again(outage: RetryableError) -> None:
    model, knowledge, memory = (
        ScriptedModel(answer(named("Lula", "Lula"))),
        Encyclopedia(person("Q2", "Lula")),
        Notebook(),
    )
    knowledge.down = outage
    with pytest.raises(type(outage)):
        result_of(TYPE, TEXT, model, context(knowledge, memory))
    knowledge.down = None
    found = result_of(TYPE, TEXT, model, context(knowledge, memory))

    assert [each["wikidata"]["id"] for each in found["personalities"]] == ["Q2"]
    assert len(model.questions) == 1


def test_a_bare_string_is_a_text_for_the_default_model() -> None:
    content = PROCESSORS[TYPE].parse(TEXT)

    assert (content.text, content.model) == (TEXT, CHAT_MODEL)


def test_the_prompt_names_language_and_country() -> None:
    model = ScriptedModel(answer())
    result_of(TYPE, TEXT, model, context(language="es"))

    assert "in the language es" in model.questions[0].messages[0].content
    assert "in Brazil" in model.questions[0].messages[0].content
