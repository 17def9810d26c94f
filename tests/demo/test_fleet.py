"""`aitp demo --hosts`: a host is lost in the middle, and nothing with it."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from aitp.demo import fleet
from tests.demo.test_command import children, folders, members, place, started
from tests.packaging.test_command import aitp
from tests.waiting import patience, wait_until

__all__ = ["place"]


@pytest.mark.slow
@pytest.mark.skipif(
    fleet.programs() is None, reason="no PostgreSQL server is installed (Debian: apt install postgresql)"
)
def test_a_host_that_is_lost_costs_its_calls_in_flight_and_leaves_nothing_behind(place: Path) -> None:
    with started(place, "--hosts", "3", "--tasks", "200", "--workers", "2", "--json") as demo:
        out, err = demo.communicate(timeout=patience(150))

    assert demo.returncode == 0, err
    verdict = json.loads(out)
    assert (verdict["succeeded"], verdict["failed"], verdict["bought_after_record"], verdict["wrong"]) == (
        200,
        0,
        0,
        [],
    )
    assert verdict["bought_again"] <= 2 * fleet.BATCH
    assert "host-3 lost: all of its processes killed with kill -9" in " ".join(err.split())
    assert folders(place) == []
    assert not members({demo.pid})


@pytest.mark.parametrize("lack", ["server", "driver"])
def test_what_it_lacks_is_said_in_a_line(monkeypatch: pytest.MonkeyPatch, lack: str) -> None:
    monkeypatch.setattr(fleet, "programs", lambda: None if lack == "server" else Path("/usr/bin"))
    monkeypatch.setitem(sys.modules, "psycopg", None)
    for module in ("postgresql", "session"):
        monkeypatch.delitem(sys.modules, f"aitp.ledger.{module}", raising=False)
    said = fleet.missing()

    assert said is not None
    assert ("apt install postgresql" if lack == "server" else "LEDGER_URL needs the package psycopg") in said


def test_one_host_alone_needs_neither_and_servers_alone_know_no_hosts() -> None:
    run = aitp("demo", "--hosts", "2", "--servers", tempfile.gettempdir())

    assert run.returncode == 2
    assert "--servers goes with" in run.stderr


def test_a_whole_tree_of_processes_is_killed() -> None:
    shell = subprocess.Popen(["sh", "-c", "sh -c 'sleep 1000 & sleep 1000; true' & wait; true"], start_new_session=True)
    wait_until(lambda: len(members({shell.pid})) == 4)
    assert children(shell.pid)
    fleet._kill_all(shell.pid)
    shell.wait()

    wait_until(lambda: not members({shell.pid}))
