"""The two processors, against answers and a Wikidata that say what a test wants."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from aitp_jev.answers import Answer, Decision, Question
from aitp_jev.processors import JevImpactAreaProcessor, JevSeverityProcessor
from aitp_jev.settings import JevSettings, questions

from aitp.errors import ServiceFault
from aitp.knowledge import Entity, Knowledge, Standing
from aitp.processors import PROCESSORS, Context
from aitp.providers import Usage

MODEL = "jev-1.13.0"
MILD = Answer(shares=(0.05, 0.70, 0.20, 0.05))


class Jev:
    """In the provider's place."""

    name = "jev"

    def __init__(self, thresholds: str = "[]", harm: Answer = MILD, choice: str = "") -> None:
        self.own = JevSettings.model_validate({"jev_reach_thresholds": thresholds})
        self.questions = questions(None)
        self.answers = {"harm": harm, "contestable": Answer(yes=0.5), "checkable": Answer(yes=0.9)}
        self.choice = choice
        self.states: list[Mapping[str, str]] = []

    def decide(self, state: Mapping[str, str], questions: Mapping[str, Question], model: str) -> Decision:
        self.states.append(state)
        answers = {name: self.answers.get(name, Answer(choice=self.choice)) for name in questions}
        return Decision(answers, Usage(1, 1, 2), model)


class Wikidata(Knowledge):
    """Knows one person's followers; `down`: it does not answer."""

    available = True

    def __init__(self, followers: int | None = None, *, down: bool = False, well: bool = True) -> None:
        self.followers, self.down, self.well = followers, down, well
        self.asked: list[Sequence[str]] = []

    def is_well(self) -> bool:
        return self.well

    def ready(self) -> None:
        if self.down:
            raise ServiceFault("wikidata", "wikidata is out of order")

    def find(self, name: str, language: str) -> Sequence[str]:
        self.ready()
        return ("Q1",)

    def entities(self, ids: Sequence[str], language: str) -> Mapping[str, Entity | None]:
        return {id_: Entity(id_, "", "Saúde") for id_ in ids}

    def standing(self, ids: Sequence[str]) -> Mapping[str, Standing]:
        self.asked.append(ids)
        return {id_: Standing(followers=self.followers) for id_ in ids}


def severity(jev: Jev, wikidata: Knowledge, *personalities: Mapping[str, Any]) -> str:
    content = {"text": "Que dia!", "model": MODEL, "personalities": list(personalities)}
    processor = JevSeverityProcessor()
    [result] = processor.run([processor.parse(content)], jev, Context(wikidata, "pt"))  # type: ignore[arg-type]
    assert isinstance(result, bytes)
    found: str = json.loads(result)["severity"]
    return found


ANA, BOB = {"name": "Ana", "wikidataId": "Q7"}, {"name": "Bob"}
THRESHOLDS = "[[1000000, 1], [10000, 0], [0, -1]]"


@pytest.mark.parametrize(
    ("followers", "level"), [(2_000_000, "high_3"), (50_000, "medium_3"), (900, "low_3"), (None, "medium_3")]
)
def test_reach_is_that_of_the_personalities_with_an_id(followers: int | None, level: str) -> None:
    wikidata = Wikidata(followers)

    assert severity(Jev(THRESHOLDS), wikidata, ANA, BOB, ANA) == level
    assert wikidata.asked == [["Q7"]]


def test_without_thresholds_severity_does_not_depend_on_wikidata() -> None:
    wikidata = Wikidata(2_000_000, down=True)

    assert severity(Jev(), wikidata, ANA) == "medium_3"
    assert wikidata.asked == []
    assert not PROCESSORS.of("defining_severity", "jev").looks_up
    assert PROCESSORS.of("defining_severity", "openai").looks_up


def test_with_thresholds_the_task_waits_for_wikidata_before_anything_is_bought() -> None:
    jev = Jev(THRESHOLDS)

    with pytest.raises(ServiceFault):
        severity(jev, Wikidata(down=True), ANA)
    assert jev.states == []
    assert severity(jev, Wikidata(down=True), BOB) == "medium_3"  # nobody to look up
    assert severity(jev, Knowledge(), ANA) == "medium_3"  # WIKIDATA_ENABLED=false: nobody knows


def area(jev: Jev, wikidata: Knowledge, options: Sequence[str] = ("Saúde", "Política")) -> dict[str, Any]:
    content = {"text": "Que dia!", "model": MODEL, "options": list(options)}
    processor = JevImpactAreaProcessor()
    [result] = processor.run([processor.parse(content)], jev, Context(wikidata, "pt"))  # type: ignore[arg-type]
    assert isinstance(result, bytes)
    found: dict[str, Any] = json.loads(result)
    return found


@pytest.mark.parametrize(
    ("wikidata", "id_"), [(Wikidata(), "Q1"), (Wikidata(well=False), None), (Wikidata(down=True), None)]
)
def test_an_area_has_its_id_only_if_wikidata_is_well(wikidata: Wikidata, id_: str | None) -> None:
    found = area(Jev(choice="Saúde"), wikidata)

    assert found == {"name": "Saúde", "description": "", "wikidataId": id_, "language": "pt"}


def test_a_single_option_is_the_answer_without_a_question() -> None:
    jev = Jev()

    assert area(jev, Knowledge(), ["Saúde", "Saúde"])["name"] == "Saúde"
    assert jev.states == []
