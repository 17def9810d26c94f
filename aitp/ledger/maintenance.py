"""The ledger's upkeep: the integrity check, backups, and what can be saved of a damaged file.

`check` reads only, in one consistent state, beside a running service: SQLite's own check of the file, and what the
ledger's rows promise each other, on either engine. A sound answer says that the structure holds, not that no bit was
ever turned over inside a text: SQLite keeps no checksums. Every start makes the first part of it (`sqlite.migrate`).

`back_up`: whatever has a backup's name is whole and sound, because SQLite's online backup is checked before it gets it.

`recover` must be alone with the ledger. Nothing of the damaged one is changed or thrown away: it keeps its rows, and
its log, under a dated name. From a copy, SQLite reads what it can of each table, around the pages that it cannot read,
into a new ledger: what was bought, then what was delivered, sent and spent. Tasks that were not run yet are for the
task API to list again. What cannot be known counts as used up, until its window ends: all limits where a completion is
missing, or may be, all budgets where something spent is. The rest (breakers, cooldowns, statistics, what is known of
servers) comes back by itself.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from itertools import islice, pairwise
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import orjson

from aitp.errors import LedgerError
from aitp.ledger import budgets, limits, sqlite
from aitp.ledger.engine import Connection, Fleet, Place, Row, alone, no_ledger
from aitp.ledger.locks import lock_path, refuse_no_file
from aitp.ledger.queue import CLAIMED, DEAD, FINISHED, READY, queue_id
from aitp.ledger.schema import VERSION, refuse_unknown
from aitp.tasks import BreakerState, QueueKey, Service, TaskState
from aitp.validators import zone_name

# The check

_SERVICES = ", ".join(f"'{service}'" for service in Service)

# What must be empty: what it would mean if it were not, and a query for (how many, a row's number). The queries are
# common SQL; further down, PRAGMA, sqlite_schema and INDEXED BY ask SQLite about its own file.
PROMISES = {
    "ready or claimed tasks have no content": (
        f"SELECT COUNT(*), MIN(seq) FROM tasks WHERE ({READY} OR {CLAIMED}) AND seq NOT IN (SELECT seq FROM contents)"
    ),
    "finished tasks or dead letters have no result": (
        f"SELECT COUNT(*), MIN(seq) FROM tasks WHERE ({FINISHED} OR {DEAD}) AND seq NOT IN (SELECT seq FROM results)"
    ),
    "tasks have a result but are not finished": (
        f"SELECT COUNT(*), MIN(seq) FROM tasks WHERE ({READY} OR {CLAIMED}) AND seq IN (SELECT seq FROM results)"
    ),
    "dead letters have no reason": (
        "SELECT COUNT(*), MIN(results.seq) FROM results JOIN tasks ON tasks.seq = results.seq"
        f" WHERE {DEAD} AND (refusal IS NULL OR refused_at IS NULL)"
    ),
    "results are no JSON": (
        "SELECT COUNT(*), MIN(seq) FROM results WHERE body IS NOT NULL AND NOT json_valid(CAST(body AS TEXT))"
    ),
    "duplicates wait for a task that is not going to be run": (
        "SELECT COUNT(*), MIN(seq) FROM tasks WHERE duplicate_of IS NOT NULL AND duplicate_of NOT IN"
        f" (SELECT seq FROM tasks WHERE ({READY} OR {CLAIMED}) AND duplicate_of IS NULL)"
    ),
    # Limits count by the difference of two ids.
    "completions are missing between the first and the last": (
        "SELECT CAST(COALESCE(SUM(missing), 0) AS BIGINT), MIN(id) FROM (SELECT id, task_id,"
        " id - 1 - LAG(id) OVER (ORDER BY id) AS missing FROM task_completions) AS those"
        f" WHERE missing > 0 AND task_id <> '{limits.LEFT_OUT}'"
    ),
    "completions are out of order": (
        "SELECT COUNT(*), MIN(id) FROM (SELECT id, completed_at < LAG(completed_at) OVER (ORDER BY id) AS early"
        " FROM task_completions) AS those WHERE early"
    ),
    # Only the first ones are in the index by which limits count.
    "completions are not marked as the first of their moment": (
        "SELECT COUNT(*), MIN(id) FROM (SELECT id, is_first,"
        " completed_at IS DISTINCT FROM LAG(completed_at) OVER (ORDER BY id) AS opens FROM task_completions) AS those"
        " WHERE opens AND is_first = 0 AND id > (SELECT MIN(id) FROM task_completions)"
    ),
    # Whoever asks for one that is not there fails each time.
    "breakers of services are missing": (
        f"SELECT {len(Service)} - COUNT(*), NULL FROM breakers WHERE service IN ({_SERVICES})"
    ),
    "breakers are half-open without a probe, or have a probe without being half-open": (
        f"SELECT COUNT(*), NULL FROM breakers WHERE (state = '{BreakerState.HALF_OPEN}') <> (probe_slot IS NOT NULL)"
    ),
    "money is reserved for slots that have nothing claimed": (
        f"SELECT COUNT(*), MIN(slot) FROM reservations WHERE slot NOT IN (SELECT slot FROM tasks WHERE {CLAIMED})"
    ),
    # They would let others be spent twice.
    "amounts of money are less than nothing": (
        "SELECT COUNT(*), NULL FROM (SELECT nano FROM spending UNION ALL SELECT nano FROM reservations) AS those"
        " WHERE nano < 0"
    ),
    "rows are ahead of the ledger's own sequence": (
        "SELECT COUNT(*), NULL FROM (SELECT entered_sequence AS number FROM tasks UNION ALL SELECT sequence"
        " FROM tombstones UNION ALL SELECT began_sequence FROM polls) AS those"
        " WHERE number > (SELECT sequence FROM ledger)"
    ),
    "rows are missing in the tables of one row, ledger and polls": (
        "SELECT 2 - (SELECT COUNT(*) FROM ledger) - (SELECT COUNT(*) FROM polls), NULL"
    ),
}

COUNTED = ("tasks", "contents", "results", "tombstones", "task_completions", "malformed", "cache")


@dataclass(frozen=True, slots=True)
class Checkup:
    """What was found. `problems` is empty for a sound ledger; `rows` by table, of a sound one of this release."""

    version: int
    problems: tuple[str, ...]
    rows: dict[str, int]
    bytes: int

    @property
    def sound(self) -> bool:
        return not self.problems


def check(place: Place, *, quick: bool = False) -> Checkup:
    """Look a ledger over. `quick`: without comparing its indexes with its tables, in about half the time.

    Damage is what it returns, not what it raises. Raises LedgerError if there is no ledger, or it cannot be opened;
    MisplacedLedger for what never was one. Of a fleet's database what the rows promise is all that is looked at.
    """
    if isinstance(place, Fleet):
        return _check_fleet(place)
    with sqlite.as_ledger_error(place):  # it may lie where this user may not look
        refuse_no_file(place)
        if not place.exists() and not sqlite.is_log_alone(place):
            raise no_ledger(place)
        size = place.stat().st_size if place.exists() else 0
        try:
            with closing(sqlite.open_to_check(place)) as connection:
                connection.execute("BEGIN")  # one state for all that follows
                problems = sqlite.file_problems(connection, quick=quick)
                if problems or size == 0:
                    return Checkup(0, tuple(problems), {}, size)  # an empty file is one that no service has used yet
                return _look_at_rows(connection, size, _broken_definitions_or_promises)
        except sqlite.CORRUPTION as error:
            return Checkup(0, (sqlite.in_words(error),), {}, size)


def _check_fleet(place: Fleet) -> Checkup:
    from aitp.ledger import postgresql

    with postgresql.reading(place) as (connection, _):
        size = connection.execute(
            "SELECT CAST(SUM(pg_total_relation_size(oid)) AS BIGINT) FROM pg_class"
            " WHERE relkind = 'r' AND relnamespace = CAST(current_schema() AS regnamespace)"
        ).get
        return _look_at_rows(connection, size, broken_promises)


def _look_at_rows(connection: Connection, size: int, broken: Callable[[Any], list[str]]) -> Checkup:
    version = connection.execute("SELECT version FROM ledger").get
    if version != VERSION:
        return Checkup(version, (), {}, size)  # what its rows promise, its own release knows
    if problems := broken(connection):
        return Checkup(version, tuple(problems), {}, size)
    rows = {table: int(connection.execute(f"SELECT COUNT(*) FROM {table}").get) for table in COUNTED}
    return Checkup(version, (), rows, size)


def broken_promises(connection: Connection) -> list[str]:
    """What is wrong with the rows of a ledger of this version, on whichever engine."""
    problems = []
    for promise, query in PROMISES.items():
        count, first = connection.execute(query).fetchone() or (0, None)
        if count:
            problems.append(f"{count} {promise}" + ("" if first is None else f" (row {first} first)"))
    try:
        zone_name(str(connection.execute("SELECT timezone FROM ledger").get))
    except ValueError:
        problems.append("the time zone of its limits is none")
    return problems


def _broken_definitions_or_promises(connection: Any) -> list[str]:
    # A letter turned over in a definition hides a column, say: the rest could not even be asked.
    with sqlite.ours() as ledger:
        ours, found = sqlite.definitions(ledger), sqlite.definitions(connection)
    if unlike := sorted(name for name in ours.keys() | found.keys() if ours.get(name) != found.get(name)):
        return [f"{name} is not defined as this release defines it" for name in unlike]
    problems = broken_promises(connection)
    # SQLite's own check does not see that the page of an index is one of another kind: whoever uses it does.
    for index, table, made_by in connection.execute(
        "SELECT name, tbl_name, sql FROM sqlite_schema WHERE type = 'index' AND sql IS NOT NULL"
    ):
        where = made_by.partition(" WHERE ")[2] or "TRUE"
        by_index, by_table = (
            connection.execute(f"SELECT COUNT(*) FROM {table} {how} WHERE {where}").get
            for how in (f"INDEXED BY {index}", "NOT INDEXED")
        )
        if by_index != by_table:
            problems.append(f"{index} has {by_index} of {by_table} rows")
    orphans = islice(connection.execute("PRAGMA foreign_key_check"), sqlite.MOST_PROBLEMS)
    return problems + [f"row {row} of {table} belongs to no row of {parent}" for table, row, parent, _ in orphans]


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
        sqlite.copy_whole(path, part)
        found = check(part)
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
        raise no_ledger(path)
    if path.stat().st_size == 0 and not sqlite.is_log_alone(path):
        raise sqlite.empty_ledger(path)
    if target.resolve() in [file.resolve() for file in (lock_path(path), *sqlite.files_of(path))]:
        raise LedgerError(f"{target} is the ledger itself: name another file for the backup")
    if target.exists() and not target.is_file():
        raise LedgerError(f"{target} is no file, and nothing to be replaced by one: name a file for the backup")
    if target.exists() and not overwrite:
        raise LedgerError(f"{target} exists already: name another file, or overwrite it with --force")


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


# Recovery
#
# Of a file of SQLite's, by its own means: NOT INDEXED and INDEXED BY say of which tree.

Record = dict[str, Any]
"""A row by its columns' names, its values as they were found."""

