"""Backups of the ledger, and what can be saved of a damaged one.

Whatever has a backup's name is whole and sound: SQLite's online backup is looked over before it gets it.

`recover` must be alone with the ledger. Nothing of the damaged one is changed or thrown away: it keeps its rows, and
its log, under a dated name. From a copy, SQLite reads what it can of each table, around the pages that it cannot read,
into a new ledger: what was bought first, then what was delivered. Tasks that were not run yet are for the task API to
list again. What cannot be known counts as used up: completions that are missing count as late as they can have been,
and budgets whose spending is unclear until they end. The rest (breakers, cooldowns, statistics, what is known of
servers) comes back by itself.
"""

from __future__ import annotations

import os
import shutil
import struct
import tempfile
import time
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import orjson

from aitp.errors import ConfigurationError, LedgerError
from aitp.ledger import sqlite
from aitp.ledger.budgets import left_nano, spend
from aitp.ledger.engine import Row
from aitp.ledger.integrity import Checkup, check, look_over
from aitp.ledger.limits import ALL_SENT, count_stand_ins
from aitp.ledger.limits import UNKNOWN as UNKNOWN_PROVIDER
from aitp.ledger.locks import MASTER_SLOT, SlotLocks, lock_path, refuse_no_file
from aitp.ledger.schema import VERSION
from aitp.policy.windows import LONGEST_WINDOW_SECONDS
from aitp.tasks import TaskState

# Backups


def back_up(path: Path, target: Path, *, overwrite: bool = False) -> Checkup:
    """Write a backup of the ledger at `path` to the file `target` (mode 0600); what the look at it found.

    Raises LedgerError, with an earlier `target` untouched, if the ledger is damaged, if `target` exists without
    `overwrite`, or if it cannot be written; MisplacedLedger for what never was a ledger.
    """
    with _as_unwritable(target):
        _refuse_target(path, target, overwrite)
        handle, name = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)  # 0600
    os.close(handle)
    part = Path(name)
    try:
        found = _copy(path, part)
        if not found.sound:
            raise LedgerError(f"the ledger {path} is damaged ({found.problems[0]}), and no backup was made of it")
        with _as_unwritable(target):
            _put_in_place(part, target)
    finally:
        part.unlink(missing_ok=True)
    return found


def _refuse_target(path: Path, target: Path, overwrite: bool) -> None:
    refuse_no_file(path)
    if not path.exists():
        raise sqlite.no_ledger(path)
    if path.stat().st_size == 0 and not sqlite.is_log_alone(path):
        raise sqlite.empty_ledger(path)
    own = [path, lock_path(path), _beside(path, "-wal"), _beside(path, "-shm")]
    if target.resolve() in [file.resolve() for file in own]:
        raise LedgerError(f"{target} is the ledger itself: name another file for the backup")
    if target.exists() and not target.is_file():
        raise LedgerError(f"{target} is no file, and nothing to be replaced by one: name a file for the backup")
    if target.exists() and not overwrite:
        raise LedgerError(f"{target} exists already: name another file, or overwrite it with --force")


def _copy(path: Path, part: Path) -> Checkup:
    source = sqlite.open_read_only(path)
    try:
        if problems := sqlite.header_problems(source):
            return Checkup(0, tuple(problems), {}, path.stat().st_size)
        copy = sqlite.copy_whole(source, part)
        try:
            return look_over(copy, part)
        finally:
            copy.close()
    finally:
        source.close()


