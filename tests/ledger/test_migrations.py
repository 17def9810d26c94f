"""A ledger of every earlier version, with work in it, is brought up to date, and its work goes on."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from aitp.ledger import Cause, DeliveryOutcome, prepare
from aitp.ledger.schema import VERSION
from aitp.ledger.soundness import check
from aitp.ledger.stats import snapshot
from tests.ledger.dump import DUMPS, LEFT, LIMITS, STRATEGY, ZONE, dump
from tests.ledger.world import WORKER, Clock, World, ids

VERSIONS = range(1, VERSION + 1)
AN_HOUR = 3600.0


def restore(folder: Path, script: str) -> Path:
    path = folder / "ledger.db"
    connection = sqlite3.connect(path)
    connection.executescript(script)
    connection.close()
    return path


def migrated(folder: Path, version: int) -> World:
    """That version's ledger, taken over by this release an hour after it was left."""
    path = restore(folder, (DUMPS / f"{version}.sql").read_text())
    clock = Clock()
    clock.go(AN_HOUR)
    assert prepare(path, strategy=STRATEGY, timezone=ZONE, limits=LIMITS, clock=clock) == version
    world = World(path, clock)
    world.open()
    return world


def tables(path: Path) -> dict[str, str]:
    """Every table and index, as SQL without the accidents of its writing."""
    connection = sqlite3.connect(path)
    rows = connection.execute("SELECT type || ' ' || name, sql FROM sqlite_schema WHERE sql IS NOT NULL").fetchall()
    connection.close()
    return {name: " ".join(sql.replace("(", " ( ").replace(")", " ) ").split()) for name, sql in rows}


def test_every_version_has_its_dump() -> None:
    written = {int(path.stem) for path in DUMPS.glob("*.sql")}

    assert written == set(VERSIONS), (
        "after appending a migration: python -m tests.ledger.dump, and commit what it wrote"
    )


def test_the_dump_of_this_version_is_what_this_release_writes(folder: Path) -> None:
    script = (DUMPS / f"{VERSION}.sql").read_text()
    (folder / "theirs").mkdir()
    (folder / "ours").mkdir()

    assert tables(restore(folder / "theirs", script)) == tables(restore(folder / "ours", dump(folder)))


@pytest.mark.parametrize("version", VERSIONS)
def test_an_earlier_ledger_gets_the_tables_of_a_new_one(folder: Path, version: int) -> None:
    world = migrated(folder, version)
    world.close()
    prepare(folder / "new.db", strategy="rolling", timezone="UTC", limits={})

    assert tables(world.path) == tables(folder / "new.db")


@pytest.mark.parametrize("version", VERSIONS)
def test_nothing_that_an_earlier_ledger_holds_is_lost(folder: Path, version: int) -> None:
    world = migrated(folder, version)

    assert world.states() == LEFT
    sent = 4 if version < 11 else 5  # delivered, refused, later's failure, finished; and one of another request
    assert world.completions() == sent
    assert world.value("SELECT id FROM tombstones") == "delivered"
    assert world.value("SELECT id FROM unreadable") == "unreadable"
    [letter] = world.ledger.dead.list()
    assert (letter.id, letter.refusal) == ("refused", "404: no such task")
    use = snapshot(world.path, now=world.clock()).limits
    assert (use["day"].current, use["day"].limit) == (sent + 1, 500)  # the claim in hand is counted, too
    if version >= 2:
        assert world.ledger.cache.get(["wikidata/pt/São Paulo"]) == {"wikidata/pt/São Paulo": b'["Q174"]'}
    world.close()


def test_what_had_failed_before_there_was_evidence_is_a_suspect_if_it_is_still_to_be_run(folder: Path) -> None:
    before = "UPDATE tasks SET attempts = 2 WHERE state IN ('finished', 'dead', 'ready');"
    path = restore(folder, (DUMPS / "10.sql").read_text() + before)
    prepare(path, strategy=STRATEGY, timezone=ZONE, limits=LIMITS)
    world = World(path)
    world.open()

    assert world.rows("SELECT id FROM tasks WHERE is_suspect = 1 ORDER BY id") == [("later",), ("ready",)]
    assert not [problem for problem in check(path).problems if "suspect" in problem]
    world.close()


@pytest.mark.parametrize("version", VERSIONS)
def test_the_work_of_an_earlier_ledger_goes_on(folder: Path, version: int) -> None:
    world = migrated(folder, version)
    ledger = world.ledger

    # Whoever held the slot is gone: what he had claimed is ready again.
    assert [outcome.task.id for outcome in ledger.claims.release(WORKER, Cause.CRASHED).outcomes] == ["claimed"]
    [delivery] = world.take()
    assert (delivery.id, delivery.result) == ("finished", b"[0.5]")
    ledger.outbox.settle(delivery, DeliveryOutcome.DELIVERED)
    assert ledger.dead.retry("refused")
    assert world.deliver_all() == ["refused"]

    done: list[str] = []
    while world.states():
        claim = world.claim()
        done += ids(claim)
        world.finish(claim)
        world.deliver_all()
    assert sorted(done) == ["claimed", "later", "ready"]
    world.close()
