"""What all three servers have in common: keep-alive, going down and coming back, counting calls in flight."""

from __future__ import annotations

import socket
import threading
import time

import pytest
import requests

from aitp.demo.http import Exchange
from aitp.demo.openai_api import OpenAIApi
from aitp.demo.task_api import TaskApi
from aitp.demo.wire import Request
from tests.demo.talking import session
from tests.waiting import patience, wait_until


def test_a_session_keeps_its_connection(openai_api: OpenAIApi) -> None:
    talker = session(openai_api.key)
    for _ in range(5):
        talker.post(openai_api.base_url + "/embeddings", json={"model": "text-embedding-3-small", "input": "a"})

    assert len({exchange.connection for exchange in openai_api.exchanges}) == 1
    assert all(exchange.authorized and exchange.body_bytes > 10 for exchange in openai_api.exchanges)


class _SlowToNote(OpenAIApi):
    def ended(self, request: Request, exchange: Exchange) -> None:
        time.sleep(0.2)
        super().ended(request, exchange)


def test_who_has_the_answer_finds_it_in_the_record_however_slowly_it_is_noted() -> None:
    with _SlowToNote() as server:
        body = {"model": "text-embedding-3-small", "input": "a"}
        session(server.key).post(server.base_url + "/embeddings", json=body)
        assert [(purchase.status, purchase.answered) for purchase in server.purchases] == [(200, True)]
        assert len(server.exchanges) == 1


def test_a_stopped_server_refuses_drops_what_was_open_and_comes_back_on_its_port() -> None:
    with TaskApi() as server:
        talker = session()
        assert talker.get(server.url + "/api/ai-tasks/pending").status_code == 200
        server.stop()
        with pytest.raises(requests.ConnectionError, match="refused"):
            talker.get(server.url + "/api/ai-tasks/pending")
        server.start()
        assert talker.get(server.url + "/api/ai-tasks/pending").status_code == 200


def test_a_server_that_is_down_for_a_while_comes_back_by_itself() -> None:
    def answers() -> bool:
        try:
            return session().get(server.url + "/api/ai-tasks/pending").status_code == 200
        except requests.ConnectionError:
            return False

    with TaskApi() as server:
        server.down_for(0.2)
        assert not answers()
        wait_until(answers, timeout=3)


def test_calls_in_flight_are_counted(openai_api: OpenAIApi) -> None:
    openai_api.latency_seconds = 0.3

    def call() -> None:
        body = {"model": "text-embedding-3-small", "input": "a"}
        session(openai_api.key).post(openai_api.base_url + "/embeddings", json=body)

    threads = [threading.Thread(target=call) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    call()

    assert openai_api.most_at_once == 4
    wait_until(lambda: len(openai_api.purchases) == 5)
    assert openai_api.purchases[-1].at_once == 1


GET = b"GET /api/ai-tasks/pending HTTP/1.1\r\nHost: x\r\n\r\n"


def test_one_call_after_another_is_never_two_at_once_whatever_connection_it_takes() -> None:
    with TaskApi() as server:
        clients = [socket.create_connection(("127.0.0.1", server.port), timeout=3) for _ in range(4)]
        for number in range(400):
            client = clients[number % 4]
            client.sendall(GET)
            assert client.recv(65_536).endswith(b"[]")
        for client in clients:
            client.close()

        assert server.most_at_once == 1


def test_a_killed_client_s_call_does_not_count_beside_its_successor_s() -> None:
    with TaskApi(latency_seconds=60) as server:
        old = socket.create_connection(("127.0.0.1", server.port))
        old.sendall(GET)
        wait_until(lambda: server.in_flight == 1)
        for number in range(1, 50):
            new = socket.create_connection(("127.0.0.1", server.port))
            old.close()  # what the kernel does for a process that is killed
            new.sendall(GET)
            wait_until(lambda done=number: len(server.exchanges) == done and server.in_flight == 1, every=0.001)  # type: ignore[misc]
            old = new
        old.close()

        assert server.most_at_once == 1


def test_an_idle_connection_is_closed_as_node_does_it() -> None:
    with TaskApi(idle_seconds=0.1) as server, socket.create_connection(("127.0.0.1", server.port)) as client:
        client.settimeout(3)
        client.sendall(GET)
        assert client.recv(65_536).startswith(b"HTTP/1.1 200 OK")
        assert client.recv(65_536) == b""


def test_a_request_in_pieces_is_read_whole() -> None:
    with TaskApi() as server, socket.create_connection(("127.0.0.1", server.port)) as client:
        client.settimeout(3)
        for piece in (
            b"PATCH /api/ai-tasks/",
            b"0" * 24,
            b" HTTP/1.1\r\ncontent-LENGTH: 18\r\n",
            b'\r\n{"state":',
            b'"failed"}',
        ):
            client.sendall(piece)
        assert client.recv(65_536).startswith(b"HTTP/1.1 404 ")


def test_closing_does_not_wait_for_answers_that_are_due_later() -> None:
    began = time.monotonic()
    with TaskApi(latency_seconds=60) as server, socket.create_connection(("127.0.0.1", server.port)) as client:
        client.sendall(GET)
        wait_until(lambda: server.in_flight == 1)
        server.close()
    assert time.monotonic() - began < patience(3)
