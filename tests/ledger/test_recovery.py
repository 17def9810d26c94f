"""Recovery: what was paid for first, the limits hold, and the damaged ledger is kept to the last byte."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import stat
from pathlib import Path

import apsw
import pytest

from aitp.errors import ConfigurationError, LedgerError
from aitp.ledger.ledger import Ledger, prepare
from aitp.ledger.maintenance import KEPT, Allowance, back_up, check, recover
from aitp.ledger.outbox import DeliveryOutcome
from aitp.ledger.queue import LedgerConfig
from aitp.ledger.schema import VERSION
from aitp.ledger.stats import snapshot
from aitp.tasks import Period
from tests.ledger.damage import DEAD, DELIVERED, FINISHED, PAGE, READY, closed, copy_of, lived, overwrite, pages_of
from tests.ledger.world import OTHER_RELAY, OTHER_WORKER, RELAY, WORKER, Clock, IdleReason, World, ids, terms

pytestmark = pytest.mark.sqlite

RUN = FINISHED + DEAD + DELIVERED


@pytest.fixture
def damaged(folder: Path, template: Path) -> Path:
    """A ledger with a past, still sound: to be damaged."""
    return closed(lived(folder, template))


@pytest.fixture
def clock(folder: Path, template: Path) -> Clock:
    """The time at which the damage is found, a minute after its last completion."""
    clock = Clock()
    clock.go(RUN + 60.0)
    return clock


def rows(path: Path, sql: str) -> list[tuple[object, ...]]:
    connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
    try:
        return list(connection.execute(sql))
    finally:
        connection.close()


def states(path: Path) -> dict[object, int]:
    return dict(rows(path, "SELECT state, COUNT(*) FROM tasks GROUP BY state"))  # type: ignore[arg-type]


def lose(path: Path, table: str = "contents") -> None:
    """What is to be run, if nothing else is said: nothing of that is brought over."""
    for page in pages_of(path, table):
        overwrite(path, page)


# What waits to be run is listed again by the task API.
BOUGHT = {"finished": FINISHED, "dead": DEAD}
IN_HAND = 4
LIMITS = Allowance(limits={"hour": 500, "month": 10_000})


def test_a_damaged_ledger_loses_nothing_that_was_bought(damaged: Path, clock: Clock) -> None:
    before = rows(damaged, "SELECT * FROM results ORDER BY seq")
    lose(damaged)
    outcome = recover(damaged, LIMITS, clock=clock)

    assert outcome.lost == {"tasks": READY + IN_HAND}
    assert states(damaged) == BOUGHT
    assert rows(damaged, "SELECT * FROM results ORDER BY seq") == before
    assert rows(damaged, "SELECT COUNT(*) FROM task_completions") == [(RUN + IN_HAND,)]
    assert check(damaged).sound
    assert stat.S_IMODE(damaged.stat().st_mode) == 0o600


def test_of_a_ledger_that_lost_its_first_page_nothing_is_known_and_all_counts_as_used_up(
    damaged: Path, clock: Clock
) -> None:
    overwrite(damaged, 1)
    outcome = recover(damaged, dataclasses.replace(LIMITS, currency="USD", budgets={"day": 1_000}), clock=clock)

    assert outcome.saved == {}
    assert outcome.lost == {"limits": 2, "budgets": 1}
    assert rows(damaged, "SELECT MAX(id), MIN(completed_at) FROM task_completions") == [(10_000, clock.now)]
    assert rows(damaged, "SELECT SUM(nano) FROM spending") == [(1_000,)]
    assert check(damaged).sound


def test_the_damaged_ledger_is_kept_to_the_last_byte_under_a_dated_name(damaged: Path, clock: Clock) -> None:
    overwrite(damaged, 1)
    before = hashlib.sha256(damaged.read_bytes()).digest()
    outcome = recover(damaged, clock=clock)

    assert outcome.set_aside is not None
    assert outcome.set_aside.name == "ledger.db.damaged-20250730T183315Z"
    assert hashlib.sha256(outcome.set_aside.read_bytes()).digest() == before
    assert not [path for path in damaged.parent.iterdir() if "recovery" in path.name]
    overwrite(damaged, 1)
    again = recover(damaged, clock=clock)
    assert again.set_aside is not None
    assert again.set_aside.name == "ledger.db.damaged-20250730T183315Z-2"


def test_a_lost_page_of_results_costs_those_results_alone(damaged: Path, clock: Clock) -> None:
    page = pages_of(damaged, "results")[1]
    overwrite(damaged, page)
    outcome = recover(damaged, clock=clock)

    lost = outcome.lost["results"]
    assert 0 < lost < 150
    assert outcome.saved["results"] == FINISHED - lost
    assert states(damaged) == BOUGHT | {"finished": FINISHED - lost}


def test_what_lies_between_two_lost_pages_is_found(damaged: Path, clock: Clock) -> None:
    pages = pages_of(damaged, "results")
    cells = {page: int(str(count)) for page, count in rows(damaged, "SELECT pageno, ncell FROM dbstat")}
    for page in (pages[1], pages[3]):
        overwrite(damaged, page)
    outcome = recover(damaged, clock=clock)

    assert outcome.lost["results"] == cells[pages[1]] + cells[pages[3]]
    assert outcome.saved["results"] + outcome.lost["results"] == FINISHED


def test_results_whose_numbers_are_far_apart_are_found_between_two_lost_pages(
    folder: Path, template: Path, clock: Clock
) -> None:
    """As of dead letters of months, or of a task API that was away for long."""
    world = lived(folder, template)
    for table in ("tasks", "contents", "results"):
        world.change(f"UPDATE {table} SET seq = seq * -20000")
        world.change(f"UPDATE {table} SET seq = -seq")
    path = closed(world)
    pages = pages_of(path, "results")
    cells = {page: int(str(count)) for page, count in rows(path, "SELECT pageno, ncell FROM dbstat")}
    for page in (pages[1], pages[-1]):
        overwrite(path, page)
    outcome = recover(path, clock=clock)

    assert outcome.lost["results"] == cells[pages[1]] + cells[pages[-1]]
    assert outcome.saved["results"] + outcome.saved["dead letters"] + outcome.lost["results"] == FINISHED + DEAD


def test_an_inner_page_that_is_lost_costs_what_is_below_it_alone(folder: Path, template: Path, clock: Clock) -> None:
    world = lived(folder, template)
    world.change(
        "WITH RECURSIVE number (n) AS (SELECT 1000 UNION ALL SELECT n + 1 FROM number WHERE n < 1999)"
        " INSERT INTO tasks (seq, id, queue, state, entered_sequence, entered_at)"
        " SELECT n, 'more' || n, 1, 'finished', 1, 1 FROM number"
    )
    world.change(
        "INSERT INTO results (seq, status, body, finished_at)"
        " SELECT seq, 'succeeded', CAST(format('[1.%.3000c]', '0') AS BLOB), 1 FROM tasks WHERE seq >= 1000"
    )
    path = closed(world)
    root = rows(path, "SELECT rootpage FROM sqlite_schema WHERE name = 'results'")[0][0]
    assert pages_of(path, "results", "internal") != [root], "deep enough to have an inner page below its root"
    *_, last = (page for page in pages_of(path, "results", "internal") if page != root)
    overwrite(path, last)
    outcome = recover(path, clock=clock)

    assert 0 < outcome.lost["results"] < 1_000
    assert outcome.saved["results"] + outcome.lost["results"] == FINISHED + 1_000
    assert check(path).sound


def test_results_are_delivered_though_their_tasks_are_lost(damaged: Path, clock: Clock) -> None:
    lose(damaged, "tasks")
    outcome = recover(damaged, clock=clock)

    # Which of them was a dead letter is lost as well: those are tried once more.
    assert outcome.saved == {"results": FINISHED + DEAD, "completions": RUN, "tombstones": DELIVERED}
    assert states(damaged) == {"finished": FINISHED + DEAD}
    assert rows(damaged, "SELECT id FROM tasks WHERE seq = 100") == [("run99",)]


@pytest.mark.parametrize("place", [0, 1, -1])
def test_where_completions_are_lost_every_limit_is_used_up_for_its_window(
    damaged: Path, clock: Clock, place: int
) -> None:
    overwrite(damaged, pages_of(damaged, "task_completions")[place])
    outcome = recover(damaged, LIMITS, clock=clock)

    assert outcome.lost["limits"] == 2
    prepare(damaged, strategy="rolling", timezone="UTC", limits=LIMITS.limits, clock=clock)
    for allowed in (0, 0, 500):
        uses = snapshot(damaged, now=clock.now).limits
        assert (uses["hour"].remaining, uses["month"].remaining) == (allowed, 0)
        clock.go(3_599.0 if allowed == 0 else 0.0)


@pytest.mark.parametrize(
    "harm",
    [
        "DELETE FROM task_completions WHERE id = 100",
        "UPDATE task_completions SET completed_at = 1e300 WHERE id = 100",
        "UPDATE task_completions SET completed_at = -1 WHERE id = 1",
        "UPDATE task_completions SET id = 2e15 WHERE id = (SELECT MAX(id) FROM task_completions)",
        "DELETE FROM task_completions",
    ],
)
def test_completions_that_are_not_as_they_were_written_are_not_believed(
    folder: Path, template: Path, clock: Clock, harm: str
) -> None:
    world = lived(folder, template)
    world.change(harm)
    path = closed(world)
    lose(path)
    outcome = recover(path, LIMITS, clock=clock)

    assert outcome.lost["limits"] == 2
    assert rows(path, "SELECT MAX(id), MIN(completed_at) FROM task_completions") == [(10_000 + IN_HAND, clock.now)]


@pytest.mark.parametrize("tables", [("task_completions",), ("task_completions", "task_completions_first")])
def test_completions_of_which_the_last_never_came_to_the_disk_are_not_believed(
    folder: Path, template: Path, clock: Clock, tables: tuple[str, ...]
) -> None:
    world = lived(folder, template)
    early = closed(world).read_bytes()
    world.open()
    for _ in range(5):
        world.finish(world.claim(OTHER_WORKER, terms(batch=1)))
    path = closed(world)
    for page in (pages_of(path, table)[-1] for table in tables):
        overwrite(path, page, early[(page - 1) * PAGE : page * PAGE])
    assert rows(path, "SELECT MAX(id) FROM task_completions NOT INDEXED") == [(RUN,)]
    lose(path)

    assert recover(path, LIMITS, clock=clock).lost["limits"] == 2


def test_claims_in_hand_of_which_the_last_never_came_to_the_disk_are_not_believed(
    folder: Path, template: Path, clock: Clock
) -> None:
    world = lived(folder, template)
    early = closed(world).read_bytes()
    world.open()
    world.claim(OTHER_WORKER, terms(batch=15))
    path = closed(world)
    (page,) = pages_of(path, "tasks_claimed")
    overwrite(path, page, early[(page - 1) * PAGE : page * PAGE])

    assert recover(path, LIMITS, clock=clock).lost["limits"] == 2


@pytest.mark.parametrize(("also_lost", "limits"), [((), 0), (("rate_limits",), 1), (("task_completions",), 1)])
def test_a_service_that_never_sent_anything_is_believed_where_its_tables_can_be_read(
    folder: Path, template: Path, also_lost: tuple[str, ...], limits: int
) -> None:
    world = World.create(folder, template, month=100)
    world.admit("a")
    path = closed(world)
    for table in ("contents", *also_lost):
        lose(path, table)

    assert recover(path, Allowance(limits={"month": 100}), clock=world.clock).lost["limits"] == limits


def test_limits_of_any_size_are_used_up_in_a_few_rows_and_stay_so_in_another_recovery(
    damaged: Path, clock: Clock
) -> None:
    allowed = {"minute": 1, "hour": 500, "month": 10**9}
    lost_at = clock.now
    lose(damaged, "task_completions")
    recover(damaged, Allowance(limits=allowed), clock=clock)
    prepare(damaged, strategy="rolling", timezone="UTC", limits=allowed, clock=clock)
    world = World(damaged, clock)
    world.open()
    world.admit("new")
    for seconds, period in ((60.0, "minute"), (3_600.0, "hour"), (30 * 86_400.0, "month")):
        use = snapshot(damaged, now=clock.now).limits[Period(period)]
        assert use.remaining == 0
        assert use.frees_at == pytest.approx(lost_at + seconds, abs=0.01)
        assert world.idle().because is IdleReason.LIMIT
        clock.now = lost_at + seconds - 1
    closed(world)
    assert rows(damaged, "SELECT COUNT(*) FROM task_completions") == [(2 + IN_HAND,)]
    lose(damaged)
    assert recover(damaged, Allowance(limits=allowed), clock=clock).lost["limits"] == 0

    prepare(damaged, strategy="rolling", timezone="UTC", limits=allowed, clock=clock)
    world.open()
    world.admit("again")
    assert world.idle().because is IdleReason.LIMIT
    clock.go(2)
    world.finish(world.claim())
    clock.go(10 * 86_400)
    for name in ("late", "later"):  # all that no window reaches is forgotten
        world.admit(name)
        world.run()
        clock.go(60.1)
    assert world.value("SELECT COUNT(*) FROM task_completions WHERE completed_at < ?", lost_at + 86_400) == 0
    assert world.problems() == ()
    world.close()


def test_where_claims_in_hand_cannot_be_counted_every_limit_is_used_up(damaged: Path, clock: Clock) -> None:
    lose(damaged, "tasks_claimed")
    outcome = recover(damaged, LIMITS, clock=clock)

    assert outcome.lost["limits"] == 2
    assert outcome.saved["results"] == FINISHED


def test_the_log_of_a_killed_service_is_read_as_well(folder: Path, template: Path, clock: Clock) -> None:
    world = lived(folder, template)
    closed(world)
    world.open()
    (delivery,) = world.take(OTHER_RELAY, 1)
    world.ledger.outbox.settle(delivery, DeliveryOutcome.DELIVERED)
    path = copy_of(world.path, "killed.db")
    world.close()
    overwrite(path, pages_of(world.path, "results")[-1])
    assert path.with_name("killed.db-wal").stat().st_size > 0
    outcome = recover(path, clock=clock)

    assert not path.with_name("killed.db-wal").exists()
    assert outcome.saved["tombstones"] == DELIVERED + 1
    assert states(path)["dead"] == DEAD
    assert outcome.set_aside is not None
    assert outcome.set_aside.with_name(outcome.set_aside.name + "-wal").exists()


@pytest.mark.parametrize("left", [b"", b"S", None])
def test_a_log_alone_is_never_deleted(folder: Path, template: Path, clock: Clock, left: bytes | None) -> None:
    world = lived(folder, template)
    path = copy_of(world.path, "cut.db")
    world.close()
    if left is None:
        path.unlink()
    else:
        path.write_bytes(left)
    log = path.with_name("cut.db-wal").read_bytes()
    with pytest.raises(ConfigurationError, match="its write-ahead log is not"):
        prepare(path, strategy="rolling", timezone="UTC", limits={}, clock=clock)
    for look in (
        lambda: snapshot(path),
        lambda: back_up(path, folder / "b"),
        lambda: Ledger.open(path, LedgerConfig()),
    ):
        with pytest.raises(LedgerError, match=r"there is no ledger|its write-ahead log is not"):
            look()
    assert path.with_name("cut.db-wal").read_bytes() == log
    outcome = recover(path, LIMITS, clock=clock)

    assert outcome.set_aside is not None
    assert outcome.set_aside.with_name(outcome.set_aside.name + "-wal").read_bytes() == log
    assert outcome.lost == {"limits": 2}


def test_a_service_goes_on_with_what_was_recovered(damaged: Path, clock: Clock) -> None:
    lose(damaged)
    recover(damaged, clock=clock)
    assert prepare(damaged, strategy="rolling", timezone="UTC", limits={"month": 10_000}, clock=clock) == VERSION
    world = World(damaged, clock)
    world.open()

    assert world.ledger.release_ownerless() == {}
    assert world.completions() == RUN + IN_HAND
    world.admit("new1", "new2")
    assert ids(world.claim()) == ["new1", "new2"]
    assert len(world.deliver_all()) == FINISHED
    assert len(world.ledger.dead.list()) == DEAD
    world.close()


def test_a_sound_ledger_stays_as_it_is(damaged: Path, clock: Clock) -> None:
    before = damaged.read_bytes()
    outcome = recover(damaged, clock=clock)

    assert outcome.set_aside is None
    assert damaged.read_bytes() == before


@pytest.mark.parametrize("slot", [0, RELAY, WORKER, 1_100])
def test_a_ledger_in_use_is_left_alone(world: World, slot: int) -> None:
    world.change("DELETE FROM polls")

    assert world.ledger.locks.acquire(slot, 0)
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            recover(world.path)
            os.write(write, b"recovered")
        except LedgerError as error:
            os.write(write, str(error).encode())
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    os.close(write)
    with os.fdopen(read) as answer:
        assert "is in use: stop the service first" in answer.read()


def test_there_is_nothing_to_recover_where_there_is_no_ledger(folder: Path) -> None:
    with pytest.raises(LedgerError, match="there is no ledger"):
        recover(folder / "none" / "none.db")
    assert list(folder.iterdir()) == []


def test_no_table_is_forgotten(damaged: Path) -> None:
    found = {name for (name,) in rows(damaged, "SELECT name FROM sqlite_schema WHERE type = 'table'")}
    saved = {"ledger", "queues", "tasks", "results", "task_completions", *KEPT}
    listed_again_by_the_task_api = {"contents", "polls", "malformed"}
    published_at_each_start = {"limits", "budgets", "unpriced"}
    found_out_anew = {"breakers", "cooldowns", "processors", "habits", "request_profiles", "hosts", "absences"}
    gathered_anew = {"worlds", "evidence", "failures", "rate_limits", "minutes", "recent_errors"}

    left_behind = listed_again_by_the_task_api | published_at_each_start | found_out_anew | gathered_anew

    assert found == saved | left_behind | {"sqlite_sequence"}


def test_cut_off_at_its_end_it_leaves_the_damaged_ledger_in_its_place(
    damaged: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the next start would make a new one, and know nothing of what was bought and sent."""
    overwrite(damaged, 1)
    before = damaged.read_bytes()

    def cut_off(*_: object) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("os.replace", cut_off)
    with pytest.raises(LedgerError, match="Input/output error"):
        recover(damaged, clock=clock)

    assert damaged.read_bytes() == before
    assert [path.read_bytes() for path in damaged.parent.glob("*.damaged-*Z")] == [before]


