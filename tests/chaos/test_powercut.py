"""What a power cut may take away, and what it may not: a ledger's real files, cut many times over."""

from __future__ import annotations

import os
import random
import shutil
from pathlib import Path

import apsw
import pytest

from tests.chaos.powercut import cut_power

ROWS = 40


@pytest.fixture
def ledger(tmp_path: Path) -> Path:
    return tmp_path / "ledger.db"


def write(ledger: Path, synced: int) -> list[dict[str, object]]:
    """ROWS commits, of which `synced` are on disk for certain; then the process dies. The journal."""
    journal: list[dict[str, object]] = []
    pid = os.fork()
    if pid == 0:
        connection = apsw.Connection(str(ledger))
        connection.execute("PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL; PRAGMA wal_autocheckpoint = 0")
        connection.execute("CREATE TABLE rows (number INTEGER PRIMARY KEY, filler TEXT)")
        frames: dict[str, int] = {}

        def noted(_: apsw.Connection, __: str, pages: int) -> int:
            frames["now"] = pages
            return apsw.SQLITE_OK

        connection.set_wal_hook(noted)
        for number in range(ROWS):
            connection.execute("INSERT INTO rows VALUES (?, ?)", (number, "x" * 1000))
            if number + 1 == synced:
                ledger.with_suffix(".frames").write_text(str(frames["now"]))
        os._exit(0)  # as killed: nothing is tidied up
    os.waitpid(pid, 0)
    if synced:
        salt = ledger.with_name(ledger.name + "-wal").read_bytes()[16:24].hex()
        journal.append({"step": "synced", "salt": salt, "frames": int(ledger.with_suffix(".frames").read_text())})
    return journal


def rows_after(ledger: Path, journal: list[dict[str, object]], seed: int, folder: Path) -> int | None:
    """Rows that are left after a cut, made on a copy; None if not even the table is."""
    folder.mkdir()
    for path in ledger.parent.glob("ledger.db*"):
        shutil.copy(path, folder)
    copy = folder / ledger.name
    cut_power(copy, journal, random.Random(seed))
    connection = apsw.Connection(str(copy))
    try:
        assert connection.execute("PRAGMA integrity_check").get == "ok"
        if not connection.execute("SELECT COUNT(*) FROM sqlite_schema").get:
            return None
        return int(connection.execute("SELECT COUNT(*) FROM rows").get)
    finally:
        connection.close()


@pytest.mark.parametrize("synced", [0, 1, 25, ROWS])
def test_what_was_synced_stays_and_the_rest_goes_from_the_end(ledger: Path, tmp_path: Path, synced: int) -> None:
    journal = write(ledger, synced)

    found = [rows_after(ledger, journal, seed, tmp_path / str(seed)) for seed in range(30)]

    assert min(number or 0 for number in found) >= synced
    if synced < ROWS:
        assert len(set(found)) > 5, "it cuts at many places"
    else:
        assert set(found) == {ROWS}


def test_without_the_journal_everything_may_go(ledger: Path, tmp_path: Path) -> None:
    write(ledger, ROWS)

    found = [rows_after(ledger, [], seed, tmp_path / str(seed)) for seed in range(30)]

    assert min(number or 0 for number in found) < ROWS
