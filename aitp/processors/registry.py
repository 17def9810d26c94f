"""The shape of a processor, and the table of all of them.

A processor turns a task's content into a provider's answer into the JSON that the task API stores. It keeps no state
between tasks and does no I/O but through the provider it is given. Errors of one task of a batch are values in its
`Answer`; errors of the call as a whole are raised. What it says of a content never repeats the content.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, MutableMapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

import orjson
from pydantic import ValidationError

from aitp.errors import ConfigurationError, NonRetryableError, RetryableError
from aitp.extensions import PROCESSORS_GROUP, complaint, extensions
from aitp.processors.content import Content
from aitp.processors.context import Context
from aitp.providers import Provider, Usage
from aitp.settings import CHAT_MODEL, EMBEDDING_MODEL, Settings

Result = bytes | RetryableError | NonRetryableError
"""One task's result as JSON, ready to deliver, or why it has none."""


C = TypeVar("C", bound=Content)


@dataclass(frozen=True, slots=True)
class Answer:
    """What one call brought: a result or an error for each content, in order, and what it cost. `mock`: invented."""

    results: list[Result]
    usage: Usage
    mock: bool = False


class Processor(ABC, Generic[C]):
    """One task type. `batched`: contents of one model may share a call; otherwise `run` is given one at a time.

    `looks_up`: it needs the context's knowledge, and nothing is bought for it while look-ups are refused.
    `prompt`: the file of its instructions, if it asks a chat model (`aitp.processors.prompting`).
    """

    task_type: ClassVar[str]
    label: ClassVar[str]  # in logs: the seed's class names
    batched: ClassVar[bool] = False
    looks_up: ClassVar[bool] = False
    prompt: ClassVar[Path | None] = None
    content: type[C]

    def default_model(self, settings: Settings | None = None) -> str:
        """The model of a task that names none: the type's own, or the settings' (without any: their default)."""
        embedding, chat = EMBEDDING_MODEL, CHAT_MODEL
        if settings is not None:
            embedding, chat = settings.default_embedding_model, settings.default_chat_model
        return self.content.default_model or (embedding if self.batched else chat)

    def parse(self, document: object, settings: Settings | None = None) -> C:
        """The content of a task document. NonRetryableError: it can never succeed; the message does not repeat it."""
        try:
            return self.content.model_validate(document, context=self.default_model(settings))
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


class Registry(MutableMapping[str, Processor[Any]]):
    """Processors by task type: those of this package, and from the first look on those of other installed packages.

    Looking raises ConfigurationError if one of these cannot be used.
    """

    def __init__(self) -> None:
        self._own: dict[str, Processor[Any]] = {}
        self._complete = False

    def __getitem__(self, task_type: str) -> Processor[Any]:
        return self._all()[task_type]

    def __iter__(self) -> Iterator[str]:
        return iter(self._all())

    def __len__(self) -> int:
        return len(self._all())

    def __setitem__(self, task_type: str, entered: Processor[Any]) -> None:
        if other := self._own.get(task_type):  # not a look: extensions enter themselves while they are being loaded
            raise ValueError(f"task type {task_type} has a processor already: {other.label}")
        self._own[task_type] = entered

    def __delitem__(self, task_type: str) -> None:
        del self._own[task_type]

    def _all(self) -> dict[str, Processor[Any]]:
        if not self._complete:
            for found in extensions(PROCESSORS_GROUP):
                if found.name not in self._own:
                    said = complaint(PROCESSORS_GROUP, found.name, found.package)
                    raise ConfigurationError([f"{said}: loading it enters no @processor({found.name!r})"])
            self._complete = True
        return self._own


PROCESSORS = Registry()


def default_models(settings: Settings) -> tuple[str, ...]:
    """The models of tasks that name none."""
    return tuple(dict.fromkeys(each.default_model(settings) for each in PROCESSORS.values()))


def processor(task_type: str) -> Callable[[type[Processor[Any]]], type[Processor[Any]]]:
    """Class decorator: enter the processor of `task_type` into the table, under its class's name in logs."""

    def register(kind: type[Processor[Any]]) -> type[Processor[Any]]:
        kind.task_type = task_type
        kind.label = kind.__name__
        PROCESSORS[task_type] = kind()
        return kind

    return register


def _reason(error: ValidationError) -> str:
    """All that is wrong, field by field, in pydantic's words, without the values."""
    faults = error.errors(include_url=False, include_context=False, include_input=False)
    return "; ".join(".".join(("content", *map(str, fault["loc"]))) + ": " + fault["msg"] for fault in faults)
