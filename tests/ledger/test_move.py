"""The ledger moved from a file to a fleet's database and back: equal, or nothing of it."""

from __future__ import annotations

import dataclasses
import os
import signal
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest
from pydantic import SecretStr

from aitp.errors import LedgerError
from aitp.ledger import move as moving
from aitp.ledger import session, sqlite
from aitp.ledger.engine import Fleet, Row, open_database
from aitp.ledger.ledger import prepare
from aitp.ledger.locks import MASTER_SLOT, SlotLocks
from aitp.ledger.maintenance import check
from aitp.ledger.move import STAYING, move
from aitp.ledger.schema import VERSION
from aitp.tasks import Ending, Health
from tests.ledger.damage import closed, lived
from tests.ledger.world import OTHER_WORKER, WORKER, World, terms
from tests.services.postgres import PostgreSQL

# Where nothing of a lived ledger is, in the order of the columns: texts of several kinds, the ends of numbers, nulls.
FURTHER = {
    "malformed": ("é\n\t\\N\"'\U0001f600", "", 3),
    "cooldowns": ("openai", "*", 1.7e9 + 1 / 3, "429", 1, 0.1, None),
    "stand_ins": ("ollama", 20_300, 7),
    "processors": ("text_embedding", 2, None),
    "cache": (2**53 - 1, "key", bytes(range(256)), 5e-324),
    "answers": (9, b"\x00\xff", "65f0", 1e300, b""),
    "recent_errors": (4, "openai", "text_embedding", "failed", "why", 1.0, 2.5, 2**40, '["a"]'),
    "budgets": ("day", "USD", None, 0.0, 0.0),
    "spending": ("USD", 1_753_833_600, 1_753_920_000, 2**60),
    "reservations": (WORKER, "USD", 12),
    "habits": ("openai", "o3-mini", "defining_topics", 1_000, 200),
    "unpriced": ("openai", "new"),
    "request_profiles": ("openai", "o3", "setup", "", "{}", "[]", "400", -1.5),
    "failures": (77, "openai", 1, "input", "[1]"),
}


@pytest.fixture
def place(server: PostgreSQL, tmp_path: Path) -> Iterator[Fleet]:
    """A schema that nobody has made yet."""
    yield Fleet(SecretStr(server.url), "moved", "one", 20.0, tmp_path / "fleet", "of the tests")
    with psycopg.connect(server.url) as connection:
        connection.execute("DROP SCHEMA IF EXISTS moved CASCADE")


@pytest.fixture
def full(folder: Path, template: Path) -> Path:
    """A ledger with something in each table, whose last task and failure are gone again."""
    world = lived(folder, template)
    world.run(Ending.RETRY, Health.FAULTY, slot=OTHER_WORKER)
    world.listing("twin", "other", twins=True)
    for table, row in FURTHER.items():
        world.change(f"DELETE FROM {table}")
        world.change(f"INSERT INTO {table} VALUES ({', '.join('?' * len(row))})", *row)
    for table, number in (("tasks", "seq"), ("failures", "number")):
        world.change(f"UPDATE sqlite_sequence SET seq = seq + 100 WHERE name = '{table}'")
        last = world.value("SELECT seq FROM sqlite_sequence WHERE name = ?", table)
        assert last > world.value(f"SELECT MAX({number}) FROM {table}")
    assert not [table for table in tables() if not world.value(f"SELECT COUNT(*) FROM {table}")]
    return closed(world)


def tables() -> dict[str, list[str]]:
    with sqlite.ours() as ledger:
        return {table: columns for table, columns in sqlite.tables(ledger).items() if table not in STAYING}


def contents(path: Path) -> dict[str, list[Row]]:
    connection = sqlite.open_read_only(path)
    try:
        return {table: sorted(connection.execute(f"SELECT * FROM {table}"), key=repr) for table in tables()} | {
            "numbers": sorted(connection.execute("SELECT name, seq FROM sqlite_sequence"))
        }
    finally:
        connection.close()


def test_a_ledger_is_the_same_there_and_back(full: Path, place: Fleet, tmp_path: Path) -> None:
    before, back = contents(full), tmp_path / "back.db"
    there = move(full, place)
    found = check(place)
    assert (found.sound, found.problems, found.rows["tasks"]) == (True, (), there["tasks"])
    assert move(place, back) == there

    [(_, *ledger)] = before["ledger"]
    boot = tables()["ledger"].index("boot")
    before["ledger"] = [(1, *ledger[: boot - 1], "", *ledger[boot:])]  # of one machine's start
    assert contents(back) == before
    assert check(back).sound
    assert contents(full)["tasks"] == before["tasks"]


def test_work_goes_on_there_under_numbers_that_were_never_given(full: Path, place: Fleet) -> None:
    last = next(number for table, number in contents(full)["numbers"] if table == "tasks")
    move(full, place)
    prepare(place, strategy="rolling", timezone="UTC", limits={"month": 10_000})
    world = World(place)
    world.open()
    world.clock.now += 1e7
    held = world.rows("SELECT id FROM tasks WHERE state = 'claimed'")
    assert held
    # Whoever had them is gone: this host is the first, and has its slots.
    assert world.ledger.release_ownerless().keys() == {WORKER}
    world.admit("new")

    assert world.value("SELECT seq FROM tasks WHERE id = 'new'") == last + 1
    assert world.claim(terms=terms(batch=1)).tasks
    world.close()


