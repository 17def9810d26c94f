"""What can happen to a connection: hang-ups, cuts, redirects, endless and bursting bodies, timers."""

from __future__ import annotations

import functools
import gc
import gzip
import os
import socket
import threading
import time
import tracemalloc
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import pytest

from aitp import http
from aitp.demo.faults import Fault, FaultKind
from aitp.demo.task_api import TaskApi
from aitp.errors import AitpError, CredentialsRefused, ServiceFault
from aitp.taskapi import pages
from aitp.validators import Trust
from tests.providers.scripted import Answer, flood, raw, reply, scripted, trickle
from tests.services import a_task
from tests.taskapi.desk import Desk, MakeDesk, own
from tests.waiting import wait_until

CALLS: tuple[Callable[[Desk], Any], ...] = (Desk.list, Desk.deliver)


@functools.cache
def bomb() -> bytes:
    """50 kB on the wire."""
    return gzip.compress(b"[" + b" " * 50_000_000)


@contextmanager
def api_of(desk_at: MakeDesk, *script: Answer, **settings: str) -> Iterator[tuple[Desk, Any]]:
    with scripted(*script) as server:
        yield desk_at(f"http://127.0.0.1:{server.port}", **settings), server


def hang_up_after(answer: Answer, done: threading.Event) -> Answer:
    """A proper answer on a connection that is then closed without a word, as an idle one is."""

    def answered(connection: socket.socket) -> bool:
        answer(connection)
        connection.shutdown(socket.SHUT_RDWR)
        done.set()
        return False

    return answered


def hold(data: bytes) -> Answer:
    """These bytes, then not another one."""

    def answered(connection: socket.socket) -> bool:
        connection.sendall(data)
        connection.recv(1)  # until the client leaves
        return False

    return answered


def head(*lines: str) -> bytes:
    return "\r\n".join(("HTTP/1.1 200 OK", *lines, "", "")).encode()


# Hang-ups


def hears_the_end(answer: Answer, ended: threading.Event) -> Answer:
    """A proper answer, then a look at the kept connection until the client ends it."""

    def answered(connection: socket.socket) -> bool:
        answer(connection)
        if connection.recv(1) == b"":
            ended.set()
        return False

    return answered


def test_what_is_closed_is_closed_for_the_server_too() -> None:
    ended = threading.Event()
    with scripted(hears_the_end(reply(200, b"{}"), ended)) as server:
        url = f"http://127.0.0.1:{server.port}"
        line = http.Wire(url, 5.0, Trust())
        http.whole_body(line.send("GET", url, {}), 100)
        assert not ended.wait(0.1)
        line.close()
        assert ended.wait(5)


def test_a_wire_that_is_dropped_leaves_nothing_open() -> None:
    with scripted(reply(200, b"{}")) as server:
        url = f"http://127.0.0.1:{server.port}"
        before = len(os.listdir("/proc/self/fd"))
        for _ in range(5):
            http.whole_body(http.Wire(url, 5.0, Trust()).send("GET", url, {}), 100)
        gc.collect()
        wait_until(lambda: len(os.listdir("/proc/self/fd")) <= before + 1)  # the last one that the server has


def sent_twice(answers: Sequence[Answer], proxied: str = "") -> list[int]:
    """The connections that the requests of two calls came over; the second call fails if no answer is left for it."""
    with scripted(*answers) as server:
        url = f"http://{proxied or f'127.0.0.1:{server.port}'}/"
        wire = http.Wire(url, 5.0, Trust(from_environment=bool(proxied)))
        if proxied:
            os.environ["http_proxy"] = server.url
        http.finish(wire.send("PATCH", url, {}, b"1"))
        wait_until(lambda: server.requests)
        with suppress(http.NoAnswer):
            http.finish(wire.send("PATCH", url, {}, b"2"))
        wire.close()
    return [request.connection for request in server.requests]


@pytest.mark.parametrize("proxied", ["", "tasks.example"])
def test_a_request_is_repeated_over_a_new_connection_and_only_if_the_kept_one_was_closed(
    proxied: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "")  # and back again
    good, gone, last = reply(200, b"{}"), raw(b""), reply(200, b"{}", connection="close")
    assert sent_twice((good, gone, good), proxied) == [1, 1, 2]
    assert sent_twice((good, gone, gone), proxied) == [1, 1, 2]
    assert sent_twice((last, gone, good), proxied) == [1, 2]


