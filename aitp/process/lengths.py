"""How long the vectors of Ollama's models are, so that OpenAI can be asked for as many numbers when it stands in.

Vectors of two lengths in one index break it. What a model once gave is kept in the ledger for all processes; models
that everybody uses are known from the start.
"""

from __future__ import annotations

from collections.abc import Callable

from aitp.logs import get_logger
from aitp.policy.routing import canonical
from aitp.processors.base import Memory

KNOWN = {
    "nomic-embed-text:latest": 768,
    "nomic-embed-text:v1.5": 768,
    "mxbai-embed-large:latest": 1024,
    "bge-m3:latest": 1024,
    "all-minilm:latest": 384,
    "dengcao/qwen3-embedding-0.6b:q8_0": 1024,
}
KEPT_SECONDS = 90 * 86_400.0

log = get_logger(__name__)


class VectorLengths:
    """The lengths seen so far, by model. For one process; `memory` is shared. `named`: MODEL_ALIASES, applied."""

    def __init__(self, memory: Memory, named: Callable[[str], str] = lambda model: model) -> None:
        self._memory = memory
        self._named = named
        self._seen: dict[str, int] = {}

    def learn(self, model: str, vector: bytes) -> None:
        """A `vector` of `model`, as JSON: remember its length if it is new."""
        model, length = canonical(self._named(model)), vector.count(b",") + 1
        if self._seen.get(model) != length:
            self._seen[model] = length
            self._memory.put({_key(model): str(length).encode()}, KEPT_SECONDS)

    def of(self, model: str) -> int | None:
        """The length of `model`'s vectors; None, and a warning, if nobody has seen one yet."""
        model = canonical(self._named(model))
        length = self._seen.get(model)
        if length is None:
            kept = self._memory.get([_key(model)])
            length = int(kept[_key(model)]) if kept else KNOWN.get(model)
        if length is None:
            log.warning("Length of a model's vectors is unknown, its stand-in gives EMBEDDING_DIMENSIONS", model=model)
        return length


def _key(model: str) -> str:
    return f"vector length {model}"
