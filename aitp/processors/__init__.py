"""What can be done with a task: the shape of a task type, `PROCESSORS`, the table of all of them, and their prompts.

A task type is its content, what is asked of the provider, and the shape of its result. Relays use `parse`
to judge documents, workers use `load` and `run`. A type that is not in the table is left to later releases.

A processor turns a task's content into a provider's answer into the JSON that the task API stores. It keeps no state
between tasks and does no I/O but through the provider and the context it is given. Errors of one task of a batch are
values among its results; errors of the call as a whole are raised. What it says of a content never repeats the content.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from importlib import import_module
from pathlib import Path
from string import Template
from typing import Annotated, Any, ClassVar, Generic, Protocol, Self, TypeVar

import orjson
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, model_validator
from pydantic_core import PydanticCustomError

from aitp.errors import ConfigurationError, NonRetryableError, RetryableError
from aitp.extensions import PROCESSORS_GROUP, PROVIDERS_GROUP, complaint, extensions
from aitp.knowledge import Knowledge
from aitp.logs import get_logger
from aitp.providers import Provider, plugin_builders, provider_rules
from aitp.settings import CHAT_MODEL, EMBEDDING_MODEL, PERSONALITY_CLASSES, Settings

_log = get_logger(__name__)


def _not_blank(text: str) -> str:
    if text.isspace():
        raise PydanticCustomError("blank", "expected more than white space")
    return text


def _plain_name(name: str) -> str:
    if not name.isprintable() or " " in name:
        raise PydanticCustomError("model", "expected a model's name: printable characters without spaces")
    return name


class Content(BaseModel):
    """`{text, model?, …}`, or a bare string, which is a text for the default model.

    Unknown fields are ignored: the API may add some at any time. `Processor.parse` brings the default model along.
    """

    model_config = ConfigDict(
        strict=True, frozen=True, extra="ignore", validate_by_name=True, validate_by_alias=True, serialize_by_alias=True
    )

    text: Annotated[str, Field(min_length=1, max_length=10_000), AfterValidator(_not_blank)]
    model: Annotated[str, Field(min_length=1, max_length=100), AfterValidator(_plain_name)]

    @model_validator(mode="before")
    @classmethod
    def _short_forms(cls, document: object, info: ValidationInfo) -> object:
        if isinstance(document, str):
            document = {"text": document}
        if not isinstance(document, dict):
            raise PydanticCustomError("form", "expected a text, or an object with a text")
        given: dict[Any, Any] = document
        return {**given, "model": info.context} if given.get("model") is None and info.context else given

    def to_json(self) -> bytes:
        """The known fields, always in one order: what the ledger keeps, and fingerprints are made of."""
        return self.model_dump_json().encode()


class Memory(Protocol):
    """Keeps bytes for a while, for all processes: the ledger's cache, in service."""

    def get(self, keys: Iterable[str]) -> Mapping[str, bytes]:
        """What is kept under `keys`."""

    def put(self, values: Mapping[str, bytes], seconds: float) -> None:
        """Keep `values` for so long."""


# Prompts: one file a task type, with a version in its first line, replaceable by the operator's own (PROMPTS_DIR).
#
#     <!-- prompt: defining_topics, version: 3 -->
#     Name the topics … in the language $language …
#
# `$language` and `$country` stand for the settings; `$$` is a dollar sign. Files are read once, when a context is made.
# A file that is missing or cannot be used is a ConfigurationError that names it: a worker with half a prompt would sell
# nonsense as results. Task content is never put into a prompt (`aitp.processors.structured` keeps it apart).
HEADER = re.compile(r"<!--\s*prompt:\s*(?P<name>[\w.-]+),\s*version:\s*(?P<version>[\w.-]+)\s*-->\s*\n")
VARIABLES = {"language", "country"}

