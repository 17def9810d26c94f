"""`aitp ledger check`: a sound ledger is said to be sound, and each broken promise is found."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from aitp.errors import ConfigurationError, LedgerError
from aitp.ledger.ledger import prepare
from aitp.ledger.maintenance import back_up, check, recover
from aitp.ledger.stats import snapshot
from tests.ledger.damage import DEAD, FINISHED, PAGE, READY, closed, lived, overwrite, pages_of
from tests.ledger.world import World

pytestmark = pytest.mark.sqlite


def test_a_ledger_at_work_is_sound(folder: Path, template: Path) -> None:
    world = lived(folder, template)
    found = check(world.path)

    assert found.problems == ()
    assert found.rows["tasks"] == READY + 4 + FINISHED + DEAD
    assert found.rows["results"] == FINISHED + DEAD
    assert check(world.path, quick=True) == found
    world.close()


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ("DELETE FROM contents WHERE seq = 340", "1 ready or claimed tasks have no content (row 340 first)"),
        ("DELETE FROM results WHERE seq = 60", "1 finished tasks or dead letters have no result (row 60 first)"),
        ("UPDATE tasks SET state = 'ready', slot = NULL WHERE seq = 40", "1 tasks have a result but are not finished"),
        ("UPDATE results SET refusal = NULL WHERE seq = 1", "1 dead letters have no reason (row 1 first)"),
        ("UPDATE results SET body = CAST('[0.5' AS BLOB) WHERE seq = 50", "1 results are no JSON (row 50 first)"),
        ("DELETE FROM task_completions WHERE id = 100", "1 completions are missing between the first and the last"),
        ("UPDATE task_completions SET completed_at = 1 WHERE id = 9", "1 completions are out of order (row 9 first)"),
        (
            "UPDATE task_completions SET is_first = 0 WHERE id > 40 AND id = (SELECT MIN(id) FROM task_completions"
            " WHERE is_first = 1 AND id > 40)",
            "1 completions are not marked as the first of their moment",
        ),
        ("DELETE FROM breakers", "5 breakers of services are missing"),
        ("DELETE FROM breakers WHERE service = 'wikidata'", "1 breakers of services are missing"),
        ("UPDATE breakers SET state = 'half-open' WHERE service = 'api'", "1 breakers are half-open without a probe"),
        ("INSERT INTO spending VALUES ('USD', 0, 86400, -1)", "1 amounts of money are less than nothing"),
        ("UPDATE ledger SET sequence = 1", "rows are ahead of the ledger's own sequence"),
        ("DELETE FROM polls", "1 rows are missing in the tables of one row"),
        ("DELETE FROM queues", "of tasks belongs to no row of queues"),
    ],
)
def test_each_broken_promise_is_found(
    folder: Path, template: Path, change: str, problem: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = lived(folder, template)
    monkeypatch.setattr("time.time", world.clock)
    world.change(change)
    found = check(world.path)
    world.close()

    assert any(problem in said for said in found.problems), found.problems


def test_an_index_that_disagrees_with_its_table_is_found_unless_the_check_is_quick(
    folder: Path, template: Path
) -> None:
    path = closed(lived(folder, template))
    page = pages_of(path, "sqlite_autoindex_tasks_1")[0]
    content = path.read_bytes()[(page - 1) * PAGE : page * PAGE]
    overwrite(path, page, content.replace(b"new10", b"new_0", 1))

    assert any("missing from index" in problem for problem in check(path).problems), check(path).problems
    assert check(path, quick=True).sound


@pytest.mark.parametrize("content", [b"This is no database at all. " * 400, b"SQLite format 3\0" + b"\xff" * 9_000])
def test_a_file_that_is_no_ledger_is_damaged(folder: Path, content: bytes) -> None:
    path = folder / "ledger.db"
    path.write_bytes(content)

    assert not check(path).sound


def test_a_value_that_its_table_forbids_is_found_by_the_check_as_by_the_start(world: World) -> None:
    """SQLite looks for none in a file that was opened to be read only."""
    world.admit("a")
    world.change("PRAGMA ignore_check_constraints = ON")
    world.change("UPDATE tasks SET state = 'reedy'")
    path = closed(world)
    before = {file: file.read_bytes() for file in path.parent.iterdir() if file.name != "ledger.db-shm"}

    for quick in (False, True):
        assert check(path, quick=quick).problems == ("CHECK constraint failed in tasks",)
    with pytest.raises(ConfigurationError, match="CHECK constraint failed in tasks"):
        prepare(path, strategy="rolling", timezone="UTC", limits={})
    assert {file: file.read_bytes() for file in before} == before
    assert recover(path).set_aside is not None
    assert check(path).sound


def test_a_header_that_forbids_writing_is_damage_though_to_sqlite_it_is_none(world: World) -> None:
    path = closed(world)
    content = bytearray(path.read_bytes())
    assert content[18] == 2
    content[18] = 3
    path.write_bytes(content)

    assert check(path).problems == ("its header says that only a later SQLite may write it",)
    with pytest.raises(LedgerError, match="only a later SQLite may write it"):
        back_up(path, path.with_name("backup.db"))


def test_a_check_lets_go_of_no_lock_that_its_process_has(world: World) -> None:
    """Whoever closes a descriptor of a file drops all of the process's POSIX locks on it."""
    world.admit("a")
    path = world.path
    before = locks_on(path)
    assert before

    assert check(path).sound
    assert locks_on(path) == before


