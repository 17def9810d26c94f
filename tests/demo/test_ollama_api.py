"""The other provider behaves as CONTRACT section 4 says, seen through the real client and without it."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import ollama
import orjson
import pytest
import requests

from aitp.demo.control import summary
from aitp.demo.faults import Fault, FaultKind
from aitp.demo.ollama_api import TOO_LONG, OllamaApi, tokens_of
from aitp.demo.openai_api import BAD_MARKER
from aitp.demo.world import World
from tests.demo.talking import session
from tests.waiting import wait_until

NOMIC = "nomic-embed-text"
LONG = "palavra! " * 1_000  # 3,000 tokens; the model reads 2,048
SCHEMA = {"type": "object", "properties": {"name": {"type": "string"}, "level": {"enum": ["low", "high"]}}}


@pytest.fixture
def client(ollama_api: OllamaApi) -> ollama.Client:
    """The real client."""
    return ollama.Client(ollama_api.url, timeout=5, trust_env=False)


def post(server: OllamaApi, path: str, **body: Any) -> requests.Response:
    """A request without the client's help."""
    return session().post(server.url + path, json=body, timeout=10)


def lines(server: OllamaApi, model: str) -> Iterator[dict[str, Any]]:
    """What a pull says, as far as it comes."""
    with session().post(f"{server.url}/api/pull", json={"model": model}, stream=True, timeout=10) as response:
        assert response.status_code == 200
        for line in response.iter_lines():
            yield orjson.loads(line)


def test_vectors_come_in_order_and_have_unit_length(ollama_api: OllamaApi, client: ollama.Client) -> None:
    answer = client.embed(NOMIC, ["um", "dois"])

    assert [list(each) for each in answer.embeddings] == [ollama_api.expected("um"), ollama_api.expected("dois")]
    assert all(math.isclose(math.hypot(*each), 1.0, abs_tol=1e-5) for each in answer.embeddings)
    assert answer.prompt_eval_count == 2
    wait_until(lambda: ollama_api.times_answered() == {"um": 1, "dois": 1})


def test_zeros_are_for_the_texts_alone_that_they_were_ordered_for(ollama_api: OllamaApi, client: ollama.Client) -> None:
    ollama_api.faults.add(Fault(kind=FaultKind.ZEROS, text="odd"))
    answer = client.embed(NOMIC, ["fine", "odd"])

    assert [list(each) for each in answer.embeddings] == [ollama_api.expected("fine"), [0.0] * 768]


def test_what_a_call_is_refused_for_is_said_as_a_real_server_says_it(ollama_api: OllamaApi) -> None:
    ollama_api.runner_deaths = 2
    chat = {"model": "llama3.2", "messages": [{"role": "user", "content": "a " * 5_000}], "truncate": False}
    answers = [
        post(ollama_api, "/api/embed", model=NOMIC, input=["a"]),
        post(ollama_api, "/api/chat", **chat),
        post(ollama_api, "/api/chat", **chat),
        post(ollama_api, "/api/chat", model="nowhere", messages=[]),
        post(ollama_api, "/api/embed", model=NOMIC, input=["a"], options={"num_ctx": "many"}),
        post(ollama_api, "/api/pull", model="no:such:name"),
    ]

    assert [(answer.status_code, answer.json()["error"][:30]) for answer in answers] == [
        (400, 'do embedding request: Post "ht'),
        (500, "an error was encountered while"),
        (400, TOO_LONG[:30]),
        (404, "model 'nowhere' not found"),
        (500, 'option "num_ctx" must be of ty'),
        (400, "invalid model name"),
    ]
    assert post(ollama_api, "/api/chat", **chat, options={"num_ctx": 8_192}).json()["prompt_eval_count"] == 5_000


def test_a_missing_path_and_a_missing_model_are_both_404_and_differ_in_their_bodies(ollama_api: OllamaApi) -> None:
    model = post(ollama_api, "/api/embed", model=f"{NOMIC}:q4", input=["um"])
    path = post(ollama_api, "/api/embeddings", model=NOMIC, prompt="um")

    assert (model.status_code, path.status_code) == (404, 404)
    assert "try pulling it first" in model.json()["error"]
    assert path.text == "404 page not found"


