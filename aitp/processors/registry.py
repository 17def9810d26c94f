"""The shape of a processor, and the table of all of them.

A processor turns a task's content into a provider's answer into the JSON that the task API stores. It keeps no state
between tasks and does no I/O but through the provider it is given. Errors of one task of a batch are values in its
`Answer`; errors of the call as a whole are raised. What it says of a content never repeats the content.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, TypeVar

import orjson
from pydantic import BaseModel, ConfigDict, ValidationError

from aitp.errors import NonRetryableError, RetryableError
from aitp.processors.context import Context
from aitp.providers import Provider, Usage

Result = bytes | RetryableError | NonRetryableError
"""One task's result as JSON, ready to deliver, or why it has none."""


class Content(BaseModel):
    """What every task's content has. Unknown fields are ignored: the API may add some at any time."""

    model_config = ConfigDict(strict=True, frozen=True, extra="ignore")

    text: str
    model: str

    def to_json(self) -> bytes:
        """The known fields, always in one order: for the ledger, where `Processor.load` reads it; twins share it."""
        return self.model_dump_json().encode()


C = TypeVar("C", bound=Content)


@dataclass(frozen=True, slots=True)
class Answer:
    """What one call brought: a result or an error for each content, in order, and what it cost. `mock`: invented."""

    results: list[Result]
    usage: Usage
    mock: bool = False


class Processor(ABC, Generic[C]):
    """One task type. `batched`: contents of one model may share a call; otherwise `run` is given one at a time."""

    task_type: ClassVar[str]
    label: ClassVar[str]  # in logs: the seed's class names
    batched: ClassVar[bool] = False
    content: type[C]

    def parse(self, document: object) -> C:
        """The content of a task document. NonRetryableError: it can never succeed; the message does not repeat it."""
        try:
            return self.content.model_validate(document)
        except ValidationError as error:
            raise NonRetryableError(_reason(error)) from None  # the cause quotes the input

    def load(self, stored: bytes) -> C:
        """`parse` of JSON: of what `Content.to_json` wrote, or of a document's own."""
        try:
            return self.parse(orjson.loads(stored))
        except orjson.JSONDecodeError:
            raise NonRetryableError("content: expected valid JSON in UTF-8") from None

    @abstractmethod
    def run(self, contents: Sequence[C], provider: Provider, context: Context) -> Answer:
        """Buy the results of `contents`, all of one model, in as few calls as may be.

        Raises what the provider and the context's knowledge do.
        """


PROCESSORS: dict[str, Processor[Any]] = {}


def processor(task_type: str) -> Callable[[type[Processor[Any]]], type[Processor[Any]]]:
    """Class decorator: enter the processor of `task_type` into the table, under its class's name in logs."""

    def register(kind: type[Processor[Any]]) -> type[Processor[Any]]:
        if task_type in PROCESSORS:
            raise ValueError(f"task type {task_type} has a processor already: {PROCESSORS[task_type].label}")
        kind.task_type = task_type
        kind.label = kind.__name__
        PROCESSORS[task_type] = kind()
        return kind

    return register


def _reason(error: ValidationError) -> str:
    """All that is wrong, field by field, in pydantic's words, without the values."""
    faults = error.errors(include_url=False, include_context=False, include_input=False)
    return "; ".join(".".join(("content", *map(str, fault["loc"]))) + ": " + fault["msg"] for fault in faults)
