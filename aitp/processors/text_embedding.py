"""text_embedding: a text becomes a vector. The result is just the embedding, a JSON array of numbers.

The vectors of a whole batch come from one call (`Provider.embed`), and each is JSON already when it arrives here:
this module passes bytes on and never looks at a number. A text that is alone and longer than its model reads is cut
and sent once more, if EMBEDDING_OVERFLOW says so; which of several it is, is found out by smaller batches.
"""

from __future__ import annotations

from collections.abc import Sequence

from aitp.errors import InputTooLong
from aitp.policy.batching import shortened
from aitp.processors import Content, Context, Processor, Result, processor, tell_of_cut
from aitp.providers import Provider


@processor("text_embedding")
class TextEmbeddingProcessor(Processor[Content]):
    """Batched: an embedding call takes many texts of one model."""

    batched = True
    content = Content

    def run(self, contents: Sequence[Content], provider: Provider, context: Context) -> Sequence[Result]:
        model, texts = contents[0].model, [content.text for content in contents]
        whole = texts
        while True:
            try:
                found = provider.embed(texts, model, context.dimensions)
                break
            except InputTooLong as error:
                shorter = shortened(texts[0], error.tokens) if context.truncate and len(texts) == 1 else None
                if shorter is None:
                    raise
                texts = [shorter]
        if texts is not whole:
            tell_of_cut(model, whole[0], texts[0], kept_tokens=found.usage.prompt_tokens)
        return found.vectors
