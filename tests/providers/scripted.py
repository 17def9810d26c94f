"""A raw HTTP server for one test: every request gets the next answer of a script, byte for byte, or none at all.

For what a well-made server never does: hanging up in the middle, trickling, answering garbage. Requests are recorded
whole, headers too, with the number of the connection they came on.
"""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

Answer = Callable[[socket.socket], bool]
"""Sends what it likes; True: the connection may carry another request."""


@dataclass
class Recorded:
    connection: int
    line: str
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class ScriptedServer:
    """`script`: answers to the first requests in turn; the last one answers all that follow."""

    script: list[Answer]
    requests: list[Recorded] = field(default_factory=list)
    port: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"


@contextmanager
def scripted(*script: Answer) -> Iterator[ScriptedServer]:
    server = ScriptedServer(list(script))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server.port = listener.getsockname()[1]
        accepting = threading.Thread(target=_accept, args=(server, listener), daemon=True)
        accepting.start()
        try:
            yield server
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            accepting.join(5)


def reply(status: int, body: object = b"", **headers: str) -> Answer:
    """A proper answer. Underscores in the names of headers are hyphens."""
    payload = body if isinstance(body, bytes) else json.dumps(body).encode()
    lines = [f"HTTP/1.1 {status} Whatever", "Content-Type: application/json", f"Content-Length: {len(payload)}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]

    def answer(connection: socket.socket) -> bool:
        connection.sendall("\r\n".join(lines).encode() + b"\r\n\r\n" + payload)
        return True

    return answer


def raw(data: bytes) -> Answer:
    """These bytes, then hang up."""

    def answer(connection: socket.socket) -> bool:
        connection.sendall(data)
        return False

    return answer


def flood(head: bytes, piece: bytes, times: int) -> Answer:
    """A head, then as many pieces as the client takes, `times` at most, and no proper end."""

    def answer(connection: socket.socket) -> bool:
        connection.sendall(head)
        for _ in range(times):
            connection.sendall(piece)
        return False

    return answer


def trickle(head: bytes, gone: threading.Event) -> Answer:
    """A head, then a byte every 20 ms: no single read ever times out. `gone` is set when the client has left."""

    def answer(connection: socket.socket) -> bool:
        connection.sendall(head)
        connection.settimeout(0.02)
        while True:
            try:
                if connection.recv(1) == b"":
                    break
            except TimeoutError:
                pass
            try:
                connection.sendall(b" ")
            except OSError:
                break
        gone.set()
        return False

    return answer


def _accept(server: ScriptedServer, listener: socket.socket) -> None:
    number = 0
    while True:
        try:
            connection, _ = listener.accept()
        except OSError:
            return
        number += 1
        threading.Thread(target=_serve, args=(server, connection, number), daemon=True).start()


def _serve(server: ScriptedServer, connection: socket.socket, number: int) -> None:
    with connection, connection.makefile("rb") as stream:
        try:
            while line := stream.readline():
                headers = {}
                while (header := stream.readline()) not in (b"\r\n", b""):
                    name, _, value = header.decode().partition(":")
                    headers[name.lower()] = value.strip()
                body = stream.read(int(headers.get("content-length", 0)))
                server.requests.append(Recorded(number, line.decode().strip(), headers, body))
                answer = server.script.pop(0) if len(server.script) > 1 else server.script[0]
                if not answer(connection):
                    return
        except OSError:
            return
