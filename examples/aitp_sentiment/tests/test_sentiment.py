"""The processor against models that say what a test wants. Needs this package installed beside aitp."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence

import pytest

from aitp.errors import NonRetryableError, UselessAnswer
from aitp.knowledge import Knowledge
from aitp.processors import PROCESSORS, Context, read_prompt
from aitp.providers import Embeddings, Question, Reply, Usage

SENTIMENT = PROCESSORS["defining_sentiment"]
assert SENTIMENT.prompt is not None
PROMPT = read_prompt("defining_sentiment", SENTIMENT.prompt)
CONTEXT = Context(Knowledge(), "pt", "Brazil", {"defining_sentiment": PROMPT})


class Model:
    """Says `said`, and remembers what it was asked."""

    name = "openai"

    def __init__(self, said: object) -> None:
        self.said = json.dumps(said)
        self.asked: list[Question] = []

    def optional(self, model: str, *, chat: bool) -> tuple[str, ...]:
        return ()

    def ask(self, question: Question, model: str, leave_out: Collection[str] = ()) -> Reply:
        self.asked.append(question)
        return Reply(self.said, Usage(3, 1, 4))

    def embed(
        self, texts: Sequence[str], model: str, dimensions: int | None = None, leave_out: Collection[str] = ()
    ) -> Embeddings:
        raise NotImplementedError

    def close(self) -> None: ...


def test_a_text_has_a_sentiment() -> None:
    model = Model({"sentiment": "positive", "share": 0.9})
    answer = SENTIMENT.run([SENTIMENT.parse("Que dia lindo!")], model, CONTEXT)

    assert [json.loads(result) for result in answer if isinstance(result, bytes)] == [json.loads(model.said)]
    assert "readers in Brazil" in model.asked[0].messages[0].content


def test_nothing_outside_the_list_is_a_sentiment() -> None:
    with pytest.raises(UselessAnswer, match="sentiment: Input should be"):
        SENTIMENT.run([SENTIMENT.parse("x")], Model({"sentiment": "furious", "share": 1}), CONTEXT)


def test_content_without_a_text_can_never_succeed() -> None:
    with pytest.raises(NonRetryableError, match=r"content\.text"):
        SENTIMENT.parse({"model": "o3"})
