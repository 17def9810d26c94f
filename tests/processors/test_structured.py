"""One repair round, no more; a reason that tells an operator what is wrong and never what the text said."""

from __future__ import annotations

from typing import Any, Literal

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field

from aitp.errors import AnswerCut, CooldownRequired, ModelRefused, NonRetryableError, ServiceFault
from aitp.processors.schemas import narrowed, schema_of
from aitp.processors.structured import Inquiry, Output, ask
from aitp.providers import Usage
from tests.processors.models import USAGE, Notebook, ScriptedModel

SECRET = "planted"


class Note(Output):
    """A note."""

    text: str = Field(max_length=20)


class Mood(Output):
    """A mood."""

    mood: Literal["good", "bad"] = Field(description="How it is.")
    share: float = Field(ge=0, le=1)
    notes: list[Note]
    extra: Note | None


def inquiry(**more: Any) -> Inquiry[Mood]:
    return Inquiry("mood", "Tell the mood.", {"text": f"{SECRET} text"}, Mood, **more)


GOOD = {"mood": "good", "share": 0.5, "notes": [{"text": "x"}], "extra": None}


def test_a_valid_answer_takes_one_call() -> None:
    model = ScriptedModel(GOOD)
    answer = ask(model, "m", inquiry())

    assert (answer.value.mood, answer.usage, len(model.questions)) == ("good", USAGE, 1)


def test_the_text_stands_alone_in_its_message_and_the_instructions_in_another() -> None:
    model = ScriptedModel(GOOD)
    ask(model, "m", inquiry())
    system, user = model.questions[0].messages

    assert (system.role, system.content) == ("system", "Tell the mood.")
    assert (user.role, orjson.loads(user.content)) == ("user", {"text": f"{SECRET} text"})


def test_an_unusable_answer_is_repaired_once_and_both_calls_are_paid_for() -> None:
    model = ScriptedModel({**GOOD, "mood": SECRET, "share": 7}, GOOD)
    answer = ask(model, "m", inquiry())
    *_, said, told = model.questions[1].messages

    assert answer.usage == Usage(20, 10, 30)
    assert (said.role, told.role) == ("assistant", "user")
    assert SECRET in said.content
    assert "mood: Input should be 'good' or 'bad'" in told.content
    assert "share: Input should be less than or equal to 1" in told.content


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        (SECRET, "it holds no complete JSON object"),
        (f'{{"mood": "{SECRET}", ', "it holds no complete JSON object"),
        ({SECRET: 1}, "mood: Field required"),
        ({**GOOD, "mood": SECRET}, "mood: Input should be 'good' or 'bad'"),
        ({**GOOD, "notes": [{"text": SECRET * 9}]}, "notes.0.text: String should have at most 20 characters"),
        (orjson.dumps(GOOD)[:-5].decode() + '"\\ud83d"}', "extra: Input should be"),
        (
            orjson.dumps({**GOOD, "notes": [{"text": "@"}]}).decode().replace("@", "\\ud83d"),
            "notes.0.text: Input should",
        ),
    ],
)
def test_what_stays_unusable_fails_with_a_reason_that_does_not_repeat_it(said: object, reason: str) -> None:
    model = ScriptedModel(said)
    with pytest.raises(NonRetryableError) as raised:
        ask(model, "m", inquiry())

    assert len(model.questions) == 2
    assert reason in str(raised.value)
    assert SECRET not in str(raised.value)
    assert raised.value.__context__ is None


@pytest.mark.parametrize(
    "error",
    [
        ModelRefused("it declines"),
        AnswerCut("length"),
        ServiceFault("openai", "503"),
        CooldownRequired("openai", "429", seconds=1, model="m"),
    ],
)
def test_what_a_provider_raises_is_passed_on_from_either_call(error: Exception) -> None:
    for model in (ScriptedModel(error), ScriptedModel("nonsense", error)):
        with pytest.raises(type(error)):
            ask(model, "m", inquiry())


def test_a_check_may_complain_of_what_a_schema_cannot_say() -> None:
    model = ScriptedModel({**GOOD, "share": 0.1}, GOOD)
    answer = ask(model, "m", inquiry(check=lambda found: ["share: too low"] if found.share < 0.2 else []))

    assert answer.value.share == 0.5
    assert "share: too low" in model.questions[1].messages[-1].content


def test_what_a_check_still_complains_of_fails_unless_something_can_be_salvaged() -> None:
    def check(found: Mood) -> list[str]:
        return ["notes: too many"] if found.notes else []

    with pytest.raises(NonRetryableError, match="notes: too many"):
        ask(ScriptedModel(GOOD), "m", inquiry(check=check))
    saved = ask(
        ScriptedModel(GOOD), "m", inquiry(check=check, salvage=lambda found: found.model_copy(update={"notes": []}))
    )
    assert saved.value.notes == []


def test_a_bought_answer_that_has_to_wait_is_not_bought_again() -> None:
    model, memory = ScriptedModel(GOOD), Notebook()
    with pytest.raises(ServiceFault), ask(model, "m", inquiry(), memory).kept(memory):
        raise ServiceFault("wikidata", "503")
    again = ask(model, "m", inquiry(), memory)
    other = ask(model, "another", inquiry(), memory)

    assert (again.value.mood, again.usage) == ("good", Usage(0, 0, 0))
    assert other.usage == USAGE
    assert len(model.questions) == 2


def test_what_is_kept_is_judged_like_any_answer() -> None:
    model, memory = ScriptedModel(GOOD), Notebook()
    with pytest.raises(ServiceFault), ask(model, "m", inquiry(), memory).kept(memory):
        raise ServiceFault("wikidata", "503")
    memory.kept = dict.fromkeys(memory.kept, b'{"mood": "odd"}')
    ask(model, "m", inquiry(), memory)

    assert len(model.questions) == 2


def test_a_schema_is_strict_all_the_way_down() -> None:
    note = {
        "type": "object",
        "description": "A note.",
        "properties": {"text": {"type": "string"}},
        "required": ["text"],
        "additionalProperties": False,
    }

    assert schema_of(Mood) == {
        "type": "object",
        "description": "A mood.",
        "properties": {
            "mood": {"type": "string", "enum": ["good", "bad"], "description": "How it is."},
            "share": {"type": "number"},
            "notes": {"type": "array", "items": note},
            "extra": {"anyOf": [note, {"type": "null"}]},
        },
        "required": ["mood", "share", "notes", "extra"],
        "additionalProperties": False,
    }


def test_narrowing_leaves_the_shared_schema_as_it_is() -> None:
    narrow = narrowed(schema_of(Note), "text", ("a", "b"))

    assert narrow["properties"]["text"]["enum"] == ["a", "b"]
    assert "enum" not in schema_of(Note)["properties"]["text"]
    assert narrowed(schema_of(Note), "text", ()) is schema_of(Note)
    assert narrowed(schema_of(Note), "text", ["x"] * 251) is schema_of(Note)


@given(st.text() | st.dictionaries(st.text(), st.integers() | st.text() | st.lists(st.text())))
def test_any_answer_is_valid_or_fails_plainly(said: object) -> None:
    try:
        answer = ask(ScriptedModel(said), "m", inquiry())
    except NonRetryableError:
        return
    assert answer.value.mood in ("good", "bad")