def test_a_long_input_is_cut_or_refused_as_the_version_has_it(ollama_api: OllamaApi) -> None:
    assert tokens_of(LONG) == 3_000
    assert post(ollama_api, "/api/embed", model=NOMIC, input=[LONG]).json()["prompt_eval_count"] == 2_048
    assert post(ollama_api, "/api/embed", model=NOMIC, input=["a", LONG], truncate=False).json() == {"error": TOO_LONG}
    ollama_api.honours_truncate = False
    refused = post(ollama_api, "/api/embed", model=NOMIC, input=["a", LONG], truncate=True)
    assert (refused.status_code, refused.json()) == (400, {"error": TOO_LONG})


def test_a_bad_text_and_a_model_of_another_kind_are_refused(ollama_api: OllamaApi) -> None:
    assert post(ollama_api, "/api/embed", model=NOMIC, input=["a", BAD_MARKER]).status_code == 400
    assert post(ollama_api, "/api/embed", model="llama3.2", input=["a"]).status_code == 501
    assert "does not support chat" in post(ollama_api, "/api/chat", model=NOMIC, messages=[]).json()["error"]


def test_a_chat_answers_by_its_script_and_then_by_its_schema(ollama_api: OllamaApi, client: ollama.Client) -> None:
    ollama_api.answers = ["scripted"]
    messages = [{"role": "user", "content": "O Banco Central decidiu."}]
    first = client.chat("llama3.2", messages, format=SCHEMA)
    second = client.chat("llama3.2", messages, format=SCHEMA)

    assert first.message.content == "scripted"
    document = orjson.loads(second.message.content or "")
    assert (document["name"], document["level"]) == ("Banco Central", document["level"])
    assert second.done_reason == "stop"
    assert (second.prompt_eval_count or 0) > 0 < (second.eval_count or 0)
    wait_until(lambda: ollama_api.times_bought() == {"O Banco Central decidiu.": 2})


def test_a_pull_tells_its_progress_and_the_model_is_there(ollama_api: OllamaApi, client: ollama.Client) -> None:
    ollama_api.present = set()
    assert client.list().models == []
    told = list(lines(ollama_api, NOMIC))

    assert told[0] == {"status": "pulling manifest"}
    assert told[-1] == {"status": "success"}
    completed = [line["completed"] for line in told if "completed" in line]
    assert completed == sorted(completed)
    assert completed[-1] == told[1]["total"]
    assert [model.model for model in client.list().models] == [f"{NOMIC}:latest"]


def test_a_pull_that_breaks_off_goes_on_where_it_was(ollama_api: OllamaApi) -> None:
    ollama_api.present = set()
    ollama_api.pull_breaks = 1
    first: list[dict[str, Any]] = []
    with pytest.raises(requests.exceptions.ChunkedEncodingError):
        first.extend(lines(ollama_api, NOMIC))
    second = list(lines(ollama_api, NOMIC))

    assert "completed" not in second[1], "as if from the beginning"
    assert second[2]["completed"] > second[2]["total"] / 2
    assert second[-1] == {"status": "success"}
    assert ollama_api.pulls == [f"{NOMIC}:latest"] * 2


def test_errors_of_a_pull_come_inside_a_200_stream(ollama_api: OllamaApi) -> None:
    ollama_api.present = set()
    ollama_api.pull_error = "write: no space left on device"

    assert list(lines(ollama_api, "no-such"))[-1] == {"error": "pull model manifest: file does not exist"}
    assert list(lines(ollama_api, NOMIC))[-1] == {"error": "write: no space left on device"}


def test_the_first_call_loads_the_model(ollama_api: OllamaApi) -> None:
    ollama_api.cold_seconds = 0.3
    started = time.monotonic()
    post(ollama_api, "/api/embed", model=NOMIC, input=["um"])
    loaded = time.monotonic()
    post(ollama_api, "/api/embed", model=NOMIC, input=["um"])

    assert loaded - started >= 0.3
    assert time.monotonic() - loaded < 0.3


def test_a_full_queue_is_503(ollama_api: OllamaApi) -> None:
    ollama_api.queue_limit, ollama_api.latency_seconds = 1, 0.3
    with ThreadPoolExecutor(3) as pool:
        calls = [pool.submit(post, ollama_api, "/api/embed", model=NOMIC, input=["um"]) for _ in range(3)]

    assert sorted({call.result().status_code for call in calls}) == [200, 503]


def test_a_world_counts_what_both_providers_were_asked() -> None:
    with World() as world:
        post(world.ollama_api, "/api/embed", model=NOMIC, input=["um"])
        session().get(f"{world.environment()['OLLAMA_BASE_URL']}/api/tags")
        wait_until(lambda: len(world.ollama_api.exchanges) == 2)
        seen = summary(world)

    assert (seen.texts_bought, seen.calls) == (1, 1)
