"""What is brought from a damaged ledger into a new one: what was paid for first.

A row enters the new ledger only if the new ledger's own rules let it. What a process had claimed stays claimed: the
next start puts it back and counts it, as after any crash. Called by recovery.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from zoneinfo import ZoneInfo

import apsw
import orjson

from aitp.errors import ConfigurationError
from aitp.ledger.budgets import left_nano, spend
from aitp.ledger.engine import Row
from aitp.ledger.missing import mended, missing_since
from aitp.ledger.remains import Record, Remains
from aitp.ledger.schema import VERSION
from aitp.policy.windows import LONGEST_WINDOW_SECONDS

# Nothing counts so far: greater numbers are damage.
LARGEST = 2**53

UNKNOWN = "unknown"
DELIVERABLE = ("finished", "dead")
# Small, and wanted as they are; in this order. What of it is lost comes back by itself.
REST = (
    "limits",
    "polls",
    "breakers",
    "cooldowns",
    "processors",
    "unreadable",
    "cache",
    "answers",
    "budgets",
    "habits",
    "worlds",
    "request_profiles",
    "minutes",
    "spending_minutes",
    "recent_errors",
)
# How much money is gone, and how much of it is on its way.
MONEY = ("spending", "reservations")
FIRST_VERSION_WITH_MONEY = 8


@dataclass(frozen=True, slots=True)
class Allowance:
    """The budgets that the next start will put in force, by period in nano-units of `currency`; none: no budgets."""

    currency: str = ""
    budgets: Mapping[str, int] = field(default_factory=dict)
    zone: ZoneInfo = field(default_factory=lambda: ZoneInfo("UTC"))


NO_BUDGETS = Allowance()


class Salvage:
    """A new ledger that is being filled. `saved` and `lost` count what there was, by what it is to people."""

    def __init__(self, fresh: Path, now: float, allowance: Allowance) -> None:
        self._now = now
        self._allowance = allowance
        self._version = VERSION
        self._claims_lost = 0
        self._connection = apsw.Connection(str(fresh), flags=apsw.SQLITE_OPEN_READWRITE)
        self._connection.execute("PRAGMA synchronous = OFF")  # flushed as a whole, before it gets its name
        self._connection.execute("PRAGMA foreign_keys = ON")
        self._connection.execute("BEGIN IMMEDIATE")
        self.saved: Counter[str] = Counter()
        self.lost: Counter[str] = Counter()

    def close(self) -> None:
        self._connection.close()

    def bring_over(self, remains: Remains) -> None:
        """Everything that can be read and makes sense. Raises ConfigurationError for a newer release's ledger."""
        for record in remains.whole("ledger", self._columns("ledger")):
            self._refuse_newer(record, remains)
            if self._enter("ledger", record | {"version": VERSION}) and isinstance(record.get("version"), int):
                self._version = record["version"]
        self._bring_tasks(remains)
        self._bring_completions(remains)
        for record in remains.whole("tombstones", self._columns("tombstones")):
            self._tell("tombstones", self._enter("tombstones", record))
        for table in REST:
            for record in remains.whole(table, self._columns(table)):
                self._enter(table, record)
        money_is_whole = self._bring_money(remains)
        self._spend_what_nobody_holds()
        if not money_is_whole:
            self._use_up_budgets()

    def finish(self) -> None:
        """Make one consistent ledger of what was brought."""
        execute = self._connection.execute
        execute(
            "UPDATE ledger SET sequence = MAX(sequence, (SELECT MAX(number) FROM ("
            "  SELECT entered_sequence AS number FROM tasks"
            " UNION ALL SELECT sequence FROM tombstones UNION ALL SELECT began_sequence FROM polls)))"
        )
        execute(
            "UPDATE breakers SET state = CASE state WHEN 'closed' THEN state ELSE 'open' END, probe_slot = NULL,"
            " opened_at = CASE state WHEN 'closed' THEN NULL ELSE COALESCE(opened_at, ?) END",
            (self._now,),
        )
        execute("UPDATE tasks SET world = NULL WHERE world NOT IN (SELECT id FROM worlds)")
        execute("UPDATE worlds SET probe_slot = NULL")
        execute(
            # What an earlier release wrote says so by its counts, and what is lost of the evidence is gathered anew.
            "UPDATE tasks SET is_suspect = state IN ('ready', 'claimed')"
            " AND (is_suspect OR attempts > 0 OR crashes > 0 OR batch_limit IS NOT NULL)"
        )
        execute(
            # Their like is lost, or has its result already: they are run as any other task.
            "UPDATE tasks SET twin_of = NULL WHERE twin_of NOT IN"
            " (SELECT seq FROM tasks WHERE state IN ('ready', 'claimed') AND twin_of IS NULL)"
        )
        execute("COMMIT")

    # Tasks with their contents and results

    def _bring_tasks(self, remains: Remains) -> None:
        for kind in remains.rows("kinds", self._columns("kinds"), key="id"):
            self._enter("kinds", kind)
        tasks = {task["seq"]: task for task in remains.rows("tasks", self._columns("tasks"), key="seq")}
        # What an index remembers of rows that cannot be read.
        ids: dict[int, str] = dict(remains.index("tasks", "sqlite_autoindex_tasks_1", "seq, id"))
        delivered = self._bring_results(remains, tasks, ids)
        run = self._bring_contents(remains, tasks, delivered)
        claimed = {seq for seq, task in tasks.items() if task["state"] == "claimed"}
        claimed.update(seq for (seq,) in remains.index("tasks", "tasks_claimed", "seq"))
        self._claims_lost = len(claimed - delivered - run)
        for seq in (tasks.keys() | ids.keys()) - delivered - run:
            self.lost["results" if seq in tasks and tasks[seq]["state"] in DELIVERABLE else "tasks"] += 1

    def _bring_results(self, remains: Remains, tasks: dict[int, Record], ids: dict[int, str]) -> set[int]:
        """Results with their tasks; the tasks' numbers."""
        entered: set[int] = set()
        for result in remains.rows("results", self._columns("results"), key="seq"):
            seq = result["seq"]
            task = tasks.get(seq) or self._remembered(seq, ids.get(seq))
            if task is None:
                self.lost["results"] += 1
            elif _is_deliverable(result):
                dead = task["state"] == "dead" and result.get("refusal") and result.get("refused_at")
                state = {"state": "dead", "slot": None} if dead else {"state": "finished"}
                if self._enter_task(task | state, "results", result):
                    entered.add(seq)
                    self.saved["dead letters" if dead else "results"] += 1
        return entered

    def _bring_contents(self, remains: Remains, tasks: dict[int, Record], delivered: set[int]) -> set[int]:
        """Contents with the tasks that are still to be run; the tasks' numbers."""
        entered: set[int] = set()
        for content in remains.rows("contents", self._columns("contents"), key="seq"):
            seq = content["seq"]
            if seq in delivered:
                self._enter("contents", content)
            elif seq in tasks and _is_json(content["content"]):
                task = tasks[seq]
                if task["state"] in DELIVERABLE:
                    task = task | {"state": "ready", "slot": None, "due_at": None}  # its result is lost: once more
                    self.lost["results"] += 1
                if self._enter_task(task, "contents", content):
                    entered.add(seq)
                    self.saved["tasks"] += 1
        return entered

    def _remembered(self, seq: int, task_id: str | None) -> Record | None:
        """A task of which only its id is left: enough to deliver its result."""
        if task_id is None:
            return None
        return {
            "seq": seq,
            "id": task_id,
            "kind": None,
            "state": "finished",
            "entered_sequence": 0,
            "entered_at": self._now,
        }

    def _enter_task(self, task: Record, table: str, part: Record) -> bool:
        """A task and what belongs to it, both or neither."""
        kinds = self._connection.execute("SELECT id FROM kinds WHERE id = ?", (task["kind"],)).get
        if kinds is None and table == "results":
            task = task | {"kind": self._unknown_kind()}
        task = task | {"entered_sequence": _sane(task.get("entered_sequence")), "seq": _sane(task["seq"])}
        if not self._enter("tasks", task):
            return False
        if not self._enter(table, part):
            self._connection.execute("DELETE FROM tasks WHERE seq = ?", (task["seq"],))
            return False
        return True

    def _unknown_kind(self) -> int:
        self._enter("kinds", {"type": UNKNOWN, "model": UNKNOWN, "failed_at": ""})
        return int(self._connection.execute("SELECT id FROM kinds WHERE type = ?1 AND model = ?1", (UNKNOWN,)).get)

    # Completions

    def _bring_completions(self, remains: Remains) -> None:
        """The memory of the limits: what is missing in it counts all the same, as late as it can have been."""
        table, columns = "task_completions", self._columns("task_completions")
        rows = {row["id"]: row for row in remains.rows(table, columns, key="id")}
        times = {number: row.get("completed_at") for number, row in rows.items()}
        history = mended({number: at for number, at in times.items() if isinstance(at, float)}, self._now)
        windows = list(remains.whole("rate_limits", self._columns("rate_limits")))
        missing = missing_since(windows, [time for time, _ in history], self._now)
        # A claim that is lost may have been sent, and nobody is left to count it later.
        history += [(self._now, None)] * (missing + self._claims_lost)
        before = None
        for time, number in history:
            if time >= self._now - LONGEST_WINDOW_SECONDS:
                row = rows.get(number, {}) if number is not None else {}
                named = {name: row.get(name, "") for name in ("task_type", "task_id")}
                self._enter(table, {"completed_at": time, "is_first": int(time != before), **named})
                self._tell("completions", number is not None)
                before = time

    # Money

    def _bring_money(self, remains: Remains) -> bool:
        """What was spent, and what calls in hand may cost; whether that is all there was."""
        if self._version < FIRST_VERSION_WITH_MONEY and not set(MONEY) & remains.tables.keys():
            return True
        whole = True
        for table in MONEY:
            for record in remains.whole(table, self._columns(table)):
                # An amount less than nothing would let the others be spent twice.
                if _sane(record.get("nano")) is None or not self._enter(table, record):
                    whole = False
        return whole and not remains.failures.intersection(MONEY)

    def _spend_what_nobody_holds(self) -> None:
        """The claims that this money was reserved for are lost: their calls may have been made."""
        rows: list[Row] = self._connection.execute(
            "DELETE FROM reservations WHERE slot NOT IN"
            " (SELECT slot FROM tasks WHERE state = 'claimed' AND slot IS NOT NULL) RETURNING currency, nano"
        ).fetchall()
        for currency, nano in rows:
            spend(self._connection, currency, nano, self._now, self._allowance.zone)

    def _use_up_budgets(self) -> None:
        """Nobody knows what was spent: it may have been all that is allowed."""
        allowance = self._allowance
        left = left_nano(self._connection, allowance.currency, allowance.budgets, self._now, allowance.zone)
        if left:
            spend(self._connection, allowance.currency, max(left.values()), self._now, allowance.zone)
            self.lost["budgets"] = len(left)

    # One row

    def _columns(self, table: str) -> list[str]:
        rows: list[Row] = self._connection.execute("SELECT name FROM pragma_table_info(?)", (table,)).fetchall()
        return [name for (name,) in rows]

    def _enter(self, table: str, record: Record) -> bool:
        """Whether the new ledger took it."""
        names = ", ".join(record)
        marks = ", ".join("?" for _ in record)
        # Tables of one row, and those of all services, have theirs already.
        verb = "INSERT OR REPLACE" if table in ("ledger", *REST, *MONEY) else "INSERT"
        try:
            self._connection.execute(f"{verb} INTO {table} ({names}) VALUES ({marks})", tuple(record.values()))
        except (apsw.ConstraintError, apsw.MismatchError):
            return False
        return True

    def _tell(self, what: str, saved: bool) -> None:
        (self.saved if saved else self.lost)[what] += 1

    def _refuse_newer(self, record: Record, remains: Remains) -> None:
        """A number may be damage; one with tables or columns that this release does not know is none."""
        known = {name: self._columns(name) for name in remains.tables}
        version = record.get("version")
        if (
            isinstance(version, int)
            and version > VERSION
            and any(set(remains.tables[name]) - set(known[name]) for name in known)
        ):
            raise ConfigurationError(
                [f"the ledger has version {version}, this release knows {VERSION}: recover it with that one"]
            )


def _is_deliverable(result: Record) -> bool:
    return result["body"] is None or _is_json(result["body"])


def _is_json(text: object) -> bool:
    try:
        orjson.loads(text)  # type: ignore[arg-type]
    except (orjson.JSONDecodeError, TypeError):
        return False
    return True


def _sane(number: object) -> int | None:
    """None, which no table takes, for what only damage can have made."""
    return number if isinstance(number, int) and 0 <= number <= LARGEST else None
