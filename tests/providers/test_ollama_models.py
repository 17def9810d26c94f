"""What a server has, and pulling what it lacks: streams that end well, break off, stall or hold an error."""

from __future__ import annotations

import gzip
import json
import select
import socket
import threading
from collections.abc import Callable

import pytest

from aitp.demo.ollama_api import LIBRARY, OllamaApi
from aitp.errors import CredentialsRefused, NonRetryableError, ServiceFault
from aitp.providers import ollama_models
from aitp.providers.ollama_models import TRIES, Progress, PullBroken
from tests.providers.embeddings import settings
from tests.providers.scripted import Answer, flood, raw, reply, scripted, trickle

NOMIC = "nomic-embed-text"
QWEN = "dengcao/Qwen3-Embedding-0.6B:Q8_0"


def missing(url: str, models: list[str], seconds: float = 5.0) -> list[str]:
    return ollama_models.missing(settings(ollama_base_url=url.removesuffix("/v1")), models, seconds)


def pull(url: str, model: str, told: Callable[[Progress], None], stall_seconds: float = 5.0) -> None:
    given = settings(ollama_base_url=url.removesuffix("/v1"))
    ollama_models.pull(given, model, told, stall_seconds=stall_seconds, pause_seconds=0.01)


def stream(*lines: object, ended: bool = True) -> Answer:
    """A pull's answer: JSON lines in chunks, and the end of the body, if it has one."""
    chunks = [json.dumps(line).encode() + b"\n" for line in lines]
    body = b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks) + (b"0\r\n\r\n" if ended else b"")
    return raw(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + body)


def nobody(progress: Progress) -> None:
    """Is told nothing."""


def test_latest_is_meant_where_no_tag_is_said_and_another_tag_is_missing(ollama_api: OllamaApi) -> None:
    ollama_api.present = {f"{NOMIC}:latest", QWEN}
    asked = [NOMIC, f"{NOMIC}:latest", "Nomic-Embed-Text", QWEN, f"{NOMIC}:q4", QWEN.partition(":")[0]]

    assert missing(ollama_api.url, asked) == [f"{NOMIC}:q4", QWEN.partition(":")[0]]


@pytest.mark.parametrize(
    "answer",
    [reply(200, b"<html>"), reply(200, []), reply(200, {"models": 3}), reply(503), reply(404, b"404 page not found")],
)
def test_a_server_that_cannot_be_asked_is_at_fault(answer: Answer) -> None:
    with scripted(answer) as server, pytest.raises(ServiceFault):
        missing(server.url, [NOMIC])


def test_a_list_that_trickles_keeps_nobody_waiting() -> None:
    gone = threading.Event()
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n"

    with scripted(trickle(head, gone)) as server, pytest.raises(ServiceFault, match="did not send its answer within"):
        missing(server.url, [NOMIC], seconds=0.2)

    assert gone.wait(10.0)


def test_a_pull_is_read_no_further_than_its_bound_packed_or_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ollama_models, "STREAM_BYTES", 100_000)
    packed = reply(200, gzip.compress(b" " * 10_000_000), content_encoding="gzip")
    with scripted(packed) as server, pytest.raises(ServiceFault, match="compressed"):
        pull(server.url, NOMIC, lambda progress: None)

    endless = flood(b"HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\n\r\n", b" " * 65_536, 1000)
    with scripted(endless) as server, pytest.raises(ServiceFault, match="more than the 100000 bytes"):
        pull(server.url, NOMIC, lambda progress: None)


def test_a_pull_tells_its_bytes_layer_by_layer() -> None:
    lines = [
        {"status": "pulling manifest"},
        {"status": "pulling a", "digest": "a", "total": 100},
        {"status": "pulling a", "digest": "a", "total": 100, "completed": 100},
        {"status": "pulling b", "digest": "b", "total": 10, "completed": 5},
        {"status": "success"},
    ]
    told: list[Progress] = []
    with scripted(stream(*lines)) as server:
        pull(server.url, NOMIC, told.append)

    assert server.requests[0].json() == {"model": NOMIC, "insecure": False, "stream": True}
    assert [(each.completed, each.total) for each in told] == [(0, 0), (0, 100), (100, 100), (105, 110), (105, 110)]
    assert told[-1].status == "success"


