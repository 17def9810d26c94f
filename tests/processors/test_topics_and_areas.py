"""Topics and impact areas: never empty, never outside a closed list, linked only to what is called so."""

from __future__ import annotations

from typing import Any

import pytest

from aitp.errors import NonRetryableError, RetryableError, ServiceFault, UselessAnswer
from aitp.processors import PROCESSORS
from tests.processors.models import Encyclopedia, Notebook, ScriptedModel, context, person, result_of

TEXT = "A vacinação contra a dengue começou."
TOPICS, AREA = "defining_topics", "defining_impact_area"
OPTIONS = ["Saúde", "Educação", "Meio ambiente"]


def topics(*names: str) -> dict[str, Any]:
    return {"topics": [{"name": name} for name in names]}


def area(name: str) -> dict[str, Any]:
    return {"name": name, "description": "O que é."}


def test_topics_are_a_bare_array_with_ids_where_there_are_any() -> None:
    knowledge = Encyclopedia(person("Q1", "Vacinação", kind="Q1"), person("Q2", "Dengue hemorrágica", kind="Q1"))
    said = topics("Vacinação", "Dengue", "vacinacao", " Saúde ")

    assert result_of(TOPICS, TEXT, ScriptedModel(said), context(knowledge)) == [
        {"name": "Vacinação", "wikidataId": "Q1", "language": "pt"},
        {"name": "Dengue", "wikidataId": None, "language": "pt"},
        {"name": "Saúde", "wikidataId": None, "language": "pt"},
    ]
    assert [what for what, _ in knowledge.calls] == ["find", "find", "find", "entities"]


def test_a_page_about_a_name_is_no_topic() -> None:
    knowledge = Encyclopedia(person("Q1", "Dengue", kind="Q4167410"), person("Q2", "febre", "Dengue", kind="Q12136"))

    assert result_of(TOPICS, TEXT, ScriptedModel(topics("Dengue")), context(knowledge))[0]["wikidataId"] == "Q2"


def test_no_topic_is_a_failed_task_with_that_reason() -> None:
    with pytest.raises(UselessAnswer, match="no topic found"):
        result_of(TOPICS, TEXT, ScriptedModel(topics()))


def test_no_more_than_ten_topics_are_taken() -> None:
    assert len(result_of(TOPICS, TEXT, ScriptedModel(topics(*map(str, range(20)))))) == 10


def test_an_area_has_all_that_the_task_api_takes() -> None:
    knowledge = Encyclopedia(person("Q12147", "saúde", kind="Q1"))

    assert result_of(AREA, TEXT, ScriptedModel(area("Saúde")), context(knowledge)) == {
        "name": "Saúde",
        "description": "O que é.",
        "wikidataId": "Q12147",
        "language": "pt",
    }


def test_options_bind_the_schema_and_stand_beside_the_text() -> None:
    model = ScriptedModel(area("Saúde"))
    result_of(AREA, {"text": TEXT, "options": OPTIONS}, model)

    assert model.questions[0].schema["properties"]["name"]["enum"] == OPTIONS
    assert '"options":["Saúde","Educação","Meio ambiente"]' in model.questions[0].messages[1].content


@pytest.mark.parametrize(("said", "name"), [("saude", "Saúde"), (" MEIO  AMBIENTE ", "Meio ambiente")])
def test_an_option_is_delivered_in_its_own_letters(said: str, name: str) -> None:
    assert result_of(AREA, {"text": TEXT, "options": OPTIONS}, ScriptedModel(area(said)))["name"] == name


def test_an_answer_outside_the_options_is_asked_for_again_and_then_fails() -> None:
    document = {"text": TEXT, "options": OPTIONS}

    assert result_of(AREA, document, ScriptedModel(area("Futebol"), area("Educação")))["name"] == "Educação"
    with pytest.raises(UselessAnswer, match="name: is none of the 3 options"):
        result_of(AREA, document, ScriptedModel(area("Futebol")))


def test_a_list_too_long_for_a_schema_is_closed_all_the_same() -> None:
    document = {"text": TEXT, "options": [f"Área {number}" for number in range(300)]}

    assert result_of(AREA, document, ScriptedModel(area("Área 299")))["name"] == "Área 299"
    with pytest.raises(UselessAnswer, match="none of the 300 options"):
        result_of(AREA, document, ScriptedModel(area("Área 300")))


@pytest.mark.parametrize("options", [None, [], ["a"], [{"name": "a"}, "b"]])
def test_options_may_be_missing_null_names_or_objects_with_names(options: Any) -> None:
    content = PROCESSORS[AREA].parse({"text": TEXT, "options": options})

    assert PROCESSORS[AREA].load(content.to_json()) == content


@pytest.mark.parametrize("options", ["Saúde", [""], [None], [3], {"a": 1}])
def test_other_options_are_invalid_content(options: Any) -> None:
    with pytest.raises(NonRetryableError, match=r"content\.options"):
        PROCESSORS[AREA].parse({"text": TEXT, "options": options})


def test_an_option_needs_neither_wikidata_nor_a_description() -> None:
    knowledge, document = Encyclopedia(person("Q12147", "saúde", kind="Q1")), {"text": TEXT, "options": OPTIONS}
    said = area("Saúde") | {"description": " "}
    expected = {"name": "Saúde", "description": "", "wikidataId": None, "language": "pt"}

    assert result_of(AREA, document, ScriptedModel(said), context(knowledge)) == expected | {"wikidataId": "Q12147"}
    knowledge.down = ServiceFault("wikidata", "503")
    asked = len(knowledge.calls)
    assert result_of(AREA, document, ScriptedModel(said), context(knowledge)) == expected
    assert len(knowledge.calls) == asked, "nobody asks one that is not well"
    knowledge.is_well = lambda: True  # type: ignore[method-assign]
    assert result_of(AREA, document, ScriptedModel(said), context(knowledge)) == expected


def test_without_options_an_area_is_not_bought_while_wikidata_is_away_and_needs_a_description() -> None:
    model, knowledge = ScriptedModel(area("Saúde") | {"description": ""}), Encyclopedia()
    knowledge.down = ServiceFault("wikidata", "503")
    with pytest.raises(ServiceFault):
        result_of(AREA, TEXT, model, context(knowledge))
    assert not model.questions
    knowledge.down = None
    with pytest.raises((NonRetryableError, RetryableError), match="description: is empty"):
        result_of(AREA, TEXT, model, context(knowledge))


@pytest.mark.parametrize(("task_type", "said"), [(TOPICS, topics("Dengue")), (AREA, area("Dengue"))])
def test_an_outage_of_wikidata_delays_and_buys_nothing_again(task_type: str, said: object) -> None:
    model, knowledge, memory = ScriptedModel(said), Encyclopedia(), Notebook()
    knowledge.ready = lambda: None  # type: ignore[method-assign] # it goes away in the middle
    knowledge.down = ServiceFault("wikidata", "503")
    with pytest.raises(ServiceFault):
        result_of(task_type, TEXT, model, context(knowledge, memory))
    knowledge.down = None
    result_of(task_type, TEXT, model, context(knowledge, memory))

    assert len(model.questions) == 1
