"""The provider against the demo's OpenAI API, which checks, shuffles and bills as the real one does."""

from __future__ import annotations

import struct

import orjson
import pytest

from aitp.demo.openai_api import BAD_MARKER, DEMO_KEY, OpenAIApi
from aitp.errors import CredentialsRefused, InputRefused, NonRetryableError
from aitp.policy.batching import fitting
from aitp.processors import PROCESSORS, Context
from aitp.providers import Provider, build
from tests.providers.embeddings import SMALL, settings
from tests.waiting import wait_until

EMBEDDING = PROCESSORS["text_embedding"]
CONTEXT = Context.of(settings())


def provider_of(api: OpenAIApi, **values: str) -> Provider:
    return build(settings(openai_base_url=api.base_url, **{"openai_api_key": DEMO_KEY, **values}))["openai"]


def test_each_text_gets_its_own_vector_bit_by_bit(openai_api: OpenAIApi) -> None:
    texts = [f"frase {number}" for number in range(32)]

    answer = EMBEDDING.run([EMBEDDING.parse(text) for text in texts], provider_of(openai_api), CONTEXT)

    for text, result in zip(texts, answer.results, strict=True):
        assert isinstance(result, bytes)
        assert struct.pack("<1024f", *orjson.loads(result)) == struct.pack("<1024f", *openai_api.expected(text))
    wait_until(lambda: openai_api.times_bought().total() == 32)  # written down once the answer is out
    assert len(openai_api.exchanges) == 1
    assert answer.usage.prompt_tokens > 0
    assert not answer.usage.estimated


def test_without_dimensions_the_models_own_length_is_taken(openai_api: OpenAIApi) -> None:
    (vector,) = provider_of(openai_api, embedding_dimensions="").embed(["frase"], SMALL).vectors

    assert isinstance(vector, bytes)
    assert len(orjson.loads(vector)) == 1536


def test_one_bad_text_refuses_the_whole_array(openai_api: OpenAIApi) -> None:
    with pytest.raises(InputRefused):
        provider_of(openai_api).embed(["boa", f"ruim {BAD_MARKER}"], SMALL)


def test_an_unknown_model_fails_its_tasks_by_name(openai_api: OpenAIApi) -> None:
    with pytest.raises(NonRetryableError, match="text-embedding-9"):
        provider_of(openai_api).embed(["frase"], "text-embedding-9")


def test_a_wrong_key_is_refused(openai_api: OpenAIApi) -> None:
    with pytest.raises(CredentialsRefused, match="OPENAI_API_KEY"):
        provider_of(openai_api, openai_api_key="sk-wrong").embed(["frase"], SMALL)


def test_the_longest_texts_that_fit_a_batch_are_within_the_apis_limits(openai_api: OpenAIApi) -> None:
    contents = [EMBEDDING.parse("palavra " * 1_250)] * 40
    count = fitting(len(content.to_json()) for content in contents)

    answer = EMBEDDING.run(contents[:count], provider_of(openai_api), CONTEXT)

    assert count == 29
    assert all(isinstance(result, bytes) for result in answer.results)
