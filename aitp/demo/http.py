"""The base of the demo's servers: listens, talks HTTP/1.1 with keep-alive, strikes with faults, keeps a record.

A thread a connection, blocking. A server is a context manager; `url` is where it listens. A subclass gives `answer`
(what to say), `error` (its own kind of error body) and, if it likes, `ended` (told how each request went). A call
counts as in flight until its last byte leaves, or until its client is gone: a killed client makes no call any more.
How a request went is noted after that byte, for it may still fail; who has the answer finds it in the record all the
same, which is not given out (`settled`) while notes of what has left are missing.
Don't fork from a process that runs a server and expect its port to close: use `aitp.demo.world` for that.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self, TypeVar

from aitp.demo.faults import BROKEN_OFF, IDLE_KINDS, RESETS, Fault, FaultKind, FaultPlan
from aitp.demo.wire import Connection, ConnectionOver, Piece, Request, Response

Entry = TypeVar("Entry")
FOR_EVER_SECONDS = 86_400.0
PAGE = b"<!doctype html><html><head><title>Sign in</title></head><body><h1>Sign in</h1></body></html>"


@dataclass(frozen=True, slots=True)
class Exchange:
    """One request as the record keeps it. `status` is 0 if no answer was tried, `whole` if the client got all of it."""

    number: int
    connection: int
    method: str
    path: str
    query: dict[str, str]
    authorized: bool  # an Authorization header was there; its value is not kept
    body_bytes: int
    status: int
    whole: bool
    fault: FaultKind | None
    at_once: int  # requests in flight when this one came, itself included
    received_wall: float
    received_monotonic: float
    ended_monotonic: float


class Flights:
    """Requests that are being answered now, of one server or of several counted together. `most`: at one time."""

    def __init__(self) -> None:
        self.most = 0
        self._connections: dict[tuple[int, int], Connection] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._connections)

    def enter(self, key: tuple[int, int], connection: Connection) -> int:
        """One more; how many there are now. `key`: its server's port, its number there."""
        with self._lock:
            flights = self._connections
            flights[key] = connection
            if len(flights) > self.most:
                # A client that was killed a moment ago makes no call any more, even if its thread has not noticed.
                for gone in [other for other, each in flights.items() if each.is_gone() and other != key]:
                    del flights[gone]
                self.most = max(self.most, len(flights))
            return len(flights)

    def leave(self, key: tuple[int, int]) -> None:
        """It is over. May be said twice."""
        with self._lock:
            self._connections.pop(key, None)


