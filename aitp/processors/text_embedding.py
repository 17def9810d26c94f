"""text_embedding: a text becomes a vector. The result is just the embedding, a JSON array of numbers.

The vectors of a whole batch come from one call (`Provider.embed`), and each is JSON already when it arrives here:
this module passes bytes on and never looks at a number.
"""

from __future__ import annotations

from collections.abc import Sequence

from aitp.processors.content import Content
from aitp.processors.context import Context
from aitp.processors.registry import Answer, Processor, processor
from aitp.providers import Provider


class EmbeddingContent(Content):
    """`{text, model?}`, or a bare string, which is a text for the default model."""

    default_model = "text-embedding-3-small"


@processor("text_embedding")
class TextEmbeddingProcessor(Processor[EmbeddingContent]):
    """Batched: an embedding call takes many texts of one model."""

    batched = True
    content = EmbeddingContent

    def run(self, contents: Sequence[EmbeddingContent], provider: Provider, context: Context) -> Answer:
        answer = provider.embed([content.text for content in contents], contents[0].model, context.dimensions)
        return Answer(results=answer.vectors, usage=answer.usage, mock=answer.mock)