def parted(body: bytes) -> bytes:
    return gzip.compress(body[:40]) + gzip.compress(body[40:])


@pytest.mark.parametrize(
    ("body", "named"),
    [
        (parted, "gzip"),
        (lambda body: gzip.compress(b"") + gzip.compress(body), "x-gzip"),
        (lambda body: gzip.compress(body) + b"\0" * 1000, "gzip"),
        (lambda body: zlib.compress(body) + b"more", "deflate"),
        (gzip.compress, "identity, gzip"),
        (bytes, "none"),
        (bytes, "utf-8"),
    ],
)
def test_a_body_is_unpacked_whole_and_without_what_follows(body: Callable[[bytes], bytes], named: str) -> None:
    whole = b"0123456789" * 30_000
    with scripted(reply(200, body(whole), content_encoding=named)) as server:
        url = f"http://127.0.0.1:{server.port}"
        wire = http.Wire(url, 5.0, Trust())
        assert http.whole_body(wire.send("GET", url, {}), 1_000_000) == whole
        wire.close()


def test_what_follows_a_packed_body_costs_next_to_nothing() -> None:
    packed, started = gzip.compress(b"[]"), time.process_time()
    with scripted(reply(200, packed + b"\0" * 50_000_000, content_encoding="gzip")) as server:
        url = f"http://127.0.0.1:{server.port}"
        wire = http.Wire(url, 5.0, Trust())
        assert b"".join(http.pieces(wire.send("GET", url, {}), 2**30)) == b"[]"
        wire.close()
    assert time.process_time() - started < 3  # 13 s, if each piece were put to those before


def test_interim_answers_without_end_are_none() -> None:
    with scripted(raw(b"HTTP/1.1 103 Early Hints\r\nLink: </>\r\n\r\n" * 200)) as server:
        url = f"http://127.0.0.1:{server.port}"
        with pytest.raises(http.NoAnswer, match="gave no whole answer"):
            http.Wire(url, 5.0, Trust()).send("GET", url, {})


def test_a_connection_closed_while_idle_is_replaced_unseen(desk_at: MakeDesk) -> None:
    closed = threading.Event()
    with api_of(desk_at, hang_up_after(reply(200, []), closed), reply(200, [])) as (desk, server):
        desk.list()
        assert closed.wait(5)
        desk.list()
        assert [request.connection for request in server.requests] == [1, 2]
        assert [status for *_, status in desk.requests] == [200, 200]


@pytest.mark.parametrize("kind", [FaultKind.DROP, FaultKind.RESET])
def test_a_kept_connection_closed_at_the_moment_of_use_is_replaced_at_once(
    desk: Desk, task_api: TaskApi, kind: FaultKind
) -> None:
    [task_id] = task_api.add([a_task()])
    desk.list()
    task_api.faults.add(Fault(kind=kind, times=1))
    desk.deliver(task_id)
    assert task_api.state(task_id) == "succeeded"
    assert [status for *_, status in desk.requests] == [200, 200]


@pytest.mark.parametrize("kind", [FaultKind.DROP, FaultKind.RESET])
def test_a_fresh_connection_that_is_closed_is_the_services_fault(
    desk: Desk, task_api: TaskApi, kind: FaultKind
) -> None:
    fault = task_api.faults.add(Fault(kind=kind))
    with pytest.raises(ServiceFault, match="gave no whole answer"):
        desk.deliver()
    assert task_api.faults.times_struck(fault) == 1
    assert [status for *_, status in desk.requests] == [None]


def test_a_request_is_made_anew_only_once(desk: Desk, task_api: TaskApi) -> None:
    desk.list()
    fault = task_api.faults.add(Fault(kind=FaultKind.DROP))
    with pytest.raises(ServiceFault):
        desk.deliver()
    assert task_api.faults.times_struck(fault) == 2


