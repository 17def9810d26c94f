"""A host whose line to the ledger's server is cut: it has a network of its own, joined to the server's by one cable."""

from __future__ import annotations

import ctypes
import os
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.end_to_end.test_fleet import GRACE, Host
from tests.services.line import Line
from tests.services.postgres import PostgreSQL, postgres_server

LIMIT, TASKS, WINDOW_SECONDS = 20, 40, 60.0
CLONE_NEWNET = 0x40000000  # setns(2)


class Network:
    """A namespace, and the cable from it to this one: `here` and `there` are the addresses of its ends."""

    def __init__(self) -> None:
        number = os.getpid()
        self.name, self._cable = f"aitp-{number}", f"aitp{number % 100_000}"
        subnet = f"198.18.{number % 256}.{number // 256 % 64 * 4}"  # of those for benchmarks (RFC 2544)
        start = subnet.rpartition(".")
        self.here, self.there = (f"{start[0]}.{int(start[2]) + end}" for end in (1, 2))
        self._ip("netns", "add", self.name)
        self._ip("link", "add", self._cable, "type", "veth", "peer", "name", "line", "netns", self.name)
        self._ip("addr", "add", f"{self.here}/30", "dev", self._cable)
        self._ip("-n", self.name, "addr", "add", f"{self.there}/30", "dev", "line")
        self._ip("-n", self.name, "link", "set", "lo", "up")
        self._ip("-n", self.name, "link", "set", "line", "up")
        self.mend()

    def cut(self) -> None:
        self._ip("link", "set", self._cable, "down")

    def mend(self) -> None:
        self._ip("link", "set", self._cable, "up")

    def close(self) -> None:
        self._ip("netns", "del", self.name)

    @contextmanager
    def entered(self) -> Iterator[None]:
        """This thread is in it, and what sockets it makes stay there."""
        libc = ctypes.CDLL(None, use_errno=True)
        with open("/proc/self/ns/net", "rb") as home, open(f"/run/netns/{self.name}", "rb") as there:
            assert libc.setns(there.fileno(), CLONE_NEWNET) == 0
            try:
                yield
            finally:
                assert libc.setns(home.fileno(), CLONE_NEWNET) == 0

    def open_door(self, port: int) -> Line:
        """Who is at home there at this port is who is here. No cable is needed for that."""
        with self.entered():
            listener = socket.create_server(("127.0.0.1", port))
        return Line(listener, partial(socket.create_connection, ("127.0.0.1", port)))

    def _ip(self, *arguments: str) -> None:
        done = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)
        if done.returncode and arguments[:2] == ("netns", "add"):
            pytest.skip(f"no network namespace is to be had here: {done.stderr.strip()}")
        assert done.returncode == 0, done.stderr


@pytest.fixture
def network() -> Iterator[Network]:
    try:
        made = Network()
    except (FileNotFoundError, PermissionError) as error:
        pytest.skip(f"no network namespace is to be had here: {error}")
    try:
        yield made
    finally:
        made.close()


@pytest.fixture
def server(network: Network) -> Iterator[PostgreSQL]:
    with postgres_server(fsync="on") as server:
        with Path(server.data, "pg_hba.conf").open("a") as file:
            file.write(f"host all all {network.there}/32 trust\n")
        server.host = network.here
        server.restart()
        yield server


class AwayHost(Host):
    """One in that network: it reaches the ledger over its cable, and all others at home."""

    def live_in(self, network: Network, server: PostgreSQL) -> None:
        self.by = ("nsenter", f"--net=/run/netns/{network.name}")
        self.configure(LEDGER_URL=f"postgresql://aitp@{network.here}:{server.port}/postgres?sslmode=disable")


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_host_whose_line_is_cut_for_longer_than_its_grace_costs_its_calls_in_flight_and_comes_back(
    network: Network, server: PostgreSQL, tmp_path: Path
) -> None:
    one, two = Host(tmp_path / "one", server, "one"), AwayHost(tmp_path / "two", server, "two")
    doors: list[Line] = []
    try:
        one.open_world(TASKS, openai_api={"latency_seconds": 2.0})
        two.join(one)
        two.live_in(network, server)
        ports = {urlsplit(value).port for value in one.world.environment.values() if value.startswith("http://")}
        doors += [network.open_door(port) for port in ports if port]
        for host in (two, one):
            host.start(EMBEDDING_BATCH_SIZE=1, RATE_LIMIT_ENABLED="true", RATE_LIMIT_PER_MINUTE=LIMIT)
        two.wait(lambda: two.said("Task processing completed"))
        network.cut()
        two.wait(lambda: two.said("Ledger cannot record results, they are kept in memory"), 60.0)
        one.wait(lambda: one.said("Task of a former process put back", former_host="two"), GRACE + 60.0)
        network.mend()
        one.await_states(succeeded=TASKS, timeout=3 * WINDOW_SECONDS)

        assert one.world.summary().bought_again <= two.setting("CONCURRENCY_LIMIT")
        assert one.world.wrong_results() == []
        sent = sorted(purchase.received_wall for purchase in one.world.purchases())
        assert min(late - early for early, late in zip(sent, sent[LIMIT:], strict=False)) >= WINDOW_SECONDS
        assert one.stop() == 0
        one.world.add_tasks(2)
        two.await_states(succeeded=TASKS + 2, timeout=2 * WINDOW_SECONDS)
        assert two.stop() == 0
        assert two.snapshot().held == 0
    finally:
        for door in doors:
            door.close()
        for host in (two, one):
            host.clear()
