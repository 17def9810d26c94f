"""What clients of the metrics process may do to each other: nothing. A real process, and clients that misbehave."""

from __future__ import annotations

import hashlib
import os
import select
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest

from aitp.web import app
from tests.waiting import patience, wait_until
from tests.web.test_serve import Running
from tests.web.world import World, ask

PROMPT_SECONDS = 5.0


@pytest.fixture
def running(world: World) -> Iterator[Running]:
    running = Running(world)
    yield running
    running.process.kill()
    running.process.wait(10)


@contextmanager
def clients(port: int, count: int) -> Iterator[list[socket.socket]]:
    with ExitStack() as stack:
        yield [stack.enter_context(socket.create_connection(("127.0.0.1", port), 10)) for _ in range(count)]


def exchange(port: int, request: bytes) -> bytes:
    """All that is answered to these bytes until the server hangs up."""
    with socket.create_connection(("127.0.0.1", port), timeout=20) as client:
        client.sendall(request)
        answer = b""
        try:
            while piece := client.recv(65_536):
                answer += piece
        except ConnectionResetError:
            pass  # it hung up on what we still had to say
        return answer


def promptly_scraped(running: Running) -> None:
    started = time.monotonic()
    status, body = running.get("/metrics")
    assert (status, b"ai_tasks_in_flight" in body) == (200, True)
    assert time.monotonic() - started < patience(PROMPT_SECONDS)


def hung_up_on(client: socket.socket) -> bool:
    waiting = select.poll()  # `select` knows no descriptor beyond 1,023
    waiting.register(client, select.POLLIN)
    if not waiting.poll(0):
        return False
    try:
        return client.recv(1) == b""
    except ConnectionResetError:
        return True


def test_idle_connections_however_many_keep_no_scrape_waiting(running: Running) -> None:
    """waitress alone would accept nobody beyond its limit."""
    many = app.MOST_CONNECTIONS * 3
    with clients(running.port, many) as idle:
        promptly_scraped(running)

        wait_until(lambda: sum(map(hung_up_on, idle[: many // 2])) >= many - app.MOST_CONNECTIONS - 1 - many // 2)
        assert not any(map(hung_up_on, idle[-50:]))  # the first to come are the first to go
    assert [line["event"] for line in running.log()] == ["Metrics server started"]


def test_clients_that_dribble_keep_no_scrape_waiting(running: Running) -> None:
    with clients(running.port, app.MOST_CONNECTIONS + 20) as slow:
        for byte in b"GET /metrics HTTP/1.1\r\nX: ":
            for client in slow:
                try:
                    client.send(bytes([byte]))
                except OSError:
                    pass  # its place was taken
        promptly_scraped(running)


def test_clients_that_take_no_answer_keep_no_scrape_waiting(running: Running) -> None:
    with clients(running.port, 40) as deaf:
        for client in deaf:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n" * 50)
        promptly_scraped(running)


def test_an_idle_client_loses_its_place_in_the_end(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app, "IDLE_SECONDS", 0.3)
    server = app.listen(world.app, "127.0.0.1", 0)
    with socket.create_connection(("127.0.0.1", int(server.effective_port))) as client:

        def seen_off() -> bool:
            server.asyncore.poll(0.02, server._map)
            return hung_up_on(client)

        wait_until(seen_off, every=0.02)
    server.task_dispatcher.shutdown()
    server.close()


REFUSED = [
    (b"GET / HTTP/1.1\r\nX: " + b"x" * 9_000 + b"\r\n\r\n", b"431"),
    (b"GET /" + b"x" * 9_000 + b" HTTP/1.1\r\n\r\n", b"431"),
    (b"POST / HTTP/1.1\r\nContent-Length: 1000000000\r\n\r\n", b"413"),
    (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1000\r\n" + b"x" * 4096 + b"\r\n0\r\n\r\n", b"413"),
    (b"GET / HTTP/1.1\r\nTransfer-Encoding: gzip\r\n\r\n", b"501"),
    (b"GET / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nx", b"400"),
    (b"nonsense\r\n\r\n", b"400"),
    (b"DELETE /metrics HTTP/1.0\r\n\r\n", b"405"),
]


def test_what_is_too_long_or_no_http_is_refused(running: Running) -> None:
    for request, status in REFUSED:
        answer = exchange(running.port, request)

        assert (answer.split(b" ", 2)[1], b"Traceback" in answer) == (status, False), request[:60]


def test_an_endless_header_is_not_read_to_its_end(running: Running) -> None:
    with socket.create_connection(("127.0.0.1", running.port), timeout=20) as client:
        sent = 0
        try:
            while sent < 50_000_000:
                sent += client.send(b"x" * 65_536)
        except OSError:
            pass

        assert sent < 50_000_000
    promptly_scraped(running)


def test_no_request_of_any_kind_changes_the_ledger_or_the_runtime_directory(world: World) -> None:
    world.admit("a", "b")
    folder = world.settings.runtime_dir.parent

    def state() -> dict[str, str]:
        return {
            str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(folder.rglob("*"))
            if path.is_file() and not path.name.endswith(("-shm", ".lock"))
        }

    ask(world.app, "/")  # whatever the first look at a ledger leaves beside it
    before = state()
    assert any(name.endswith("ledger.db") for name in before)
    for method in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT", "PROPFIND"):
        for path in ("/", "/health", "/ready", "/metrics", "/pause", "/resume", "/tasks", "/dead/a", "/../x"):
            ask(world.app, path, method)

    assert state() == before
    assert os.path.exists(world.settings.rate_limit_storage_path)