def test_a_full_disk_leaves_everything_as_it_was(damaged: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    overwrite(damaged, 1)
    before = damaged.read_bytes()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("shutil.copyfile", full)
    with pytest.raises(LedgerError, match="No space left"):
        recover(damaged, clock=clock)

    assert damaged.read_bytes() == before
    assert not [path for path in damaged.parent.iterdir() if "recovery" in path.name or "damaged" in path.name]


@pytest.mark.parametrize("version", [VERSION - 2, VERSION + 64])
def test_a_version_that_only_damage_can_have_made_keeps_nobody_from_recovery(
    folder: Path, template: Path, clock: Clock, version: int
) -> None:
    world = lived(folder, template)
    world.change("UPDATE ledger SET version = ?, paused = 1", version)
    path = closed(world)
    lose(path, "results")
    recover(path, clock=clock)

    assert rows(path, "SELECT version, paused FROM ledger") == [(VERSION, 1)]


def test_what_a_later_release_made_is_not_recovered_by_this_one(folder: Path, template: Path, clock: Clock) -> None:
    world = lived(folder, template)
    world.change("UPDATE ledger SET version = 99")
    world.change("ALTER TABLE tasks ADD COLUMN colour TEXT")
    path = closed(world)
    overwrite(path, pages_of(path, "results")[0])

    with pytest.raises(ConfigurationError, match=r"version 99, .*; install the newer release"):
        recover(path, clock=clock)
    assert not list(folder.glob("*damaged*"))


@pytest.mark.parametrize(
    ("table", "other"), [("ledger", "queues"), ("task_completions", "queues"), ("tasks", "results")]
)
def test_pages_in_each_other_s_place_are_rows_that_make_no_sense(
    damaged: Path, clock: Clock, table: str, other: str
) -> None:
    (one, another) = (pages_of(damaged, name)[0] for name in (table, other))
    content = damaged.read_bytes()
    overwrite(damaged, one, content[(another - 1) * PAGE : another * PAGE])
    overwrite(damaged, another, content[(one - 1) * PAGE : one * PAGE])
    recover(damaged, clock=clock)

    assert check(damaged).sound
