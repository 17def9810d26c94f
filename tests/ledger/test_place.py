"""What is in the ledger's place and never was one: everybody says that the setting is wrong, and nobody touches it."""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Callable
from pathlib import Path

import apsw
import pytest

from aitp.errors import ConfigurationError, LedgerError, MisplacedLedger
from aitp.ledger.ledger import Ledger, prepare
from aitp.ledger.locks import SlotLocks
from aitp.ledger.maintenance import back_up, check, recover
from aitp.ledger.queue import LedgerConfig
from aitp.ledger.sqlite import NO_TABLE, version_of
from aitp.ledger.stats import snapshot
from tests.ledger.damage import closed, copy_of, lived

pytestmark = pytest.mark.sqlite

Act = Callable[[Path], object]

ACTS: dict[str, Act] = {
    "recover": recover,
    "check": check,
    "a quick check": lambda path: check(path, quick=True),
    "prepare": lambda path: prepare(path, strategy="rolling", timezone="UTC", limits={}),
    "snapshot": snapshot,
    "version_of": version_of,
    "back_up": lambda path: back_up(path, path.with_name("backup.db")),
}
acts = pytest.mark.parametrize("act", ACTS.values(), ids=list(ACTS))


def make_directory(path: Path) -> None:
    path.mkdir()
    (path / "something").touch()


def make_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))


NO_FILES: dict[str, Callable[[Path], None]] = {
    "a directory": make_directory,
    "a pipe": os.mkfifo,
    "a socket": make_socket,
    "a device": lambda path: path.symlink_to("/dev/null"),
}


def contents(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Of everything below `folder`: what it is, and what a file holds."""
    return {
        str(path.relative_to(folder)): (path.lstat().st_mode, path.read_bytes() if path.is_file() else b"")
        for path in folder.rglob("*")
    }


def database(path: Path, *statements: str) -> Path:
    connection = apsw.Connection(str(path))
    for statement in statements:
        connection.execute(statement)
    connection.close()
    return path


@acts
@pytest.mark.parametrize("what", NO_FILES)
def test_what_is_no_file_is_a_wrong_setting_and_stays_as_it_is(folder: Path, what: str, act: Act) -> None:
    NO_FILES[what](folder / "ledger.db")
    before = contents(folder)

    with pytest.raises(MisplacedLedger, match=r"STORAGE_PATH=.*ledger.db is no file: .*correct the setting"):
        act(folder / "ledger.db")
    assert contents(folder) == before


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a device")
def test_a_device_is_never_taken_from_its_place(folder: Path) -> None:
    path = folder / "ledger.db"
    os.mknod(path, stat.S_IFCHR | 0o600, os.makedev(1, 5))
    with pytest.raises(MisplacedLedger, match="is no file"):
        recover(path)

    assert [file.name for file in folder.iterdir()] == ["ledger.db"]


def test_no_lock_file_is_made_beside_what_is_no_file(folder: Path) -> None:
    make_directory(folder / "ledger.db")

    with pytest.raises(MisplacedLedger, match="is no file"):
        SlotLocks(folder / "ledger.db")
    assert [path.name for path in folder.iterdir()] == ["ledger.db"]


@acts
@pytest.mark.parametrize(
    "statements",
    [
        ["CREATE TABLE bookmarks (id INTEGER PRIMARY KEY, url TEXT)"],
        # Names that anyone may come by.
        ["CREATE TABLE ledger (id INTEGER PRIMARY KEY, amount INTEGER)", "CREATE TABLE tasks (id, title)"],
        ["CREATE TABLE task_completions (id INTEGER PRIMARY KEY)", "INSERT INTO task_completions VALUES (1)"],
        ["PRAGMA encoding = 'UTF-16'", "CREATE TABLE cache (key TEXT, value BLOB)"],
    ],
)
def test_the_database_of_another_program_is_a_wrong_setting_and_stays_as_it_is(
    folder: Path, statements: list[str], act: Act
) -> None:
    path = database(folder / "ledger.db", *statements)
    before = contents(folder)

    with pytest.raises(MisplacedLedger, match=r"is the database of another program: .*; correct the setting"):
        act(path)
    assert contents(folder) == before


@pytest.mark.parametrize("act", [recover, check])
def test_the_log_of_another_program_stays_as_it_is(folder: Path, act: Act) -> None:
    theirs = apsw.Connection(str(folder / "theirs.db"))
    theirs.execute("PRAGMA journal_mode = WAL")
    theirs.execute("CREATE TABLE bookmarks (url TEXT); INSERT INTO bookmarks VALUES ('https://example.org')")
    path = copy_of(folder / "theirs.db", "killed.db")
    theirs.close()
    emptied = folder / "theirs.db"
    before = contents(folder)
    assert len(before) == 3

    for file in (path, emptied):
        with pytest.raises(MisplacedLedger, match="another program"):
            act(file)
    after = contents(folder)
    assert after.pop("killed.db-shm", None) is not None  # SQLite's, and made anew by whoever opens it
    assert after == before


def test_the_database_of_another_program_is_not_opened_as_a_ledger(folder: Path) -> None:
    path = database(folder / "other.db", "CREATE TABLE bookmarks (url TEXT)")

    with pytest.raises(MisplacedLedger, match="another program"):
        Ledger.open(path, LedgerConfig())


def test_a_damaged_database_of_another_program_is_not_called_theirs(folder: Path) -> None:
    """It could be a ledger of which another page is read: recovery keeps every byte of it."""
    path = database(folder / "ledger.db", "CREATE TABLE bookmarks (url TEXT)", "CREATE TABLE more (url TEXT)")
    content = bytearray(path.read_bytes())
    content[4_096] = 99  # the kind of the first table's page
    path.write_bytes(content)

    assert not check(path).sound
    outcome = recover(path)
    assert outcome.set_aside is not None
    assert outcome.set_aside.read_bytes() == content


@pytest.mark.parametrize(
    "harm",
    [
        "DROP TABLE ledger",
        "ALTER TABLE ledger RENAME TO ledges",
        "ALTER TABLE ledger RENAME COLUMN version TO wersion",
        # One definition that is ours is left; SQLite reads nothing by the others.
        "PRAGMA writable_schema = ON; UPDATE sqlite_schema SET sql = sql || ' ' WHERE name = 'queues';"
        " UPDATE sqlite_schema SET sql = replace(sql, ' INTEGER', ' INT') WHERE name NOT IN ('queues')",
    ],
)
def test_a_ledger_that_lost_its_own_table_is_damaged_and_recovered(folder: Path, template: Path, harm: str) -> None:
    path = closed(lived(folder, template))
    connection = apsw.Connection(str(path))
    connection.execute(harm)
    connection.close()

    assert check(path).problems
    with pytest.raises(ConfigurationError, match="`aitp ledger recover` sets it aside"):
        prepare(path, strategy="rolling", timezone="UTC", limits={})
    outcome = recover(path)
    assert outcome.set_aside is not None
    assert bool(outcome.saved) == ("writable_schema" not in harm)
    assert check(path).sound


def test_a_ledger_that_lost_its_own_table_is_said_to_be_damaged_by_who_looks(folder: Path, template: Path) -> None:
    path = closed(lived(folder, template))
    database(path, "DROP TABLE ledger")

    for look in (snapshot, version_of):
        with pytest.raises(LedgerError, match=f"is damaged .{NO_TABLE}.: see `aitp ledger check`"):
            look(path)
