"""The one path from a question to a valid answer: prompt, call, reading, validation, one repair round.

`ask` is what every processor over a chat model calls. A task's content goes into a message of its own, as JSON: it
cannot end the string that it stands in, and instructions stand nowhere but in the prompt. Whatever a text talks a model
into, the answer has passed the output model and the caller's check before anybody sees it. What fails is told field by
field, never in the answer's words.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from hashlib import blake2b
from typing import Any, Generic, NoReturn, TypeVar

import orjson
from pydantic import BaseModel, ConfigDict, ValidationError

from aitp.errors import InputTooLong, RetryableError, UselessAnswer
from aitp.logs import get_logger
from aitp.policy.batching import shortened
from aitp.processors import Context, Memory, Result, faults_in, tell_of_cut
from aitp.providers import BOUNDS, Message, Provider, Question

MOST_FAULTS = 5
KEPT_SECONDS = 86_400.0
# What is sent of a schema: the subset of OpenAI's strict mode (API reference, structured outputs), which Ollama takes
# as well. Whoever does not take bounds gets it without them (`schema_bounds` of `Provider.optional`).
KEYWORDS = ("type", "description", "enum", *BOUNDS)
# OpenAI takes 1,000 names in a schema, with bounds on their length beyond 250; a longer list is validated only.
MOST_OPTIONS = 250
# A text full of braces costs no more than a long one.
MOST_OPENINGS = 200

_log = get_logger(__name__)


class Output(BaseModel):
    """What an answer's model has in common: unknown fields are dropped, as the schema forbids them already."""

    model_config = ConfigDict(frozen=True, extra="ignore")


M = TypeVar("M", bound=BaseModel)

Check = Callable[[M], Sequence[str]]
"""What is wrong with a well-formed answer, a sentence each, without its words. Empty: nothing."""


@dataclass(frozen=True, slots=True)
class Structured(Generic[M]):
    """A valid answer. `text`: its words, `key`: its question's name in a memory. `mock`: it was invented."""

    value: M
    mock: bool
    text: str
    key: str

    def answer(self, result: object) -> Sequence[Result]:
        """The processor's answer for one task: what it made of `value`."""
        return [orjson.dumps(result)]

    @contextmanager
    def kept(self, memory: Memory | None) -> Iterator[None]:
        """Around what is done with a bought answer: if it has to wait for something, the answer is not bought again."""
        try:
            yield
        except RetryableError:
            if memory is not None and not self.mock:
                memory.put({self.key: self.text.encode()}, KEPT_SECONDS)
            raise


@dataclass(frozen=True, slots=True)
class Inquiry(Generic[M]):
    """One question of a processor: `prompt` (the instructions), `data` (the content, as values), the answer's `output`.

    `data["text"]` is the task's text, which may be cut.
    `schema`: where it is narrower than that of `output`. `check`: what neither can say. `salvage`: what is left of an
    answer that fails `check` even after the repair round, or None if nothing is.
    """

    name: str
    prompt: str
    data: Mapping[str, Any]
    output: type[M]
    schema: Mapping[str, Any] | None = None
    check: Check[M] = lambda value: ()
    salvage: Callable[[M], M | None] = lambda value: None

    def question(self, data: Mapping[str, Any], later: Sequence[Message] = ()) -> Question:
        """The instructions, `data` as the content, and the messages that came `later`."""
        messages = [Message("system", self.prompt), Message("user", orjson.dumps(data).decode()), *later]
        return Question(self.name, self.schema or schema_of(self.output), messages)

    def judge(self, text: str, *, last: bool) -> tuple[M | None, list[str]]:
        """The last object in `text` that is an `output`, if the check has nothing to say of it; else None, and why.

        `last`: it is asked no more, so that what can be salvaged is taken.
        """
        faults = ["it holds no complete JSON object"]
        for number, found in enumerate(objects_in(text)):
            try:
                value = self.output.model_validate(found)
            except ValidationError as error:
                if number == 0:
                    faults = faults_in(error)[:MOST_FAULTS]
                continue
            if faults := list(self.check(value))[:MOST_FAULTS]:
                return (self.salvage(value) if last else None), faults
            return value, []
        return None, faults


