"""The integrity check: SQLite's own of the file, and what the ledger's rows promise each other, on either engine.

Reads only, in one consistent state, beside a running service: `aitp ledger check` and every backup call it, and every
start its first part. A sound answer says that the structure holds, not that no bit was ever turned over inside a text:
SQLite keeps no checksums.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from aitp.errors import LedgerError
from aitp.ledger import sqlite
from aitp.ledger.engine import Connection, Fleet, Place, Row
from aitp.ledger.locks import refuse_no_file
from aitp.ledger.queue import CLAIMED, DEAD, FINISHED, READY
from aitp.ledger.schema import VERSION
from aitp.tasks import BreakerState, Service
from aitp.validators import zone_name

_SERVICES = ", ".join(f"'{service}'" for service in Service)

# What must be empty: what it would mean if it were not, and a query for (how many, a row's number). The queries are
# common SQL; further down, PRAGMA, sqlite_schema and INDEXED BY ask SQLite about its own file.
PROMISES: tuple[tuple[str, str], ...] = (
    (
        "ready or claimed tasks have no content",
        f"SELECT COUNT(*), MIN(seq) FROM tasks WHERE ({READY} OR {CLAIMED}) AND seq NOT IN (SELECT seq FROM contents)",
    ),
    (
        "finished tasks or dead letters have no result",
        f"SELECT COUNT(*), MIN(seq) FROM tasks WHERE ({FINISHED} OR {DEAD}) AND seq NOT IN (SELECT seq FROM results)",
    ),
    (
        "tasks have a result but are not finished",
        f"SELECT COUNT(*), MIN(seq) FROM tasks WHERE ({READY} OR {CLAIMED}) AND seq IN (SELECT seq FROM results)",
    ),
    (
        "dead letters have no reason",
        "SELECT COUNT(*), MIN(results.seq) FROM results JOIN tasks ON tasks.seq = results.seq"
        f" WHERE {DEAD} AND (refusal IS NULL OR refused_at IS NULL)",
    ),
    (
        "results are no JSON",
        "SELECT COUNT(*), MIN(seq) FROM results WHERE body IS NOT NULL AND NOT json_valid(CAST(body AS TEXT))",
    ),
    (
        "duplicates wait for a task that is not going to be run",
        "SELECT COUNT(*), MIN(seq) FROM tasks WHERE duplicate_of IS NOT NULL AND duplicate_of NOT IN"
        f" (SELECT seq FROM tasks WHERE ({READY} OR {CLAIMED}) AND duplicate_of IS NULL)",
    ),
    (
        # Limits count by the difference of two ids.
        "completions are missing between the first and the last",
        "SELECT MAX(id) - MIN(id) + 1 - COUNT(*), MIN(id) FROM task_completions HAVING COUNT(*) > 0",
    ),
    (
        "completions are out of order",
        "SELECT COUNT(*), MIN(id) FROM (SELECT id, completed_at < LAG(completed_at) OVER (ORDER BY id) AS early"
        " FROM task_completions) AS those WHERE early",
    ),
    (
        # Only the first ones are in the index by which limits count.
        "completions are not marked as the first of their moment",
        "SELECT COUNT(*), MIN(id) FROM (SELECT id, is_first,"
        " completed_at IS DISTINCT FROM LAG(completed_at) OVER (ORDER BY id) AS opens FROM task_completions) AS those"
        " WHERE opens AND is_first = 0 AND id > (SELECT MIN(id) FROM task_completions)",
    ),
    (
        # Whoever asks for one that is not there fails each time.
        "breakers of services are missing",
        f"SELECT {len(Service)} - COUNT(*), NULL FROM breakers WHERE service IN ({_SERVICES})",
    ),
    (
        "breakers are half-open without a probe, or have a probe without being half-open",
        f"SELECT COUNT(*), NULL FROM breakers WHERE (state = '{BreakerState.HALF_OPEN}') <> (probe_slot IS NOT NULL)",
    ),
    (
        "money is reserved for slots that have nothing claimed",
        f"SELECT COUNT(*), MIN(slot) FROM reservations WHERE slot NOT IN (SELECT slot FROM tasks WHERE {CLAIMED})",
    ),
    (
        # They would let others be spent twice.
        "amounts of money are less than nothing",
        "SELECT COUNT(*), NULL FROM (SELECT nano FROM spending UNION ALL SELECT nano FROM reservations) AS those"
        " WHERE nano < 0",
    ),
    (
        "rows are ahead of the ledger's own sequence",
        "SELECT COUNT(*), NULL FROM (SELECT entered_sequence AS number FROM tasks UNION ALL SELECT sequence"
        " FROM tombstones UNION ALL SELECT began_sequence FROM polls) AS those"
        " WHERE number > (SELECT sequence FROM ledger)",
    ),
    (
        "rows are missing in the tables of one row, ledger and polls",
        "SELECT 2 - (SELECT COUNT(*) FROM ledger) - (SELECT COUNT(*) FROM polls), NULL",
    ),
)

COUNTED = ("tasks", "contents", "results", "tombstones", "task_completions", "malformed", "cache")


@dataclass(frozen=True, slots=True)
class Checkup:
    """What was found. `problems` is empty for a sound ledger; `rows` by table, of those that could be counted."""

    version: int
    problems: tuple[str, ...]
    rows: dict[str, int]
    bytes: int

    @property
    def sound(self) -> bool:
        return not self.problems


def check(path: Place, *, quick: bool = False) -> Checkup:
    """Look a ledger over. `quick`: without comparing its indexes with its tables, in about half the time.

    Damage is what it returns, not what it raises. Raises LedgerError if there is no ledger, or it cannot be opened;
    MisplacedLedger for what never was one. Of a fleet's database what the rows promise is all that is looked at.
    """
    if isinstance(path, Fleet):
        return _check_fleet(path)
    with sqlite.as_ledger_error(path):  # it may lie where this user may not look
        refuse_no_file(path)
        if sqlite.is_log_alone(path):
            return Checkup(0, (sqlite.LOG_ALONE,), {}, 0)
        if not path.exists():
            raise sqlite.no_ledger(path)
    try:
        connection = sqlite.open_to_check(path)
    except LedgerError as error:
        if isinstance(error.__cause__, sqlite.CORRUPTION):
            return Checkup(0, (sqlite.in_words(error.__cause__),), {}, path.stat().st_size)
        raise
    try:
        return look_over(connection, path, quick=quick)
    finally:
        connection.close()


def _check_fleet(place: Fleet) -> Checkup:
    from aitp.ledger import postgresql

    with postgresql.reading(place) as (connection, _):
        version = connection.execute("SELECT version FROM ledger").get
        size = connection.execute(
            "SELECT CAST(SUM(pg_total_relation_size(oid)) AS BIGINT) FROM pg_class"
            " WHERE relkind = 'r' AND relnamespace = CAST(current_schema() AS regnamespace)"
        ).get
        if version != VERSION:
            return Checkup(version, (), {}, size)  # as below
        return Checkup(version, tuple(broken_promises(connection)), _counted(connection), size)


def look_over(connection: Any, path: Path, *, quick: bool = False) -> Checkup:
    size = path.stat().st_size
    with sqlite.as_ledger_error(path):
        connection.execute("BEGIN")  # one state for all that follows
        try:
            problems = sqlite.file_problems(connection, quick=quick)
            if problems or size == 0:
                return Checkup(0, tuple(problems), {}, size)  # an empty file is one that no service has used yet
            return _look_at_rows(connection, size)
        except sqlite.CORRUPTION as error:
            return Checkup(0, (sqlite.in_words(error),), {}, size)
        finally:
            if connection.in_transaction:
                connection.execute("ROLLBACK")


def _look_at_rows(connection: Any, size: int) -> Checkup:
    version = connection.execute("SELECT version FROM ledger").get
    if version != VERSION:
        return Checkup(version, (), {}, size)  # what its rows promise, its own release knows
    # A letter turned over in a definition hides a column, say: the rest could not even be asked.
    ours, found = sqlite.our_definitions(), sqlite.definitions(connection)
    if unlike := sorted(name for name in ours.keys() | found.keys() if ours.get(name) != found.get(name)):
        problems = [f"{name} is not defined as this release defines it" for name in unlike]
        return Checkup(version, tuple(problems), {}, size)
    problems = broken_promises(connection)
    problems += [_uncounted(connection, *index) for index in _indexes(connection)]
    orphans = islice(connection.execute("PRAGMA foreign_key_check"), sqlite.MOST_PROBLEMS)
    problems += [f"row {row} of {table} belongs to no row of {parent}" for table, row, parent, _ in orphans]
    return Checkup(version, tuple(problem for problem in problems if problem), _counted(connection), size)


def broken_promises(connection: Connection) -> list[str]:
    """What is wrong with the rows of a ledger of this version, on whichever engine."""
    problems = [broken for promise in PROMISES if (broken := _broken(connection, *promise))]
    try:
        zone_name(str(connection.execute("SELECT timezone FROM ledger").get))
    except ValueError:
        problems.append("the time zone of its limits is none")
    return problems


def _counted(connection: Connection) -> dict[str, int]:
    return {table: int(connection.execute(f"SELECT COUNT(*) FROM {table}").get) for table in COUNTED}


def _broken(connection: Connection, promise: str, query: str) -> str:
    count, first = connection.execute(query).fetchone() or (0, None)
    if not count:
        return ""
    return f"{count} {promise}" + ("" if first is None else f" (row {first} first)")


def _indexes(connection: Connection) -> list[tuple[str, str, str]]:
    """(index, table, which rows it holds) of every index that we made."""
    rows: list[Row] = connection.execute(
        "SELECT name, tbl_name, sql FROM sqlite_schema WHERE type = 'index' AND sql IS NOT NULL"
    ).fetchall()
    return [(name, table, sql.partition(" WHERE ")[2] or "TRUE") for name, table, sql in rows]


def _uncounted(connection: Connection, index: str, table: str, where: str) -> str:
    """SQLite's own check does not see that the page of an index is one of another kind: whoever uses it does."""
    by_index, by_table = (
        connection.execute(f"SELECT COUNT(*) FROM {table} {how} WHERE {where}").get
        for how in (f"INDEXED BY {index}", "NOT INDEXED")
    )
    return "" if by_index == by_table else f"{index} has {by_index} of {by_table} rows"
