"""Real servers of OpenAI's protocol in front of the real provider code and a real ledger, by the house's clock.

STRANGERS_VENV names virtual environments (several, separated by colons) that have `llama-cpp-python[server]` or
`litellm[proxy]`; they are large and take long to build, so that aitp's own has neither. Without them these tests are
skipped. So they are for Ollama's own /v1 where no Ollama is found (tests/providers/real_ollama.py). The models are made
here (tests/providers/tiny_models.py): what they say is nonsense, how the server refuses is not.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import requests
from pydantic import SecretStr

from aitp.tasks import QueueKey, TaskStatus
from tests.ports import free_port
from tests.providers.real_ollama import real_ollama
from tests.providers.tiny_models import EMBEDDING_CONTEXT, WIDTH, chat_model, embedding_model
from tests.strangers.house import House
from tests.strangers.server import Nature
from tests.waiting import wait_until

HOUR = 3600.0
START_SECONDS = 90.0
SMALL = QueueKey("text_embedding", "text-embedding-3-small")  # the name under which the tiny model is served
LARGE = QueueKey("text_embedding", "text-embedding-3-large")  # nobody serves it
TOPICS = QueueKey("defining_topics", "tiny-chat")
KEY = "sk-local"
Opened = Callable[..., House]

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]


def found(part: str) -> Path:
    """A file of one of the environments; skips if none has it."""
    for environment in filter(None, os.environ.get("STRANGERS_VENV", "").split(":")):
        if matches := sorted(Path(environment).glob(part)):
            return matches[0]
    pytest.skip(f"STRANGERS_VENV names no environment with {part}")


@contextmanager
def running(command: list[str], folder: Path, port: int) -> Iterator[str]:
    """A server until the block's end; its address for OPENAI_BASE_URL."""
    home = {"PATH": os.environ["PATH"], "HOME": str(folder)}
    with (folder / "server.log").open("ab") as log:
        process = subprocess.Popen(
            command, cwd=folder, env=home, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
        )
    url = f"http://127.0.0.1:{port}/v1"

    def answers() -> bool:
        assert process.poll() is None, (folder / "server.log").read_text()[-3000:]
        try:
            return requests.get(f"{url}/models", headers={"Authorization": f"Bearer {KEY}"}, timeout=5).ok
        except requests.RequestException:
            return False

    try:
        wait_until(answers, START_SECONDS, 0.2)
        yield url
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """llama.cpp's server with two models. Its batch is as long as the model's context: longer texts are refused."""
    found("lib/python3*/site-packages/llama_cpp/server/__main__.py")
    python = found("lib/python3*/site-packages/llama_cpp/server").parents[4] / "bin/python"
    folder, port = tmp_path_factory.mktemp("llama"), free_port()
    (folder / "embed.gguf").write_bytes(embedding_model())
    (folder / "chat.gguf").write_bytes(chat_model())
    (folder / "server.json").write_text(
        f"""{{
            "host": "127.0.0.1", "port": {port}, "api_key": "{KEY}",
            "models": [
                {{"model": "embed.gguf", "model_alias": "{SMALL.model}", "embedding": true,
                  "n_ctx": {EMBEDDING_CONTEXT}, "n_batch": {EMBEDDING_CONTEXT}}},
                {{"model": "chat.gguf", "model_alias": "{TOPICS.model}", "n_ctx": 2560, "chat_format": "chatml"}}
            ]
        }}"""
    )
    with running([str(python), "-m", "llama_cpp.server", "--config_file", "server.json"], folder, port) as url:
        yield url


