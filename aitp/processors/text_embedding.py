"""text_embedding: a text in, its vector out, as a bare JSON array of numbers.

The vectors of a whole batch come from one call (`Provider.embed`), and each is JSON already when it arrives here:
this module passes bytes on and never looks at a number.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from pydantic import AfterValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from aitp.processors.context import Context
from aitp.processors.registry import Answer, Content, Processor, processor
from aitp.providers import Provider

DEFAULT_MODEL = "text-embedding-3-small"


def _not_blank(text: str) -> str:
    if text.isspace():
        raise PydanticCustomError("blank", "expected more than white space")
    return text


def _plain_name(name: str) -> str:
    if not name.isprintable() or " " in name:
        raise PydanticCustomError("model", "expected a model's name: printable characters without spaces")
    return name


class EmbeddingContent(Content):
    """`{text, model?}`, or a bare string, which is a text for the default model."""

    text: Annotated[str, Field(min_length=1, max_length=10_000), AfterValidator(_not_blank)]
    model: Annotated[str, Field(min_length=1, max_length=100), AfterValidator(_plain_name)] = DEFAULT_MODEL

    @model_validator(mode="before")
    @classmethod
    def _short_forms(cls, document: object) -> object:
        if isinstance(document, str):
            return {"text": document}
        if isinstance(document, dict) and document.get("model", DEFAULT_MODEL) is None:
            return {**document, "model": DEFAULT_MODEL}
        if not isinstance(document, dict):
            raise PydanticCustomError("form", "expected a text, or an object with a text")
        return document


@processor("text_embedding")
class TextEmbeddingProcessor(Processor[EmbeddingContent]):
    """Batched: an embedding call takes many texts of one model."""

    batched = True
    content = EmbeddingContent

    def run(self, contents: Sequence[EmbeddingContent], provider: Provider, context: Context) -> Answer:
        answer = provider.embed([content.text for content in contents], contents[0].model)
        return Answer(results=answer.vectors, usage=answer.usage, mock=answer.mock)
