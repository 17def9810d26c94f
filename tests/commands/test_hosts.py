"""`aitp hosts` as an operator gives it: who is here, who is away, and whom to forget."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest
from pydantic import SecretStr

from aitp.ledger.ledger import Ledger
from aitp.ledger.locks import SlotLocks
from aitp.ledger.queue import LedgerConfig
from aitp.tasks import Fleet
from tests.commands.desk import Desk
from tests.commands.test_shell import complete
from tests.ledger.conftest import server
from tests.ledger.world import WORKER, World, prepared
from tests.services.postgres import PostgreSQL
from tests.waiting import wait_until

__all__ = ["server"]
SCHEMA = "hosted"


class Fleets:
    """Two hosts, one of which runs the commands."""

    def __init__(self, desk: Desk, server: PostgreSQL, folder: Path) -> None:
        self._desk = desk
        self._settings = {"LEDGER_URL": server.url, "LEDGER_SCHEMA": SCHEMA, "HOST_NAME": "one"}
        self.one, self.two = (
            prepared(Fleet(SecretStr(server.url), SCHEMA, name, 60.0, folder / name, "of the tests"))
            for name in ("one", "two")
        )

    def run(self, *arguments: str) -> tuple[int, str, str]:
        done = self._desk.run(*arguments, **self._settings)
        return done.returncode, done.stdout, done.stderr

    def json(self, *arguments: str) -> object:
        return self._desk.json(*arguments, **self._settings)

    def complete(self, words: str) -> list[str]:
        return complete(words, **self._desk.settings, **self._settings)

    @contextmanager
    def two_at_work(self) -> Iterator[None]:
        """A worker of the other host, with a task that this one has brought."""
        read, write = os.pipe()
        pid = os.fork()
        if pid == 0:
            with SlotLocks(self.two.lock_file) as locks:
                locks.acquire(WORKER)
                world = World(self.two)
                world.ledger = Ledger.open(self.two, LedgerConfig(), locks=locks)
                world.admit("a", "b")
                assert world.ledger.hosts is not None
                world.ledger.hosts.note("2.1.0", workers=7, relays=1, page="10.0.0.2:8001")
                world.claim(world.ledger.owner(WORKER))
                os.write(write, b".")
                signal.pause()
            os._exit(1)
        try:
            os.read(read, 1)
            yield
        finally:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            os.close(read)
            os.close(write)


@pytest.fixture
def fleets(desk: Desk, server: PostgreSQL, tmp_path: Path) -> Iterator[Fleets]:
    yield Fleets(desk, server, tmp_path)
    with psycopg.connect(server.url) as connection:
        connection.execute(f"DROP SCHEMA IF EXISTS {SCHEMA} CASCADE".encode())


def state_of(fleets: Fleets, name: str) -> bool:
    document = fleets.json("hosts")
    assert isinstance(document, dict)
    return bool(next(host["is_here"] for host in document["hosts"] if host["name"] == name))


def test_hosts_are_listed_and_one_that_is_away_is_forgotten_with_what_it_had_in_hand(fleets: Fleets) -> None:
    with fleets.two_at_work():
        code, said, _ = fleets.run("hosts")
        assert code == 0
        assert [line.split()[:2] for line in said.splitlines()[1:]] == [["one", "away"], ["two", "here"]]
        assert said.splitlines()[2].split()[-4:] == ["7", "1", "2.1.0", "10.0.0.2:8001"]
        assert "two   here" in fleets.run("status")[1]
        assert fleets.run("hosts", "forget", "two")[0] == 1
        assert "that host is here" in fleets.run("hosts", "forget", "two")[2]
        assert fleets.complete("aitp hosts forget ") == ["one"]  # where no service runs
    wait_until(lambda: not state_of(fleets, "two"))
    assert fleets.complete("aitp hosts forget t") == ["two"]

    assert fleets.json("hosts", "forget", "two") == {"forgotten": "two", "released": ["a", "b"]}
    assert "two" not in fleets.run("hosts", "list")[1]
    listed = fleets.json("tasks")
    assert isinstance(listed, dict)
    assert {task["state"] for task in listed["tasks"]} == {"ready"}
    code, _, said = fleets.run("hosts", "forget", "two")
    assert (code, said) == (1, "aitp: no host of that name is known: two\n")


def test_a_forgotten_host_does_not_come_back_by_itself(fleets: Fleets) -> None:
    """Its number may be another's by now."""
    with SlotLocks(fleets.two.lock_file) as locks:
        locks.acquire(WORKER)
        ledger = Ledger.open(fleets.two, LedgerConfig(), locks=locks)
        ledger._database._connection.close()  # type: ignore[attr-defined]
        wait_until(lambda: fleets.run("hosts", "forget", "two")[0] == 0)
        with pytest.raises(Exception, match="the fleet was told to forget this host: start its service anew"):
            ledger.owners()
        ledger.close()


def test_a_file_s_service_has_no_hosts(desk: Desk) -> None:
    for command in ("list", "forget one"):
        run = desk.run("hosts", *command.split())
        assert run.returncode == 1
        assert "a file of this host's alone" in run.stderr
