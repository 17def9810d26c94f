"""HTTP/1.1 on one connection, lean: what is read becomes a `Request`, a `Response` becomes bytes.

Written by hand because the benchmarks measure the client on the same two cores: `http.server` costs about ten
times as much per request. Keep-alive and Content-Length only; a body without a length is answered with 411.
"""

from __future__ import annotations

import select
import socket
import struct
import time
from collections.abc import Iterable
from dataclasses import dataclass
from email.utils import formatdate
from urllib.parse import parse_qsl

import orjson

MAX_HEAD_BYTES = 65_536
MAX_BODY_BYTES = 64 * 1024 * 1024
REASONS = {
    200: "OK",
    201: "Created",
    302: "Found",
    400: "Bad Request",
    401: "Unauthorized",
    403: "Forbidden",
    404: "Not Found",
    405: "Method Not Allowed",
    411: "Length Required",
    413: "Payload Too Large",
    429: "Too Many Requests",
    500: "Internal Server Error",
    501: "Not Implemented",
    502: "Bad Gateway",
    503: "Service Unavailable",
}
NO_LINGER = struct.pack("ii", 1, 0)


class ConnectionOver(Exception):
    """The client closed the connection, or what it sent is no HTTP."""


@dataclass(frozen=True, slots=True)
class Request:
    """One request as it came. Header names are in lower case."""

    number: int
    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes
    received_wall: float
    received_monotonic: float
    keep_alive: bool
    without_length: bool = False


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a streamed body: sent `after_seconds`. `data` None: the server hangs up instead."""

    data: bytes | None
    after_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Response:
    """What is to be answered. With `stream` the body is sent piece by piece, in chunks (RFC 9112 §7.1)."""

    status: int
    body: bytes = b""
    headers: tuple[tuple[str, str], ...] = ()
    content_type: str = "application/json; charset=utf-8"
    stream: Iterable[Piece] | None = None

    def encode(self, keep_alive: bool, now: float) -> tuple[bytes, bytes]:
        """The bytes of head and body, sent at `now` by the server's clock."""
        head = (
            f"HTTP/1.1 {self.status} {REASONS.get(self.status, 'Unknown')}\r\n"
            f"Date: {formatdate(now, usegmt=True)}\r\n"
            f"Content-Type: {self.content_type}\r\n"
            f"{f'Content-Length: {len(self.body)}' if self.stream is None else 'Transfer-Encoding: chunked'}\r\n"
            f"Connection: {'keep-alive' if keep_alive else 'close'}\r\n"
        )
        for name, value in self.headers:
            head += f"{name}: {value}\r\n"
        return (head + "\r\n").encode("latin-1"), self.body


def json_response(status: int, document: object, headers: tuple[tuple[str, str], ...] = ()) -> Response:
    """A response whose body is `document` as JSON."""
    return Response(status, orjson.dumps(document), headers)


class Connection:
    """One accepted socket: requests out of it, bytes into it, and whether the client is still there."""

    def __init__(self, sock: socket.socket, idle_seconds: float) -> None:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.settimeout(idle_seconds)
        self._socket = sock
        self._rest = b""
        self._poll = select.poll()
        self._poll.register(sock, select.POLLRDHUP)

    def read(self, number: int) -> Request:
        """The next request; ConnectionOver when there is none."""
        try:
            head = self._read_head()
            received_wall, received_monotonic = time.time(), time.monotonic()
            method, target, headers, keep_alive = _parse_head(head)
            length = int(headers.get("content-length", 0))
            if not 0 <= length <= MAX_BODY_BYTES:
                raise ConnectionOver("body too long")
            body = self._read_body(length)
        except (OSError, ValueError) as error:
            raise ConnectionOver(str(error)) from error
        path, _, query = target.partition("?")
        return Request(
            number,
            method,
            path,
            dict(parse_qsl(query)) if query else {},
            headers,
            body,
            received_wall,
            received_monotonic,
            keep_alive,
            "transfer-encoding" in headers,
        )

    def _read_head(self) -> bytes:
        data = self._rest
        while (end := data.find(b"\r\n\r\n")) < 0:
            if len(data) > MAX_HEAD_BYTES:
                raise ConnectionOver("head too long")
            chunk = self._socket.recv(65_536)
            if not chunk:
                raise ConnectionOver("closed by the client")
            data = data + chunk if data else chunk
        self._rest = data[end + 4 :]
        return data[:end]

    def _read_body(self, length: int) -> bytes:
        have, self._rest = self._rest[:length], self._rest[length:]
        if len(have) == length:
            return have
        parts, missing = [have], length - len(have)
        while missing:
            chunk = self._socket.recv(min(missing, 262_144))
            if not chunk:
                raise ConnectionOver("closed by the client within a body")
            parts.append(chunk)
            missing -= len(chunk)
        return b"".join(parts)

    def send(self, data: bytes) -> bool:
        """Send all of it; False if the client is gone."""
        try:
            self._socket.sendall(data)
        except OSError:
            return False
        return True

    def gone_within(self, seconds: float) -> bool:
        """Wait so long, or less if the client closes (or the server shuts down) meanwhile: then True."""
        return bool(self._poll.poll(max(0.0, seconds * 1000)))

    def is_gone(self) -> bool:
        """Whether the client has closed. For any thread: a poll object of its own, as one can't be shared."""
        poll = select.poll()
        try:
            poll.register(self._socket, select.POLLRDHUP)
        except ValueError:  # closed on this side
            return True
        return bool(poll.poll(0))

    def shut(self) -> None:
        """End the conversation from another thread: reads and waits return at once."""
        try:
            self._socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # the client was faster

    def close(self, reset: bool = False) -> None:
        """Close the socket, with a TCP reset if asked for."""
        try:
            if reset:
                self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, NO_LINGER)
            self._socket.close()
        except OSError:
            pass


def _parse_head(head: bytes) -> tuple[str, str, dict[str, str], bool]:
    first, _, rest = head.decode("latin-1").partition("\r\n")
    method, target, version = first.split(" ")
    headers: dict[str, str] = {}
    for line in rest.split("\r\n"):
        name, _, value = line.partition(":")
        headers[name.lower()] = value.strip()
    keep_alive = version == "HTTP/1.1" and headers.get("connection", "").lower() != "close"
    return method, target, headers, keep_alive