@contextmanager
def another_master(ledger: Path) -> Iterator[None]:
    """A process that is this ledger's master on this host."""
    reading, writing = os.pipe()
    if (pid := os.fork()) == 0:
        SlotLocks(ledger).acquire(MASTER_SLOT)
        os.write(writing, b"!")
        while True:
            signal.pause()
    try:
        os.read(reading, 1)
        yield
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(reading)
        os.close(writing)


def test_the_master_s_lock_on_either_side_refuses_it(full: Path, place: Fleet) -> None:
    for ledger in (full, place.lock_file):
        with another_master(ledger), pytest.raises(LedgerError, match="is in use: stop the service"):
            move(full, place)
    assert move(full, place)


def test_a_slot_that_another_host_holds_refuses_it_both_ways(full: Path, place: Fleet, tmp_path: Path) -> None:
    other = dataclasses.replace(place, host="two", lock_file=tmp_path / "two" / "fleet")
    prepare(other, strategy="rolling", timezone="UTC", limits={})
    with SlotLocks(other.lock_file) as locks:
        locks.acquire(WORKER)
        database = open_database(other, locks=locks)
        assert database.owner(WORKER) == WORKER  # of the host that came first
        for source, target in ((full, place), (place, tmp_path / "back.db")):
            with pytest.raises(LedgerError, match="is in use: stop the service on every host"):
                move(source, target)
        database.close()
    move(full, place)

    assert not (tmp_path / "back.db").exists()


def test_what_holds_something_is_not_replaced(full: Path, place: Fleet, tmp_path: Path) -> None:
    move(full, place)
    with pytest.raises(LedgerError, match=r"has .* tasks, .*: drop that schema, or name another in LEDGER_SCHEMA"):
        move(full, place)
    with pytest.raises(LedgerError, match=r"has .* completions, .*: move that file away, with its -wal"):
        move(place, full)


def test_a_ledger_of_the_next_release_is_moved_by_that_alone(full: Path, place: Fleet, tmp_path: Path) -> None:
    move(full, place)
    world = World(place)
    world.open()
    world.change("UPDATE ledger SET version = ?", VERSION + 1)
    world.close()

    for source, target in ((place, tmp_path / "back.db"), (full, place)):
        with pytest.raises(LedgerError, match=f"has version {VERSION + 1}, not {VERSION}: upgrade this host first"):
            move(source, target)
    assert not (tmp_path / "back.db").exists()


def test_a_service_that_was_started_too_early_is_no_obstacle(full: Path, place: Fleet) -> None:
    prepare(place, strategy="fixed", timezone="Europe/Berlin", limits={"day": 1}, setups={"another": ""})
    move(full, place)
    database = open_database(place)
    assert database.read("SELECT strategy, COUNT(*) FROM ledger, breakers GROUP BY strategy") == [("rolling", 5)]
    assert database.read("SELECT number, name FROM hosts") == [(0, "one")]
    database.close()


@pytest.mark.parametrize("passes", [3, 40])
@pytest.mark.parametrize("back", [False, True], ids=["there", "back"])
def test_killed_in_the_middle_it_has_moved_nothing(
    full: Path, place: Fleet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, back: bool, passes: int
) -> None:
    """`passes`: walks over a table's rows, on their way and read back, before the one that it is killed in."""
    source, target = (place, tmp_path / "back.db") if back else (full, place)
    if back:
        move(full, place)
    if (pid := os.fork()) == 0:
        each, begun = moving._Count.each, iter(range(1_000))

        def kill(count: moving._Count, rows: Iterable[Row]) -> Iterator[Row]:
            is_last = next(begun) >= passes
            for row in each(count, rows):
                yield row
                if is_last:
                    os.kill(os.getpid(), signal.SIGKILL)

        try:
            monkeypatch.setattr(moving._Count, "each", kill)
            move(source, target)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL
    database = open_database(target)
    assert database.read("SELECT (SELECT COUNT(*) FROM queues), (SELECT COUNT(*) FROM tasks)") == [(0, 0)]
    database.close()

    assert move(source, target)["tasks"]


def test_what_is_read_back_otherwise_is_not_taken(full: Path, place: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    fill = session.Statements.fill

    def wrong(self: session.Statements, table: str, columns: str, rows: Iterable[Row]) -> None:
        turned = (tuple(-1 if table == "habits" and part == 200 else part for part in row) for row in rows)
        fill(self, table, columns, turned)

    monkeypatch.setattr(session.Statements, "fill", wrong)
    with pytest.raises(LedgerError, match=r"habits of .* is not what .* makes of it: nothing was moved"):
        move(full, place)
    monkeypatch.undo()

    assert move(full, place)


def test_a_broken_promise_on_postgresql_is_found(full: Path, place: Fleet) -> None:
    move(full, place)
    world = World(place)
    world.open()
    world.change("DELETE FROM task_completions WHERE id = (SELECT MIN(id) + 1 FROM task_completions)")
    world.change("UPDATE ledger SET timezone = 'Nowhere/At_all'")
    world.close()

    found = check(place)
    assert not found.sound
    assert "completions are missing between the first and the last" in found.problems[0]
    assert found.problems[-1] == "the time zone of its limits is none"