class HttpServer:
    """One server on loopback. `latency_seconds` may be set at any time; it counts from the request's arrival."""

    def __init__(
        self, port: int = 0, *, latency_seconds: float = 0.0, idle_seconds: float = 60.0, fault_seed: int = 0
    ) -> None:
        self.latency_seconds = latency_seconds
        self.clock_ahead_seconds = 0.0  # of its Date headers; may be set at any time
        self.faults = FaultPlan(fault_seed)
        self._exchanges: list[Exchange] = []
        self._unnoted: set[int] = set()  # numbers of requests whose last byte is on its way
        self._noted = threading.Condition()
        self.flights = Flights()
        self.calls_in_flight = Flights()  # those that are calls; servers whose calls count together share it
        self._idle_seconds = idle_seconds
        self._listener = _bound("127.0.0.1", port)
        self.port: int = self._listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._lock = threading.Lock()
        self._connections: set[Connection] = set()
        self._threads: set[threading.Thread] = set()
        self._numbers = iter(range(1, 1 << 62))
        self._up = False

    # What a subclass says

    def answer(self, request: Request, fault: Fault | None) -> Response:
        """The answer to a request that no fault has answered already. `fault` may ask to spoil it."""
        raise NotImplementedError

    def error(self, status: int, request: Request) -> Response:
        """An error in this server's own manner."""
        raise NotImplementedError

    def latency_of(self, request: Request) -> float:
        """Seconds from arrival to answer."""
        return self.latency_seconds

    def is_call(self, request: Request) -> bool:
        """Whether the request asks for what the server is there for, and not for something beside that."""
        return True

    def ended(self, request: Request, exchange: Exchange) -> None:
        """Told about each request once it is over."""

    @property
    def in_flight(self) -> int:
        """Requests being answered now."""
        return len(self.flights)

    @property
    def most_at_once(self) -> int:
        """The most there were at one time."""
        return self.flights.most

    @property
    def exchanges(self) -> list[Exchange]:
        """Every request that is over."""
        return self.settled(self._exchanges)

    def settled(self, record: list[Entry]) -> list[Entry]:
        """This record, once it has all that was answered so far (but for clients that leave an answer unread)."""
        with self._noted:
            answered = set(self._unnoted)
            self._noted.wait_for(lambda: not answered & self._unnoted, timeout=10)
        return record

    def records(self) -> list[list[Any]]:
        """Everything that grows with each request; its entries say when they were received."""
        return [self._exchanges]

    def forget(self, before: float) -> None:
        """Forget the records of requests that were received before (monotonic)."""
        for record in self.records():
            old = 0
            while old < len(record) and record[old].received_monotonic < before:
                old += 1
            del record[:old]

    # Up and down

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def start(self) -> None:
        """Begin to listen (again, on the same port)."""
        with self._lock:
            if self._up:
                return
            self._up = True
            self._listener.listen(512)
            self._spawn(self._accept, self._listener)

    def stop(self) -> None:
        """Stop listening and drop every connection: clients see "connection refused" until `start`. Keeps the port."""
        with self._lock:
            if not self._up:
                return
            self._up = False
            self._hang_up(self._listener)
            self._listener = _bound("127.0.0.1", self.port)
            connections = list(self._connections)
        for connection in connections:
            connection.shut()

    def down_for(self, seconds: float) -> None:
        """`stop`, and `start` again that much later."""
        self.stop()
        timer = threading.Timer(seconds, self.start)
        timer.daemon = True
        timer.start()

    def close(self) -> None:
        """Stop for good and wait for the threads."""
        self.stop()
        for thread in list(self._threads):
            thread.join(timeout=5)
        self._listener.close()

    @staticmethod
    def _hang_up(listener: socket.socket) -> None:
        try:
            listener.shutdown(socket.SHUT_RDWR)  # close alone would leave accept() waiting
        except OSError:
            pass
        listener.close()

    def _spawn(self, target: object, *arguments: object) -> None:
        thread = threading.Thread(target=target, args=arguments, daemon=True)  # type: ignore[arg-type]
        self._threads.add(thread)
        thread.start()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                sock, (_, client_port) = listener.accept()
            except OSError:
                break
            connection = Connection(sock, self._idle_seconds)
            with self._lock:
                if not self._up:
                    connection.close()
                    continue
                self._connections.add(connection)
                self._spawn(self._converse, connection, client_port)
        self._threads.discard(threading.current_thread())

    # One connection

    def _converse(self, connection: Connection, client_port: int) -> None:
        reset = False
        try:
            while self._up:
                request = connection.read(next(self._numbers))
                fault = self.faults.strike(request.method, request.path, request.body)
                if not self._exchange(connection, client_port, request, fault):
                    reset = fault is not None and fault.kind in RESETS
                    break
        except ConnectionOver:
            pass
        finally:
            with self._lock:
                self._connections.discard(connection)
            connection.close(reset)
            self._threads.discard(threading.current_thread())

    def _exchange(self, connection: Connection, client_port: int, request: Request, fault: Fault | None) -> bool:
        """Answer one request and note it; False if the connection is to be closed."""
        at_once = self._enter(request, connection)
        whole, status = False, 0
        try:
            response = self._response(request, fault)
            late = fault.seconds if fault and fault.kind is FaultKind.STALL else 0.0
            due = request.received_monotonic + self.latency_of(request) + late
            if response is None:
                due += FOR_EVER_SECONDS if fault and fault.kind is FaultKind.HANG else 0.0
            else:
                status = response.status
            wait = due - time.monotonic()
            if wait > 0 and connection.gone_within(wait):
                return False
            if response is None or (fault and fault.kind is FaultKind.LOSE):
                return False
            whole = self._send(connection, request, response, fault)
            return whole and request.keep_alive
        finally:
            self._leave(request)
            exchange = Exchange(
                request.number,
                client_port,
                request.method,
                request.path,
                request.query,
                "authorization" in request.headers,
                len(request.body),
                status,
                whole,
                fault.kind if fault else None,
                at_once,
                request.received_wall,
                request.received_monotonic,
                time.monotonic(),
            )
            self._exchanges.append(exchange)
            self.ended(request, exchange)
            with self._noted:
                self._unnoted.discard(request.number)
                self._noted.notify_all()

    def _response(self, request: Request, fault: Fault | None) -> Response | None:
        if fault is not None and fault.kind in IDLE_KINDS and fault.kind is not FaultKind.QUOTA:
            if fault.kind is FaultKind.PAGE:
                return Response(fault.status, PAGE, tuple(fault.headers.items()), "text/html")
            if fault.kind is not FaultKind.STATUS:
                return None
            refusal = self.error(fault.status, request)
            return Response(refusal.status, refusal.body, (*refusal.headers, *fault.headers.items()))
        if request.without_length:
            return self.error(411, request)
        response = self.answer(request, fault)
        if fault is not None and fault.kind is FaultKind.GARBAGE:
            return Response(200, b"<html><body>It works!</body>", content_type="text/html")
        if fault is not None and fault.kind is FaultKind.ENDLESS:
            return Response(200, stream=_without_end())
        return response

    def _now(self) -> float:
        return time.time() + self.clock_ahead_seconds

    def _send(self, connection: Connection, request: Request, response: Response, fault: Fault | None) -> bool:
        if response.stream is not None:
            return self._send_stream(connection, request, response) and not (fault and fault.kind is FaultKind.ENDLESS)
        pieces = list(_pieces(response.encode(request.keep_alive, self._now()), fault))
        pause_seconds = fault.seconds if fault else 0.0
        for piece in pieces[:-1]:
            if not connection.send(piece) or connection.gone_within(pause_seconds):
                return False
        self._leave_with_last_byte(request)
        if not connection.send(pieces[-1]):
            return False
        return fault is None or fault.kind not in BROKEN_OFF

    def _send_stream(self, connection: Connection, request: Request, response: Response) -> bool:
        assert response.stream is not None
        if not connection.send(response.encode(request.keep_alive, self._now())[0]):
            return False
        for piece in response.stream:
            if connection.gone_within(piece.after_seconds) or piece.data is None:
                return False
            if not connection.send(b"%x\r\n%s\r\n" % (len(piece.data), piece.data)):
                return False
        self._leave_with_last_byte(request)
        return connection.send(b"0\r\n\r\n")

    def _enter(self, request: Request, connection: Connection) -> int:
        key = (self.port, request.number)
        if self.is_call(request):
            self.calls_in_flight.enter(key, connection)
        return self.flights.enter(key, connection)

    def _leave_with_last_byte(self, request: Request) -> None:
        # Before it, not after: with it in hand the client may call again before this thread runs.
        with self._noted:
            self._unnoted.add(request.number)
        self._leave(request)

    def _leave(self, request: Request) -> None:
        key = (self.port, request.number)
        self.calls_in_flight.leave(key)
        self.flights.leave(key)


