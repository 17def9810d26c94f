"""What is said to a provider and what it answers: the shapes that processors, workers and other packages share.

A provider is an object of the shape `Provider`. Those of other installed packages are entry points of the group
`aitp.providers`: a callable that takes the settings and makes the provider of the entry point's name. Its attribute
`models` says which models go there, whatever PROCESSING_MODE is (`acme*`: all that begin so, in any case), `rules` how
it is to be used. They are loaded once, by the master's warm-up.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, Literal, Protocol, Self

from aitp.errors import ConfigurationError, NonRetryableError, RetryableError
from aitp.extensions import PROVIDERS_GROUP, complaint, extensions
from aitp.policy.routing import Routing, Rules
from aitp.providers.inventory import own_routing
from aitp.settings import Settings
from aitp.tasks import Service

Vector = bytes | RetryableError | NonRetryableError
"""One text's share of an answer: its vector as JSON, ready to deliver, or why this text alone has none."""


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one call, as the provider counted them, or `estimated` from words where it did not."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    estimated: bool = False

    @classmethod
    def estimate(cls, texts: Sequence[str], answer: str = "") -> Self:
        """Four tokens for three words: what Latin scripts come to, roughly."""
        prompt, completion = sum(map(_tokens, texts)), _tokens(answer)
        return cls(prompt, completion, prompt + completion, estimated=True)

    @classmethod
    def of(cls, prompt: object, completion: object, texts: Sequence[str], answer: str = "", total: object = 0) -> Self:
        """The server's count, or an estimate where it has none that makes sense (of a prompt that it had in its cache).

        Without an `answer` there are vectors, which have no completion.
        """
        completion = completion if answer else 1
        if type(prompt) is not int or type(completion) is not int or prompt < 1 or completion < 1:
            return cls.estimate(texts, answer)
        least = prompt + completion * bool(answer)
        return cls(prompt, least - prompt, max(least, total) if type(total) is int else least)

    def __add__(self, other: Usage) -> Usage:
        """What two calls cost together."""
        return Usage(
            self.prompt_tokens + other.prompt_tokens,
            self.completion_tokens + other.completion_tokens,
            self.total_tokens + other.total_tokens,
            self.estimated or other.estimated,
        )


def _tokens(text: str) -> int:
    return -(-4 * len(text.split()) // 3)


@dataclass(frozen=True, slots=True)
class Embeddings:
    """The answer to one call: a vector or an error for each text, in order. `mock`: nothing was bought."""

    vectors: list[Vector]
    usage: Usage
    mock: bool = False


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a conversation with a chat model."""

    role: Literal["system", "user", "assistant"]
    content: str


@dataclass(frozen=True, slots=True)
class Question:
    """What a chat model is asked. The answer is to be JSON of `schema` (a JSON schema, strict in OpenAI's sense).

    `name`: of the schema, [a-zA-Z0-9_-]{1,64}.
    """

    name: str
    schema: Mapping[str, Any]
    messages: Sequence[Message]


@dataclass(frozen=True, slots=True)
class Reply:
    """What the model said, word for word: it is the caller's to validate. `mock`: nothing was bought.

    `tier`: the service tier that the answer came from, and is billed by, if the provider says so.
    """

    text: str
    usage: Usage
    mock: bool = False
    tier: str = ""


class Provider(Protocol):
    """A place where answers are bought. Each call is one request: it blocks, never retries, never sends a second one.

    Raises the errors of `aitp.errors` only. `leave_out`: parameters of `optional` that this server does not take.
    """

    name: str

    def optional(self, model: str, *, chat: bool) -> tuple[str, ...]:
        """What a request for `model` would hold and could do without, in the order in which it is left out.

        Named as the protocol names it, where it does: encoding_format, dimensions, temperature, json_schema, …
        """

    def embed(
        self, texts: Sequence[str], model: str, dimensions: int | None = None, leave_out: Collection[str] = ()
    ) -> Embeddings:
        """One request for the vectors of all `texts`.

        RequestRefused: of a batch nobody knows yet which text it is, if any. InputTooLong: whether a single text is
        then cut is the processor's to know (EMBEDDING_OVERFLOW). SettingRefused: the vectors come in another length.
        `dimensions`: as many numbers, if the model lets us ask; None: as the settings say.
        """

    def ask(self, question: Question, model: str, leave_out: Collection[str] = ()) -> Reply:
        """One request for a structured answer. ModelRefused: it declines; AnswerCut: it did not come to its end.

        InputTooLong: the messages are longer than the model reads; `aitp.processors.structured` cuts the task's text.
        """

    def close(self) -> None:
        """Close connections. The provider may be used again: it then makes a new client."""


class Builder(Protocol):
    """What such an entry point names. `rules` may be missing: a function of the settings that gives `Rules`, or raises
    ConfigurationError for settings of the package's own that cannot be used. So may `look`, a function of the settings
    and of seconds, for `aitp check`: it asks the server for what costs nothing and gives an `aitp.web.health.Problem`.

    What it makes may have more than a `Provider` has: verbs of its own, which are metered as `ask` is if they are
    called with `model=` and return something with `usage` and `mock`; and `meter(metrics)` and `ended(route, outcome)`,
    by which it counts (`aitp.process.worker`).
    """

    models: Sequence[str]

    def __call__(self, settings: Settings) -> Provider:
        """The provider. After fork; no connection is made before the first call."""


@cache
def plugin_builders() -> Mapping[str, Builder]:
    """The makers of these providers, by name. ConfigurationError: one of them cannot be used."""
    builders: dict[str, Builder] = {}
    for found in extensions(PROVIDERS_GROUP):
        value: Any = found.value
        said = complaint(PROVIDERS_GROUP, found.name, found.package)
        if found.name in set(Service) or found.name in builders:
            raise ConfigurationError([f"{said}: there is a provider of that name already"])
        if not callable(value) or not isinstance(getattr(value, "models", None), list | tuple):
            raise ConfigurationError([f"{said}: expected a callable with `models`, the names of its models"])
        builders[found.name] = value
    return builders


def provider_rules(settings: Settings) -> Mapping[str, Rules]:
    """How each of them is to be used. ConfigurationError: a setting of theirs cannot be."""
    found: dict[str, Rules] = {}
    problems: list[str] = []
    for name, builder in plugin_builders().items():
        try:
            found[name] = builder.rules(settings) if hasattr(builder, "rules") else Rules()
        except ConfigurationError as error:
            problems += error.problems
    if problems:
        raise ConfigurationError(problems)
    return found


def plugin_models() -> Mapping[str, str]:
    """Which of these providers serves a model, by the model's name."""
    return {model: name for name, builder in plugin_builders().items() for model in builder.models}


def routing_of(settings: Settings) -> Routing:
    """How `settings` route models, those of other packages too."""
    foreign, rules = plugin_models(), provider_rules(settings)
    return replace(own_routing(settings), foreign=foreign, rules=rules, may_stand_in=settings.has_real_openai)
