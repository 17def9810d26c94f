"""The demo's documents are of all types, no two alike, and its scripts keep to what they promise."""

from __future__ import annotations

from collections import Counter

import pytest

from aitp.demo.callbacks import SEVERITIES
from aitp.demo.documents import TYPES, tasks_of
from aitp.demo.scripts import AREAS, SCRIPTS, Script, script_of
from aitp.demo.sentences import text_of
from aitp.knowledge import occurs
from aitp.processors import PROCESSORS


def test_types_take_turns_and_all_content_is_valid() -> None:
    documents = list(tasks_of(TYPES, 200))

    assert Counter(document["type"] for document in documents) == dict.fromkeys(TYPES, 40)
    for document in documents:
        PROCESSORS[document["type"]].parse(document["content"])


def test_no_two_tasks_share_an_id_or_a_text_and_a_run_repeats() -> None:
    first, more = list(tasks_of(TYPES, 300)), list(tasks_of(TYPES, 300, start=300))

    assert len({task["_id"] for task in first + more}) == 600
    assert len({text_of(task) for task in first + more}) == 600
    assert first == list(tasks_of(TYPES, 300))


def test_each_type_gets_a_dozen_texts_and_both_languages() -> None:
    for task_type in TYPES[1:]:
        scripts = [script_of(text_of(task)) for task in tasks_of([task_type], 24)]
        assert Counter(script.language for script in scripts if script) == {"pt": 12, "en": 12}


@pytest.mark.parametrize("script", SCRIPTS, ids=range(len(SCRIPTS)))
def test_a_script_answers_what_the_task_api_takes(script: Script) -> None:
    assert all(occurs(mention, script.text) for mention in script.people.values())
    assert script.topics
    assert script.area in AREAS[script.language]
    assert script.severity in SEVERITIES


def test_a_number_behind_a_text_changes_nothing_about_its_script() -> None:
    assert script_of(f"{SCRIPTS[0].text} (7)") is SCRIPTS[0]
    assert script_of("Chove.") is None
