"""Calls to a server that speaks OpenAI's protocol: what is sent, and what is made of the answer."""

from __future__ import annotations

import gc
import gzip
import json
import os
import socket
import threading
from pathlib import Path

import pytest
from urllib3 import BaseHTTPResponse

from aitp import http
from aitp.errors import (
    CooldownRequired,
    CredentialsRefused,
    DeadlineExceeded,
    InputTooLong,
    NotConnected,
    ServiceFault,
    SettingRefused,
    UselessAnswer,
)
from aitp.providers import Usage
from tests.providers.embeddings import KEY, OTHER, SMALL, TEXT, answer, as_base64, item, provider_at
from tests.providers.questions import QUESTION
from tests.providers.scripted import flood, raw, reply, scripted, trickle
from tests.waiting import wait_until


def test_one_request_asks_for_all_vectors_in_base64() -> None:
    with scripted(reply(200, answer(item(0, as_base64([1.0])), item(1, as_base64([2.0]))))) as server:
        provider_at(server.url).embed(["um", "dois"], OTHER)

    (request,) = server.requests
    assert request.line == "POST /v1/embeddings HTTP/1.1"
    assert request.headers["authorization"] == f"Bearer {KEY}"
    assert request.headers["content-type"] == "application/json"
    assert request.json() == {"model": OTHER, "input": ["um", "dois"], "encoding_format": "base64"}


@pytest.mark.parametrize(("model", "asked"), [(SMALL, 4), ("text-embedding-3-large", 4), (OTHER, None)])
def test_dimensions_are_asked_only_of_models_that_know_them(model: str, asked: int | None) -> None:
    with scripted(reply(200, answer(item(0, as_base64([0.5] * 4))))) as server:
        provider_at(server.url, embedding_dimensions=4).embed([TEXT], model)

    assert server.requests[0].json().get("dimensions") == asked


def test_vectors_come_in_the_order_of_the_texts_whatever_the_order_of_the_answer() -> None:
    items = (item(2, as_base64([2.0])), item(0, as_base64([3.0])), item(1, as_base64([1.0])))
    with scripted(reply(200, answer(*items))) as server:
        answered = provider_at(server.url).embed(["a", "b", "c"], SMALL)

    assert answered.vectors == [b"[3.0]", b"[1.0]", b"[2.0]"]
    assert not answered.mock


def test_a_server_that_knows_no_base64_is_understood_too() -> None:
    with scripted(reply(200, answer(item(0, [0.1, -2, 3e-5])))) as server:
        answered = provider_at(server.url).embed([TEXT], SMALL)

    assert answered.vectors == [b"[0.1,-2.0,0.00003]"]


@pytest.mark.parametrize(
    ("left_out", "sent"),
    [
        ((), {"encoding_format": "base64", "dimensions": 4}),
        (("encoding_format",), {"dimensions": 4}),
        (("encoding_format", "dimensions", "temperature"), {}),
    ],
)
def test_what_a_server_does_not_take_is_left_out(left_out: tuple[str, ...], sent: dict[str, object]) -> None:
    with scripted(reply(200, answer(item(0, [0.5] * 4)))) as server:
        provider = provider_at(server.url, embedding_dimensions=4)
        assert provider.optional(SMALL, chat=False) == ("encoding_format", "dimensions")
        assert provider.optional(OTHER, chat=False) == ("encoding_format",)
        provider.embed([TEXT], SMALL, leave_out=left_out)

    assert server.requests[0].json() == {"model": SMALL, "input": [TEXT], **sent}


@pytest.mark.parametrize(
    ("document", "kind", "said"),
    [
        ({"error": {"code": 401, "message": "No auth"}}, CredentialsRefused, "401"),
        ({"error": {"code": "429", "message": "Slow down"}, "message": "upstream"}, CooldownRequired, "rate limit"),
        ({"error": {"code": "server_overloaded", "message": "Sorry"}}, ServiceFault, "answered 200"),
        ({"error": "out of order", "data": []}, ServiceFault, "no vector"),
        ({"object": "list", "data": None}, ServiceFault, "answered 200 with JSON without a list"),
    ],
)
def test_an_error_that_comes_with_status_200_is_judged_by_the_status_that_it_means(
    document: object, kind: type[Exception], said: str
) -> None:
    with scripted(reply(200, document)) as server, pytest.raises(kind, match=said):
        provider_at(server.url).embed([TEXT], SMALL)


