"""Mock mode: invented, marked as such, and the same again in every run."""

from __future__ import annotations

import math

import orjson
import pytest

from aitp.demo.callbacks import complaint
from aitp.demo.scripts import SCRIPTS
from aitp.processors import PROCESSORS, Context
from aitp.providers import Usage, build
from aitp.providers.mock import MockProvider
from aitp.providers.openai import OpenAIProvider
from tests.providers.embeddings import settings


def test_a_mock_embedding_is_1024_floats_of_unit_length() -> None:
    (vector,) = MockProvider().embed(["uma frase"], "m").vectors

    assert isinstance(vector, bytes)
    numbers = orjson.loads(vector)
    assert len(numbers) == 1024
    assert math.sqrt(sum(number * number for number in numbers)) == pytest.approx(1.0, abs=1e-5)


def test_a_run_repeats_and_texts_and_models_differ() -> None:
    again = [MockProvider(8).embed(["uma frase", "outra"], model).vectors for model in ("m", "m", "n")]

    assert again[0] == again[1]
    assert len({*again[0], *again[2]}) == 4


def test_an_answer_is_marked_and_its_tokens_are_estimated_from_words() -> None:
    answer = MockProvider(8).embed(["uma frase com seis palavras aqui", "duas palavras"], "m")

    assert answer.mock
    assert answer.usage == Usage(11, 0, 11, estimated=True)


def test_the_placeholder_key_gets_the_mock_under_openais_name() -> None:
    providers = build(settings(openai_api_key="your_openai_api_key_here", embedding_dimensions="16"))

    assert list(providers) == ["openai"]
    assert isinstance(providers["openai"], MockProvider)
    (vector,) = providers["openai"].embed(["x"], "m").vectors
    assert isinstance(vector, bytes)
    assert len(orjson.loads(vector)) == 16


def test_a_real_key_gets_the_real_provider_and_no_key_none() -> None:
    assert isinstance(build(settings(openai_api_key="sk-real"))["openai"], OpenAIProvider)
    assert set(build(settings(openai_api_key="", processing_mode="hybrid"))) == {"ollama"}


@pytest.mark.parametrize("task_type", [each.task_type for each in PROCESSORS.values() if each.prompt is not None])
@pytest.mark.parametrize("text", [script.text for script in SCRIPTS] + ["sem maiúsculas", "😀", "1", "A"])
def test_an_invented_answer_is_one_that_the_task_api_takes(task_type: str, text: str) -> None:
    kind = PROCESSORS[task_type]
    content = {"text": text, "options": ["Saúde", "Educação"]}
    answers = [kind.run([kind.parse(content)], MockProvider(8), Context.of(settings())) for _ in range(2)]

    assert answers[0] == answers[1]
    (result,) = answers[0]
    assert isinstance(result, bytes)
    assert complaint(task_type, content, orjson.loads(result)) is None
