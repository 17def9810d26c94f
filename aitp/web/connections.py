"""Connections of the metrics server: how many there may be, and for how long one may keep its place.

waitress reads and writes all of them in one thread and never waits for any; what it lacks is a bound on a client that
sends a byte now and then, and room for a scrape when others hold all places. Here a connection has so many seconds from
its opening, or from its last answer, to bring its next request whole and to take its answer, however busy it looks
meanwhile; and a newcomer takes the place of whoever has kept everybody waiting for longest.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from waitress.adjustments import Adjustments  # type: ignore[import-untyped]
from waitress.channel import HTTPChannel  # type: ignore[import-untyped]
from waitress.server import MultiSocketServer, TcpWSGIServer  # type: ignore[import-untyped]
from waitress.task import ThreadedTaskDispatcher  # type: ignore[import-untyped]

from aitp.validators import addresses

MOST_CONNECTIONS = 100
PLACE_SECONDS = 30.0
HEAD_BYTES = 8_192
BODY_BYTES = 1_024  # nothing here reads one; a client that sends one is told so, not cut off

# How often waitress looks for dead connections. It wakes for nothing else that is not a request.
ROUNDS_SECONDS = 30


class Channel(HTTPChannel):  # type: ignore[misc]
    """One connection. `since`: monotonic, when it was opened or last answered."""

    requests: list[Any]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.since = time.monotonic()
        super().__init__(*args, **kwargs)

    def service(self) -> None:
        super().service()
        self.since = time.monotonic()


class Server(TcpWSGIServer):  # type: ignore[misc]
    """One listening socket. An address may need two, IPv4 and IPv6."""

    channel_class = Channel
    active_channels: dict[int, Channel]

    def maintenance(self, now: float) -> None:
        """Called by waitress now and then: see off those whose time is over."""
        over = time.monotonic() - PLACE_SECONDS
        for channel in self._waited_for():
            if channel.since < over:
                channel.will_close = True

    def handle_accept(self) -> None:
        if len(self.active_channels) >= MOST_CONNECTIONS:
            # Closed in waitress's next round: its descriptor must not be somebody else's in this one.
            longest = min(self._waited_for(), key=lambda channel: channel.since, default=None)
            if longest is not None:
                longest.will_close = True
        super().handle_accept()

    def _waited_for(self) -> list[Channel]:
        """Connections that keep us waiting, for a request or to take an answer. The others wait for us."""
        channels = self.active_channels.values()
        return [channel for channel in channels if not channel.requests and not channel.will_close]


def listen(application: Callable[..., Any], host: str, port: int) -> Any:
    """waitress on `host` and `port`, one thread; `run` serves. Raises OSError if that cannot be (for now, if it is a
    gaierror), and ValueError if there is no such host."""
    adjustments = Adjustments(
        listen="",  # waitress takes every failure to resolve a name for a wrong one
        threads=1,
        ident="aitp",
        asyncore_loop_timeout=ROUNDS_SECONDS,
        cleanup_interval=ROUNDS_SECONDS / 3,
        connection_limit=2 * MOST_CONNECTIONS,  # beyond this it accepts nobody; it counts its own descriptors too
        max_request_header_size=HEAD_BYTES,
        max_request_body_size=BODY_BYTES,
    )
    dispatcher = ThreadedTaskDispatcher()
    dispatcher.set_thread_count(adjustments.threads)
    sockets: dict[int, Any] = {}
    servers = [
        Server(application, sockets, dispatcher=dispatcher, adj=adjustments, sockinfo=address)
        for address in addresses(host, port)
    ]
    if len(servers) == 1:
        return servers[0]
    places = [(server.effective_host, server.effective_port) for server in servers]
    return MultiSocketServer(sockets, adjustments, places, dispatcher, servers[-1].log_info)
