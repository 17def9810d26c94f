"""`aitp ledger check`, `backup` and `recover`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

from aitp.commands.printing import print_json
from aitp.ledger.integrity import check
from aitp.ledger.maintenance import Allowance, back_up, recover

if TYPE_CHECKING:
    from aitp.settings import Settings

# What it means that something is lost.
MEANINGS = {
    "results": "their tasks are run again, at once or when the task API lists them: they are bought once more",
    "tasks": "the task API lists them again if they are still pending",
    "completions": "they count in the limits all the same",
    "budgets": "what was spent cannot be read: they count as used up until their day or month ends; if the provider's"
    " bill says that something was left, raise BUDGET_PER_DAY or BUDGET_PER_MONTH by that",
    "tombstones": "what was delivered in the last half minute may be run again",
}


def check_ledger(settings: Settings, *, quick: bool, as_json: bool) -> int:
    """Say what is wrong with it; 0 if nothing is, else 1."""
    path = settings.ledger_path
    found = check(path, quick=quick)
    if as_json:
        print_json({"ok": found.sound, "path": str(path), **dataclasses.asdict(found)})
    elif found.sound:
        print(f"{path} is sound: version {found.version}, {found.bytes:,} bytes{_counts('; ', found.rows)}")
    else:
        print(f"{path} is damaged:")
        for problem in found.problems:
            print(f"  {problem}")
        print("Stop the service, then `aitp ledger recover` sets it aside and saves what can be read.")
    return 0 if found.sound else 1


def back_up_ledger(settings: Settings, file: Path, *, overwrite: bool, as_json: bool) -> None:
    """Write it to `file`."""
    path = settings.ledger_path
    found = back_up(path, file, overwrite=overwrite)
    if as_json:
        print_json({"path": str(path), "backup": str(file), "bytes": found.bytes, "rows": found.rows})
    else:
        print(f"Backed up to {file}, {found.bytes:,} bytes{_counts(': ', found.rows)}")


def recover_ledger(settings: Settings, *, as_json: bool) -> None:
    """Put a new ledger in the place of a damaged one, and say what was saved and lost."""
    path = settings.ledger_path
    currency = settings.prices.currency if settings.prices is not None else ""
    zone = ZoneInfo(settings.rate_limit_timezone)
    outcome = recover(path, Allowance(currency, settings.budgets, zone, settings.rate_limits))
    if as_json:
        set_aside = outcome.set_aside and str(outcome.set_aside)
        print_json({"path": str(path), **dataclasses.asdict(outcome), "set_aside": set_aside})
    elif outcome.set_aside is None:
        print(f"{path} is sound: there is nothing to recover")
    else:
        print(f"The damaged ledger is now {outcome.set_aside} ({outcome.problems[0]})")
        print(f"saved: {_counts('', outcome.saved) or 'nothing'}")
        print(f"lost: {_counts('', outcome.lost) or 'nothing that is known of'}")
        for what, meaning in MEANINGS.items():
            if outcome.lost.get(what):
                print(f"  {what}: {meaning}")


def _counts(before: str, rows: Mapping[str, int]) -> str:
    counted = ", ".join(f"{count:,} {name.replace('_', ' ')}" for name, count in rows.items() if count)
    return before + counted if counted else ""
