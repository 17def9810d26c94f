"""The provider behaves as CONTRACT section 3 says, seen through the real client."""

from __future__ import annotations

import base64
import math
import time
from collections.abc import Callable, Iterator
from typing import Any

import openai
import pytest
import requests

from aitp.demo.faults import Fault, FaultKind
from aitp.demo.openai_api import OpenAIApi
from tests.demo.talking import session
from tests.waiting import wait_until

SMALL = "text-embedding-3-small"
Ask = Callable[..., Any]


@pytest.fixture
def client(openai_api: OpenAIApi) -> Iterator[openai.OpenAI]:
    """The real client, told not to retry."""
    with openai.OpenAI(api_key=openai_api.key, base_url=openai_api.base_url, max_retries=0, timeout=5) as real:
        yield real


def raw(server: OpenAIApi, *, key: str | None = None, timeout: float = 5, **body: Any) -> requests.Response:
    """A request without the client's help."""
    body = {"model": SMALL, "input": ["a", "b"], **body}
    return session(key or server.key).post(server.base_url + "/embeddings", json=body, timeout=timeout)


def test_vectors_come_in_any_order_and_index_tells_whose_they_are(openai_api: OpenAIApi, client: openai.OpenAI) -> None:
    texts = [f"text {number}" for number in range(20)]
    answer = client.embeddings.create(input=texts, model=SMALL, dimensions=1024)

    assert [item.index for item in answer.data] != list(range(20))
    vectors = [item.embedding for item in sorted(answer.data, key=lambda item: item.index)]
    assert vectors == [openai_api.expected(text) for text in texts]
    assert len({tuple(vector) for vector in vectors}) == 20
    assert all(math.isclose(math.hypot(*vector), 1.0, abs_tol=1e-5) for vector in vectors)
    assert answer.usage.prompt_tokens == answer.usage.total_tokens > 0


def test_numbers_and_base64_say_the_same(openai_api: OpenAIApi, client: openai.OpenAI) -> None:
    numbers = client.embeddings.create(input="one", model=SMALL, dimensions=64, encoding_format="float")
    packed = client.embeddings.create(input="one", model=SMALL, dimensions=64)

    assert numbers.data[0].embedding == packed.data[0].embedding == openai_api.expected("one", dimensions=64)


@pytest.mark.parametrize(
    ("model", "length"), [(SMALL, 1536), ("text-embedding-3-large", 3072), ("text-embedding-ada-002", 1536)]
)
def test_without_dimensions_a_vector_has_the_model_s_own_length(client: openai.OpenAI, model: str, length: int) -> None:
    assert len(client.embeddings.create(input="one", model=model).data[0].embedding) == length


@pytest.mark.parametrize(
    "body",
    [
        {"dimensions": 64, "model": "text-embedding-ada-002"},
        {"dimensions": 1537},
        {"input": []},
        {"input": ["a", ""]},
        {"input": ["a"] * 2049},
        {"input": ["a" * 40_000]},
        {"input": ["a" * 30_000] * 41},
        {"input": ["fine", "not <|bad input|> fine"]},
        {"encoding_format": "hex"},
    ],
)
def test_a_bad_request_is_400_for_the_whole_array(openai_api: OpenAIApi, body: dict[str, Any]) -> None:
    answer = raw(openai_api, **body)

    assert answer.status_code == 400
    assert answer.json()["error"]["type"] == "invalid_request_error"
    assert openai_api.times_bought() == {}


