"""The callbacks take what CONTRACT's table says, and nothing near it."""

from __future__ import annotations

from typing import Any

import pytest

from aitp.demo.callbacks import complaint
from aitp.demo.task_api import TaskApi
from tests.demo.talking import patch
from tests.services import a_task

WIKIDATA = {"id": "Q1", "url": "https://www.wikidata.org/wiki/Q1", "label": "x", "description": "", "aliases": ["y"]}
PERSON = {"name": "x", "mentioned_as": "x", "confidence": 1, "context": "y", "wikidata": WIKIDATA}
TOPIC = {"name": "x", "wikidataId": None, "language": "pt"}
AREA = {"name": "Saúde", "description": "x", "wikidataId": "Q12", "language": "pt"}


def without(whole: dict[str, Any], field: str) -> dict[str, Any]:
    return {key: value for key, value in whole.items() if key != field}


GOOD: list[tuple[str, object]] = [
    ("text_embedding", [0.5, 1]),
    ("identifying_data", {"personalities": []}),
    ("identifying_data", {"personalities": [PERSON, {**PERSON, "wikidata": None}]}),
    ("defining_topics", [TOPIC, {**TOPIC, "wikidataId": "Q5"}]),
    ("defining_impact_area", AREA),
    ("defining_severity", {"severity": "critical"}),
    ("defining_severity", {"severity": "low_1"}),
    ("defining_weather", "anything"),
]
BAD: list[tuple[str, object]] = [
    ("text_embedding", []),
    ("text_embedding", None),
    ("identifying_data", None),
    ("identifying_data", []),
    *[("identifying_data", {"personalities": [without(PERSON, field)]}) for field in PERSON],
    *[("identifying_data", {"personalities": [{**PERSON, "wikidata": without(WIKIDATA, f)}]}) for f in WIKIDATA],
    ("identifying_data", {"personalities": [{**PERSON, "confidence": 1.5}]}),
    ("defining_topics", []),
    ("defining_topics", {"topics": [TOPIC]}),
    *[("defining_topics", [without(TOPIC, field)]) for field in TOPIC],
    ("defining_topics", [{**TOPIC, "wikidataId": "12"}]),
    *[("defining_impact_area", without(AREA, field)) for field in AREA],
    ("defining_impact_area", [AREA]),
    ("defining_impact_area", {**AREA, "name": "Futebol"}),
    ("defining_severity", {"severity": "high_4"}),
    ("defining_severity", "critical"),
    ("defining_severity", None),
]
CONTENT = {"text": "x", "options": ["Saúde"]}


@pytest.mark.parametrize(("task_type", "result"), GOOD)
def test_what_the_contract_says_is_taken(task_type: str, result: object) -> None:
    assert complaint(task_type, CONTENT, result) is None


@pytest.mark.parametrize(("task_type", "result"), BAD)
def test_anything_near_it_is_refused(task_type: str, result: object) -> None:
    assert complaint(task_type, CONTENT, result)


def test_a_refused_result_is_a_400_on_a_task_that_reads_succeeded(task_api: TaskApi) -> None:
    assert task_api.authorization is not None
    [task_id] = task_api.add([a_task(type="defining_topics")])
    answer = patch(task_api, task_api.authorization.issue(), task_id, "succeeded", [])

    assert (answer.status_code, answer.json()["message"]) == (400, "Topics must be a non-empty array")
    assert task_api.state(task_id) == "succeeded"
    assert task_api.result(task_id) is None
