"""Whatever a model puts around its JSON, the JSON is found; whatever it puts inside, nothing is guessed."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aitp.processors.structured import objects_in

ANSWER = {"severity": "low_1", "note": 'a "quoted" } brace {'}
WRITTEN = json.dumps(ANSWER)


@pytest.mark.parametrize(
    "text",
    [
        WRITTEN,
        f"\ufeff  {WRITTEN}\n",
        f"```json\n{WRITTEN}\n```",
        f"```\n{WRITTEN}```",
        f"Here is the {{answer}} you wanted:\n\n{WRITTEN}\n\nI hope that it helps {{you}}.",
        f'<think>\nMaybe {{"severity": "high_1"}}?\n</think>\n{WRITTEN}',
        f'First I thought of {{"severity": "high_1"}}, but it is {WRITTEN}',
        json.dumps(ANSWER, indent=4, ensure_ascii=True),
        f"[{WRITTEN}]",
    ],
)
def test_an_object_is_found_in_what_models_write_around_it(text: str) -> None:
    assert objects_in(text)[0] == ANSWER


@pytest.mark.parametrize(
    "text",
    [
        "",
        "low_1",
        '"low_1"',
        "[1, 2]",
        WRITTEN[:-1],
        WRITTEN[:-1] + ",}",
        "{'severity': 'low_1'}",
        '{"severity": NaN}',
        '{"severity": "low_1" /* sure */}',
        '{"outer": {"severity": "low_1"},}',
        '{"outer": [{"severity": "low_1"}, {"severity": "low_2"}',
        '{"outer": [{"severity": NaN}, {"severity": "low_2"}]}',
        '{"severity": "high_1"}? No: {"severity": "low_1",}',
        '<think>{"severity": "high_1"}</think> {severity: low_1}',
        '{"a":' * 100_000,
        "{" * 100_000,
        '{"n": ' + "9" * 10_000 + "}",
    ],
)
def test_what_is_no_json_is_no_answer_and_costs_no_time(text: str) -> None:
    began = time.monotonic()

    assert objects_in(text) == []
    assert time.monotonic() - began < 2


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
PROSE = st.text(st.characters(exclude_characters="{}<"), max_size=80)


@given(st.dictionaries(st.text(), VALUES, max_size=5), PROSE, PROSE, st.booleans())
def test_any_object_survives_any_prose(value: dict[str, Any], before: str, after: str, fenced: bool) -> None:
    written = json.dumps(value)
    text = f"{before}\n```json\n{written}\n```\n{after}" if fenced else before + written + after

    assert objects_in(text)[0] == value


@given(st.text())
def test_nothing_that_a_model_may_say_raises(text: str) -> None:
    assert all(isinstance(found, dict) for found in objects_in(text))