def ask(provider: Provider, model: str, inquiry: Inquiry[M], context: Context) -> Structured[M]:
    """The answer to `inquiry`. Raises what `Provider.ask` does, and UselessAnswer if it stays unusable.

    Of a conversation that is longer than its model reads only the task's text is cut (EMBEDDING_OVERFLOW), never the
    instructions, nor the rest of the content; before it becomes JSON, so that it stands within its string as a whole
    one does, and for the repair too.
    """
    key = _key(model, inquiry.question(inquiry.data))
    for said in context.memory.get([key]).values() if context.memory is not None else ():
        value, _ = inquiry.judge(said.decode(), last=True)
        if value is not None:
            return Structured(value, False, said.decode(), key)
    data = sent = inquiry.data
    later: list[Message] = []
    while True:
        question = inquiry.question(data, later)
        try:
            reply = provider.ask(question, model)
        except InputTooLong as error:
            shorter = _shorter(data.get("text"), question, error) if context.truncate else None
            if shorter is None:
                raise
            data = {**data, "text": shorter}
            continue
        except UselessAnswer as error:
            error.answers += bool(later)  # the first one was useless as well
            raise
        if data is not sent:
            facts = {"schema": inquiry.name, "prompt_tokens": reply.usage.prompt_tokens}
            tell_of_cut(model, inquiry.data["text"], data["text"], **facts)
            sent = data
        value, faults = inquiry.judge(reply.text, last=bool(later))
        if value is not None:
            return Structured(value, reply.mock, reply.text, key)
        if later:
            why = f"the model's answer is not usable, nor is its repair: {'; '.join(faults)}"
            raise UselessAnswer(why, answers=2)
        _log.info("Answer is not usable, asking for a repair", model=model, schema=inquiry.name, faults=faults)
        later = [Message("assistant", reply.text), Message("user", _repair(faults))]


def _key(model: str, question: Question) -> str:
    asked = orjson.dumps([model, question.schema, [message.content for message in question.messages]])
    return f"answer/{blake2b(asked, digest_size=20).hexdigest()}"


def _shorter(text: object, question: Question, error: InputTooLong) -> str | None:
    """What is left of the task's `text`; None if it is not the text that is too long."""
    if not isinstance(text, str):
        return None
    # As JSON a text may be twice as long: all else is measured in its characters as they are.
    written = len(orjson.dumps(text).decode())
    around = (sum(len(message.content) for message in question.messages) - written) * len(text) // written
    return shortened(text, error.tokens, around)


def _repair(faults: Sequence[str]) -> str:
    said = "\n".join(f"- {fault}" for fault in faults)
    return (
        f"Your answer cannot be used:\n{said}\n"
        "Answer once more, about the same text, with the corrected JSON object and nothing else."
    )


@cache
def schema_of(model: type[BaseModel]) -> Mapping[str, Any]:
    """The strict schema of `model`, which must not contain itself: each object closed, each property required.

    Without references, which not every server follows. Not to be changed: all callers share it.
    """
    full = model.model_json_schema()
    return _strict(full, full.get("$defs", {}))


def narrowed(schema: Mapping[str, Any], field: str, options: Sequence[str]) -> Mapping[str, Any]:
    """`schema` with the string `field` of its object bound to `options`, if there are any, and not too many."""
    if not 0 < len(options) <= MOST_OPTIONS:
        return schema
    properties = schema["properties"]
    return {**schema, "properties": {**properties, field: {**properties[field], "enum": list(options)}}}


def _strict(schema: Mapping[str, Any], definitions: Mapping[str, Any]) -> dict[str, Any]:
    if reference := schema.get("$ref"):
        schema = {**definitions[reference.rsplit("/", 1)[-1]], **schema}
    strict = {key: schema[key] for key in KEYWORDS if key in schema}
    if branches := schema.get("anyOf"):
        strict["anyOf"] = [_strict(branch, definitions) for branch in branches]
    if "const" in schema:
        strict["enum"] = [schema["const"]]
    if "items" in schema:
        strict["items"] = _strict(schema["items"], definitions)
    if schema.get("type") == "object":
        properties = schema.get("properties", {})
        strict["properties"] = {name: _strict(part, definitions) for name, part in properties.items()}
        strict["required"] = list(properties)
        strict["additionalProperties"] = False
    return strict


_THOUGHTS = re.compile(r"\A\s*<think(?:ing)?>.*?</think(?:ing)?>", re.DOTALL)
_BEGUN = re.compile(r'\{\s*"')


def _refused(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON")


_DECODER = json.JSONDecoder(parse_constant=_refused)


def objects_in(text: str) -> list[dict[str, Any]]:
    """The outermost JSON objects in `text`, from the last to the first: models end with what they mean.

    Tolerant of what models put around JSON (a fence, prose, a block of thoughts), never of what is wrong inside it
    (trailing commas, comments, NaN, a cut end): guessing there could turn a wrong answer into a valid one. What
    precedes an object that is broken is not what was meant, and what stands within it is not the whole of it.
    """
    found: list[dict[str, Any]] = []
    text = _THOUGHTS.sub("", text)
    position = text.find("{")
    for _ in range(MOST_OPENINGS):
        if position < 0:
            break
        try:
            value, end = _DECODER.raw_decode(text, position)
            found.append(value)
        except json.JSONDecodeError as error:
            end = max(error.pos, position + 1)
            if _BEGUN.match(text, position):
                found.clear()
        except (ValueError, RecursionError):
            return []
        position = text.find("{", end)
    return found[::-1]
