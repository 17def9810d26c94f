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


@processor("text_embedding")
class TextEmbeddingProcessor(Processor[Content]):
    """Batched: an embedding call takes many texts of one model."""

    batched = True
    content = Content

    def run(self, contents: Sequence[Content], provider: Provider, context: Context) -> Answer:
        answer = provider.embed([content.text for content in contents], contents[0].model, context.dimensions)
        return Answer(results=answer.vectors, usage=answer.usage, mock=answer.mock)
