"""Backups: whole, sound, private, and made beside processes that write."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from aitp.errors import LedgerError
from aitp.ledger.ledger import Ledger
from aitp.ledger.maintenance import back_up, check
from aitp.ledger.queue import LedgerConfig
from tests.ledger.damage import closed, lived, overwrite, pages_of
from tests.ledger.processes import Process
from tests.ledger.world import WORKER, World, terms

pytestmark = pytest.mark.sqlite


def test_a_backup_is_one_private_file_that_opens_as_the_ledger_did(folder: Path, template: Path) -> None:
    world = lived(folder, template)
    states = world.states()
    target = folder / "backup.db"
    found = back_up(world.path, target)
    world.close()

    assert found.sound
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    assert sorted(path.name for path in folder.iterdir() if "backup" in path.name) == ["backup.db"]
    ledger = Ledger.open(target, LedgerConfig())
    assert dict(ledger._database.read("SELECT id, state FROM tasks")).keys() == states.keys()
    ledger.close()


def test_backups_made_while_others_write_are_sound_and_keep_nobody_waiting(world: World, folder: Path) -> None:
    world.admit(*(f"t{number}" for number in range(400)), content=b"1" * 2_000)

    def work(world: World) -> int:
        for _ in range(400):
            world.finish(world.claim(WORKER, terms(batch=1)))
        return world.completions()

    with Process(world, work) as process:
        for number in range(10):
            assert back_up(world.path, folder / f"{number}.db").sound
        assert process.result() == 400


def test_an_existing_file_is_kept_unless_told_otherwise(world: World, folder: Path) -> None:
    target = folder / "backup.db"
    target.write_text("something else")
    with pytest.raises(LedgerError, match="--force"):
        back_up(world.path, target)
    assert target.read_text() == "something else"
    back_up(world.path, target, overwrite=True)

    assert check(target).sound


def test_what_is_no_file_is_never_replaced(world: World, folder: Path) -> None:
    pipe = folder / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(LedgerError, match="is no file"):
        back_up(world.path, pipe, overwrite=True)

    assert pipe.is_fifo()


def test_an_empty_file_is_said_to_be_empty(folder: Path) -> None:
    (folder / "ledger.db").touch()

    with pytest.raises(LedgerError, match="is empty"):
        back_up(folder / "ledger.db", folder / "backup.db")
    assert not (folder / "backup.db").exists()


@pytest.mark.parametrize("end", ["", "-wal", ".lock"])
def test_the_ledger_itself_is_never_overwritten(world: World, end: str) -> None:
    world.admit("a")
    with pytest.raises(LedgerError, match="is the ledger itself"):
        back_up(world.path, world.path.with_name(world.path.name + end), overwrite=True)

    assert world.states() == {"a": "ready"}


def test_a_damaged_ledger_gives_no_backup_and_leaves_the_last_one_alone(folder: Path, template: Path) -> None:
    path = closed(lived(folder, template))
    target = folder / "backup.db"
    back_up(path, target)
    before = target.read_bytes()
    overwrite(path, pages_of(path, "results")[2])
    with pytest.raises(LedgerError, match="no backup was made"):
        back_up(path, target, overwrite=True)

    assert target.read_bytes() == before
    assert not list(folder.glob(".backup*"))


@pytest.mark.parametrize("place", ["missing/backup.db", ".", "0" * 300])
def test_a_place_that_cannot_be_written_is_an_error(world: World, folder: Path, place: str) -> None:
    with pytest.raises(LedgerError):
        back_up(world.path, folder / place)
    with pytest.raises(LedgerError, match="there is no ledger"):
        back_up(folder / "none.db", folder / "backup.db")
