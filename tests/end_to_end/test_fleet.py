"""Services of several hosts on one PostgreSQL: one set of limits, no text bought twice, and no host that is needed."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import orjson
import psycopg
import pytest
from pydantic import SecretStr

from aitp.ledger.engine import migrate
from aitp.ledger.inbox import Poll, PollOptions
from aitp.ledger.ledger import Ledger
from aitp.ledger.queue import LedgerConfig
from aitp.ledger.stats import Snapshot, snapshot
from aitp.process.relay import read_document
from aitp.process.scoreboard import Role, State
from aitp.tasks import Fleet, NewTask
from tests.end_to_end.running import Service
from tests.metrics.reading import scrape, value
from tests.services import a_task
from tests.services.postgres import PostgreSQL, postgres_server
from tests.waiting import patience

GRACE = 20  # the least that may be set


@pytest.fixture
def server() -> Iterator[PostgreSQL]:
    # As it would be: what is acknowledged is on disk.
    with postgres_server(fsync="on") as server:
        yield server


class Host(Service):
    """One host's service. What it looks at is the fleet's ledger."""

    def __init__(self, directory: Path, server: PostgreSQL, name: str) -> None:
        directory.mkdir()
        super().__init__(directory)
        self._server = server
        self.configure(LEDGER_URL=server.url, HOST_NAME=name, HOST_GRACE_SECONDS=GRACE)

    def join(self, other: Service) -> None:
        """Work for the same task API, with the same providers."""
        self._world = other.world
        self.configure(**other.world.environment)

    def snapshot(self) -> Snapshot:
        place = Fleet(SecretStr(self._server.url), "aitp", "who looks", GRACE, self.runtime_dir / "fleet", "the test's")
        return snapshot(place)


@pytest.fixture
def hosts(tmp_path: Path, server: PostgreSQL) -> Iterator[list[Host]]:
    made = [Host(tmp_path / name, server, name) for name in ("one", "two")]
    try:
        yield made
    finally:
        for host in made[::-1]:
            host.clear()
    assert [pid for host in made for pid in host.pids()] == []


def test_two_hosts_share_the_work_and_buy_no_text_twice_over_a_restart_of_the_server_as_well(
    hosts: list[Host], server: PostgreSQL
) -> None:
    one, two = hosts
    one.open_world(60, openai_api={"latency_seconds": 0.1})
    two.join(one)
    for host in hosts:
        host.start(EMBEDDING_BATCH_SIZE=1)
    one.await_states(succeeded=60, timeout=60.0)

    assert one.world.summary().bought_again == 0
    assert all(host.said("Task processing completed") for host in hosts)
    assert all(value(scrape(host.runtime_dir / "metrics"), "aitp_ledger_queue_seconds_count") for host in hosts)

    one.world.set("openai_api", latency_seconds=0.3)
    one.world.add_tasks(40)
    one.await_bought(68)
    server.restart()
    one.await_states(succeeded=100, timeout=90.0)
    assert one.world.summary().bought_again == 0
    assert [host.stop() for host in hosts] == [0, 0]
    assert one.snapshot().held == 0


def test_the_loss_of_a_host_costs_its_calls_in_flight_and_nothing_else(hosts: list[Host]) -> None:
    lost, other = hosts
    lost.open_world(24, openai_api={"latency_seconds": 2.0})
    other.join(lost)
    lost.start(EMBEDDING_BATCH_SIZE=1)
    lost.wait(lambda: lost.snapshot().claimed >= lost.setting("CONCURRENCY_LIMIT"))
    lost.kill_everything()
    in_hand = lost.snapshot().claimed
    other.start(EMBEDDING_BATCH_SIZE=1)
    other.await_states(succeeded=24, timeout=GRACE + 90.0)

    assert other.world.summary().bought_again <= in_hand
    assert other.stop() == 0


def test_a_task_that_another_host_brings_is_claimed_by_an_idle_worker_within_a_second(
    hosts: list[Host], server: PostgreSQL, tmp_path: Path
) -> None:
    one = hosts[0]
    one.open_world()
    one.start(POLLING_INTERVAL_SECONDS=60)
    one.wait(lambda: all(child.state is State.IDLE for child in one.crew()))
    place = Fleet(SecretStr(server.url), "aitp", "another", GRACE, tmp_path / "another", "the test's")
    migrate(place)
    task = read_document(orjson.dumps(a_task(_id="65f000000000000000000001")))
    assert isinstance(task, NewTask)

    with closing(Ledger.open(place, LedgerConfig())) as ledger:
        poll = None
        while not isinstance(poll, Poll):  # the service may be at its own
            poll = ledger.inbox.begin_poll(ledger.owner(1), PollOptions(60.0, 3, 1), asked=True)
        ledger.inbox.admit(poll, [task])
        brought_at = time.monotonic()
        one.wait(lambda: one.said("Task processing started", task_id=task.id))
        assert time.monotonic() - brought_at < patience(1.0)


@pytest.mark.slow  # the ledger's tests hold the same every day
def test_a_host_that_is_not_upgraded_yet_ends_what_it_has_and_takes_nothing_new(
    hosts: list[Host], server: PostgreSQL
) -> None:
    host = hosts[0]
    host.open_world(12, openai_api={"latency_seconds": 2.0})
    host.start(EMBEDDING_BATCH_SIZE=1)
    host.start_metrics()
    host.wait(lambda: host.snapshot().claimed == host.setting("CONCURRENCY_LIMIT"))
    with psycopg.connect(server.url) as theirs:
        theirs.execute("ALTER TABLE aitp.tasks ADD COLUMN colour TEXT NOT NULL DEFAULT 'blue'")
        theirs.execute("UPDATE aitp.ledger SET version = version + 1")
    host.await_idle()
    done = host.world.summary().texts_bought

    assert 0 < done < 12
    assert host.world.states()["succeeded"] == done
    assert host.said("Ledger is of the next release, new work waits: upgrade this host")
    host.kill([host.crew(Role.WORKER)[0].pid])
    host.wait(lambda: host.said("Child died"))
    host.await_crew()
    assert host.stop() == 0
    host.start()
    host.await_idle()
    status, reasons = host.get("/ready") or (0, "")
    assert (status, "upgrade this host: " in reasons) == (503, True)
    assert host.stop() == 0
    assert host.run("once") == 1
    assert "upgrade this host" in host.said("Work is left for the next run")[0]["reason"]
    assert host.world.summary().texts_bought == done


def test_a_name_that_another_host_has_is_refused(hosts: list[Host]) -> None:
    one, two = hosts
    one.open_world()
    two.join(one)
    one.start()
    two.start(wait=False, HOST_NAME="one")

    two.wait(lambda: two.said("Configuration cannot be used"), 60.0)
    assert "HOST_NAME=one is in use by another host" in two.log()
    two.signal(signal.SIGTERM)