def test_a_kept_connection_that_is_silent_is_not_asked_again(desk_at: MakeDesk, task_api: TaskApi) -> None:
    desk = desk_at(task_api.url, REQUEST_TIMEOUT="0.2")
    desk.list()
    fault = task_api.faults.add(Fault(kind=FaultKind.HANG))
    with pytest.raises(ServiceFault, match="REQUEST_TIMEOUT"):
        desk.list()
    assert task_api.faults.times_struck(fault) == 1


def test_a_kept_connection_that_answers_nonsense_is_not_asked_again(desk_at: MakeDesk) -> None:
    with api_of(desk_at, reply(200, []), raw(b"220 smtp.example ESMTP\r\n"), reply(200, [])) as (desk, server):
        desk.list()
        with pytest.raises(ServiceFault):
            desk.list()
        assert len(server.requests) == 2


def test_only_the_list_may_come_packed(desk_at: MakeDesk) -> None:
    with api_of(desk_at, reply(200, []), reply(204)) as (desk, server):
        for call in CALLS:
            call(desk)
        assert [request.headers["accept-encoding"] for request in server.requests] == ["gzip", "identity"]


def test_a_server_that_is_down_is_said_to_be_so(desk: Desk, task_api: TaskApi) -> None:
    task_api.stop()
    for call in CALLS:
        with pytest.raises(
            ServiceFault, match=r"could not be connected to \(Connection refused\): look at API_BASE_URL"
        ):
            call(desk)


def test_a_name_that_does_not_resolve_is_said_to_be_so(desk_at: MakeDesk) -> None:
    with pytest.raises(ServiceFault, match="does not resolve"):
        desk_at("http://nowhere.localhost.invalid", ALLOW_INSECURE_HTTP="true").list()


# Answers that are not whole, or no answers

CUT = {
    "length": head("Content-Length: 90") + b'[{"_id": "1"}]',
    "chunk": head("Transfer-Encoding: chunked") + b'20\r\n[{"_id": "1"}]',
    "last chunk": head("Transfer-Encoding: chunked") + b'e\r\n[{"_id": "1"}]\r\n',
    "bracket": head("Content-Length: 14") + b'[{"_id": "1"},',
    "gzip": head("Content-Encoding: gzip", "Connection: close") + gzip.compress(b'[{"_id": "1"}, {"_id": "2"}]')[:-12],
}
ODD = {
    "no array": head("Content-Length: 12") + b'{"tasks":[]}',
    "page": head("Content-Length: 6") + b"<html>",
    "more": head("Content-Length: 7") + b"[1] [2]",
    "no gzip": head("Content-Encoding: gzip", "Content-Length: 2") + b"[]",
    "lengths": head("Content-Length: 2", "Content-Length: 3") + b"[]",
    "chunk size": head("Transfer-Encoding: chunked") + b"zz\r\n[]\r\n",
    "no http": b"220 smtp.example ESMTP\r\n",
    "nothing": b"",
    "long head": b"HTTP/1.1 200 OK\r\nX: " + b"x" * 70_000 + b"\r\n\r\n",
    "many heads": b"HTTP/1.1 200 OK\r\n" + b"X: x\r\n" * 200 + b"\r\n",
}


@pytest.mark.parametrize("data", CUT.values(), ids=CUT)
def test_a_list_that_breaks_off_is_noticed_and_what_came_before_is_good(desk_at: MakeDesk, data: bytes) -> None:
    with api_of(desk_at, raw(data)) as (desk, _):
        documents: list[bytes] = []
        with pytest.raises(ServiceFault):
            documents.extend(desk.api.pending(10))
        assert set(documents) <= {b'{"_id": "1"}'}


@pytest.mark.parametrize("data", ODD.values(), ids=ODD)
def test_an_answer_that_is_no_list_is_the_services_fault(desk_at: MakeDesk, data: bytes) -> None:
    with api_of(desk_at, raw(data)) as (desk, _), pytest.raises(ServiceFault):
        desk.list()