def _pieces(encoded: tuple[bytes, bytes], fault: Fault | None) -> Iterator[bytes]:
    """What is sent one after the other. All at once, unless the fault says otherwise."""
    head, body = encoded
    if fault is not None and fault.kind in (FaultKind.CUT, FaultKind.RESET_IN_BODY):
        yield head + body[: len(body) // 2]
    elif fault is not None and fault.kind is FaultKind.RESET_IN_HEAD:
        yield head[: len(head) // 2]
    elif fault is not None and fault.kind in (FaultKind.TOO_SHORT, FaultKind.TOO_LONG):
        wrong = len(body) // 2 if fault.kind is FaultKind.TOO_SHORT else len(body) + 1000
        yield head.replace(b"Content-Length: %d" % len(body), b"Content-Length: %d" % wrong) + body
    elif fault is not None and fault.kind is FaultKind.TRICKLE:
        yield head
        for position in range(len(body)):
            yield body[position : position + 1]
    elif len(body) > 1_000_000:
        yield head  # no second copy of a page of 100 MB
        yield body
    else:
        yield head + body


def _without_end() -> Iterator[Piece]:
    """JSON that begins well. 64 MB a second for an hour, unless the client hangs up."""
    yield Piece(b'[{"_id": "')
    for _ in range(1 << 22):
        yield Piece(b"0" * 65_536, after_seconds=0.001)


def _bound(host: str, port: int) -> socket.socket:
    """A socket that holds the port without listening: connections to it are refused."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind((host, port))
    return sock