# How often in a row reading may fail before what lies beyond is looked for from the other end, then one by one.
MOST_FAILURES = 5_000
# Nothing counts so far: greater numbers are damage, and so are those below nothing.
LARGEST = 2**53

UNKNOWN = QueueKey("unknown", "unknown")
# What was delivered, results for duplicates, what was bought and is of no use yet, calls in another's stead, money.
KEPT = ("tombstones", "answers", "cache", "stand_ins", "spending", "reservations")
IN_HAND = f"SELECT seq FROM tasks INDEXED BY tasks_claimed WHERE {CLAIMED}"
# A page that never came to the disk is an old one: in order, with less on it than others tell of.
FIRSTS = [
    f"SELECT COUNT(*), MAX(id) FROM task_completions {how} WHERE is_first = 1"
    for how in ("INDEXED BY task_completions_first", "NOT INDEXED")
]
MIRRORED_MORE = (
    "SELECT time_period FROM rate_limits WHERE (unixepoch(window_start) <= ?1 AND unixepoch(window_end) > ?1"
    " OR NOT EXISTS (SELECT 1 FROM task_completions NOT INDEXED)) AND current_count >"
    " (SELECT COALESCE(MAX(id) - MIN(id) + 1, 0) FROM task_completions NOT INDEXED"
    " WHERE completed_at >= unixepoch(window_start))"
)
JUMPS = f"SELECT id FROM task_completions NOT INDEXED WHERE task_id = '{limits.LEFT_OUT}'"


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

    `saved` and `lost` count rows by what they are; `lost` knows only of what left a trace. Lost limits and budgets are
    used up.
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
    found = check(path)
    if found.sound:
        return Recovery(())
    with (
        sqlite.as_ledger_error(path),
        alone(path),
        tempfile.TemporaryDirectory(prefix=f".{path.name}.recovery-", dir=path.parent) as folder,
    ):
        fresh, copy = Path(folder) / "new", Path(folder) / "old"
        sqlite.migrate(fresh)
        for file, name in list(zip(sqlite.files_of(path), sqlite.files_of(copy), strict=True))[:2]:
            if file.exists():
                shutil.copyfile(file, name)
        copy.touch(0o600)  # of a ledger of which only the log is left
        with closing(sqlite.open_alone(fresh)) as new, closing(sqlite.open_alone(copy, keep_log=True)) as damaged, new:
            saving = _Saving(path, new, damaged, clock(), allowance or Allowance())
            saving.bring_over()
        outcome = check(fresh)
        if not outcome.sound:
            raise LedgerError(f"what was saved of {path} does not make a ledger ({outcome.problems[0]})")
        aside = _set_aside(path, clock())
        _put_in_place(fresh, path)
    return Recovery(found.problems, aside, +saving.saved, +saving.lost)


