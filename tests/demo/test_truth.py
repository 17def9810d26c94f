"""A run's chat results are judged by what their tasks asked for, not by their form alone."""

from __future__ import annotations

from typing import Any

import pytest

from aitp.demo.scripts import SCRIPTS
from aitp.demo.truth import contradiction

SCRIPT = next(script for script in SCRIPTS if "Ada Lovelace" in script.people)  # known to Wikidata; Babbage is not
ENTITY = {"id": "Q1", "url": "u", "label": "l", "description": "d", "aliases": []}
PEOPLE = [
    {"name": name, "mentioned_as": said, "confidence": 0.9, "context": "c", "wikidata": ENTITY}
    for name, said in SCRIPT.people.items()
]
TOPICS = [{"name": name, "wikidataId": None, "language": "en"} for name in SCRIPT.topics]
AREA = {"name": SCRIPT.area, "description": "d", "wikidataId": None, "language": "en"}


def wrong(type_: str, result: Any, text: str = SCRIPT.text, **content: Any) -> str | None:
    return contradiction({"type": type_, "content": {"text": text, **content}}, result)


@pytest.mark.parametrize("text", [SCRIPT.text, f"{SCRIPT.text} (7)"])
def test_the_scripts_own_answers_are_right(text: str) -> None:
    assert wrong("identifying_data", {"personalities": PEOPLE}, text) is None
    assert wrong("identifying_data", {"personalities": PEOPLE[:1]}, text) is None
    assert wrong("defining_topics", TOPICS, text) is None
    assert wrong("defining_impact_area", AREA, text, options=[SCRIPT.area, "other"]) is None
    assert wrong("defining_impact_area", {**AREA, "name": "other"}, text, options=["other"]) is None
    assert wrong("defining_severity", {"severity": SCRIPT.severity}, text) is None


@pytest.mark.parametrize(
    ("type_", "result"),
    [
        ("identifying_data", {"personalities": []}),
        ("identifying_data", {"personalities": PEOPLE[1:]}),
        ("identifying_data", {"personalities": [*PEOPLE, {**PEOPLE[0], "name": "Somebody"}]}),
        ("defining_topics", TOPICS[:1]),
        ("defining_topics", []),
        ("defining_impact_area", {**AREA, "name": "Elsewhere"}),
        ("defining_severity", {"severity": "critical"}),
        ("defining_severity", {"severity": "apocalyptic"}),
    ],
)
def test_what_is_well_formed_and_not_the_answer_is_wrong(type_: str, result: Any) -> None:
    assert wrong(type_, result)


def test_of_texts_out_of_the_script_lists_and_mentions_are_judged() -> None:
    text = "Something else about nobody."
    assert wrong("identifying_data", {"personalities": []}, text) is None
    assert "not mentioned" in (wrong("identifying_data", {"personalities": PEOPLE}, text) or "")
    assert wrong("defining_impact_area", AREA, text, options=["other"]) == "name must be one of the options"
    assert wrong("defining_severity", {"severity": "critical"}, text) is None
    assert wrong("unheard_of", 7, text) is None
