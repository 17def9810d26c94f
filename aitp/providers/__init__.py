"""Where answers are bought: what is said to a provider and what it answers, who there is, and which models go where.

A provider is an object of the shape `Provider`, one module each. They are imported by those who build them: whoever
needs only the vocabulary (processors, relays, the command line) does not load numpy.

Those of other installed packages are entry points of the group `aitp.providers`: a callable that takes the settings and
makes the provider of the entry point's name. Its attribute `models` says which models go there, whatever
PROCESSING_MODE is (`acme*`: all that begin so, in any case), `rules` how it is to be used. They are loaded once, by the
master's warm-up.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol, Self

from aitp.errors import ConfigurationError, NonRetryableError, RetryableError, ServiceFault
from aitp.extensions import PROVIDERS_GROUP, complaint, extensions
from aitp.policy.routing import Mode, Routing, Rules
from aitp.tasks import Service

if TYPE_CHECKING:  # `aitp status` looks without them
    from aitp.settings import Settings
    from aitp.sources import InForce

__all__ = ["Embeddings", "Message", "Provider", "Question", "Reply", "Rules", "Usage", "Vector", "build", "warm_up"]

# Keywords of a schema that bound a value; not all who take a schema take these, and fine-tuned models don't.
BOUNDS = ("minLength", "maxLength", "pattern", "minimum", "maximum", "minItems", "maxItems")

Vector = bytes | RetryableError | NonRetryableError
"""One text's share of an answer: its vector as JSON, ready to deliver, or why this text alone has none."""


class Usage(NamedTuple):
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


def _tokens(text: str) -> int:
    return -(-4 * len(text.split()) // 3)


class Embeddings(NamedTuple):
    """The answer to one call: a vector or an error for each text, in order. `mock`: nothing was bought."""

    vectors: list[Vector]
    usage: Usage
    mock: bool = False


class Message(NamedTuple):
    """One message of a conversation with a chat model."""

    role: Literal["system", "user", "assistant"]
    content: str


class Question(NamedTuple):
    """What a chat model is asked. The answer is to be JSON of `schema` (a JSON schema, strict in OpenAI's sense).

    `name`: of the schema, [a-zA-Z0-9_-]{1,64}.
    """

    name: str
    schema: Mapping[str, Any]
    messages: Sequence[Message]


class Reply(NamedTuple):
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


def routing_of(settings: Settings, *, own_alone: bool = False) -> Routing:
    """How `settings` route models; `own_alone`: without what other packages bring, none of which is loaded then.

    In mock mode all goes to the mock, OpenAI by name. ConfigurationError: another package cannot be used.
    """
    builders = {} if own_alone else plugin_builders()
    return Routing(
        mode=Mode.OPENAI if settings.mock else Mode(settings.processing_mode),
        supported=settings.supported_models,
        fallbacks=settings.fallback_models,
        may_fall_back=settings.hybrid_fallback,
        has_openai=settings.has_openai_key,
        foreign={model: name for name, builder in builders.items() for model in builder.models},
        aliases=settings.model_aliases,
        rules={} if own_alone else provider_rules(settings),
        may_stand_in=settings.has_real_openai,
    )


def uses_openai(settings: Settings | InForce) -> bool:
    """Whether anything is bought from OpenAI."""
    return settings.processing_mode != "ollama" and not settings.mock and settings.has_openai_key


def uses_models(settings: Settings | InForce) -> bool:
    """Whether Ollama is to have any models at all."""
    return settings.processing_mode != "openai" and not settings.mock and bool(settings.supported_models)


def models_of_ollama(settings: Settings) -> tuple[str, ...]:
    """SUPPORTED_MODELS, but for those that other packages serve. ConfigurationError: one of these cannot be used."""
    routing = routing_of(settings)
    return tuple(name for name in settings.supported_models if not routing.foreign_provider(name))


def build(settings: Settings, missing: Callable[[str], None] = lambda model: None) -> Mapping[str, Provider]:
    """The providers that `settings` name, by name. After fork; no connection is made before the first call.

    `missing` is told of an Ollama model that is supported, and not there.
    """
    others = {name: make(settings) for name, make in plugin_builders().items()}
    return {**_own_providers(settings, missing), **others}


def _own_providers(settings: Settings, missing: Callable[[str], None]) -> Mapping[str, Provider]:
    found: list[Provider] = []
    # OpenAI may answer for a provider of another package, whatever the mode is.
    stands_in = any(rules.stand_in and rules.most_per_day for rules in provider_rules(settings).values())
    if settings.mock:
        from aitp.providers.mock import DIMENSIONS, MockProvider

        found.append(MockProvider(settings.embedding_dimensions or DIMENSIONS))
    elif uses_openai(settings) or (settings.has_real_openai and stands_in):
        from aitp.providers.openai import OpenAIProvider

        found.append(OpenAIProvider(settings))
    if settings.processing_mode != "openai" and not settings.mock:
        from aitp.providers.ollama import OllamaProvider

        found.append(OllamaProvider(settings, missing))
    return {provider.name: provider for provider in found}


def warm_up(settings: Settings) -> None:
    """Before fork: load everything that a call needs, by making one that is refused. Leaves nothing open, no thread."""
    import socket

    from aitp.http import tls_context
    from aitp.settings import EMBEDDING_MODEL

    tls_context(settings.trust)

    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))  # held, and not listening: whoever connects is refused
        refusing = f"http://127.0.0.1:{bound.getsockname()[1]}/v1"
        addresses = {"openai_base_url": refusing, "ollama_base_url": refusing, "supported_models": (EMBEDDING_MODEL,)}
        for provider in _own_providers(settings.model_copy(update=addresses), lambda missing: None).values():
            try:
                provider.embed(["warm-up"], EMBEDDING_MODEL)
            except ServiceFault:
                pass
            provider.close()
