"""Our own calls to a real Ollama: what the embedded one of the demo, and our table of failures, must agree with."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aitp import logs
from aitp.errors import (
    InputTooLong,
    ModelGone,
    ModelMissing,
    NonRetryableError,
    RequestRefused,
    ServiceFault,
    SettingRefused,
)
from aitp.processors import PROCESSORS
from aitp.processors.task_types import Level
from aitp.providers import Message, Question
from aitp.providers.ollama import OllamaProvider
from aitp.providers.ollama_models import Progress, missing, pull
from tests.processors.models import context
from tests.providers.embeddings import settings
from tests.providers.model_registry import ModelRegistry
from tests.providers.ollama_answers import provider_at
from tests.providers.real_ollama import CHAT, EMBED, RealOllama, real_ollama
from tests.providers.tiny_models import CHAT_CONTEXT, EMBEDDING_CONTEXT, WIDTH, chat_model, embedding_model
from tests.security.tls import Authority, TlsFront
from tests.waiting import wait_until

LONG = "abcd " * EMBEDDING_CONTEXT
LEVELS = Level.__args__  # type: ignore[attr-defined]


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority") / "ca")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[RealOllama]:
    with real_ollama(tmp_path_factory.mktemp("ollama"), request.getfixturevalue("authority").certificate) as found:
        found.create(EMBED, embedding_model())
        found.create(CHAT, chat_model())
        yield found
        found.remove(EMBED)
        found.remove(CHAT)


def provider_of(server: RealOllama, **options: Any) -> OllamaProvider:
    models = [EMBED, CHAT, "aitp-test-nowhere"]
    return provider_at(server.url, models=models, **{"timeout": 60.0, **options})


def numbers(vector: object) -> np.ndarray[Any, np.dtype[np.float64]]:
    assert isinstance(vector, bytes), vector
    return np.array(json.loads(vector))


def severity(text: str) -> Any:
    return PROCESSORS["defining_severity"].parse({"text": text, "model": CHAT})


# Vectors


def test_a_batch_has_each_texts_own_vector_in_order(server: RealOllama) -> None:
    texts = ["a claim", "another one", "b", "a claim"]
    answer = provider_of(server).embed(texts, EMBED)
    vectors = [numbers(vector) for vector in answer.vectors]
    alone = [numbers(provider_of(server).embed([text], EMBED).vectors[0]) for text in texts]

    assert [len(vector) for vector in vectors] == [WIDTH] * 4
    assert [float(np.linalg.norm(vector)) for vector in vectors] == pytest.approx([1.0] * 4, abs=1e-5)
    for vector, same in zip(vectors, alone, strict=True):
        assert vector @ same == pytest.approx(1.0, abs=1e-4)
    assert vectors[0] @ vectors[1] < 0.999
    assert not answer.usage.estimated
    assert answer.usage.prompt_tokens > sum(map(len, texts)) - 8


@pytest.mark.parametrize("texts", [["a", LONG, "b"], [LONG]])
def test_a_text_over_the_context_is_refused_by_its_name(server: RealOllama, texts: list[str]) -> None:
    with pytest.raises(InputTooLong):
        provider_of(server).embed(texts, EMBED)


def test_a_text_over_the_context_is_cut_and_the_log_has_the_numbers(
    server: RealOllama, capfd: pytest.CaptureFixture[str]
) -> None:
    logs.configure("INFO", "json")
    processor = PROCESSORS["text_embedding"]
    content = processor.parse({"text": LONG, "model": EMBED})
    (vector,) = processor.run([content], provider_of(server), context())

    assert len(numbers(vector)) == WIDTH
    lines = [json.loads(line) for line in capfd.readouterr().out.splitlines()]
    (line,) = (line for line in lines if line["event"] == "Text too long for its model, cut")
    assert line["characters"] == len(LONG)
    assert 0 < line["kept_tokens"] <= EMBEDDING_CONTEXT


# Chats


def test_a_chat_keeps_to_its_schema(server: RealOllama) -> None:
    processor = PROCESSORS["defining_severity"]
    (result,) = processor.run([severity("A claim.")], provider_of(server), context())

    assert isinstance(result, bytes)
    assert json.loads(result)["severity"] in LEVELS


def test_a_chat_over_the_context_is_cut_until_it_fits(server: RealOllama, capfd: pytest.CaptureFixture[str]) -> None:
    logs.configure("INFO", "json")
    processor = PROCESSORS["defining_severity"]
    (result,) = processor.run([severity("claim " * 1_600)], provider_of(server), context())

    assert isinstance(result, bytes)
    assert json.loads(result)["severity"] in LEVELS
    lines = [json.loads(line) for line in capfd.readouterr().out.splitlines()]
    (line,) = (line for line in lines if line["event"] == "Text too long for its model, cut")
    assert line["characters"] == 9_600
    assert 0 < line["kept_characters"] < line["prompt_tokens"] <= CHAT_CONTEXT


def test_a_model_that_only_embeds_is_of_another_kind(server: RealOllama) -> None:
    question = Question("any", {"type": "object"}, [Message("user", "x")])
    with pytest.raises(ModelGone, match="no model for this type of task"):
        provider_of(server).ask(question, EMBED)


def test_a_schema_that_it_cannot_follow_is_a_parameter_to_be_left_out(server: RealOllama) -> None:
    question = Question("any", {"type": "nothing"}, [Message("user", "x")])
    with pytest.raises(RequestRefused) as raised:
        provider_of(server).ask(question, CHAT)

    assert raised.value.parameter == "format"


# Failures


def test_a_missing_model_is_told_apart_from_a_missing_path(server: RealOllama) -> None:
    missed: list[str] = []
    provider = provider_of(server, missing=missed.append)
    question = Question("any", {"type": "object"}, [Message("user", "x")])
    with pytest.raises(ModelMissing):
        provider.embed(["a"], "aitp-test-nowhere")
    with pytest.raises(ModelMissing):
        provider.ask(question, "aitp-test-nowhere")
    assert missed == ["aitp-test-nowhere"] * 2

    elsewhere = provider_at(f"{server.url}/elsewhere", models=[EMBED])
    with pytest.raises(ServiceFault, match="OLLAMA_BASE_URL"):
        elsewhere.embed(["a"], EMBED)


@pytest.mark.parametrize("wrong", [{"options": {"num_ctx": "many"}}, {"keep_alive": "a while"}])
def test_a_wrong_setting_is_named_and_fails_no_task(server: RealOllama, wrong: dict[str, Any]) -> None:
    with pytest.raises(SettingRefused, match="OLLAMA_OPTIONS and OLLAMA_KEEP_ALIVE"):
        provider_of(server, **wrong).embed(["a"], EMBED)


def test_a_runner_that_dies_in_a_batch_is_the_servers_fault(server: RealOllama) -> None:
    if server.process is None:
        pytest.skip("kills a process of the server's: needs `ollama` on PATH")
    provider = provider_of(server)
    provider.embed(["warm"], EMBED)
    failed: list[Exception] = []

    def embed() -> None:
        try:
            provider.embed(["abcd efgh " * 5] * 4_000, EMBED)
        except Exception as error:  # noqa: BLE001 (which one it is, is the question)
            failed.append(error)

    batch = threading.Thread(target=embed)
    batch.start()
    busy = {pid: cpu_seconds(pid) for pid in server.runners()}
    wait_until(lambda: any(cpu_seconds(pid) > spent + 0.2 for pid, spent in busy.items()))
    for pid in server.runners():
        os.kill(pid, signal.SIGKILL)
    batch.join()

    assert [type(error) for error in failed] == [ServiceFault]
    assert isinstance(provider.embed(["again"], EMBED).vectors[0], bytes)


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


# Pulls


@pytest.fixture
def registry(server: RealOllama, authority: Authority) -> Iterator[tuple[ModelRegistry, str]]:
    """A registry that the server trusts, and where it is."""
    if server.process is None:
        pytest.skip("the server has to trust a certificate of the tests: needs `ollama` on PATH")
    with (
        ModelRegistry({"small": embedding_model(1), "slow": embedding_model(2), "torn": embedding_model(3)}) as found,
        TlsFront(found.url, authority.issue("IP:127.0.0.1", "DNS:localhost")) as front,
    ):
        yield found, front.url.removeprefix("https://")


def test_a_model_is_pulled_and_answers(server: RealOllama, registry: tuple[ModelRegistry, str]) -> None:
    name = f"{registry[1]}/library/small"
    given = settings(ollama_base_url=server.url)
    assert missing(given, [name, EMBED, f"{EMBED}:other"]) == [name, f"{EMBED}:other"]
    told: list[Progress] = []
    pull(given, name, told.append)

    assert missing(given, [name]) == []
    assert told[-1].status == "success"
    assert told[-1].completed == told[-1].total > len(embedding_model(1))
    answer = provider_at(server.url, models=[name]).embed(["a"], name)
    assert len(numbers(answer.vectors[0])) == WIDTH


def test_a_model_that_the_registry_lacks_is_given_up(server: RealOllama, registry: tuple[ModelRegistry, str]) -> None:
    with pytest.raises(NonRetryableError, match=r"file does not exist; look at SUPPORTED_MODELS"):
        pull(settings(ollama_base_url=server.url), f"{registry[1]}/library/nowhere", lambda progress: None)


def test_a_name_that_is_none_is_given_up(server: RealOllama) -> None:
    with pytest.raises(NonRetryableError, match="SUPPORTED_MODELS"):
        pull(settings(ollama_base_url=server.url), "no:such:name", lambda progress: None)


def test_a_blob_that_breaks_off_is_gone_on_with(server: RealOllama, registry: tuple[ModelRegistry, str]) -> None:
    found, place = registry
    found.cuts = 1
    given = settings(ollama_base_url=server.url)
    pull(given, f"{place}/library/torn", lambda progress: None)

    assert missing(given, [f"{place}/library/torn"]) == []
    assert any(start > 0 for start in found.ranges)


def test_a_pull_that_we_hang_up_on_goes_on_from_there(server: RealOllama, registry: tuple[ModelRegistry, str]) -> None:
    found, place = registry
    name = f"{place}/library/slow"
    found.piece_seconds = 0.1
    given = settings(ollama_base_url=server.url)

    def interrupt(progress: Progress) -> None:
        if progress.completed > 20_000:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        pull(given, name, interrupt)
    found.piece_seconds = 0.0
    told: list[Progress] = []
    pull(given, name, told.append)

    assert told[-1].status == "success"
    assert max(found.ranges) > 10_000