MOST_CHARACTERS = 65_536


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt as it was read. `source`: its file, for messages."""

    name: str
    version: str
    source: Path
    body: str

    def filled(self, variables: Mapping[str, str]) -> str:
        """The words for the model."""
        return Template(self.body).substitute(variables)


def load_prompts(places: Mapping[str, Path], instead: Path | None) -> dict[str, Prompt]:
    """The prompts named in `places`, each from its file there, or all of them from the directory `instead`.

    Raises ConfigurationError with a line for each that cannot be used.
    """
    prompts, problems = {}, []
    for name, place in places.items():
        path = place if instead is None else instead / f"{name}.md"
        try:
            prompts[name] = read_prompt(name, path)
        except ValueError as error:
            problems.append(f"{'prompt' if instead is None else 'PROMPTS_DIR'}: {path} {error}")
    if problems:
        raise ConfigurationError(problems)
    return prompts


def read_prompt(name: str, path: Path) -> Prompt:
    """The prompt `name` in `path`. ValueError says what is wrong with the file."""
    try:
        text = path.read_text("utf-8")
    except OSError as error:
        raise ValueError(f"cannot be read ({error.strerror}); copy the built-in one there and change it") from error
    if len(text) > MOST_CHARACTERS:
        raise ValueError(f"has more than {MOST_CHARACTERS:,} characters, which would go with each call")
    header = HEADER.match(text)
    if header is None or header["name"] != name:
        raise ValueError(f"must begin with the line <!-- prompt: {name}, version: 1 -->")
    body = text[header.end() :].strip()
    if not body:
        raise ValueError("holds nothing below its first line")
    template = Template(body)
    if not template.is_valid():
        raise ValueError("has a $ that stands for nothing; write $$ for a dollar sign")
    if unknown := sorted(set(template.get_identifiers()) - VARIABLES):
        raise ValueError(f"names ${unknown[0]}, which is none of ${', $'.join(sorted(VARIABLES))}")
    return Prompt(name, header["version"], path, body)


@dataclass(frozen=True, slots=True)
class Context:
    """`language`: of names and descriptions in results. `country`: where results are read. `prompts` by task type.

    `memory`: for answers that were bought and cannot be used up yet; without one they are bought again.
    `dimensions`: of vectors, where they are to be as long as another model's. `truncate`: cut a text that is longer
    than its model reads, else its task is failed (EMBEDDING_OVERFLOW). `personality_classes`: what Wikidata's items
    have to be direct instances of to be personalities.
    """

    knowledge: Knowledge
    language: str
    country: str = ""
    prompts: Mapping[str, Prompt] = field(default_factory=dict)
    memory: Memory | None = None
    dimensions: int | None = None
    truncate: bool = True
    personality_classes: tuple[str, ...] = PERSONALITY_CLASSES

    @classmethod
    def of(cls, settings: Settings, knowledge: Knowledge | None = None, memory: Memory | None = None) -> Self:
        """The context that `settings` ask for. Without `knowledge` nothing is looked up.

        ConfigurationError: a processor's package or a prompt cannot be used.
        """
        places = {each.task_type: each.prompt for each in PROCESSORS.values() if each.prompt is not None}
        return cls(
            knowledge or Knowledge(),
            settings.result_language,
            settings.result_country,
            load_prompts(places, settings.prompts_dir),
            memory,
            truncate=settings.embedding_overflow == "truncate",
            personality_classes=settings.personality_classes,
        )

    def prompt(self, task_type: str) -> str:
        """The instructions for tasks of that type."""
        return self.prompts[task_type].filled({"language": self.language, "country": self.country})


Result = bytes | RetryableError | NonRetryableError
"""One task's result as JSON, ready to deliver, or why it has none."""


C = TypeVar("C", bound=Content)


class Processor(ABC, Generic[C]):
    """One task type. `batched`: contents of one model may share a call; otherwise `run` is given one at a time.

    `looks_up`: it needs the context's knowledge, and nothing is bought for it while look-ups are refused.
    `prompt`: the file of its instructions, if it asks a chat model (`load_prompts`).

    One of another package may take a known type over where its tasks go to the package's own provider.
    """

    task_type: ClassVar[str]
    label: ClassVar[str]  # in logs: the seed's class names
    batched: ClassVar[bool] = False
    looks_up: ClassVar[bool] = False
    prompt: ClassVar[Path | None] = None
    content: type[C]

    def default_model(self, settings: Settings | None = None) -> str:
        """The model of a task that names none: the settings' (without any: their default)."""
        if settings is None:
            return EMBEDDING_MODEL if self.batched else CHAT_MODEL
        return settings.default_embedding_model if self.batched else settings.default_chat_model

    def parse(self, document: object, settings: Settings | None = None) -> C:
        """The content of a task document. NonRetryableError: it can never succeed; the message does not repeat it."""
        try:
            return self.content.model_validate(document, context=self.default_model(settings))
        except ValidationError as error:
            raise NonRetryableError("; ".join(faults_in(error, "content"))) from None  # the cause quotes the input

    def load(self, stored: bytes) -> C:
        """`parse` of JSON: of what `Content.to_json` wrote, or of a document's own."""
        try:
            return self.parse(orjson.loads(stored))
        except orjson.JSONDecodeError:
            raise NonRetryableError("content: expected valid JSON in UTF-8") from None

    @abstractmethod
    def run(self, contents: Sequence[C], provider: Provider, context: Context) -> Sequence[Result]:
        """Buy the results of `contents`, all of one model, in as few calls as may be; one for each, in order.

        Raises what the provider and the context's knowledge do.
        """