def test_an_unknown_model_is_404(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        client.embeddings.create(input="one", model="nomic-embed-text")
    assert caught.value.code == "model_not_found"


def test_a_wrong_key_is_401_and_buys_nothing(openai_api: OpenAIApi) -> None:
    answer = raw(openai_api, key="sk-other")

    assert (answer.status_code, answer.json()["error"]["code"]) == (401, "invalid_api_key")
    wait_until(lambda: openai_api.exchanges)
    assert openai_api.purchases == []


def test_both_kinds_of_429_have_their_code_and_headers(openai_api: OpenAIApi, client: openai.OpenAI) -> None:
    openai_api.faults.add(Fault(status=429, headers={"Retry-After": "2", "retry-after-ms": "1500"}, times=1))
    openai_api.faults.add(Fault(kind=FaultKind.QUOTA, times=1))

    with pytest.raises(openai.RateLimitError) as rate:
        client.embeddings.create(input="one", model=SMALL)
    with pytest.raises(openai.RateLimitError) as quota:
        client.embeddings.create(input="one", model=SMALL)
    assert rate.value.code == "rate_limit_exceeded"
    assert rate.value.response.headers["retry-after-ms"] == "1500"
    assert "x-ratelimit-reset-requests" in rate.value.response.headers
    assert quota.value.code == "insufficient_quota"
    client.embeddings.create(input="one", model=SMALL)


@pytest.mark.parametrize("kind", [FaultKind.DROP, FaultKind.RESET, FaultKind.LOSE, FaultKind.CUT])
def test_a_broken_connection_is_noted_as_not_answered(
    openai_api: OpenAIApi, client: openai.OpenAI, kind: FaultKind
) -> None:
    openai_api.faults.add(Fault(kind=kind, times=1))
    with pytest.raises(openai.APIConnectionError):
        client.embeddings.create(input="one", model=SMALL)
    client.embeddings.create(input="one", model=SMALL)
    wait_until(lambda: len(openai_api.purchases) == 2)

    paid = kind in (FaultKind.LOSE, FaultKind.CUT)
    assert [(p.status, p.answered) for p in openai_api.purchases] == [(200 if paid else 0, False), (200, True)]
    assert openai_api.times_bought() == {"one": 2 if paid else 1}
    assert openai_api.times_answered() == {"one": 1}


def test_spoilt_answers_are_spoilt_as_ordered(openai_api: OpenAIApi) -> None:
    def spoilt(kind: FaultKind, **body: Any) -> requests.Response:
        openai_api.faults.add(Fault(kind=kind, times=1))
        return raw(openai_api, dimensions=64, encoding_format="float", **body)

    assert spoilt(FaultKind.GARBAGE).text.startswith("<html>")
    assert len(spoilt(FaultKind.WRONG_COUNT).json()["data"]) == 1
    assert [item["index"] for item in spoilt(FaultKind.WRONG_INDEX).json()["data"]] == [0, 0]
    assert len(spoilt(FaultKind.WRONG_LENGTH).json()["data"][0]["embedding"]) == 32
    assert math.isnan(spoilt(FaultKind.NOT_A_NUMBER).json()["data"][0]["embedding"][0])


def test_nan_comes_in_base64_too(openai_api: OpenAIApi, client: openai.OpenAI) -> None:
    openai_api.faults.add(Fault(kind=FaultKind.NOT_A_NUMBER))
    [item] = client.embeddings.create(input="one", model=SMALL, dimensions=64).data

    assert math.isnan(item.embedding[0])
    assert not any(map(math.isnan, item.embedding[1:]))


@pytest.mark.parametrize("form", ["float", "base64"])
def test_zeros_are_for_the_texts_alone_that_they_were_ordered_for(
    openai_api: OpenAIApi, client: openai.OpenAI, form: Any
) -> None:
    openai_api.faults.add(Fault(kind=FaultKind.ZEROS, text="odd"))
    answer = client.embeddings.create(input=["fine", "odd"], model=SMALL, dimensions=4, encoding_format=form)
    vectors = {item.index: item.embedding for item in answer.data}

    if form == "float":
        assert vectors == {0: openai_api.expected("fine", dimensions=4), 1: [0.0] * 4}
    else:
        assert [base64.b64decode(vectors[index]) == bytes(16) for index in (0, 1)] == [False, True]  # type: ignore[arg-type]


def test_a_trickled_answer_outlasts_the_time_out_of_each_read(openai_api: OpenAIApi) -> None:
    openai_api.faults.add(Fault(kind=FaultKind.TRICKLE, seconds=0.004, times=1))
    began = time.monotonic()
    answer = raw(openai_api, timeout=0.5, input="one", dimensions=4)

    assert answer.status_code == 200
    assert time.monotonic() - began > 0.8


def test_latency_counts_from_arrival(openai_api: OpenAIApi) -> None:
    openai_api.latency_seconds = 0.2
    raw(openai_api)
    wait_until(lambda: openai_api.exchanges)
    [exchange] = openai_api.exchanges

    assert 0.2 <= exchange.ended_monotonic - exchange.received_monotonic < 0.4


def test_a_call_whose_client_has_gone_is_in_flight_no_more(openai_api: OpenAIApi) -> None:
    openai_api.latency_seconds = 60
    for _ in range(3):
        with pytest.raises(requests.Timeout):
            raw(openai_api, timeout=0.05)
    wait_until(lambda: len(openai_api.exchanges) == 3)

    assert openai_api.most_at_once == 1
    assert not any(purchase.answered for purchase in openai_api.purchases)