def test_an_error_in_the_place_of_a_choice_is_one_as_well() -> None:
    choice = {
        "index": 0,
        "finish_reason": "error",
        "error": {"code": 502, "message": "gone"},
        "message": {"content": ""},
    }
    with scripted(reply(200, {"choices": [choice]})) as server, pytest.raises(ServiceFault, match="502"):
        provider_at(server.url).ask(QUESTION, SMALL)


def test_missing_doubled_and_strange_vectors_cost_only_their_own_texts() -> None:
    good, strange = as_base64([1.0, 2.0]), [item(-1, "x"), item(9, "x"), item(True, "x"), 5, None]
    items = [item(0, good), item(1, good), item(1, good), item(3, as_base64([1.0])), item(4, None), *strange]
    with scripted(reply(200, answer(*items))) as server:
        answered = provider_at(server.url, embedding_dimensions=2).embed(["a", "b", "c", "d", "e"], SMALL)

    first, *others = answered.vectors
    assert first == b"[1.0,2.0]"
    assert all(type(error) is UselessAnswer for error in others)
    assert [str(error) for error in others] == [
        "openai sent not one vector for this text",
        "openai sent not one vector for this text",
        "openai sent an unusable vector: expected 2 numbers",
        "openai sent not one vector for this text",
    ]


@pytest.mark.parametrize(
    "indexes",
    [
        (None, 1, 2),
        (None, None, None),
        (0, 0, 0),
        (None, 1, None),
        (0, 1, None),
        ("0", "1", "2"),
        (0, 1, 2),
        (1, 2, 3),
        (0, 1, 3),
    ],
)
def test_an_index_that_is_left_out_or_says_nothing_is_the_place_in_the_list(indexes: tuple[object, ...]) -> None:
    items = [
        {"embedding": as_base64([place + 1.0]), **({} if index is None else {"index": index})}
        for place, index in enumerate(indexes)
    ]
    with scripted(reply(200, answer(*items))) as server:
        assert provider_at(server.url).embed(["a", "b", "c"], SMALL).vectors == [b"[1.0]", b"[2.0]", b"[3.0]"]


def test_indexes_from_one_may_come_in_another_order() -> None:
    items = [item(2, as_base64([2.0])), item(3, as_base64([3.0])), item(1, as_base64([1.0]))]
    with scripted(reply(200, answer(*items))) as server:
        assert provider_at(server.url).embed(["a", "b", "c"], SMALL).vectors == [b"[1.0]", b"[2.0]", b"[3.0]"]


@pytest.mark.parametrize("indexes", [(1, 3), (3,), (0, 3), (0, 1, 2, 3), (1, 2, 3, 3)])
def test_where_an_index_is_the_count_and_the_list_is_not_whole_no_vector_is_believed(indexes: tuple[int, ...]) -> None:
    items = [item(index, as_base64([1.0])) for index in indexes]
    with scripted(reply(200, answer(*items))) as server, pytest.raises(ServiceFault, match="no vector"):
        provider_at(server.url).embed(["a", "b", "c"], SMALL)


def test_an_index_that_is_left_out_in_another_order_is_the_first() -> None:
    items = [item(2, as_base64([3.0])), {"embedding": as_base64([1.0])}, item(1, as_base64([2.0]))]
    with scripted(reply(200, answer(*items))) as server:
        assert provider_at(server.url).embed(["a", "b", "c"], SMALL).vectors == [b"[1.0]", b"[2.0]", b"[3.0]"]


@pytest.mark.parametrize(
    "embedding", [[0.0, 0.0], as_base64([0.0, 0.0]), [0, -0.0], as_base64([float("nan"), 1.0]), []]
)
def test_a_vector_that_is_none_is_a_useless_answer(embedding: object) -> None:
    with scripted(reply(200, answer(item(0, embedding), item(1, as_base64([1.0, 2.0]))))) as server:
        bad, good = provider_at(server.url, embedding_dimensions=2).embed(["a", "b"], SMALL).vectors

    assert isinstance(bad, UselessAnswer)
    assert good == b"[1.0,2.0]"


def test_useless_vectors_are_counted_like_any_that_were_bought() -> None:
    with scripted(reply(200, answer(item(0, [0.0]), item(1, [0.0])))) as server:
        answered = provider_at(server.url).embed(["a", "b"], SMALL)

    assert answered.usage == Usage(7, 0, 7)
    assert all(isinstance(vector, UselessAnswer) for vector in answered.vectors)


