"""A provider that plays replies back: what an evaluation makes of them can then be worked out by hand.

A recording is a directory with one file a task type: which text got which replies, the repair's after the first.

    {"usage": {"prompt_tokens": 300, "completion_tokens": 40}, "replies": {"pt-01": [{"answer": …}, {"text": "…"}]}}

`answer`: what the model said, as JSON; `text`: word for word; `refused` and `cut`: true, and there is no answer. The
usage is that of every reply with words.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Self

import orjson
from pydantic import BaseModel, ConfigDict, Field, model_validator

from aitp.errors import AnswerCut, ModelRefused, NonRetryableError
from aitp.providers import Embeddings, Question, Reply, Usage
from aitp.providers.mock import text_of
from aitp.quality import LabelledText


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class _Reply(_Part):
    answer: Any = None
    text: str | None = None
    refused: bool = False
    cut: bool = False

    @model_validator(mode="after")
    def _is_one_thing(self) -> Self:
        if len(self.model_fields_set) != 1:
            raise ValueError("expected one of answer, text, refused, cut")
        return self


class _Usage(_Part):
    prompt_tokens: int
    completion_tokens: int


class _Recording(_Part):
    usage: _Usage
    replies: Mapping[str, Annotated[tuple[_Reply, ...], Field(min_length=1)]]


class RecordedProvider:
    """Answers questions about `texts` from the recording in `directory`."""

    name = "recorded"

    def __init__(self, directory: Path, texts: Sequence[LabelledText]) -> None:
        self._ids = {labelled.text: labelled.id for labelled in texts}
        self._recordings = {
            path.stem: _Recording.model_validate_json(path.read_bytes()) for path in sorted(directory.glob("*.json"))
        }

    @property
    def ids(self) -> Collection[str]:
        """The texts that something was recorded about."""
        return {id_ for recording in self._recordings.values() for id_ in recording.replies}

    def optional(self, model: str, *, chat: bool) -> tuple[str, ...]:
        return ()

    def ask(self, question: Question, model: str, leave_out: Collection[str] = ()) -> Reply:
        recording = self._recordings.get(question.name)
        replies = recording.replies.get(self._ids.get(text_of(question), "")) if recording else None
        # Each reply that was no good is in the conversation that asks for the next one.
        turn = sum(message.role == "assistant" for message in question.messages)
        if recording is None or replies is None or turn >= len(replies):
            raise NonRetryableError(f"no reply {turn + 1} to {question.name} was recorded for this text")
        reply, usage = replies[turn], recording.usage
        if reply.refused:
            raise ModelRefused("the model declined to answer (recorded)")
        if reply.cut:
            raise AnswerCut("the answer ended before it was complete (recorded)")
        said = reply.text if reply.text is not None else orjson.dumps(reply.answer).decode()
        total = usage.prompt_tokens + usage.completion_tokens
        return Reply(said, Usage(usage.prompt_tokens, usage.completion_tokens, total))

    def embed(
        self, texts: Sequence[str], model: str, dimensions: int | None = None, leave_out: Collection[str] = ()
    ) -> Embeddings:
        raise NonRetryableError("no embeddings were recorded")

    def close(self) -> None:
        """Nothing to close."""
