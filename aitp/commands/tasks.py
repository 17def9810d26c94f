"""`aitp tasks`: what the ledger holds."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

from aitp.commands.printing import duration, print_json, screen, show, table
from aitp.ledger.stats import HeldTask, TaskList, held_tasks

if TYPE_CHECKING:
    from aitp.settings import Settings

ROOMY = 110  # columns, from which on there is room for models and reasons


def list_tasks(settings: Settings, states: Sequence[str], types: Sequence[str], most: int, *, as_json: bool) -> None:
    """The oldest of them, as a table or as JSON."""
    found = held_tasks(settings.ledger_path, states, types, most)
    if as_json:
        tasks = [dataclasses.asdict(task) for task in found.tasks]
        print_json({"at": found.now, "total": found.total, "tasks": tasks})
        return
    if not found.tasks:
        print("No such task is held" if states or types else "No tasks are held")
        return
    head = ["TASK", "STATE", "TRIES", "AGE", "DUE", "TYPE"]
    rows = [_row(task, found.now) for task in found.tasks]
    if screen().width >= ROOMY:
        head += ["MODEL", "REASON"]
        rows = [[*row, task.model, task.reason] for row, task in zip(rows, found.tasks, strict=True)]
    show(table(head, rows, right=("TRIES", "AGE", "DUE"), cut=("REASON",)))
    print(_sum(found))


def _row(task: HeldTask, now: float) -> list[str]:
    if task.due_at is not None:
        due = duration(task.due_at - now)
    else:
        due = f"slot {task.slot}" if task.slot is not None else "" if task.state == "dead" else "now"
    tries = f"{task.attempts}" if not task.crashes else f"{task.attempts}, {task.crashes} crashed"
    return [task.id, task.state, tries, duration(now - task.entered_at), due, task.type]


def _sum(found: TaskList) -> str:
    shown = len(found.tasks)
    if shown == found.total:
        return f"{shown:,} in all"
    return f"{shown:,} of {found.total:,}: --limit shows more, --json is for programs"
