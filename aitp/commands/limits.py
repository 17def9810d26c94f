"""`aitp limits`: what is used of the rate limits, what was spent, and when each limit and budget will be used up."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from rich.console import RenderableType

from aitp.commands.printing import duration, moment, print_json, show, table
from aitp.commands.status import UsageBar, budgets_table, limits_table
from aitp.ledger.pace import Forecast, Spending, forecast
from aitp.ledger.stats import snapshot
from aitp.prices import amount

USED_UP = "USED UP AT THIS PACE"
FORECAST_BAR_SIGNS = 12  # beside a moment, in 80 columns

if TYPE_CHECKING:
    from aitp.settings import Settings


def show_limits(settings: Settings, over_seconds: float | None, *, as_json: bool) -> None:
    """The limits and budgets in force; with `over_seconds`, at the pace of so long, when each is used up."""
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
        print_json(_forecast_document(found))
        return
    hourly, over = found.pace * 3600, duration(found.over_seconds)
    print(f"Pace of the last {over}: {hourly:,.0f} tasks an hour, {hourly * 24:,.0f} a day")
    if found.limits:
        show(_limits_forecast(found))
    else:
        print("No limits are in force")
    if found.spending is not None:
        hourly, currency = found.spending.pace * 3600, found.spending.currency
        money = f"{amount(round(hourly))} {currency} an hour, {amount(round(hourly * 24))} a day"
        print(f"\nSpending of the last {over}: {money}")
        show(_budgets_forecast(found.spending, found.now))


def _limits_forecast(found: Forecast) -> RenderableType:
    rows = [
        (
            period,
            f"{use.current:,}",
            f"{use.limit:,}",
            _short_bar(use.current, use.limit),
            _used_up(found.used_up_at[period], found.now),
        )
        for period, use in found.limits.items()
    ]
    figures = ("USED", "ALLOWED")
    return table((f"LIMIT ({found.strategy})", *figures, "", USED_UP), rows, right=figures)


def _budgets_forecast(spending: Spending, now: float) -> RenderableType:
    rows = [
        (
            period,
            amount(use.spent_nano),
            amount(use.reserved_nano),
            "" if use.allowed_nano is None else amount(use.allowed_nano),
            "" if use.allowed_nano is None else _short_bar(use.spent_nano + use.reserved_nano, use.allowed_nano),
            "" if use.allowed_nano is None else _used_up(spending.used_up_at[period], now),
        )
        for period, use in spending.budgets.items()
    ]
    figures = ("SPENT", "RESERVED", "BUDGET")
    return table((f"SPENDING ({spending.currency})", *figures, "", USED_UP), rows, right=figures)


def _short_bar(current: int, limit: int) -> UsageBar:
    return UsageBar(current, limit, longest=FORECAST_BAR_SIGNS)


def _used_up(at: float | None, now: float) -> str:
    if at is None:
        return "not"
    return "is now" if at <= now else f"in {duration(at - now)}, {moment(at)}"


def _forecast_document(found: Forecast) -> dict[str, Any]:
    document = _document(found.now, found.strategy, found.limits)
    for period, at in found.used_up_at.items():
        document["limits"][period]["used_up_at"] = at
    pace: dict[str, float | None] = {
        "tasks_per_second": found.pace,
        "nano_per_second": None,
        "over_seconds": found.over_seconds,
    }
    budgets: dict[str, dict[str, Any]] = {}
    if (spending := found.spending) is not None:
        pace["nano_per_second"] = spending.pace
        for period, use in spending.budgets.items():
            budgets[period] = dataclasses.asdict(use) | {"used_up_at": spending.used_up_at[period]}
    return document | {"budgets": budgets, "pace": pace}


def _document(now: float, strategy: str, limits: dict[str, Any]) -> dict[str, Any]:
    return {
        "at": now,
        "strategy": strategy,
        "limits": {period: dataclasses.asdict(use) for period, use in limits.items()},
    }