class Registry(Mapping[str, Processor[Any]]):
    """Processors by task type: from the first look on those of this package and of other installed ones.

    Looking raises ConfigurationError if one of the latter cannot be used.
    """

    def __init__(self) -> None:
        self._own: dict[str, Processor[Any]] = {}
        self._instead: dict[tuple[str, str], Processor[Any]] = {}

    def __getitem__(self, task_type: str) -> Processor[Any]:
        return self._all[task_type]

    def __iter__(self) -> Iterator[str]:
        return iter(self._all)

    def __len__(self) -> int:
        return len(self._all)

    def of(self, task_type: str, provider: str) -> Processor[Any]:
        """Who runs tasks of a type at `provider`."""
        return self._instead.get((task_type, provider)) or self[task_type]

    def enter(self, task_type: str, provider: str, entered: Processor[Any]) -> None:
        """Have `entered` run the tasks of a type, or only those that go to `provider`, which is its own package's."""
        if provider:
            self._instead[task_type, provider] = entered
        elif other := self._own.get(task_type):  # not a look: extensions enter themselves while they are being loaded
            raise ValueError(f"task type {task_type} has a processor already: {other.label}")
        else:
            self._own[task_type] = entered

    @cached_property
    def _all(self) -> Mapping[str, Processor[Any]]:
        import_module(f"{__name__}.task_types")  # which enter themselves
        for found in extensions(PROCESSORS_GROUP):
            if found.name not in self._own:
                said = complaint(PROCESSORS_GROUP, found.name, found.package)
                raise ConfigurationError([f"{said}: loading it enters no @processor({found.name!r})"])
        return self._own


PROCESSORS = Registry()


def tell_of_cut(model: str, whole: str, kept: str, **facts: object) -> None:
    """A text was longer than its model reads, and what was `kept` of it was sent."""
    lengths = {"characters": len(whole), "kept_characters": len(kept)}
    _log.warning("Text too long for its model, cut", model=model, cut_by="characters", **lengths, **facts)


def default_models(settings: Settings) -> tuple[str, ...]:
    """The models of tasks that name none."""
    return tuple(dict.fromkeys(each.default_model(settings) for each in PROCESSORS.values()))


def processor(task_type: str, provider: str = "") -> Callable[[type[Processor[Any]]], type[Processor[Any]]]:
    """Class decorator: enter the processor of `task_type` into the table, under its class's name in logs.

    `provider`: only for the tasks of a known type that go there.
    """

    def register(kind: type[Processor[Any]]) -> type[Processor[Any]]:
        kind.task_type = task_type
        kind.label = kind.__name__
        PROCESSORS.enter(task_type, provider, kind())
        return kind

    return register


def faults_in(error: ValidationError, *place: str) -> list[str]:
    """All that is wrong, field by field, in pydantic's words, without the values. `place`: where the fields are."""
    faults = error.errors(include_url=False, include_context=False, include_input=False)
    return [".".join((*place, *map(str, fault["loc"]))) + ": " + fault["msg"] for fault in faults]


@dataclass(frozen=True, slots=True)
class TaskTypeEntry:
    """One task type. `module`: where its code is; `prompt`: version and file, empty if it asks no chat model.

    `package`: name and version of another package that brings it.
    """

    name: str
    processor: str
    module: str
    prompt: str
    package: str = ""


@dataclass(frozen=True, slots=True)
class ProviderEntry:
    """A provider of another package, the models that go there, and why their tasks wait, if they have to."""

    name: str
    package: str
    models: tuple[str, ...]
    lacks: str = ""


@dataclass(frozen=True, slots=True)
class Registered:
    """`providers`: those of other packages."""

    task_types: tuple[TaskTypeEntry, ...]
    providers: tuple[ProviderEntry, ...] = ()


def registered(settings: Settings) -> Registered:
    """Everything that these settings and the installed packages come to. ConfigurationError: something is broken."""
    prompts, rules = Context.of(settings).prompts, provider_rules(settings)
    shown = {name: f"version {prompt.version}, {prompt.source}" for name, prompt in prompts.items()}
    packages = {found.name: found.package for found in extensions(PROCESSORS_GROUP)}
    types = (
        TaskTypeEntry(name, each.label, type(each).__module__, shown.get(name, ""), packages.get(name, ""))
        for name, each in sorted(PROCESSORS.items())
    )
    providers = (
        ProviderEntry(name, package, tuple(plugin_builders()[name].models), rules[name].lacks)
        for name, package, _ in extensions(PROVIDERS_GROUP)
    )
    return Registered(tuple(types), tuple(providers))