def _set_aside(path: Path, now: float) -> Path:
    """Give the damaged files a second name, then take the log's first one from it: a new ledger must never meet it.

    Cut off here, the damaged ledger is still in its place, and whole under its new name.
    """
    aside = path.with_name(f"{path.name}.damaged-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime(now))}")
    while any(file.exists() for file in sqlite.files_of(aside)):
        aside = aside.with_name(f"{aside.name}-2")
    for file, name in zip(sqlite.files_of(path), sqlite.files_of(aside), strict=True):
        if file.exists():
            try:
                name.hardlink_to(file)
            except OSError:  # not every file system knows second names
                shutil.copy2(file, name)
    for file in sqlite.files_of(path)[1:]:
        file.unlink(missing_ok=True)
    return aside


class _Saving:
    """A new ledger that is being filled from a damaged one: a row enters only if the new ledger's own rules let it.

    `torn`: tables of which some rows could not be read, or made no sense.
    """

    def __init__(self, path: Path, new: Any, damaged: Any, now: float, allowance: Allowance) -> None:
        self._path, self._new, self._damaged = path, new, damaged
        self._now, self._allowance = now, allowance
        self._torn: set[str] = set()
        self._tables, self._known = sqlite.tables(new), {}
        with suppress(*sqlite.UNREADABLE):  # where their list is lost nothing can be read
            damaged.execute("BEGIN")  # once for all that is asked
            self._known = sqlite.tables(damaged)
        self.saved: Counter[str] = Counter()
        self.lost: Counter[str] = Counter()

    def bring_over(self) -> None:
        facts = self._ask("ledger", "SELECT version, paused, reuse_scope, reuse_after FROM ledger")
        for version, *these in facts:
            # A number may be damage; tables or columns that this release does not know are none.
            is_others = any(set(columns) - set(self._tables.get(table, ())) for table, columns in self._known.items())
            if isinstance(version, int) and is_others:
                refuse_unknown(self._path, version)
            with suppress(*sqlite.SENSELESS):
                self._new.execute("UPDATE ledger SET paused = ?, reuse_scope = ?, reuse_after = ?", these)
        self._bring_completions(self._bring_results())
        for table in KEPT:
            columns = self._tables[table]
            for row in self._ask(table, f"SELECT {', '.join(columns)} FROM {table} NOT INDEXED"):
                record = dict(zip(columns, row, strict=True))
                # An amount less than nothing would let the others be spent twice.
                if _is_number(record.get("nano", 0)) and self._enter((table, record)):
                    self.saved[table] += 1
                else:
                    self._torn.add(table)
        self._use_up()
        self._new.execute("UPDATE ledger SET sequence = COALESCE((SELECT MAX(sequence) FROM tombstones), 0)")

    def _bring_results(self) -> int:
        """Results with their tasks, which cannot be bought again for nothing; how many claims were in hand.

        Tasks that are still to be run are not brought over: the task API lists them again.
        """
        asked = self._ask("queues", "SELECT id, type, model, failed_at FROM queues NOT INDEXED")
        queues = {number: QueueKey(*key) for number, *key in asked if all(isinstance(name, str) for name in key)}
        # What an index remembers of rows that cannot be read: of a task, its id is enough to deliver its result.
        by_index = self._ask("tasks", "SELECT seq, id FROM tasks INDEXED BY sqlite_autoindex_tasks_1")
        tasks: dict[int, Record] = {seq: {"id": task_id} for seq, task_id in by_index}
        columns = ("seq", "id", "queue", "state", "fingerprint")
        tasks |= {task["seq"]: task for task in self._numbered("tasks", *columns, wanted=tasks)}
        in_hand = {seq for (seq,) in self._ask("task_completions", IN_HAND)}
        if any(
            "state" in task and (task["state"] == TaskState.CLAIMED) != (seq in in_hand) for seq, task in tasks.items()
        ):
            self._torn.add("task_completions")  # nobody knows how many there were
        for result in self._numbered("results", *self._tables["results"], wanted=tasks):
            task = tasks.get(result["seq"], {})
            dead = task.get("state") == TaskState.DEAD and result["refusal"] and result["refused_at"]
            entry = {
                "seq": result["seq"],
                "id": task.get("id"),
                "queue": queue_id(self._new, queues.get(task.get("queue"), UNKNOWN)),
                "state": TaskState.DEAD if dead else TaskState.FINISHED,
                "fingerprint": task.get("fingerprint"),
                "entered_sequence": 0,
                "entered_at": self._now,
            }
            if _is_result(result["body"]) and self._enter(("tasks", entry), ("results", result)):
                del tasks[result["seq"]]
                self.saved["dead letters" if dead else "results"] += 1
        for task in tasks.values():
            self.lost["results" if task.get("state") in (TaskState.FINISHED, TaskState.DEAD) else "tasks"] += 1
        return len(in_hand)

    def _bring_completions(self, in_hand: int) -> None:
        """The memory of the limits; so may claims in hand have been sent, and nobody is left to count them later.

        Completions are numbered without a gap, in the order of their times. Where they are not, or are not all there,
        or less than their index or `rate_limits` tells of, nobody knows how many there were: then every limit is used
        up for as long as its window is.
        """
        limits_, now = self._allowance.limits, self._now
        jumps = {number for (number,) in self._ask("task_completions", JUMPS)}
        found = [tuple(row.values()) for row in self._numbered("task_completions", "id", "completed_at")]
        rows = [
            (number, min(at, now), limits.LEFT_OUT if number in jumps else "")
            for number, at in found
            if isinstance(at, float) and at >= 0
        ]
        in_order = len(rows) == len(found) and all(
            a[1] <= b[1] and (b[0] == a[0] + 1 or b[0] in jumps) for a, b in pairwise(found)
        )
        by_index, by_table = ([*self._ask("task_completions", firsts)] for firsts in FIRSTS)
        mirrored_more = [*self._ask("rate_limits", MIRRORED_MORE, (now,))]
        known = rows or "rate_limits" not in self._torn  # an empty one has nothing else to be believed by
        if known and in_order and by_index == by_table and not mirrored_more and "task_completions" not in self._torn:
            self.saved["completions"] = len(rows)
        else:
            rows = limits.used_up(max(limits_.values(), default=0), now)
            self.lost["limits"] = len(limits_)
        last = rows[-1][0] if rows else 0
        rows += [(last + number, now, "") for number in range(1, in_hand + 1)]
        self._new.executemany(
            "INSERT INTO task_completions (id, completed_at, task_type, task_id, is_first) VALUES (?, ?, '', ?, ?)",
            ((*b, int(b[1] != a[1])) for a, b in pairwise([(0, -1.0, ""), *rows])),
        )

    def _use_up(self) -> None:
        """What calls in hand may cost was spent, and so is all of what bounds calls where not all can be read of it."""
        allowance, now = self._allowance, self._now
        if "stand_ins" in self._torn:
            limits.count_stand_ins(self._new, limits.UNKNOWN, now, limits.ALL_SENT)
        for currency, nano in self._new.execute("DELETE FROM reservations RETURNING currency, nano").fetchall():
            budgets.spend(self._new, currency, nano, now, allowance.zone)
        if self._torn & {"spending", "reservations"}:
            left = budgets.left_nano(self._new, allowance.currency, allowance.budgets, now, allowance.zone)
            if left:
                budgets.spend(self._new, allowance.currency, max(left.values()), now, allowance.zone)
                self.lost["budgets"] = len(left)

    def _ask(self, table: str, query: str, bindings: tuple[object, ...] = ()) -> Iterator[Row]:
        """The rows that a query of a table gives, from its beginning until that fails."""
        try:
            yield from self._damaged.execute(query, bindings)
        except sqlite.UNREADABLE:
            self._torn.add(table)

    def _numbered(self, table: str, *columns: str, wanted: Iterable[int] = ()) -> Iterator[Record]:
        """Rows of a table that has numbers, each once: from both ends, and on where one of them cannot be read.

        SQLite goes down a tree, and fails where a page on its way is damaged; what lies to both sides is still there.
        Numbers that are `wanted` are found wherever they are, though those around them are far apart.
        """
        read = f"SELECT rowid, {', '.join(columns)} FROM {table} NOT INDEXED WHERE rowid BETWEEN ? AND ? ORDER BY rowid"
        if not set(columns) <= set(self._known.get(table, ())):
            self._torn.add(table)
            return
        low, high = 0, LARGEST  # what was not looked for yet
        for forward in (True, False):
            failures = 0
            while low <= high and failures < MOST_FAILURES:
                try:
                    for number, *row in self._damaged.execute(f"{read} {'ASC' if forward else 'DESC'}", (low, high)):
                        if not low <= number <= high:
                            raise OverflowError  # a damaged tree may lead back to where it came from
                        low, high = (number + 1, high) if forward else (low, number - 1)
                        failures = 0
                        yield dict(zip(columns, row, strict=True))
                    return
                except sqlite.UNREADABLE:
                    self._torn.add(table)
                    failures += 1
                    low, high = (low + 1, high) if forward else (low, high - 1)
        for each in sorted(number for number in wanted if low <= number <= high):
            with suppress(*sqlite.UNREADABLE):
                for number, *row in self._damaged.execute(read, (each, each)):
                    if number == each:
                        yield dict(zip(columns, row, strict=True))

    def _enter(self, *rows: tuple[str, Record]) -> bool:
        """Whether the new ledger took them: all, or none."""
        try:
            with self._new:
                for table, record in rows:
                    marks = ", ".join("?" for _ in record)
                    self._new.execute(
                        f"INSERT INTO {table} ({', '.join(record)}) VALUES ({marks})", tuple(record.values())
                    )
        except sqlite.SENSELESS:
            return False
        return True


def _is_result(body: object) -> bool:
    try:
        if body is not None:
            orjson.loads(body)  # type: ignore[arg-type]
    except (orjson.JSONDecodeError, TypeError):
        return False
    return True


def _is_number(value: object) -> bool:
    return isinstance(value, int) and 0 <= value <= LARGEST
