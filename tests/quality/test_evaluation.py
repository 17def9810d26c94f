"""A run tries what it should, ends when nobody answers, and gives severity what was expected of the others."""

from __future__ import annotations

import json
from collections.abc import Sequence

import pytest

from aitp.errors import AitpError, AnswerCut, CooldownRequired, CredentialsRefused, ServiceFault
from aitp.quality import (
    LABELS,
    OUTAGE,
    Case,
    EvaluationStoppedError,
    Failure,
    LabelledText,
    evaluate,
    figures,
    load_labels,
)
from tests.processors.models import USAGE, Encyclopedia, ScriptedModel, context, person

NOBODY: dict[str, list[object]] = {"personalities": []}


def labelled(id_: str) -> LabelledText:
    return next(text for text in load_labels(LABELS) if text.id == id_)


def run_until_stopped(model: ScriptedModel, types: Sequence[str] = ("identifying_data",)) -> tuple[list[Case], str]:
    cases: list[Case] = []
    with pytest.raises(EvaluationStoppedError) as stopped:
        cases.extend(evaluate(load_labels(LABELS), types, model, context(), None))
    return cases, str(stopped.value)


@pytest.mark.parametrize(
    "error",
    [
        CredentialsRefused("openai", "openai refuses the key"),
        CooldownRequired("openai", "no quota is left", seconds=3600, model=None),
    ],
)
def test_a_run_ends_at_once_when_no_text_could_be_answered(error: AitpError) -> None:
    model = ScriptedModel(error)

    _, said = run_until_stopped(model)

    assert said == str(error)
    assert len(model.questions) == 1


def test_a_run_ends_when_a_provider_stays_down() -> None:
    model = ScriptedModel(ServiceFault("openai", "openai answers 503"))

    run_until_stopped(model)

    assert len(model.questions) == OUTAGE


def test_a_short_pause_is_taken_and_the_text_tried_again() -> None:
    busy = CooldownRequired("openai", "openai asks for a pause", seconds=7, model="o3-mini")
    model = ScriptedModel("no JSON at all", busy, NOBODY)
    pauses: list[float] = []

    (case,) = evaluate([labelled("en-02")], ["identifying_data"], model, context(), None, pauses.append)

    assert pauses == [7]
    assert (case.failure, case.calls, [reply.usage for reply in case.replies]) == (None, 3, [USAGE, USAGE])


def test_a_run_outlasts_single_failures() -> None:
    down, cut = ServiceFault("openai", "openai answers 503"), AnswerCut("cut")
    model = ScriptedModel(down, down, NOBODY, down, down, cut, down, down, NOBODY)

    cases = list(evaluate(load_labels(LABELS)[:9], ["identifying_data"], model, context(), None))

    assert [case.failure for case in cases if case.failure is not Failure.UNANSWERED] == [None, Failure.CUT, None]
    assert [bool(case.score) for case in cases] == [False, False, True, False, False, False, False, False, True]


def test_severity_is_given_what_was_expected_of_the_others() -> None:
    model = ScriptedModel({"severity": "low_1"})
    knowledge = Encyclopedia(person("Q1", "Wangari Maathai"))

    (case,) = evaluate([labelled("en-09")], ["defining_severity"], model, context(knowledge), "some-model")

    asked = json.loads(model.questions[0].messages[1].content)
    assert [person["name"] for person in asked["personalities"]] == ["Wangari Maathai"]
    assert [topic["name"] for topic in asked["topics"]] == ["Green Belt Movement", "reforestation"]
    assert asked["impact_area"]["name"] == "Environment"
    assert ("standing", ["Q1"]) in [(name, list(what)) for name, what in knowledge.calls if name == "standing"]
    assert case.score is not None
    assert figures([case.score])["agreement"] == 1.0


def test_an_area_is_asked_for_with_the_closed_list() -> None:
    model = ScriptedModel({"name": "health", "description": "All about it."})

    (case,) = evaluate([labelled("en-02")], ["defining_impact_area"], model, context(), None)

    assert len(json.loads(model.questions[0].messages[1].content)["options"]) == 12
    assert case.score is not None
    assert figures([case.score]) == {"agreement": 1.0, "accepted": 1.0}


def test_the_right_words_for_the_wrong_person_are_wrong() -> None:
    wrong = {"name": "Nelson Mandela Bay", "mentioned_as": "Nelson Mandela", "confidence": 1.0, "context": ""}
    model = ScriptedModel({"personalities": [wrong]})

    (case,) = evaluate([labelled("en-05")], ["identifying_data"], model, context(), None)

    assert case.score is not None
    assert figures([case.score])["precision"] == 0.0


def test_a_person_may_go_by_a_name_that_wikidata_knows() -> None:
    named = {"name": "Madiba", "mentioned_as": "Mandela", "confidence": 1.0, "context": ""}
    model, knowledge = (
        ScriptedModel({"personalities": [named]}),
        context(Encyclopedia(person("Q1", "Nelson Mandela", "Madiba"))),
    )

    (case,) = evaluate([labelled("en-05")], ["identifying_data"], model, knowledge, None)

    assert case.score is not None
    assert figures([case.score])["precision"] == 1.0
