"""The one path from a question to a valid answer: prompt, call, reading, validation, one repair round.

`ask` is what every processor over a chat model calls. A task's content goes into a message of its own, as JSON: it
cannot end the string that it stands in, and instructions stand nowhere but in the prompt. Whatever a text talks a model
into, the answer has passed the output model and the caller's check before anybody sees it. What fails is told field by
field, never in the answer's words.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, Generic, TypeVar

import orjson
from pydantic import BaseModel, ConfigDict, ValidationError

from aitp.errors import RetryableError, UselessAnswer
from aitp.logs import get_logger
from aitp.processors.answers import objects_in
from aitp.processors.context import Context, Memory
from aitp.processors.conversation import Conversation, Opening
from aitp.processors.registry import Answer
from aitp.processors.schemas import schema_of
from aitp.providers import Message, Provider, Usage

MOST_FAULTS = 5
KEPT_SECONDS = 86_400.0

_log = get_logger(__name__)


class Output(BaseModel):
    """What an answer's model has in common: unknown fields are dropped, as the schema forbids them already."""

    model_config = ConfigDict(frozen=True, extra="ignore")


M = TypeVar("M", bound=BaseModel)

Check = Callable[[M], Sequence[str]]
"""What is wrong with a well-formed answer, a sentence each, without its words. Empty: nothing."""


@dataclass(frozen=True, slots=True)
class Structured(Generic[M]):
    """A valid answer, and what all calls for it cost. `text`: its words, `key`: its question's name in a memory."""

    value: M
    usage: Usage
    mock: bool
    text: str
    key: str

    def answer(self, result: object) -> Answer:
        """The processor's answer for one task: what it made of `value`."""
        return Answer([orjson.dumps(result)], self.usage, self.mock)

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


def ask(provider: Provider, model: str, inquiry: Inquiry[M], context: Context) -> Structured[M]:
    """The answer to `inquiry`. Raises what `Provider.ask` does, and UselessAnswer if it stays unusable."""
    schema, memory = inquiry.schema or schema_of(inquiry.output), context.memory
    opening = Opening(inquiry.name, schema, inquiry.prompt)
    key = _key(model, schema, opening.messages(inquiry.data))
    for text in memory.get([key]).values() if memory is not None else ():
        value, faults = _judged(text.decode(), inquiry)
        if value := _usable(value, faults, inquiry):
            return Structured(value, Usage(0, 0, 0), False, text.decode(), key)
    conversation = Conversation(provider, model, opening, inquiry.data, truncate=context.truncate)
    first = conversation.reply()
    value, faults = _judged(first.text, inquiry)
    if value is not None and not faults:
        return Structured(value, first.usage, first.mock, first.text, key)
    _log.info("Answer is not usable, asking for a repair", model=model, schema=inquiry.name, faults=faults)
    try:
        second = conversation.reply(Message("assistant", first.text), Message("user", _repair(faults)))
    except UselessAnswer as error:
        error.answers += 1  # the first one was useless as well
        raise
    value, faults = _judged(second.text, inquiry)
    value = _usable(value, faults, inquiry)
    if value is None:
        said = f"the model's answer is not usable, nor is its repair: {'; '.join(faults)}"
        raise UselessAnswer(said, answers=2)
    return Structured(value, first.usage + second.usage, first.mock or second.mock, second.text, key)


def _key(model: str, schema: Mapping[str, Any], messages: Sequence[Message]) -> str:
    asked = orjson.dumps([model, schema, [message.content for message in messages]])
    return f"answer/{blake2b(asked, digest_size=20).hexdigest()}"


def _usable(value: M | None, faults: Sequence[str], inquiry: Inquiry[M]) -> M | None:
    return inquiry.salvage(value) if value is not None and faults else value


def _judged(text: str, inquiry: Inquiry[M]) -> tuple[M | None, list[str]]:
    """The last object in `text` that is an `output`, and what the check says of it; None, and why there is none."""
    faults = ["it holds no complete JSON object"]
    for number, found in enumerate(objects_in(text)):
        try:
            value = inquiry.output.model_validate(found)
        except ValidationError as error:
            if number == 0:
                faults = _told(error)
            continue
        return value, list(inquiry.check(value))[:MOST_FAULTS]
    return None, faults


def _told(error: ValidationError) -> list[str]:
    faults = error.errors(include_url=False, include_context=False, include_input=False)
    return [".".join(map(str, fault["loc"])) + ": " + fault["msg"] for fault in faults[:MOST_FAULTS]]


def _repair(faults: Sequence[str]) -> str:
    said = "\n".join(f"- {fault}" for fault in faults)
    return (
        f"Your answer cannot be used:\n{said}\n"
        "Answer once more, about the same text, with the corrected JSON object and nothing else."
    )