def test_a_list_may_come_packed_and_in_chunks(desk_at: MakeDesk) -> None:
    packed = gzip.compress(b'[{"_id": "1"}, {"_id": "2"}]')
    chunks = b"".join(b"1\r\n%c\r\n" % byte for byte in packed) + b"0\r\n\r\n"
    answer = head("Transfer-Encoding: chunked", "Content-Encoding: gzip") + chunks
    with api_of(desk_at, raw(answer)) as (desk, _):
        assert desk.list() == [{"_id": "1"}, {"_id": "2"}]


def test_a_page_left_in_the_middle_costs_its_connection_only(desk_at: MakeDesk) -> None:
    long = reply(200, [{"text": "x" * 1000}] * 1000)
    with api_of(desk_at, long, reply(200, [])) as (desk, server):
        page = desk.api.pending(10)
        next(iter(page))
        page.close()
        assert desk.list() == []
        assert [request.connection for request in server.requests] == [1, 2]


def test_an_acknowledgement_that_is_cut_after_the_task_s_id_counts(desk: Desk, task_api: TaskApi) -> None:
    first, second = task_api.add([a_task(), a_task()])
    task_api.faults.add(Fault(kind=FaultKind.CUT, times=1))
    desk.deliver(first)
    desk.deliver(second)
    assert task_api.states() == {"succeeded": 2}


def test_an_answer_that_never_ends_is_not_read_to_its_end(desk_at: MakeDesk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "FINISH_SECONDS", 60.0)
    taken, gone = [0], threading.Event()

    def endless(connection: socket.socket) -> bool:
        connection.sendall(head("Content-Length: 1000000000000"))
        with suppress(OSError):
            while taken[0] < 100_000_000:
                taken[0] += connection.send(bytes(65_536))
        gone.set()
        return False

    with api_of(desk_at, endless) as (desk, _):
        with pytest.raises(ServiceFault, match="200 and sent an answer of more than"):
            desk.deliver()
        assert gone.wait(5)
    assert taken[0] < 20_000_000  # what the sockets hold, mostly


def test_an_answer_that_trickles_is_not_waited_for(desk_at: MakeDesk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "FINISH_SECONDS", 0.1)
    gone = threading.Event()
    with api_of(desk_at, trickle(head("Content-Length: 1000000"), gone)) as (desk, _):
        with pytest.raises(ServiceFault, match="did not send its answer within"):
            desk.deliver()
        assert gone.wait(5)


def test_a_body_that_never_comes_is_waited_for_as_long_as_any_answer(desk_at: MakeDesk) -> None:
    with (
        api_of(desk_at, hold(head("Content-Length: 90")), REQUEST_TIMEOUT="0.2") as (desk, _),
        pytest.raises(ServiceFault, match="200 and did not answer within REQUEST_TIMEOUT"),
    ):
        desk.deliver()


# Redirects


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("call", CALLS, ids=["list", "deliver"])
def test_no_redirect_carries_a_token_to_another_server(
    desk_at: MakeDesk, status: int, call: Callable[[Desk], Any]
) -> None:
    with scripted(reply(200, [])) as thief:
        location = f"http://127.0.0.1:{thief.port}/api/ai-tasks/pending"
        with api_of(desk_at, reply(status, Location=location)) as (desk, server):
            with pytest.raises(ServiceFault, match="redirects are never followed"):
                call(desk)
            assert len(server.requests) == 1
        assert thief.requests == []


def test_no_redirect_carries_the_secret_to_another_server(desk_at: MakeDesk, task_api: TaskApi) -> None:
    with scripted(reply(200, {"access_token": "x"})) as thief:
        location = f"http://127.0.0.1:{thief.port}/oauth2/token"
        with scripted(reply(307, Location=location)) as server:
            desk = desk_at(task_api.url, token_url=f"http://127.0.0.1:{server.port}/oauth2/token")
            with pytest.raises(ServiceFault, match=r"307.*OAUTH2_TOKEN_URL"):
                desk.list()
        assert thief.requests == []


def test_a_redirects_endless_body_is_not_read(desk_at: MakeDesk) -> None:
    endless = flood(b"HTTP/1.1 302 Found\r\nLocation: /404\r\n\r\n", b"x" * 65_536, 100_000)
    with api_of(desk_at, endless) as (desk, _):
        started = time.monotonic()
        with pytest.raises(ServiceFault, match="302"):
            desk.deliver()
        assert time.monotonic() - started < 3


