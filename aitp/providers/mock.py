"""The provider behind the placeholder key: invents results, calls nobody.

It stands in for OpenAI under its name, so that metrics, logs and limits are those of a real run; every answer is
marked `mock`. An embedding is a unit vector seeded by model and text: the same text gets the same one, always. So do
questions: an answer of the right form, made of the text's own words.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from hashlib import blake2b

import numpy as np

from aitp.providers import Embeddings, Question, Reply, Usage
from aitp.providers.invented import invented
from aitp.providers.vectors import vector_json
from aitp.tasks import Service

DIMENSIONS = 1024


class MockProvider:
    """`dimensions`: numbers in an embedding."""

    name = Service.OPENAI.value

    def __init__(self, dimensions: int = DIMENSIONS) -> None:
        self._dimensions = dimensions

    def optional(self, model: str, *, chat: bool) -> tuple[str, ...]:
        return ()

    def embed(
        self, texts: Sequence[str], model: str, dimensions: int | None = None, leave_out: Collection[str] = ()
    ) -> Embeddings:
        return Embeddings([self._vector(text, model) for text in texts], Usage.estimate(texts), mock=True)

    def _vector(self, text: str, model: str) -> bytes:
        seed = blake2b(f"{model}\0{text}".encode(), digest_size=16).digest()
        numbers = np.random.Generator(np.random.PCG64(int.from_bytes(seed))).standard_normal(self._dimensions)
        return vector_json((numbers / np.sqrt((numbers * numbers).sum())).astype("<f4"), self._dimensions)

    def ask(self, question: Question, model: str, leave_out: Collection[str] = ()) -> Reply:
        text = invented(question, model)
        usage = Usage.estimate([message.content for message in question.messages], text)
        return Reply(text, usage, mock=True)

    def reset(self) -> None:
        """Nothing to throw away."""

    def close(self) -> None:
        """Nothing to close."""