@pytest.mark.parametrize("left_out", [(), ("dimensions",)])
def test_vectors_of_another_length_than_is_wanted_are_the_settings_fault(left_out: tuple[str, ...]) -> None:
    items = (item(0, as_base64([0.5] * 3)), item(1, as_base64([0.5] * 3)))
    with (
        scripted(reply(200, answer(*items))) as server,
        pytest.raises(SettingRefused, match=r"3 numbers, and 4 are wanted: look at EMBEDDING_DIMENSIONS") as raised,
    ):
        provider_at(server.url, embedding_dimensions=4).embed([TEXT, "b"], SMALL, leave_out=left_out)

    assert raised.value.setting == "EMBEDDING_DIMENSIONS"


def test_a_stand_in_of_another_length_is_the_fault_of_the_setting_that_chose_it() -> None:
    vectors = reply(200, answer(item(0, as_base64([0.5] * 3))))
    with scripted(vectors) as server, pytest.raises(SettingRefused, match="FALLBACK_MODELS") as raised:
        provider_at(server.url, embedding_dimensions=3).embed([TEXT], SMALL, 8)

    assert raised.value.setting == "FALLBACK_MODELS"


@pytest.mark.parametrize(
    ("counted", "usage"),
    [
        ({"prompt_tokens": 12, "total_tokens": 12}, Usage(12, 0, 12)),
        ({"prompt_tokens": 12}, Usage(12, 0, 12)),
        ({"prompt_tokens": 12, "total_tokens": 3}, Usage(12, 0, 12)),
        ({"prompt_tokens": "12"}, Usage(4, 0, 4, estimated=True)),
        ({"prompt_tokens": -1, "total_tokens": -1}, Usage(4, 0, 4, estimated=True)),
        (None, Usage(4, 0, 4, estimated=True)),
    ],
)
def test_usage_is_the_servers_count_or_an_estimate_marked_as_such(counted: object, usage: Usage) -> None:
    with scripted(reply(200, answer(item(0, as_base64([1.0])), usage=counted))) as server:
        assert provider_at(server.url).embed(["uma frase curta"], SMALL).usage == usage


def test_a_text_over_the_models_context_is_refused_in_one_request() -> None:
    over = {"error": {"message": "This model's maximum context length is 8192 tokens, you requested 10000 tokens."}}
    for texts in (["palavra " * 5_000], ["palavra " * 5_000, "a"]):
        with scripted(reply(400, over)) as server, pytest.raises(InputTooLong) as raised:
            provider_at(server.url).embed(texts, SMALL)

        assert len(server.requests) == 1
        assert raised.value.tokens == (10_000, 8192)


def test_calls_share_one_connection() -> None:
    with scripted(reply(200, answer(item(0, as_base64([1.0]))))) as server:
        provider = provider_at(server.url)
        for _ in range(3):
            provider.embed([TEXT], SMALL)
        provider.close()

    assert [request.connection for request in server.requests] == [1, 1, 1]


def test_an_answer_is_freed_at_once_without_the_garbage_collector() -> None:
    with scripted(reply(200, answer(item(0, as_base64([1.0]))))) as server:
        provider = provider_at(server.url)
        provider.embed([TEXT], SMALL)
        gc.collect()
        gc.disable()
        try:
            provider.embed([TEXT], SMALL)
            assert not [found for found in gc.get_objects() if isinstance(found, BaseHTTPResponse)]
        finally:
            gc.enable()
            provider.close()


def test_a_closed_provider_makes_a_new_client() -> None:
    with scripted(reply(200, answer(item(0, as_base64([1.0]))))) as server:
        provider = provider_at(server.url)
        provider.embed([TEXT], SMALL)
        provider.close()
        provider.embed([TEXT], SMALL)
        provider.close()
        assert not open_connections(server.port, "01")

    assert [request.connection for request in server.requests] == [1, 2]


