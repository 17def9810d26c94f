"""The file: what is refused, what survives, what a full disk does."""

from __future__ import annotations

import os
import shutil
import stat
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import apsw
import pytest

from aitp.errors import ConfigurationError, LedgerError
from aitp.ledger.claims import IdleReason
from aitp.ledger.evidence import Report
from aitp.ledger.ledger import Ledger, prepare
from aitp.ledger.queue import LedgerConfig
from aitp.ledger.schema import VERSION
from aitp.ledger.sqlite import (
    CHECKPOINT_PAGES,
    OLDEST_SAFE_SQLITE,
    refuse_affected_sqlite,
    refuse_network_file_system,
)
from aitp.tasks import Ending, NewTask, Outcome
from tests.ledger.damage import closed, overwrite, pages_of
from tests.ledger.world import OTHER_WORKER, SMALL, World, ids, terms
from tests.process.forks import in_child

pytestmark = pytest.mark.sqlite


def prepare_here(path: Path, **limits: int) -> int:
    return prepare(path, strategy="rolling", timezone="UTC", limits=limits)


# Versions


def test_a_new_ledger_is_made_for_its_owner_only(folder: Path) -> None:
    path = folder / "data" / "ledger.db"

    assert prepare_here(path) == 0
    assert prepare_here(path) == VERSION
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    Ledger.open(path, LedgerConfig()).close()


def test_a_ledger_that_is_not_prepared_is_not_opened(folder: Path) -> None:
    with pytest.raises(LedgerError):
        Ledger.open(folder / "none.db", LedgerConfig())
    (folder / "empty.db").touch()
    with pytest.raises(LedgerError, match="start the service once"):
        Ledger.open(folder / "empty.db", LedgerConfig())


def test_a_damaged_ledger_is_a_configuration_error_that_says_what_to_do(folder: Path) -> None:
    path = folder / "ledger.db"
    path.write_bytes(b"This is no database at all. " * 400)

    with pytest.raises(ConfigurationError, match="`aitp ledger recover` sets it aside"):
        prepare_here(path)


def test_a_ledger_of_which_one_page_is_damaged_is_not_worked_with_either(world: World) -> None:
    world.admit("a")
    path = closed(world)
    overwrite(path, pages_of(path, "contents")[0])

    with pytest.raises(ConfigurationError, match="`aitp ledger recover` sets it aside"):
        prepare_here(path)


# What must not be used


@pytest.mark.parametrize("version", ["3.40.1", "3.51.2", "3.7.0", "3.50.4"])
def test_a_library_that_can_corrupt_the_ledger_is_refused(version: str) -> None:
    with pytest.raises(ConfigurationError, match="install apsw"):
        refuse_affected_sqlite(version)


@pytest.mark.parametrize("version", ["3.51.3", "3.52.0", "3.54.1", "4.0.0"])
def test_a_sound_library_is_accepted(version: str) -> None:
    refuse_affected_sqlite(version)


