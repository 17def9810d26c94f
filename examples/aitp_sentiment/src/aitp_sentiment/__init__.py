"""defining_sentiment: how a text sounds. Result: `{"sentiment": "positive" | "neutral" | "negative", "share": 0…1}`.

Importing this module enters the processor into aitp's table; aitp imports it because of the entry point in setup.cfg.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pydantic import Field

from aitp.processors import Content, Context, Processor, Result, processor
from aitp.processors.structured import Inquiry, Output, ask
from aitp.providers import Provider


class SentimentContent(Content):
    """`{text, model?}`, or a bare string. Further fields of the content would be declared here."""


class Sentiment(Output):
    """What the model is to answer: this is schema, validator and documentation in one."""

    sentiment: Literal["positive", "neutral", "negative"]
    share: float = Field(ge=0, le=1, description="From 0 to 1: how strongly.")


@processor("defining_sentiment")
class DefiningSentimentProcessor(Processor[SentimentContent]):
    """One question a task. The class's name is what logs call it."""

    content = SentimentContent
    prompt = Path(__file__).parent / "prompts" / "defining_sentiment.md"

    def run(self, contents: Sequence[SentimentContent], provider: Provider, context: Context) -> Sequence[Result]:
        (content,) = contents  # not `batched`: one at a time
        inquiry = Inquiry(self.task_type, context.prompt(self.task_type), {"text": content.text}, Sentiment)
        found = ask(provider, content.model, inquiry, context)
        return found.answer(found.value.model_dump())
