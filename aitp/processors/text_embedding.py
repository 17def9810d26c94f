"""text_embedding: a text becomes a vector. The result is just the embedding, a JSON array of numbers.

The vectors of a whole batch come from one call (`Provider.embed`), and each is JSON already when it arrives here:
this module passes bytes on and never looks at a number. A text that is alone and longer than its model reads is cut
and sent once more, if EMBEDDING_OVERFLOW says so; which of several it is, is found out by smaller batches.
"""

from __future__ import annotations

from collections.abc import Sequence

from aitp.errors import InputTooLong
from aitp.logs import get_logger
from aitp.policy.batching import shortened
from aitp.processors.base import Answer, Content, Context, Processor, processor
from aitp.providers import Embeddings, Provider

_log = get_logger(__name__)


@processor("text_embedding")
class TextEmbeddingProcessor(Processor[Content]):
    """Batched: an embedding call takes many texts of one model."""

    batched = True
    content = Content

    def run(self, contents: Sequence[Content], provider: Provider, context: Context) -> Answer:
        texts, model = [content.text for content in contents], contents[0].model
        answer, kept = self._embed(texts, model, provider, context)
        if kept is not texts:
            facts = {"characters": len(texts[0]), "kept_characters": len(kept[0])}
            used = answer.usage.prompt_tokens
            _log.warning(
                "Text too long for its model, cut", model=model, cut_by="characters", **facts, kept_tokens=used
            )
        return Answer(results=answer.vectors, usage=answer.usage, mock=answer.mock)

    @staticmethod
    def _embed(texts: list[str], model: str, provider: Provider, context: Context) -> tuple[Embeddings, list[str]]:
        """The vectors, and the texts that they are of: shorter than given, if they had to be."""
        while True:
            try:
                return provider.embed(texts, model, context.dimensions), texts
            except InputTooLong as error:
                shorter = shortened(texts[0], error.tokens) if context.truncate and len(texts) == 1 else None
                if shorter is None:
                    raise
            texts = [shorter]