def test_an_affected_library_is_refused_before_the_file_is_touched(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(apsw, "sqlite_lib_version", lambda: "3.40.1")
    with pytest.raises(ConfigurationError):
        prepare_here(folder / "ledger.db")

    assert list(folder.iterdir()) == []


def test_the_library_in_use_is_sound() -> None:
    assert tuple(map(int, apsw.sqlite_lib_version().split("."))) >= OLDEST_SAFE_SQLITE


MOUNTS = """\
22 1 259:1 / / rw,relatime shared:1 - ext4 /dev/root rw
30 22 0:40 / /mnt/share rw,relatime shared:9 - {kind} server:/export rw
31 22 0:41 / /mnt/with\\040space rw - nfs4 server:/other rw
32 30 259:2 / /mnt/share/local rw - ext4 /dev/sdb1 rw
33 22 0:42 / /mnt/ação rw - cifs //server/x rw
"""


@pytest.mark.parametrize(
    ("place", "kind", "refused"),
    [
        ("/mnt/share/data", "nfs", True),
        ("/mnt/share", "nfs4", True),
        ("/mnt/share/data", "cifs", True),
        ("/mnt/share/data", "fuse.sshfs", True),
        ("/mnt/share/data", "9p", True),
        ("/mnt/share/data", "xfs", False),
        ("/mnt/share/data", "overlay", False),
        ("/mnt/sharedother", "nfs", False),
        ("/mnt/share/local/data", "nfs", False),
        ("/mnt/with space/data", "ext4", True),
        ("/mnt/ação/data", "ext4", True),
        ("/var/lib", "nfs", False),
    ],
)
def test_network_file_systems_are_refused(place: str, kind: str, refused: bool) -> None:
    refusal = pytest.raises(ConfigurationError, match="put the ledger on a local disk")
    expected: AbstractContextManager[object] = refusal if refused else nullcontext()
    with expected:
        refuse_network_file_system(Path(place), MOUNTS.format(kind=kind))


def test_a_file_system_mounted_over_another_is_the_one_that_counts() -> None:
    twice = "22 1 0:1 / / rw - ext4 x rw\n23 22 0:2 / /data rw - nfs x rw\n24 22 0:3 / /data rw - ext4 x rw\n"

    refuse_network_file_system(Path("/data"), twice)


# A full disk


def fill(world: World) -> None:
    """From now on SQLite finds no room for another page, as on a full disk."""
    connection = world.file.connection
    connection.execute(f"PRAGMA max_page_count = {connection.execute('PRAGMA page_count').get}")


def make_room(world: World) -> None:
    world.file.connection.execute("PRAGMA max_page_count = 4294967294")


def test_a_full_disk_loses_nothing_and_the_process_goes_on(world: World) -> None:
    world.admit("a", "b", content=b"x" * 3_000)
    claim = world.claim(terms=terms(batch=1))
    paid_for = Report([Outcome(claim.tasks[0], Ending.SUCCEEDED, b"1" * 500_000)])
    fill(world)
    for _ in range(3):
        with pytest.raises(LedgerError, match="is full"):
            world.ledger.outcomes.finish(claim, paid_for)
    assert world.states() == {"a": "claimed", "b": "ready"}
    assert world.completions() == 0
    make_room(world)
    settled = world.ledger.outcomes.finish(claim, paid_for)

    assert [outcome.task.id for outcome in settled.outcomes] == ["a"]
    assert world.value("SELECT LENGTH(body) FROM results") == 500_000
    assert world.completions() == 1
    assert ids(world.claim()) == ["b"]


def test_a_full_disk_in_the_middle_of_a_page_keeps_what_was_entered_before(world: World) -> None:
    poll = world.poll()
    world.ledger.inbox.admit(poll, [NewTask("a", SMALL, b"{}")])
    fill(world)
    with pytest.raises(LedgerError, match="is full"):
        world.ledger.inbox.admit(poll, [NewTask(f"t{number}", SMALL, b"x" * 9_000) for number in range(200)])
    make_room(world)

    assert world.states() == {"a": "ready"}
    assert world.ledger.inbox.admit(poll, [NewTask("b", SMALL, b"{}")]).tasks == 1


def test_a_folder_that_is_gone_is_the_ledgers_fault(world: World) -> None:
    shutil.rmtree(world.path.parent)

    with pytest.raises(LedgerError, match="cannot be used"):
        world.claim()


def test_an_error_in_the_middle_of_a_transaction_leaves_no_trace_and_no_lock(world: World) -> None:
    world.admit("a")

    def fails() -> None:
        with world.database.transaction() as connection:
            connection.execute("DELETE FROM tasks")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fails()
    assert world.states() == {"a": "ready"}
    assert ids(world.claim()) == ["a"]


def test_a_violated_constraint_is_a_bug_not_the_machine_s_fault(world: World) -> None:
    with pytest.raises(apsw.ConstraintError):
        world.change("INSERT INTO queues (id, type, model) VALUES (1, NULL, NULL)")


# The log


def test_a_durable_transaction_is_flushed_and_others_are_not(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    flushed: list[str] = []
    monkeypatch.setattr(os, "fdatasync", lambda file: flushed.append(os.readlink(f"/proc/self/fd/{file}")))
    world.admit("a")
    claim = world.claim()
    assert flushed == []
    world.finish(claim, Ending.SUCCEEDED)

    assert flushed == [f"{world.path}-wal"]


class Disk:
    """What is certain of the log: a flush brings there what was written since the last one, whether that failed or not.

    As Linux has it: pages that could not be written count as clean afterwards, and stay in memory.
    """

    def __init__(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        self.fails = 0
        self._log = Path(f"{world.path}-wal")
        self._certain = self._clean = self._log.read_bytes()
        self._written: set[int] = set()
        self._pwrite = os.pwrite
        monkeypatch.setattr(os, "fdatasync", self.fdatasync)
        monkeypatch.setattr(os, "pwrite", self.pwrite)

    def pwrite(self, file: int, data: bytes, at: int) -> int:
        self._written |= set(range(at // 4_096, (at + len(data) + 4_095) // 4_096))
        return self._pwrite(file, data, at)

    def fdatasync(self, file: int) -> None:
        now = self._log.read_bytes()
        pages = [now[at : at + 4_096] for at in range(0, len(now), 4_096)]
        dirty = [
            number in self._written or page != self._clean[number * 4_096 : number * 4_096 + 4_096]
            for number, page in enumerate(pages)
        ]
        self._clean, self._written = now, set()
        if self.fails:
            self.fails -= 1
            raise OSError(5, "Input/output error")
        old = self._certain.ljust(len(now), b"\0")
        self._certain = b"".join(
            page if new else old[number * 4_096 : number * 4_096 + 4_096]
            for number, (page, new) in enumerate(zip(pages, dirty, strict=True))
        )

    def after_a_power_cut(self, world: World, folder: Path) -> dict[str, str]:
        """The states of the tasks in what the disk has."""
        folder.mkdir()
        shutil.copy(world.path, folder / "ledger.db")
        (folder / "ledger.db-wal").write_bytes(self._certain)
        connection = apsw.Connection(str(folder / "ledger.db"))
        return {str(task): str(state) for task, state in connection.execute("SELECT id, state FROM tasks")}


def test_what_is_committed_is_told_once_and_brought_to_the_disk_until_it_is_there(
    world: World, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.admit("a", "b")
    claim = world.claim(terms=terms(batch=1))
    disk = Disk(world, monkeypatch)
    disk.fails = 3
    settled = world.finish(claim)
    assert [outcome.task.id for outcome in settled.outcomes] == ["a"]
    for _ in range(2):
        with pytest.raises(LedgerError, match="Input/output error"):
            world.ledger.flush()
    assert disk.after_a_power_cut(world, folder / "before").get("a") != "finished"
    world.ledger.flush()

    assert disk.after_a_power_cut(world, folder / "after") == {"a": "finished", "b": "ready"}
    assert world.completions() == 1
    assert ids(world.claim()) == ["b"]


def test_what_another_process_commits_behind_a_failed_flush_is_not_lost_with_it(
    world: World, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.admit("a", "b")
    claim = world.claim(terms=terms(batch=1))
    disk = Disk(world, monkeypatch)
    disk.fails = 1
    world.finish(claim)

    def another() -> dict[str, str]:
        world.open()
        world.finish(world.claim(OTHER_WORKER))
        return disk.after_a_power_cut(world, folder / "after")

    assert in_child(another) == {"a": "finished", "b": "finished"}


def test_a_log_in_doubt_is_not_moved_into_the_file(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.admit("a")
    disk = Disk(world, monkeypatch)
    disk.fails = 2
    world.finish(world.claim())
    database = world.file
    database._checkpoint()
    assert database.connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_NOOP)[1] == 0
    database._checkpoint()

    logged, moved = database.connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_NOOP)
    assert logged == moved > 0


def test_the_log_stays_small_whatever_is_written(world: World) -> None:
    log = Path(f"{world.path}-wal")
    longest = 0
    for number in range(400):
        world.admit(f"t{number}", content=b"x" * 100_000)
        world.finish(world.claim(terms=terms(batch=1)))
        world.deliver_all()
        world.clock.go(31.0)
        longest = max(longest, log.stat().st_size)

    assert longest < 2 * CHECKPOINT_PAGES * 4_096
    assert world.idle().because is IdleReason.NOTHING_READY


def test_a_reader_that_stays_keeps_nobody_from_writing(world: World) -> None:
    reader = apsw.Connection(str(world.path), flags=apsw.SQLITE_OPEN_READONLY)
    reader.execute("BEGIN")
    reader.execute("SELECT COUNT(*) FROM tasks").fetchall()
    world.file._log_pages = CHECKPOINT_PAGES
    world.admit("a")

    assert ids(world.claim()) == ["a"]
    reader.close()


def test_a_closed_ledger_leaves_one_file_and_its_locks(world: World) -> None:
    world.admit("a")
    world.close()

    assert sorted(path.name for path in world.path.parent.iterdir()) == ["ledger.db", "ledger.db.lock"]
    world.open()