@contextmanager
def _as_unwritable(target: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise LedgerError(f"the backup {target} cannot be written: {error.strerror or error}") from error


def _put_in_place(part: Path, target: Path) -> None:
    """Give a finished file its name, on disk before this returns. Raises OSError."""
    _flush(part, os.O_RDWR)
    os.replace(part, target)
    _flush(target.parent, os.O_RDONLY | os.O_DIRECTORY)


def _flush(path: Path, flags: int) -> None:
    file = os.open(path, flags | os.O_CLOEXEC)
    try:
        os.fsync(file)
    finally:
        os.close(file)


def _beside(path: Path, end: str) -> Path:
    return path.with_name(path.name + end)


# Recovery
#
# Of a file of SQLite's, by SQLite's own means: tables of its own, NOT INDEXED and INDEXED BY to go around what is torn.

Record = dict[str, Any]
"""A row by its columns' names, its values as they were found."""

# How often reading may fail in one table before the rest of it is given up: a second or two.
MOST_FAILURES = 50_000
# How far beyond the last row that was read others are looked for, if nothing tells the highest number.
BEYOND = 2**20
# More completions than these missing in one place is a damaged number, not as many lost ones.
MOST_MISSING = 100_000
# Nothing counts so far: greater numbers are damage.
LARGEST = 2**53

UNKNOWN = "unknown"
PAGE_BYTES = 4_096
PAGE_COUNT = slice(28, 32)  # of the file's header (sqlite.org/fileformat2.html)

# Results for duplicates, and what was bought and could not be used yet.
KEPT = ("tombstones", "cache", "answers", "stand_ins")


@dataclass(frozen=True, slots=True)
class Allowance:
    """What the next start will put in force: limits by period, and budgets by period in nano-units of `currency`."""

    currency: str = ""
    budgets: Mapping[str, int] = field(default_factory=dict)
    zone: ZoneInfo = field(default_factory=lambda: ZoneInfo("UTC"))
    limits: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Recovery:
    """What became of a ledger. `set_aside` is where the damaged one is now; None for one that was sound and stays.

    `saved` and `lost` count rows by what they are; `lost` knows only of what left a trace. Lost "budgets" are used up.
    """

    problems: tuple[str, ...]
    set_aside: Path | None = None
    saved: dict[str, int] = field(default_factory=dict)
    lost: dict[str, int] = field(default_factory=dict)


def recover(path: Path, allowance: Allowance | None = None, *, clock: Callable[[], float] = time.time) -> Recovery:
    """Put a new ledger with all that can be saved in the place of a damaged one; `allowance` is for its next start.

    Raises LedgerError, with everything as it was, if a service or another command works with it, if there is no
    ledger, or if there is no room for two copies of it; ConfigurationError if it is from a newer release;
    MisplacedLedger if it never was one.
    """
    with sqlite.as_ledger_error(path):
        if not path.exists() and not sqlite.is_log_alone(path):
            raise sqlite.no_ledger(path)  # before a folder is made, for the lock
        sqlite.refuse_misplaced(path)  # before a lock file is made beside what others may need as it is
        locks = SlotLocks(path)
    with locks:
        if not locks.acquire(MASTER_SLOT, 0) or locks.any_held_elsewhere():
            raise LedgerError(f"the ledger {path} is in use: stop the service first")
        with locks.queue():
            found = check(path)
            if found.sound:
                return Recovery(())
            with sqlite.as_ledger_error(path):
                return _recover(path, allowance or Allowance(), found.problems, clock)


def _recover(path: Path, allowance: Allowance, problems: tuple[str, ...], clock: Callable[[], float]) -> Recovery:
    with tempfile.TemporaryDirectory(prefix=f".{path.name}.recovery-", dir=path.parent) as name:
        fresh = Path(name) / "new"
        sqlite.migrate(fresh)
        new = sqlite.open_alone(fresh)
        try:
            with _open_copy(path, Path(name) / "old", fresh) as damaged:
                saving = _Saving(new, damaged, clock(), allowance)
                saving.bring_over()
        finally:
            new.close()
        outcome = check(fresh)
        if not outcome.sound:
            raise LedgerError(f"what was saved of {path} does not make a ledger ({outcome.problems[0]})")
        aside = _set_aside(path, clock())
        _put_in_place(fresh, path)
    return Recovery(problems, aside, +saving.saved, +saving.lost)


def _set_aside(path: Path, now: float) -> Path:
    """Give the damaged files a second name, then take the log's first one from it: a new ledger must never meet it.

    Cut off here, the damaged ledger is still in its place, and whole under its new name.
    """
    name = f"{path.name}.damaged-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime(now))}"
    aside, number = path.with_name(name), 1
    while aside.exists() or _beside(aside, "-wal").exists():
        number += 1
        aside = path.with_name(f"{name}-{number}")
    for end in ("", "-wal", "-shm"):
        if (file := _beside(path, end)).exists():
            try:
                _beside(aside, end).hardlink_to(file)
            except OSError:  # not every file system knows second names
                shutil.copy2(file, _beside(aside, end))
    for end in ("-wal", "-shm"):
        _beside(path, end).unlink(missing_ok=True)
    return aside


@contextmanager
def _open_copy(path: Path, copy: Path, fresh: Path) -> Iterator[_Damaged]:
    """A copy that can be read, if need be with the first pages of a new ledger, which say where its tables are.

    A ledger has its tables in the same places as a new one, unless it was brought up from an older version.
    """
    copy.touch(0o600)
    if path.exists():
        shutil.copyfile(path, copy)
    if _beside(path, "-wal").exists():
        shutil.copyfile(_beside(path, "-wal"), _beside(copy, "-wal"))
    # SQLite would throw the log of an empty file away.
    damaged = None if sqlite.is_log_alone(copy) else _Damaged.open(copy)
    if damaged is None:
        new = sqlite.open_alone(fresh)
        numbers = [number for (number,) in new.execute("SELECT pageno FROM dbstat WHERE name = 'sqlite_schema'")]
        new.close()
        with copy.open("r+b") as file, fresh.open("rb") as sound:
            for number in numbers:
                sound.seek((number - 1) * PAGE_BYTES)
                page = bytearray(sound.read(PAGE_BYTES))
                if number == 1:
                    page[PAGE_COUNT] = struct.pack(">I", max(1, copy.stat().st_size // PAGE_BYTES))
                file.seek((number - 1) * PAGE_BYTES)
                file.write(page)
        damaged = _Damaged.open(copy)
    damaged = damaged or _Damaged(sqlite.open_alone(Path(":memory:")))  # nothing can be read
    try:
        yield damaged
    finally:
        try:
            damaged.connection.close()
        except sqlite.UNREADABLE:
            pass  # it could not bring its log into the damaged copy, which is thrown away


class _Damaged:
    """A damaged file, open for reading. `torn`: tables of which some rows could not be read."""

    def __init__(self, connection: Any) -> None:
        self.connection = connection
        self.torn: set[str] = set()
        self.tables = sqlite.tables(connection)

    @classmethod
    def open(cls, copy: Path) -> _Damaged | None:
        """None if it does not even say which tables it has."""
        connection = None
        try:
            connection = sqlite.open_alone(copy)
            damaged = cls(connection)
            if damaged.tables:
                return damaged
        except sqlite.UNREADABLE:
            pass
        if connection is not None:
            connection.close()
        return None

    def _columns(self, table: str, wanted: Sequence[str]) -> list[str]:
        return [column for column in wanted if column in self.tables.get(table, ())]

    def numbered(self, table: str, wanted: Sequence[str], key: str) -> Iterator[Record]:
        """Rows of a table by `key`, the name of its rowid: each once, from both ends, then around what is torn.

        SQLite goes down a tree and fails where a page on its way is damaged; what lies to both sides is still there.
        """
        columns = self._columns(table, wanted)
        if key not in columns:
            self.torn.add(table)
            return
        read = f"SELECT {key}, {', '.join(columns)} FROM {table} NOT INDEXED WHERE {key} BETWEEN ? AND ? ORDER BY {key}"
        ranges, failures = deque([(-(2**63), 2**63 - 1)]), 0
        while ranges and failures < MOST_FAILURES:
            low, high = ranges.popleft()
            for direction in ("ASC", "DESC"):
                try:
                    for number, *row in self.connection.execute(f"{read} {direction}", (low, high)):
                        if not low <= number <= high:
                            raise OverflowError  # a damaged tree may lead back to where it came from
                        low, high = (number + 1, high) if direction == "ASC" else (low, number - 1)
                        yield dict(zip(columns, row, strict=True))
                    break
                except sqlite.UNREADABLE:
                    self.torn.add(table)
                    failures += 1
            else:
                if high == 2**63 - 1:  # nothing could be read from the end
                    high = max(low, 0) + BEYOND
                    if (last := self._sequence()) < LARGEST:
                        high = max(high, last)
                if low < high:
                    middle = (low + high) // 2
                    ranges += [(low, middle), (middle + 1, high)]

    def _sequence(self) -> int:
        try:
            return int(self.connection.execute("SELECT MAX(seq) FROM sqlite_sequence WHERE name = 'tasks'").get)
        except (*sqlite.UNREADABLE, TypeError, ValueError):
            return 0

    def all(self, table: str, wanted: Sequence[str]) -> Iterator[Record]:
        """Rows of a small table of any kind, from its beginning until that fails."""
        columns = self._columns(table, wanted)
        try:
            for row in self.connection.execute(f"SELECT {', '.join(columns)} FROM {table} NOT INDEXED"):
                yield dict(zip(columns, row, strict=True))
        except sqlite.UNREADABLE:
            self.torn.add(table)

    def index(self, table: str, index: str, columns: str) -> Iterator[Row]:
        """What an index alone knows, until that fails: also of rows that cannot be read themselves."""
        try:
            yield from self.connection.execute(f"SELECT {columns} FROM {table} INDEXED BY {index}")
        except sqlite.UNREADABLE:
            self.torn.add(index)


class _Saving:
    """A new ledger that is being filled: a row enters only if the new ledger's own rules let it."""

    def __init__(self, new: Any, damaged: _Damaged, now: float, allowance: Allowance) -> None:
        self._new = new
        self._damaged = damaged
        self._now = now
        self._allowance = allowance
        self.saved: Counter[str] = Counter()
        self.lost: Counter[str] = Counter()

    def bring_over(self) -> None:
        self._new.execute("PRAGMA foreign_keys = ON")
        self._new.execute("BEGIN IMMEDIATE")
        for record in self._damaged.all("ledger", self._columns("ledger")):
            self._refuse_newer(record.get("version"))
            self._enter_facts(record | {"version": VERSION})
        in_hand = self._bring_results()
        self._bring_completions(in_hand)
        for table in KEPT:
            for record in self._damaged.all(table, self._columns(table)):
                saved = self._enter(table, record)
                if table == "tombstones":
                    (self.saved if saved else self.lost)[table] += 1
                if table == "stand_ins" and not saved:
                    self._damaged.torn.add(table)
        if "stand_ins" in self._damaged.torn:
            count_stand_ins(self._new, UNKNOWN_PROVIDER, self._now, ALL_SENT)
        self._bring_money()
        self._new.execute(
            "UPDATE ledger SET sequence = (SELECT MAX(number) FROM (SELECT sequence AS number FROM ledger"
            " UNION ALL SELECT entered_sequence FROM tasks UNION ALL SELECT sequence FROM tombstones"
            " UNION ALL SELECT 0) AS those)"
        )
        self._new.execute("COMMIT")

    def _bring_results(self) -> int:
        """Results with their tasks, which cannot be bought again for nothing; how many claims were in hand.

        Tasks that are still to be run are not brought over: the task API lists them again.
        """
        damaged = self._damaged
        for queue in damaged.numbered("queues", self._columns("queues"), "id"):
            self._enter("queues", queue)
        tasks = {task["seq"]: task for task in damaged.numbered("tasks", self._columns("tasks"), "seq")}
        # What an index remembers of rows that cannot be read: of a task, its id is enough to deliver its result.
        ids: dict[int, str] = dict(damaged.index("tasks", "sqlite_autoindex_tasks_1", "seq, id"))
        bought: set[int] = set()
        for result in damaged.numbered("results", self._columns("results"), "seq"):
            seq = result["seq"]
            task = {"seq": seq, "id": ids.get(seq), "queue": None, "entered_sequence": 0, "entered_at": self._now}
            task |= tasks.get(seq, {})
            dead = task.get("state") == TaskState.DEAD and result.get("refusal") and result.get("refused_at")
            task |= {"state": TaskState.DEAD if dead else TaskState.FINISHED, "slot": None, "world": None}
            task |= {"duplicate_of": None, "is_suspect": 0}
            if self._enter_result(task, result):
                bought.add(seq)
                self.saved["dead letters" if dead else "results"] += 1
        for seq in (tasks.keys() | ids.keys()) - bought:
            was_run = tasks.get(seq, {}).get("state") in (TaskState.FINISHED, TaskState.DEAD)
            self.lost["results" if was_run else "tasks"] += 1
        claimed = {seq for seq, task in tasks.items() if task.get("state") == TaskState.CLAIMED}
        claimed.update(seq for (seq,) in damaged.index("tasks", "tasks_claimed", "seq"))
        return len(claimed - bought)

    def _enter_result(self, task: Record, result: Record) -> bool:
        """A result and its task, both or neither."""
        if not (_is_number(task["seq"]) and _is_number(task["entered_sequence"]) and _is_result(result.get("body"))):
            return False
        if not self._new.execute("SELECT 1 FROM queues WHERE id = ?", (task["queue"],)).get:
            unknown = {"type": UNKNOWN, "model": UNKNOWN}
            self._enter("queues", unknown, "ON CONFLICT (type, model, failed_at) DO NOTHING")
            task["queue"] = self._new.execute("SELECT id FROM queues WHERE type = ?", (UNKNOWN,)).get
        if not self._enter("tasks", task):
            return False
        if not self._enter("results", result):
            self._new.execute("DELETE FROM tasks WHERE seq = ?", (task["seq"],))
            return False
        return True

    def _bring_completions(self, in_hand: int) -> None:
        """The memory of the limits: what is missing in it counts all the same, as late as it can have been.

        So do the `in_hand` claims: they may have been sent, and nobody is left to count them later.
        """
        table = "task_completions"
        rows = {row["id"]: row for row in self._damaged.numbered(table, self._columns(table), "id")}
        times = {number: row.get("completed_at") for number, row in rows.items()}
        history = mended({number: at for number, at in times.items() if isinstance(at, float)}, self._now)
        windows = list(self._damaged.all("rate_limits", self._columns("rate_limits")))
        missing = missing_since(windows, [at for at, _ in history], self._now)
        if missing is None:  # nobody knows how many there were
            missing = max(self._allowance.limits.values(), default=0) if self._damaged.torn & {table} else 0
        history += [(self._now, None)] * (missing + in_hand)
        before = None
        for at, number in history:
            if at >= self._now - LONGEST_WINDOW_SECONDS:
                row = rows.get(number, {}) if number is not None else {}
                named = {name: row.get(name, "") for name in ("task_type", "task_id")}
                self._enter(table, {"completed_at": at, "is_first": int(at != before), **named})
                (self.lost if number is None else self.saved)["completions"] += 1
                before = at
        self.lost["completions"] -= in_hand  # they are counted, and are no loss

    def _bring_money(self) -> None:
        """What was spent, and what calls in hand may cost; where that is not all there was, it was all that may be."""
        whole = True
        for table in ("spending", "reservations"):
            for record in self._damaged.all(table, self._columns(table)):
                # An amount less than nothing would let the others be spent twice.
                whole &= _is_number(record.get("nano")) and self._enter(table, record)
        allowance = self._allowance
        for currency, nano in self._new.execute("DELETE FROM reservations RETURNING currency, nano").fetchall():
            spend(self._new, currency, nano, self._now, allowance.zone)  # those calls may have been made
        if not whole or self._damaged.torn & {"spending", "reservations"}:
            left = left_nano(self._new, allowance.currency, allowance.budgets, self._now, allowance.zone)
            if left:
                spend(self._new, allowance.currency, max(left.values()), self._now, allowance.zone)
                self.lost["budgets"] = len(left)

    def _columns(self, table: str) -> list[str]:
        return [name for (name,) in self._new.execute("SELECT name FROM pragma_table_info(?)", (table,))]

    def _enter_facts(self, record: Record) -> None:
        """The row of the table `ledger`, instead of the new one's: what it does not say is as in a new ledger."""
        said = {name: value for name, value in record.items() if value is not None}
        updates = ", ".join(f"{name} = excluded.{name}" for name in self._columns("ledger") if name != "one")
        self._enter("ledger", said, f"ON CONFLICT (one) DO UPDATE SET {updates}")

    def _enter(self, table: str, record: Record, otherwise: str = "") -> bool:
        """Whether the new ledger took it."""
        marks = ", ".join("?" for _ in record)
        insert = f"INSERT INTO {table} ({', '.join(record)}) VALUES ({marks}) {otherwise}"
        try:
            self._new.execute(insert, tuple(record.values()))
        except sqlite.SENSELESS:
            return False
        return True

    def _refuse_newer(self, version: object) -> None:
        """A number may be damage; one with tables or columns that this release does not know is none."""
        if isinstance(version, int) and version > VERSION:
            for table, columns in self._damaged.tables.items():
                if not table.startswith("sqlite_") and set(columns) - set(self._columns(table)):
                    raise ConfigurationError(
                        [f"the ledger has version {version}, this release knows {VERSION}: recover it with that one"]
                    )


def mended(times: Mapping[int, float], now: float) -> list[tuple[float, int | None]]:
    """(time, number) of every completion in order, number None for those that were missing.

    Completions are numbered without a gap, and their times never decrease: a number that is missing was once one
    between its neighbours, and counts with the later one. `times` by number is what could be read of them.
    """
    rows = [(number, min(at, now)) for number, at in sorted(times.items()) if number > 0 and at >= 0]
    found: list[tuple[float, int | None]] = []
    before, before_at = (rows[0][0] - 1 if rows else 0), 0.0
    for (number, at), (_, after) in pairwise([*rows, (0, now)]):
        if before_at <= at and (at <= after or after < before_at):  # else its time is damaged: as good as missing
            missing = number - before - 1
            found += [(at, None)] * (missing if missing <= MOST_MISSING else 0)
            found.append((at, number))
            before, before_at = number, at
    missing = rows[-1][0] - before if rows else 0
    return found + [(now, None)] * (missing if missing <= MOST_MISSING else 0)


def missing_since(windows: Collection[Mapping[str, Any]], times: Sequence[float], now: float) -> int | None:
    """How many completions more than these there were, by the counts of `rate_limits` in the windows that hold now.

    None where none of them can be read.
    """
    missing = []
    for window in windows:
        try:
            start, end = (
                datetime.strptime(window[name], "%Y-%m-%d %H:%M:%S").replace(tzinfo=UTC).timestamp()
                for name in ("window_start", "window_end")
            )
            count = int(window["current_count"])
        except (KeyError, ValueError, TypeError):
            continue  # damaged as well
        if start <= now < end and (more := count - sum(at >= start for at in times)) <= MOST_MISSING:
            missing.append(max(0, more))
    return max(missing, default=None)


def _is_result(body: object) -> bool:
    try:
        if body is not None:
            orjson.loads(body)  # type: ignore[arg-type]
    except (orjson.JSONDecodeError, TypeError):
        return False
    return True


def _is_number(value: object) -> bool:
    return isinstance(value, int) and 0 <= value <= LARGEST
