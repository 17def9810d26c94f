"""Answers that nobody gave: JSON that fits a schema, made of the words of the question, the same in every run.

For mock mode, and for the demo's server where its script has no answer. Names are words that the text spells with a
capital, so that what is checked against the text holds; closed lists are kept to.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from aitp.providers import Question

_NAME = re.compile(r"[A-ZÀ-ÖØ-Þ][\w’'-]+(?: (?:d[aeo]s? |of |the )?[A-ZÀ-ÖØ-Þ][\w’'-]+)*")
_NAMES = {"name", "mentioned_as"}
SNIPPET_WORDS = 12


def invented(question: Question, seed: str = "") -> str:
    """An answer to `question`, as JSON. Nothing in it is true."""
    text = text_of(question)
    source = random.Random(f"{seed}\0{question.name}\0{text}")
    names = list(dict.fromkeys(_NAME.findall(text))) or text.split()[:1] or ["?"]
    return orjson.dumps(
        _Inventor(source, names, " ".join(text.split()[:SNIPPET_WORDS])).value(question.schema)
    ).decode()


def text_of(question: Question) -> str:
    """The task's text: the field `text` of the first message that a user sends, or that whole message."""
    said = next((message.content for message in question.messages if message.role == "user"), "")
    try:
        document = orjson.loads(said)
    except orjson.JSONDecodeError:
        return said
    return str(document.get("text", said)) if isinstance(document, dict) else said


class _Inventor:
    def __init__(self, source: random.Random, names: Sequence[str], snippet: str) -> None:
        self._source = source
        self._names = names
        self._snippet = snippet

    def value(self, schema: Mapping[str, Any], field: str = "", name: str = "") -> Any:
        if options := schema.get("enum"):
            return self._source.choice(options)
        if branches := schema.get("anyOf"):
            return self.value(next(b for b in branches if b.get("type") != "null"), field, name)
        match schema.get("type"):
            case "object":
                name = self._source.choice(self._names)
                return {key: self.value(part, key, name) for key, part in schema["properties"].items()}
            case "array":
                count = min(len(self._names), self._source.randint(1, 2))
                return [self.value(schema["items"], field, name) for _ in range(count)]
            case "number":
                return round(self._source.uniform(0.5, 1.0), 2)
            case "integer":
                return self._source.randint(1, 10)
            case "boolean":
                return self._source.random() < 0.5
            case _:
                return name if field in _NAMES else self._snippet
