"""`aitp limits`: what is used of the rate limits, when each will be used up, and what was spent."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from aitp.console.printing import duration, moment, print_json, show, table
from aitp.console.status import budgets_table, limits_table, usage_bar
from aitp.ledger.pace import Forecast, forecast
from aitp.ledger.views import snapshot

if TYPE_CHECKING:
    from aitp.settings import Settings


def show_limits(settings: Settings, over_seconds: float | None, *, as_json: bool) -> None:
    """The limits in force; with `over_seconds`, at the pace of so long, when each is used up."""
    if over_seconds is not None:
        _show_forecast(forecast(settings.ledger_path, over_seconds), as_json=as_json)
        return
    seen = snapshot(settings.ledger_path)
    if as_json:
        budgets = {period: dataclasses.asdict(use) for period, use in seen.budgets.items()}
        print_json(_document(seen.taken_at, seen.strategy, seen.limits) | {"budgets": budgets})
        return
    if seen.limits:
        show(limits_table(seen))
    else:
        print("No limits are in force")
    if seen.budgets:
        print()
        show(budgets_table(seen.budgets))


def _show_forecast(found: Forecast, *, as_json: bool) -> None:
    if as_json:
        document = _document(found.now, found.strategy, found.limits)
        for period, at in found.used_up_at.items():
            document["limits"][period]["used_up_at"] = at
        print_json(document | {"pace": {"tasks_per_second": found.pace, "over_seconds": found.over_seconds}})
        return
    hourly = found.pace * 3600
    print(f"Pace of the last {duration(found.over_seconds)}: {hourly:,.0f} tasks an hour, {hourly * 24:,.0f} a day")
    if not found.limits:
        print("No limits are in force")
        return
    rows = [
        (
            period,
            f"{use.current:,}",
            f"{use.limit:,}",
            usage_bar(use.current, use.limit),
            _used_up(found.used_up_at[period], found.now),
        )
        for period, use in found.limits.items()
    ]
    figures = ("USED", "ALLOWED")
    show(table((f"LIMIT ({found.strategy})", *figures, "", "USED UP AT THIS PACE"), rows, right=figures))


def _used_up(at: float | None, now: float) -> str:
    if at is None:
        return "not"
    return "is now" if at <= now else f"in {duration(at - now)}, {moment(at)}"


def _document(now: float, strategy: str, limits: dict[str, Any]) -> dict[str, Any]:
    return {
        "at": now,
        "strategy": strategy,
        "limits": {period: dataclasses.asdict(use) for period, use in limits.items()},
    }