def test_a_pull_that_breaks_off_is_gone_on_with(ollama_api: OllamaApi) -> None:
    ollama_api.present, ollama_api.pull_breaks = set(), 2
    told: list[Progress] = []
    pull(ollama_api.url, NOMIC, told.append)

    total = LIBRARY[f"{NOMIC}:latest"].size_bytes
    assert f"{NOMIC}:latest" in ollama_api.present
    assert len(ollama_api.pulls) == 3
    bytes_told = [each.completed for each in told if each.completed]
    assert bytes_told == sorted(bytes_told)
    assert bytes_told[-1] == total


def test_a_pull_that_never_ends_well_is_given_up_after_a_few_tries() -> None:
    with scripted(stream({"status": "pulling manifest"}, ended=False)) as server:
        with pytest.raises(PullBroken, match="broke off"):
            pull(server.url, NOMIC, nobody)

        assert len(server.requests) == TRIES


def test_a_stream_without_success_is_no_success() -> None:
    with (
        scripted(stream({"status": "verifying sha256 digest"})) as server,
        pytest.raises(PullBroken, match="without saying that it succeeded"),
    ):
        pull(server.url, NOMIC, nobody)


@pytest.mark.parametrize(
    "line", [[], 3, {"status": "pulling", "completed": ""}, {"total": {}}, {"digest": [1]}], ids=str
)
def test_lines_of_another_shape_are_a_pull_that_failed(line: object) -> None:
    with (
        scripted(stream({"status": "pulling manifest"}, line)) as server,
        pytest.raises(PullBroken, match="tell of no progress"),
    ):
        pull(server.url, NOMIC, nobody)


def test_silence_breaks_a_pull_off_and_it_goes_on(ollama_api: OllamaApi) -> None:
    ollama_api.present, ollama_api.pull_stalls = set(), 1
    pull(ollama_api.url, NOMIC, nobody, stall_seconds=0.3)

    assert len(ollama_api.pulls) == 2


def test_lines_that_tell_of_no_new_byte_are_no_progress() -> None:
    listened_to_the_end = threading.Event()

    def same_again(connection: socket.socket) -> bool:
        connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        line = json.dumps({"status": "pulling a", "digest": "a", "total": 9, "completed": 4}).encode() + b"\n"
        for _ in range(200):
            connection.sendall(b"%x\r\n%s\r\n" % (len(line), line))
            select.select([], [], [], 0.02)
        listened_to_the_end.set()
        return False

    with scripted(same_again, stream({"status": "success"})) as server:
        pull(server.url, NOMIC, nobody, stall_seconds=0.3)

    assert len(server.requests) == 2
    assert not listened_to_the_end.is_set()


def test_an_error_inside_the_stream_is_an_error_and_not_tried_again_at_once(ollama_api: OllamaApi) -> None:
    ollama_api.present, ollama_api.pull_error = set(), "write /models/x: no space left on device"
    with pytest.raises(ServiceFault, match="no space left on device"):
        pull(ollama_api.url, NOMIC, nobody)

    assert len(ollama_api.pulls) == 1, "what the server itself says of it is as true a second later"
    assert ollama_api.present == set()


def test_a_model_that_the_registry_does_not_have_is_not_asked_for_again(ollama_api: OllamaApi) -> None:
    with pytest.raises(NonRetryableError, match=r"no-such: .*file does not exist.*SUPPORTED_MODELS"):
        pull(ollama_api.url, "no-such", nobody)

    assert ollama_api.pulls == ["no-such:latest"]


def test_addresses_in_an_error_are_not_passed_on() -> None:
    signed = 'Get "https://cdn.example.org/blob?X-Amz-Signature=planted": dial tcp: i/o timeout'
    with scripted(stream({"error": signed})) as server, pytest.raises(ServiceFault) as raised:
        pull(server.url, NOMIC, nobody)

    assert "planted" not in str(raised.value)
    assert "i/o timeout" in str(raised.value)


def test_a_refused_pull_is_judged_like_any_call() -> None:
    with scripted(reply(403, b"no")) as server, pytest.raises(CredentialsRefused):
        pull(server.url, NOMIC, nobody)

    assert len(server.requests) == 1
