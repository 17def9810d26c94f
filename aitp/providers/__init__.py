"""Where answers are bought: one module a provider, all of the shape `Provider`.

`build` is called after fork, once a worker; clients are made at their first call, so nothing that owns a socket is
ever inherited. `warm_up` is called by the master before it forks, so that what the clients import lazily is shared.
Providers are imported inside these two functions: whoever needs only the vocabulary (processors, relays, the
command line) does not load numpy and the OpenAI client.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from aitp.errors import NonRetryableError, RetryableError

Vector = bytes | RetryableError | NonRetryableError
"""One text's share of an answer: its vector as JSON, ready to deliver, or why this text alone has none."""


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one call, as the provider counted them, or `estimated` from words where it did not."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    estimated: bool = False


@dataclass(frozen=True, slots=True)
class Embeddings:
    """The answer to one call: a vector or an error for each text, in order. `mock`: nothing was bought."""

    vectors: list[Vector]
    usage: Usage
    mock: bool = False


class Provider(Protocol):
    """A place where answers are bought. Calls block, never retry, and raise the errors of `aitp.errors` only."""

    name: str

    def embed(self, texts: Sequence[str], model: str) -> Embeddings:
        """One request for the vectors of all `texts`. InputRefused: halve them; with a single text it is its fault."""

    def reset(self) -> None:
        """Throw the client away: a timer fired inside a call, its state is unknown. The next call makes another."""

    def close(self) -> None:
        """Close connections. The provider may be used again: it then makes a new client."""
