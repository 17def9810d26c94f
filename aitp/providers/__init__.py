"""Where answers are bought: one module a provider, all of the shape `Provider`.

`build` is called after fork, once a worker; clients are made at their first call, so nothing that owns a socket is
ever inherited. `warm_up` is called by the master before it forks, so that what the clients import lazily is shared.
Providers are imported inside these two functions: whoever needs only the vocabulary (processors, relays, the
command line) does not load numpy and the OpenAI client.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, Self

from aitp.errors import NonRetryableError, RetryableError, ServiceFault
from aitp.settings import EMBEDDING_MODEL, Settings

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

        InputTooLong: the messages are longer than the model reads; `aitp.processors.conversation` cuts the task's text.
        """

    def reset(self) -> None:
        """Throw the client away: a timer fired inside a call, its state is unknown. The next call makes another."""

    def close(self) -> None:
        """Close connections. The provider may be used again: it then makes a new client."""


def build(settings: Settings, missing: Callable[[str], None] = lambda model: None) -> Mapping[str, Provider]:
    """The providers that `settings` name, by name. After fork; no connection is made before the first call.

    `missing` is told of an Ollama model that is supported, and not there.
    """
    from aitp.providers.foreign import foreign_builders

    own = _own_providers(settings, missing)
    return {**own, **{name: make(settings) for name, make in foreign_builders().items()}}


def _own_providers(settings: Settings, missing: Callable[[str], None]) -> Mapping[str, Provider]:
    if settings.mock:
        from aitp.providers.mock import DIMENSIONS, MockProvider

        mock = MockProvider(settings.embedding_dimensions or DIMENSIONS)
        return {mock.name: mock}
    providers = [] if settings.processing_mode == "ollama" else _openai(settings)
    if settings.processing_mode != "openai":
        providers.append(_ollama(settings, missing))
    return {provider.name: provider for provider in providers}


def _ollama(settings: Settings, missing: Callable[[str], None]) -> Provider:
    from aitp.providers.ollama import OllamaProvider

    return OllamaProvider(
        settings.ollama_base_url,
        settings.supported_models,
        timeout_seconds=settings.ollama_timeout,
        api_key=settings.ollama_api_key,
        keep_alive=settings.ollama_keep_alive,
        options=settings.ollama_options,
        think=settings.ollama_think,
        trust=settings.trust,
        missing=missing,
    )


def _openai(settings: Settings) -> list[Provider]:
    if settings.openai_api_key is None:
        return []
    from aitp.providers.openai import DEFAULT_BASE_URL, OpenAIProvider

    return [
        OpenAIProvider(
            settings.openai_api_key,
            base_url=settings.openai_base_url or DEFAULT_BASE_URL,
            timeout_seconds=settings.openai_timeout,
            dimensions=settings.embedding_dimensions,
            effort=settings.openai_reasoning_effort,
            tier=settings.openai_service_tier or "",
            trust=settings.trust,
        )
    ]


def warm_up(settings: Settings) -> None:
    """Before fork: load everything that a call needs, by making one that is refused. Leaves nothing open, no thread."""
    from aitp.providers.foreign import foreign_builders

    foreign_builders()  # looking for them reads the metadata of all packages
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))  # held, and not listening: whoever connects is refused
        refusing = f"http://127.0.0.1:{bound.getsockname()[1]}/v1"
        model = EMBEDDING_MODEL
        addresses = {"openai_base_url": refusing, "ollama_base_url": refusing, "supported_models": (model,)}
        for provider in _own_providers(settings.model_copy(update=addresses), lambda missing: None).values():
            try:
                provider.embed(["warm-up"], model)
            except ServiceFault:
                pass
            provider.close()