def locks_on(path: Path) -> set[str]:
    """This process's POSIX locks on `path`, as the kernel lists them but for their numbers."""
    lines = (line.partition(": ")[2] for line in Path("/proc/locks").read_text().splitlines())
    return {line for line in lines if f" {os.getpid()} " in line and f":{path.stat().st_ino} " in line}


def test_no_ledger_at_all_is_said_so(folder: Path) -> None:
    with pytest.raises(LedgerError, match="there is no ledger"):
        check(folder / "none.db")


def test_a_ledger_that_no_service_has_used_yet_is_sound(folder: Path) -> None:
    (folder / "ledger.db").touch()

    assert check(folder / "ledger.db").sound


def test_what_a_damaged_file_says_cannot_forge_lines(world: World) -> None:
    world.change("PRAGMA writable_schema = ON")
    world.file.connection.execute("PRAGMA writable_schema = ON")
    world.change("UPDATE sqlite_schema SET name = char(27, 10) || 'gone' WHERE name = 'cache'")

    problems = check(world.path).problems
    assert problems
    assert all(problem.isprintable() for problem in problems)


def test_a_place_that_cannot_be_looked_at_is_the_ledger_s_failure(folder: Path) -> None:
    path = folder / ("0" * 300)

    with pytest.raises(LedgerError, match="File name too long"):
        check(path)
    with pytest.raises(LedgerError, match="File name too long"):
        snapshot(path)


@pytest.mark.parametrize("index", ["tasks_later", "tasks_claimed", "tombstones_sequence"])
def test_an_index_that_holds_another_table_s_page_is_found_though_sqlite_does_not_see_it(
    folder: Path, template: Path, index: str
) -> None:
    path = closed(lived(folder, template))
    (page,), (other,) = pages_of(path, index), pages_of(path, "ledger")
    overwrite(path, page, path.read_bytes()[(other - 1) * PAGE : other * PAGE])

    assert check(path).problems


@pytest.mark.parametrize(
    ("letters", "others", "said"),
    [
        (b"regular_at", b"segular_at", "is not defined as this release defines it"),
        (b"CHECK (paused", b"CHECK (qaused", "no such column: qaused"),
        (b"version INTEGER NOT NULL", b"wersion INTEGER NOT NULL", "its table ledger is lost, or is not what it was"),
    ],
)
def test_a_letter_turned_over_in_a_definition_is_found(
    folder: Path, template: Path, letters: bytes, others: bytes, said: str
) -> None:
    path = closed(lived(folder, template))
    path.write_bytes(path.read_bytes().replace(letters, others))

    [problem] = check(path).problems
    assert said in problem
    assert recover(path).set_aside is not None
    assert check(path).sound
