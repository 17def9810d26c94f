"""The provider behind the placeholder key: invents results, calls nobody.

It stands in for OpenAI under its name, so that metrics, logs and limits are those of a real run; every answer is
marked `mock`. An embedding is a unit vector seeded by model and text: the same text gets the same one, always. So do
questions: an answer of the right form, made of the text's own words.
"""

from __future__ import annotations

import random
import re
from collections.abc import Collection, Mapping, Sequence
from hashlib import blake2b
from typing import Any

import numpy as np
import orjson

from aitp.providers import Embeddings, Question, Reply, Usage
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
        return vector_json((numbers / np.sqrt((numbers * numbers).sum())).astype("<f4"))

    def ask(self, question: Question, model: str, leave_out: Collection[str] = ()) -> Reply:
        text = fake_answer(question, model)
        usage = Usage.estimate([message.content for message in question.messages], text)
        return Reply(text, usage, mock=True)

    def close(self) -> None:
        """Nothing to close."""


_NAME = re.compile(r"[A-ZÀ-ÖØ-Þ][\w’'-]+(?: (?:d[aeo]s? |of |the )?[A-ZÀ-ÖØ-Þ][\w’'-]+)*")
_NAMES = {"name", "mentioned_as"}
SNIPPET_WORDS = 12


def fake_answer(question: Question, seed: str = "") -> str:
    """An answer to `question`, as JSON, the same in every run. Nothing in it is true.

    Names are words that the text spells with a capital, so that what is checked against the text holds; closed lists
    are kept to. The demo's servers give it where their script has no answer.
    """
    text = text_of(question)
    source = random.Random(f"{seed}\0{question.name}\0{text}")
    names = list(dict.fromkeys(_NAME.findall(text))) or text.split()[:1] or ["?"]
    snippet = " ".join(text.split()[:SNIPPET_WORDS])

    def value(schema: Mapping[str, Any], field: str = "", name: str = "") -> Any:
        if options := schema.get("enum"):
            return source.choice(options)
        if branches := schema.get("anyOf"):
            return value(next(b for b in branches if b.get("type") != "null"), field, name)
        match schema.get("type"):
            case "object":
                name = source.choice(names)
                return {key: value(part, key, name) for key, part in schema["properties"].items()}
            case "array":
                return [value(schema["items"], field, name) for _ in range(min(len(names), source.randint(1, 2)))]
            case "number":
                return round(source.uniform(0.5, 1.0), 2)
            case "integer":
                return source.randint(1, 10)
            case "boolean":
                return source.random() < 0.5
        return name if field in _NAMES else snippet

    return orjson.dumps(value(question.schema)).decode()


def text_of(question: Question) -> str:
    """The task's text: the field `text` of the first message that a user sends, or that whole message."""
    said = next((message.content for message in question.messages if message.role == "user"), "")
    try:
        document = orjson.loads(said)
    except orjson.JSONDecodeError:
        return said
    return str(document.get("text", said)) if isinstance(document, dict) else said
