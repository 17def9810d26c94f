"""What is said to a chat model about one task: the instructions, the content as JSON, and what follows.

Of a conversation that is longer than its model reads only the task's text is cut, never the instructions, nor the rest
of the content (EMBEDDING_OVERFLOW). The text is cut before it becomes JSON: a cut text stands within its string as a
whole one does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from aitp.errors import InputTooLong
from aitp.logs import get_logger
from aitp.policy.batching import shortened
from aitp.providers import Message, Provider, Question, Reply

_log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Opening:
    """What stays the same: the name and schema of the answers, and the instructions."""

    name: str
    schema: Mapping[str, Any]
    prompt: str

    def messages(self, data: Mapping[str, Any]) -> list[Message]:
        """The first two, with `data` as the content."""
        return [Message("system", self.prompt), Message("user", orjson.dumps(data).decode())]


class Conversation:
    """One about `data`, whose `text` gets shorter as the model turns out to read no more of it, and stays so."""

    def __init__(
        self, provider: Provider, model: str, opening: Opening, data: Mapping[str, Any], *, truncate: bool
    ) -> None:
        self._provider = provider
        self._model = model
        self._opening = opening
        self._whole = self._data = data
        self._truncate = truncate

    def reply(self, *later: Message) -> Reply:
        """What the model says to all of it, with the messages that came `later`. Raises what `Provider.ask` does."""
        before = self._data
        while True:
            messages = [*self._opening.messages(self._data), *later]
            try:
                reply = self._provider.ask(Question(self._opening.name, self._opening.schema, messages), self._model)
            except InputTooLong as error:
                shorter = self._shorter(messages, error)
                if shorter is None:
                    raise
                self._data = {**self._data, "text": shorter}
                continue
            if self._data is not before:
                self._tell_of_cut(reply)
            return reply

    def _shorter(self, messages: Sequence[Message], error: InputTooLong) -> str | None:
        """What is left of the text; None if it must not be cut, or if it is not the text that is too long."""
        text = self._data.get("text")
        if not self._truncate or not isinstance(text, str):
            return None
        # As JSON a text may be twice as long: all else is measured in its characters as they are.
        written = len(orjson.dumps(text).decode())
        around = (sum(len(message.content) for message in messages) - written) * len(text) // written
        return shortened(text, error.tokens, around)

    def _tell_of_cut(self, reply: Reply) -> None:
        _log.warning(
            "Text too long for its model, cut",
            model=self._model,
            schema=self._opening.name,
            cut_by="characters",
            characters=len(self._whole["text"]),
            kept_characters=len(self._data["text"]),
            prompt_tokens=reply.usage.prompt_tokens,
        )