# The environment


def test_neither_proxies_nor_netrc_come_in_from_the_environment(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    (tmp_path / "netrc").write_text("default login thief password thief\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    assert desk.list() == []


def test_asked_to_trust_the_environment_it_uses_its_proxy_and_still_no_netrc(
    desk_at: MakeDesk, task_api: TaskApi, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    (tmp_path / "netrc").write_text("default login thief password thief\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    with scripted(reply(200, [])) as proxy:
        trusting = {"api_url": "http://tasks.localhost:3000", "HTTP_TRUST_ENV": "true"}
        token = desk_at(**trusting).tokens.current()  # the authorization server takes no other credentials than ours
        monkeypatch.setenv("http_proxy", f"http://me:p%40ss@127.0.0.1:{proxy.port}")
        assert desk_at(**trusting).list() == []
        assert proxy.requests[0].line == "GET http://tasks.localhost:3000/api/ai-tasks/pending?limit=10 HTTP/1.1"
        assert proxy.requests[0].headers["authorization"] == f"Bearer {token}"
        assert proxy.requests[0].headers["proxy-authorization"] == "Basic bWU6cEBzcw=="


# Memory


@contextmanager
def little_memory(most: int) -> Iterator[None]:
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < most
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("status", [200, 400, 500])
def test_a_body_that_bursts_is_never_unpacked_in_memory(desk_at: MakeDesk, status: int) -> None:
    with api_of(desk_at, reply(status, bomb(), Content_Encoding="gzip")) as (desk, _), little_memory(5_000_000):
        for call in CALLS:
            try:
                call(desk)
            except AitpError:
                continue
            assert status == 200


def test_a_page_beyond_all_bounds_is_given_up(desk_at: MakeDesk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages, "PAGE_BYTES", 1_000_000)
    endless = flood(head("Connection: close") + b"[", b'{"_id": "1"},' * 5000, 100_000)
    with api_of(desk_at, endless) as (desk, _):
        documents: list[bytes] = []
        with pytest.raises(ServiceFault, match="more than 1000000 bytes"):
            documents.extend(desk.api.pending(10))
    assert set(documents) == {b'{"_id": "1"}'}


def test_the_token_endpoints_answer_is_bounded_too(desk_at: MakeDesk, task_api: TaskApi) -> None:
    with scripted(reply(200, bomb(), Content_Encoding="gzip")) as server, little_memory(12_000_000):
        desk = desk_at(task_api.url, token_url=f"http://127.0.0.1:{server.port}/oauth2/token")
        with pytest.raises(ServiceFault, match="more than 4194304 bytes"):
            desk.list()


def test_a_refusal_does_not_keep_the_connection_from_being_used_again(desk_at: MakeDesk) -> None:
    with api_of(desk_at, own(403, "Forbidden resource")) as (desk, server):
        with pytest.raises(CredentialsRefused):
            desk.deliver()
        assert {request.connection for request in server.requests} == {1}


@pytest.mark.parametrize(
    "proxy",
    ["ftp://proxy:21", "http://proxy:port", "http://proxy:99999", "http://[::1", "http://\N{EURO SIGN}:x@proxy"],
)
def test_a_proxy_that_cannot_be_used_is_a_fault_of_each_request(proxy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", proxy)
    wire = http.Wire("http://tasks.example", 1.0, Trust(from_environment=True))
    for _ in range(2):
        with pytest.raises(http.NoAnswer) as failure:
            wire.send("GET", "http://tasks.example/", {})
        assert "proxy" not in str(failure.value) or "through the proxy" in str(failure.value)
    wire.close()


def test_a_scheme_in_capitals_is_no_part_of_what_is_asked_for() -> None:
    with scripted(reply(200, [])) as server:
        wire = http.Wire(f"HTTP://127.0.0.1:{server.port}", 1.0, Trust())
        http.finish(wire.send("GET", f"HTTP://127.0.0.1:{server.port}/a?b", {}))
        wire.close()
    assert server.requests[0].line == "GET /a?b HTTP/1.1"
