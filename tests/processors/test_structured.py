"""One repair round, no more; a reason that tells an operator what is wrong and never what the text said."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from typing import Any, Literal

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field

from aitp import logs
from aitp.errors import AnswerCut, CooldownRequired, InputTooLong, ModelRefused, NoRoom, ServiceFault, UselessAnswer
from aitp.processors.structured import Inquiry, Output, ask, narrowed, schema_of
from aitp.providers import Question
from tests.processors.models import USAGE, Notebook, ScriptedModel, context

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
    answer = ask(model, "m", inquiry(), context())

    assert (answer.value.mood, len(model.questions)) == ("good", 1)


def test_the_text_stands_alone_in_its_message_and_the_instructions_in_another() -> None:
    model = ScriptedModel(GOOD)
    ask(model, "m", inquiry(), context())
    system, user = model.questions[0].messages

    assert (system.role, system.content) == ("system", "Tell the mood.")
    assert (user.role, orjson.loads(user.content)) == ("user", {"text": f"{SECRET} text"})


def test_an_unusable_answer_is_repaired_once() -> None:
    model = ScriptedModel({**GOOD, "mood": SECRET, "share": 7}, GOOD)
    ask(model, "m", inquiry(), context())
    *_, said, told = model.questions[1].messages

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
    with pytest.raises(UselessAnswer) as raised:
        ask(model, "m", inquiry(), context())

    assert len(model.questions) == raised.value.answers == 2
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
        NoRoom("the limits have no room for a second request"),
    ],
)
def test_what_a_provider_raises_is_passed_on_from_either_call(error: Exception) -> None:
    for model in (ScriptedModel(error), ScriptedModel("nonsense", error)):
        with pytest.raises(type(error)):
            ask(model, "m", inquiry(), context())


def test_a_repair_that_is_useless_too_counts_with_what_it_was_to_repair() -> None:
    for answers, said in enumerate(([], ["nonsense"]), 1):
        with pytest.raises(AnswerCut) as raised:
            ask(ScriptedModel(*said, lambda question: AnswerCut("length")), "m", inquiry(), context())
        assert raised.value.answers == answers


def test_a_check_may_complain_of_what_a_schema_cannot_say() -> None:
    model = ScriptedModel({**GOOD, "share": 0.1}, GOOD)
    answer = ask(model, "m", inquiry(check=lambda found: ["share: too low"] if found.share < 0.2 else []), context())

    assert answer.value.share == 0.5
    assert "share: too low" in model.questions[1].messages[-1].content


def test_what_a_check_still_complains_of_fails_unless_something_can_be_salvaged() -> None:
    def check(found: Mood) -> list[str]:
        return ["notes: too many"] if found.notes else []

    with pytest.raises(UselessAnswer, match="notes: too many"):
        ask(ScriptedModel(GOOD), "m", inquiry(check=check), context())
    saved = ask(
        ScriptedModel(GOOD),
        "m",
        inquiry(check=check, salvage=lambda found: found.model_copy(update={"notes": []})),
        context(),
    )
    assert saved.value.notes == []


def test_a_bought_answer_that_has_to_wait_is_not_bought_again() -> None:
    model, memory = ScriptedModel(GOOD), Notebook()
    with pytest.raises(ServiceFault), ask(model, "m", inquiry(), context(memory=memory)).kept(memory):
        raise ServiceFault("wikidata", "503")
    again = ask(model, "m", inquiry(), context(memory=memory))
    ask(model, "another", inquiry(), context(memory=memory))

    assert again.value.mood == "good"
    assert len(model.questions) == 2


def test_what_is_kept_is_judged_like_any_answer() -> None:
    model, memory = ScriptedModel(GOOD), Notebook()
    with pytest.raises(ServiceFault), ask(model, "m", inquiry(), context(memory=memory)).kept(memory):
        raise ServiceFault("wikidata", "503")
    memory.kept = dict.fromkeys(memory.kept, b'{"mood": "odd"}')
    ask(model, "m", inquiry(), context(memory=memory))

    assert len(model.questions) == 2


def reads(characters: int, *, tokens: bool = False) -> Callable[[Question], object]:
    """A model that reads prompts of so many characters, and may say by how many tokens another one is too long."""

    def said(question: Question) -> object:
        length = sum(len(message.content) for message in question.messages)
        if length <= characters:
            return GOOD
        return InputTooLong("too long", tokens=(length // 4, characters // 4) if tokens else None)

    return said


def text_in(question: Question) -> str:
    return str(orjson.loads(question.messages[1].content)["text"])


@pytest.mark.parametrize(("tokens", "calls"), [(False, 7), (True, 2)])
def test_of_a_prompt_over_the_models_context_only_the_text_is_cut(
    tokens: bool, calls: int, capfd: pytest.CaptureFixture[str]
) -> None:
    logs.configure("INFO", "json")
    model = ScriptedModel(reads(1_000, tokens=tokens))
    long = Inquiry("mood", "Tell the mood.", {"text": SECRET + ' "}\n' * 800, "options": ["a", "b"]}, Mood)
    ask(model, "m", long, context())

    (*_, last) = model.questions
    system, user = last.messages
    assert len(model.questions) == calls
    assert system.content == "Tell the mood."
    assert orjson.loads(user.content)["options"] == ["a", "b"]
    assert long.data["text"].startswith(text_in(last))
    assert 700 < len(user.content) <= 986
    (line,) = [json.loads(line) for line in capfd.readouterr().out.splitlines()]
    assert line["event"] == "Text too long for its model, cut"
    assert (line["characters"], line["kept_characters"]) == (len(long.data["text"]), len(text_in(last)))
    assert (line["model"], line["schema"], line["prompt_tokens"]) == ("m", "mood", USAGE.prompt_tokens)
    assert SECRET not in json.dumps(line)


def test_a_repair_that_is_over_the_context_is_cut_further() -> None:
    model = ScriptedModel("x" * 600, reads(1_000))
    ask(model, "m", Inquiry("mood", "Tell the mood.", {"text": "a" * 900}, Mood), context())
    first, *_, last = model.questions

    assert text_in(first) == "a" * 900
    assert 0 < len(text_in(last)) < 300
    assert last.messages[2].content == "x" * 600


def test_a_text_over_the_context_is_failed_if_the_setting_says_so() -> None:
    model = ScriptedModel(reads(10))
    with pytest.raises(InputTooLong):
        ask(model, "m", inquiry(), dataclasses.replace(context(), truncate=False))

    assert len(model.questions) == 1


@pytest.mark.parametrize("data", [{"text": "a" * 1_000}, {"topics": ["a"]}])
def test_a_prompt_that_is_too_long_without_its_text_fails(data: dict[str, Any]) -> None:
    model = ScriptedModel(InputTooLong("too long"))
    with pytest.raises(InputTooLong):
        ask(model, "m", Inquiry("mood", "Tell the mood.", data, Mood), context())

    assert len(model.questions) < 20


def test_a_schema_is_strict_all_the_way_down() -> None:
    note = {
        "type": "object",
        "description": "A note.",
        "properties": {"text": {"type": "string", "maxLength": 20}},
        "required": ["text"],
        "additionalProperties": False,
    }

    assert schema_of(Mood) == {
        "type": "object",
        "description": "A mood.",
        "properties": {
            "mood": {"type": "string", "enum": ["good", "bad"], "description": "How it is."},
            "share": {"type": "number", "minimum": 0, "maximum": 1},
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
        answer = ask(ScriptedModel(said), "m", inquiry(), context())
    except UselessAnswer:
        return
    assert answer.value.mood in ("good", "bad")