@pytest.fixture(scope="module")
def litellm(llama: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """LiteLLM's proxy in front of it."""
    program = found("bin/litellm")
    folder, port = tmp_path_factory.mktemp("litellm"), free_port()
    entries = "".join(
        f"  - model_name: {name}\n    litellm_params: {{model: openai/{name}, api_base: '{llama}', api_key: {KEY}}}\n"
        for name in (SMALL.model, TOPICS.model)
    )
    settings = f"general_settings: {{master_key: {KEY}}}\nlitellm_settings: {{num_retries: 0}}\n"
    (folder / "config.yaml").write_text(f"model_list:\n{entries}{settings}")
    command = [
        str(program),
        "--config",
        "config.yaml",
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        "--telemetry",
        "False",
    ]
    with running(command, folder, port) as url:
        yield url


@pytest.fixture(scope="module")
def ollama(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Ollama as a server of OpenAI's protocol."""
    with real_ollama(tmp_path_factory.mktemp("ollama")) as server:
        server.create(SMALL.model, embedding_model())
        server.create(TOPICS.model, chat_model())
        yield f"{server.url}/v1"
        server.remove(SMALL.model)
        server.remove(TOPICS.model)


@pytest.fixture(params=["llama", "litellm", "ollama"])
def server(request: pytest.FixtureRequest) -> str:
    return str(request.getfixturevalue(request.param))


@pytest.fixture(params=["llama", "litellm"])
def locked_server(request: pytest.FixtureRequest) -> str:
    """One that asks for a key."""
    return str(request.getfixturevalue(request.param))


def opened(open_house: Opened, url: str, key: str = KEY, dimensions: int | None = None) -> House:
    changes = {
        "openai_base_url": url,
        "openai_api_key": SecretStr(key),
        "openai_timeout": 30.0,
        "embedding_dimensions": dimensions,
    }
    return open_house(Nature(), workers=2, batch=32, changes=changes)


def succeeded(house: House) -> set[str]:
    return {text for text, ended in house.ended().items() if ended.status is TaskStatus.SUCCEEDED}


GOOD = [f"a claim of {letter}" for letter in "abcdefghijklmnopqrs"]
LONG = "abcd " * EMBEDDING_CONTEXT


def test_good_texts_are_embedded_beside_one_that_is_longer_than_the_servers_batch(
    open_house: Opened, server: str
) -> None:
    with opened(open_house, server) as house:
        house.admit([*GOOD, LONG], SMALL)
        house.run(6 * HOUR, house.done)

        ended = house.ended()
        assert set(GOOD) <= succeeded(house), house.snapshot()
        assert all(len(ended[text].result) == WIDTH for text in GOOD)
        assert LONG in ended, "it neither failed nor was cut"


def test_a_length_that_it_cannot_give_keeps_tasks_waiting_for_the_setting(open_house: Opened, server: str) -> None:
    with opened(open_house, server, dimensions=1024) as house:
        house.admit(GOOD, SMALL)
        house.run(HOUR / 2)

        assert house.ended() == {}


def test_the_length_that_it_has_may_be_asked_for(open_house: Opened, server: str) -> None:
    with opened(open_house, server, dimensions=WIDTH) as house:
        house.admit(GOOD, SMALL)
        house.run(2 * HOUR, house.done)

        assert succeeded(house) == set(GOOD)


def test_a_wrong_key_fails_nobody(open_house: Opened, locked_server: str) -> None:
    with opened(open_house, locked_server, key="sk-another") as house:
        house.admit(GOOD, SMALL)
        house.run(HOUR / 2)

        assert house.ended() == {}


def test_a_model_that_a_setting_names_and_nobody_serves_fails_no_task(open_house: Opened, server: str) -> None:
    """llama.cpp's server answers with whatever model it has: that is no failure, and cannot be seen from outside."""
    with opened(open_house, server) as house:
        house.admit(GOOD, LARGE)
        house.run(HOUR / 2)

        assert all(ended.status is TaskStatus.SUCCEEDED for ended in house.ended().values())


def test_a_chat_model_whose_server_knows_no_schema_is_asked_without_and_its_nonsense_is_not_delivered(
    open_house: Opened, server: str
) -> None:
    """json_schema is refused with 500 and a page of words. Then a model of random weights answers: that is useless."""
    with opened(open_house, server) as house:
        house.admit(["Rivers flow to the sea."], TOPICS)
        house.run(6 * HOUR, house.done)

        [ended] = house.ended().values()
        assert ended.status is TaskStatus.FAILED or all(topic["name"] for topic in ended.result)
