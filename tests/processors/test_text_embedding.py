"""What text_embedding takes as content, what it says of anything else, and what it makes of an answer."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Collection, Sequence

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aitp import logs
from aitp.errors import InputTooLong, NonRetryableError, NoRoom
from aitp.knowledge import Knowledge
from aitp.processors import PROCESSORS, Context, processor
from aitp.providers import Embeddings
from aitp.providers.mock import MockProvider

EMBEDDING = PROCESSORS["text_embedding"]
CONTEXT = Context(Knowledge(), "pt")
SMALL = "text-embedding-3-small"


@pytest.mark.parametrize(
    ("document", "text", "model"),
    [
        ("uma frase", "uma frase", SMALL),
        ({"text": "uma frase"}, "uma frase", SMALL),
        ({"text": "uma frase", "model": None}, "uma frase", SMALL),
        ({"text": "uma frase", "model": "nomic-embed-text"}, "uma frase", "nomic-embed-text"),
        ({"text": "x", "model": "dengcao/Qwen3-Embedding-0.6B:Q8_0"}, "x", "dengcao/Qwen3-Embedding-0.6B:Q8_0"),
        ({"text": "x", "model": SMALL, "language": "pt", "more": {"a": [1]}}, "x", SMALL),
        ("  espaços  ", "  espaços  ", SMALL),
        ("a" * 10_000, "a" * 10_000, SMALL),
        ("😀", "😀", SMALL),
    ],
)
def test_content_is_a_text_or_an_object_with_one(document: object, text: str, model: str) -> None:
    content = EMBEDDING.parse(document)

    assert (content.text, content.model) == (text, model)


SECRET = "planted"


@pytest.mark.parametrize(
    ("document", "reason"),
    [
        (None, "content: expected a text, or an object with a text"),
        (17, "content: expected a text, or an object with a text"),
        ([SECRET], "content: expected a text, or an object with a text"),
        ({}, "content.text: Field required"),
        ({"model": SMALL}, "content.text: Field required"),
        ("", "content.text: String should have at least 1 character"),
        (" \n\t\u00a0\u2003", "content.text: expected more than white space"),
        (SECRET * 1_429, "content.text: String should have at most 10000 characters"),
        ({"text": 17}, "content.text: Input should be a valid string"),
        ({"text": b"planted"}, "content.text: Input should be a valid string"),
        ({"text": None}, "content.text: Input should be a valid string"),
        ({"text": SECRET + "\ud83d"}, "content.text: Input should be a valid string, unable to parse"),
        (SECRET + "\udc00", "content.text: Input should be a valid string, unable to parse"),
        ({"text": "x", "model": 3}, "content.model: Input should be a valid string"),
        ({"text": "x", "model": ""}, "content.model: String should have at least 1 character"),
        ({"text": "x", "model": "planted model"}, "content.model: expected a model's name"),
        ({"text": "x", "model": "planted\x1b[31m"}, "content.model: expected a model's name"),
        ({"text": "x", "model": "planted\n"}, "content.model: expected a model's name"),
        ({"text": "x", "model": SECRET * 15}, "content.model: String should have at most 100 characters"),
        ({"text": "", "model": ""}, "; content.model: "),
    ],
)
def test_other_content_can_never_succeed_and_the_reason_does_not_repeat_it(document: object, reason: str) -> None:
    with pytest.raises(NonRetryableError) as raised:
        EMBEDDING.parse(document)

    assert reason in str(raised.value)
    assert SECRET not in str(raised.value)
    assert raised.value.__cause__ is None


def characters() -> st.SearchStrategy[str]:
    return st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=50).filter(lambda t: not t.isspace())


@given(characters())
def test_content_survives_the_ledger(text: str) -> None:
    content = EMBEDDING.parse({"text": text, "model": "m", "unknown": 1})

    assert EMBEDDING.load(content.to_json()) == content


def test_equal_content_is_stored_in_equal_bytes_however_it_was_written() -> None:
    written = [
        "frase",
        {"text": "frase"},
        {"model": SMALL, "text": "frase", "more": 1},
        {"model": None, "text": "frase"},
    ]

    assert len({EMBEDDING.parse(document).to_json() for document in written}) == 1


def test_the_json_of_a_document_can_be_loaded_as_it_is() -> None:
    assert EMBEDDING.load(b'"ol\\u00e1"').text == "olá"


@pytest.mark.parametrize("stored", [b"", b"{", b'"\xff"', b'"\\ud800"'])
def test_stored_bytes_that_are_no_json_fail_the_task_plainly(stored: bytes) -> None:
    with pytest.raises(NonRetryableError, match="expected valid JSON"):
        EMBEDDING.load(stored)


def test_a_batch_is_one_call_and_results_keep_the_order() -> None:
    provider = CountingProvider(8)
    texts = ["um", "dois", "três"]

    answer = EMBEDDING.run([EMBEDDING.parse(text) for text in texts], provider, CONTEXT)

    assert provider.calls == [(texts, SMALL)]
    assert answer == MockProvider(8).embed(texts, SMALL).vectors


def test_a_text_over_the_models_context_is_cut_and_the_log_has_the_numbers(capfd: pytest.CaptureFixture[str]) -> None:
    logs.configure("INFO", "json")
    long = "palavra " * 1_000
    for reads, kept in (((2_000, 1_000), 0.95 * 0.5), (None, 0.75**3)):
        provider = Reader(4_000, reads)
        (result,) = EMBEDDING.run([EMBEDDING.parse(long)], provider, CONTEXT)

        (sent, _) = provider.calls[-1]
        assert long.startswith(sent[0])
        assert len(sent[0]) == pytest.approx(kept * len(long), rel=0.05)
        assert result == MockProvider(8).embed(sent, SMALL).vectors[0]
        (line,) = [json.loads(line) for line in capfd.readouterr().out.splitlines()]
        assert (line["event"], line["model"]) == ("Text too long for its model, cut", SMALL)
        assert (line["characters"], line["kept_characters"]) == (len(long), len(sent[0]))
        assert "palavra" not in json.dumps(line)


@pytest.mark.parametrize(
    ("texts", "truncate"), [(["palavra " * 1_000], False), (["palavra " * 1_000, "a"], True), (["palavra " * 3], True)]
)
def test_a_text_is_not_cut_if_it_is_not_alone_or_not_to_be(texts: list[str], truncate: bool) -> None:
    provider = Reader(10)
    contents = [EMBEDDING.parse(text) for text in texts]
    with pytest.raises(InputTooLong):
        EMBEDDING.run(contents, provider, dataclasses.replace(CONTEXT, truncate=truncate))

    assert len(provider.calls) == 1


def test_a_cut_text_for_which_there_is_no_room_goes_back() -> None:
    provider = Reader(10, second=NoRoom("the limits have no room for a second request"))
    with pytest.raises(NoRoom):
        EMBEDDING.run([EMBEDDING.parse("palavra " * 1_000)], provider, CONTEXT)


def test_the_registry_knows_a_type_by_its_name_and_in_logs_by_its_class() -> None:
    assert EMBEDDING.task_type == "text_embedding"
    assert EMBEDDING.label == "TextEmbeddingProcessor"
    assert EMBEDDING.batched


def test_a_type_has_one_processor() -> None:
    with pytest.raises(ValueError, match="text_embedding has a processor already: TextEmbeddingProcessor"):
        processor("text_embedding")(type(EMBEDDING))


def test_a_result_is_the_bare_array() -> None:
    (result,) = EMBEDDING.run([EMBEDDING.parse("x")], MockProvider(8), CONTEXT)

    assert isinstance(result, bytes)
    assert len(orjson.loads(result)) == 8


class CountingProvider(MockProvider):
    def __init__(self, dimensions: int) -> None:
        super().__init__(dimensions)
        self.calls: list[tuple[list[str], str]] = []

    def embed(
        self, texts: Sequence[str], model: str, dimensions: int | None = None, leave_out: Collection[str] = ()
    ) -> Embeddings:
        self.calls.append((list(texts), model))
        return super().embed(texts, model)


class Reader(CountingProvider):
    """Its model reads so many characters, and it may say by how many tokens a text is too long. `second`: is raised."""

    def __init__(self, characters: int, tokens: tuple[int, int] | None = None, second: Exception | None = None) -> None:
        super().__init__(8)
        self.characters, self.tokens, self.second = characters, tokens, second

    def embed(
        self, texts: Sequence[str], model: str, dimensions: int | None = None, leave_out: Collection[str] = ()
    ) -> Embeddings:
        answer = super().embed(texts, model)
        if len(self.calls) > 1 and self.second is not None:
            raise self.second
        if max(map(len, texts)) > self.characters:
            raise InputTooLong("too long", tokens=self.tokens)
        return answer
