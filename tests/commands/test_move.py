"""`aitp ledger move` and `aitp ledger check` as an operator gives them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from tests.commands.desk import Desk
from tests.ledger.conftest import server
from tests.services.postgres import PostgreSQL

__all__ = ["server"]
SCHEMA = "commanded"


@pytest.fixture
def url(server: PostgreSQL) -> Iterator[str]:
    yield server.url
    with psycopg.connect(server.url) as connection:
        connection.execute(f"DROP SCHEMA IF EXISTS {SCHEMA} CASCADE".encode())


def test_it_goes_there_and_back_and_says_what_to_do_next(desk: Desk, url: str, tmp_path: Path) -> None:
    desk.bury("a", "b")
    fleet = {"LEDGER_URL": url, "LEDGER_SCHEMA": SCHEMA}
    run = desk.run("ledger", "move", "--to", "fleet", **fleet)
    assert run.returncode == 0, run.stderr
    assert "Start the service with LEDGER_URL on every host" in run.stdout
    assert "2 results" in run.stdout

    found = desk.json("ledger", "check", **fleet)
    assert (found["ok"], found["rows"]["results"]) == (True, 2)
    back = {**fleet, "RATE_LIMIT_STORAGE_PATH": str(tmp_path / "back.db")}
    moved = desk.json("ledger", "move", "--to", "file", **back)
    assert (moved["to"], moved["rows"]["results"]) == (str(tmp_path / "back.db"), 2)
    del back["LEDGER_URL"]
    assert [letter["id"] for letter in desk.json("dead", "list", **back)] == ["a", "b"]


def test_without_an_address_there_is_nowhere_to_move(desk: Desk) -> None:
    run = desk.run("ledger", "move", "--to", "fleet")

    assert (run.returncode, run.stdout) == (1, "")
    assert "LEDGER_URL is not set" in run.stderr


@pytest.mark.parametrize("command", ["master", "ledger check", "ledger move --to fleet", "status"])
def test_without_its_driver_a_fleet_s_address_is_a_wrong_setting(desk: Desk, tmp_path: Path, command: str) -> None:
    (tmp_path / "psycopg.py").write_text("raise ImportError('there is no libpq')")
    path = f"{tmp_path}:{Path(__file__).parents[2]}"
    run = desk.run(*command.split(), LEDGER_URL="postgresql://aitp@nowhere.invalid/aitp", PYTHONPATH=path)

    assert run.returncode == 78
    assert "LEDGER_URL needs the package psycopg[binary]" in run.stdout + run.stderr
    assert "Traceback" not in run.stdout + run.stderr