def test_a_connection_that_the_server_closed_while_idle_is_not_used_again() -> None:
    body = json.dumps(answer(item(0, as_base64([1.0])))).encode()
    last = raw(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
    with scripted(last) as server:
        provider = provider_at(server.url)
        for _ in range(3):
            provider.embed([TEXT], SMALL)
            wait_until(lambda: not open_connections(server.port, "01"))  # until its end has arrived here

    assert len(server.requests) == 3


def test_an_interim_answer_is_none() -> None:
    body = json.dumps(answer(item(0, as_base64([1.0])))).encode()
    real = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body
    for interim in (b"HTTP/1.1 103 Early Hints\r\nLink: </>\r\n\r\n", b"HTTP/1.1 102 X\r\n\r\nHTTP/1.1 199 Y\r\n\r\n"):
        with scripted(raw(interim + real)) as server:
            assert provider_at(server.url).embed([TEXT], SMALL).vectors == [b"[1.0]"]


def test_what_comes_after_a_change_of_protocols_is_not_taken_for_the_answer_to_the_next_text() -> None:
    with scripted(reply(101), reply(200, answer(item(0, as_base64([1.0]))))) as server:
        provider = provider_at(server.url)
        with pytest.raises(ServiceFault, match="101"):
            provider.embed([OTHER], SMALL)
        assert provider.embed([TEXT], SMALL).vectors == [b"[1.0]"]
        provider.close()

    assert [request.connection for request in server.requests] == [1, 2]


@pytest.mark.parametrize("status", [200, 401, 413, 429, 500])
def test_an_answer_whose_head_breaks_off_says_nothing(status: int) -> None:
    with scripted(raw(b"HTTP/1.1 %d X\r\nRetry-After: 60\r\n" % status)) as server:
        with pytest.raises(ServiceFault, match="gave no whole answer") as raised:
            provider_at(server.url).embed([TEXT], SMALL)
        assert type(raised.value) is ServiceFault
        assert not raised.value.bought_nothing


@pytest.mark.parametrize(("end", "said"), [(b"", "gave no whole answer"), (b"\0" * 8, "cannot be unpacked")])
def test_a_compressed_answer_without_its_end_is_none(end: bytes, said: str) -> None:
    packed = gzip.compress(json.dumps(answer(item(0, as_base64([1.0])))).encode())[:-8] + end
    with (
        scripted(reply(200, packed, content_encoding="gzip")) as server,
        pytest.raises(ServiceFault, match=said),
    ):
        provider_at(server.url).embed([TEXT], SMALL)


def test_a_body_that_unpacks_to_nothing_comes_to_an_end() -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\n" + gzip.compress(b"")[:10]
    with (
        scripted(flood(head, b"\0\0\0\xff\xff" * 20_000, 100_000)) as server,
        pytest.raises(ServiceFault, match="more than 1179648 bytes"),
    ):
        provider_at(server.url).embed([TEXT], SMALL)


def test_a_body_that_is_packed_in_another_way_is_refused() -> None:
    with (
        scripted(reply(200, b"?", content_encoding="zstd")) as server,
        pytest.raises(ServiceFault, match="packed its answer"),
    ):
        provider_at(server.url).embed([TEXT], SMALL)


def test_a_redirect_is_never_followed() -> None:
    with scripted(reply(200, answer())) as elsewhere, scripted(reply(307, location=elsewhere.url)) as server:
        with pytest.raises(ServiceFault, match="307"):
            provider_at(server.url).embed([TEXT], SMALL)

        assert elsewhere.requests == []


def test_proxies_of_the_environment_are_used_only_if_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    with scripted(reply(200, answer(item(0, as_base64([1.0]))))) as proxy, scripted(*proxy.script) as server:
        monkeypatch.setenv("HTTP_PROXY", proxy.url)
        monkeypatch.setenv("ALL_PROXY", proxy.url)
        monkeypatch.delenv("NO_PROXY", raising=False)
        monkeypatch.delenv("no_proxy", raising=False)
        provider_at(server.url).embed([TEXT], SMALL)
        provider_at(server.url, http_trust_env=True).embed([TEXT], SMALL)

    assert [request.line for request in server.requests] == ["POST /v1/embeddings HTTP/1.1"]
    assert [request.line for request in proxy.requests] == [f"POST {server.url}/embeddings HTTP/1.1"]


def test_what_a_proxy_has_passed_on_may_have_been_bought(monkeypatch: pytest.MonkeyPatch) -> None:
    good = reply(200, answer(item(0, as_base64([1.0]))))
    with scripted(raw(b""), good, raw(b"")) as proxy:
        monkeypatch.setenv("http_proxy", proxy.url)
        monkeypatch.setenv("no_proxy", "elsewhere.example")
        provider = provider_at("http://openai.example/v1", http_trust_env=True)
        for _ in range(2):  # over a new connection, then over one that is kept
            with pytest.raises(ServiceFault, match="gave no whole answer") as raised:
                provider.embed([TEXT], SMALL)
            assert type(raised.value) is ServiceFault
            assert not raised.value.bought_nothing
            if len(proxy.requests) == 1:
                provider.embed([TEXT], SMALL)
        provider.close()
    assert len(proxy.requests) == 3
    with pytest.raises(NotConnected, match="through the proxy") as unsent:
        provider.embed([TEXT], SMALL)
    assert unsent.value.bought_nothing


@pytest.mark.parametrize("passed", ["127.0.0.1:{port}", " LOCALHOST.lan:{port}", "*.lan", "[127.0.0.1]", "127.0.0.0/8"])
def test_no_proxy_is_asked_for_what_no_proxy_names(passed: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://proxy.example:3128")
    host = "localhost.lan" if "lan" in passed.lower() else "127.0.0.1"
    monkeypatch.setenv("no_proxy", f"other.example,{passed.format(port=8000)}")
    assert http._proxy_to(f"http://{host}:8000/v1") == ""
    assert http._proxy_to("http://openai.example/v1") == "http://proxy.example:3128"


@pytest.mark.parametrize("said", [b"", b"\x15\x03\x03\0\x02\x02\x28", b"HTTP/1.1 400 Bad Request\r\n\r\n"])
def test_where_no_tls_comes_about_nothing_was_sent(said: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer_once() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(65_536)
                connection.sendall(said)

        server = threading.Thread(target=answer_once)
        server.start()
        with pytest.raises(NotConnected, match="OPENAI_BASE_URL") as raised:
            provider_at(f"https://127.0.0.1:{listener.getsockname()[1]}/v1").embed([TEXT], SMALL)
        server.join()
    assert raised.value.bought_nothing
    assert not raised.value.sent


CHUNKED = b"HTTP/1.1 %d Whatever\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize("status", [200, 500])
def test_a_body_without_end_is_refused(status: int) -> None:
    with (
        scripted(flood(CHUNKED % status, b"10000\r\n" + b" " * 0x10000 + b"\r\n", 500)) as server,
        pytest.raises(ServiceFault, match="more than 1179648 bytes"),
    ):
        provider_at(server.url).embed([TEXT], SMALL)


def test_an_answer_that_is_compressed_unasked_is_unpacked_as_far_as_it_may_be_long() -> None:
    good = gzip.compress(json.dumps(answer(item(0, as_base64([1.0])))).encode())
    bomb = gzip.compress(b" " * 10_000_000)
    with scripted(reply(200, good, content_encoding="gzip"), reply(200, bomb, content_encoding="gzip")) as server:
        provider = provider_at(server.url)
        assert provider.embed([TEXT], SMALL).vectors == [b"[1.0]"]
        with pytest.raises(ServiceFault, match="more than 1179648 bytes"):
            provider.embed([TEXT], SMALL)
        provider.close()

        assert server.requests[0].headers["accept-encoding"] == "identity"


def test_the_largest_answer_fits_the_bound() -> None:
    vector = [-1.2345678901234567e-5] * 4096  # as an indented list of float64
    body = json.dumps(answer(*(item(i, vector) for i in range(4))), indent=1).encode()
    with scripted(reply(200, body)) as server:
        answered = provider_at(server.url).embed(["a", "b", "c", "d"], OTHER)

    assert all(isinstance(vector, bytes) for vector in answered.vectors)


def test_an_answer_that_trickles_comes_to_an_end_and_the_next_call_works(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aitp.providers.client.CALL_MARGIN_SECONDS", 0.0)
    gone = threading.Event()
    slow = trickle(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n", gone)
    with scripted(slow, reply(200, answer(item(0, as_base64([1.0]))))) as server:
        provider = provider_at(server.url, timeout=0.3)
        with pytest.raises(DeadlineExceeded):
            provider.embed([TEXT], SMALL)
        assert gone.wait(5), "the connection of the interrupted call stayed open"

        assert provider.embed([TEXT], SMALL).vectors == [b"[1.0]"]
        provider.close()


def test_the_key_is_not_in_what_a_provider_says_of_itself() -> None:
    provider = provider_at("http://127.0.0.1:1/v1")

    assert KEY not in repr(provider) + repr(vars(provider))


def test_no_descriptor_stays_open_after_close() -> None:
    before = len(os.listdir("/proc/self/fd"))
    with scripted(reply(200, answer(item(0, as_base64([1.0]))))) as server:
        provider = provider_at(server.url)
        provider.embed([TEXT], SMALL)
        provider.close()
        wait_until(lambda: len(os.listdir("/proc/self/fd")) <= before + 1)  # the listener's


def open_connections(port: int, state: str) -> list[str]:
    """This machine's TCP sockets whose other end is `port` on loopback, in `state` (01: established)."""
    remote = f"{socket.htonl(0x7F000001):08X}:{port:04X}"
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return [row[1] for row in rows if row[2] == remote and row[3] == state]
