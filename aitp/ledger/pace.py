"""How fast limits and budgets are used, and when each would be used up at that pace: for `aitp limits --forecast`.

One consistent read, then the file is closed again. Counts are differences of ids found by index: nothing here grows
with history.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from aitp.ledger.budgets import BudgetUse, pace_of_spending, use_of_budgets
from aitp.ledger.engine import Connection
from aitp.ledger.limits import LimitUse, first_completions, newest_completion, strategy_and_zone, use_of_limits
from aitp.ledger.stats import reading
from aitp.policy.forecast import fixed_limit_used_up, rolling_limit_used_up
from aitp.policy.windows import ROLLING_SECONDS
from aitp.tasks import Period

STEPS = 120


@dataclass(frozen=True, slots=True)
class Spending:
    """The budgets by period, the pace (nano-units a second), and the moment at which each budget is used up at it.

    None: not before its window ends, or there is no budget of that period.
    """

    currency: str
    budgets: dict[str, BudgetUse]
    pace: float
    used_up_at: dict[str, float | None]


@dataclass(frozen=True, slots=True)
class Forecast:
    """The limits in force at `now`, the pace (tasks a second, over the last `over_seconds`), and by period the moment
    at which each limit is used up at that pace (None: not before its window ends, or never). `spending` is None where
    no prices are known. Instants: UTC seconds.
    """

    now: float
    strategy: str
    limits: dict[str, LimitUse]
    over_seconds: float
    pace: float
    used_up_at: dict[str, float | None]
    spending: Spending | None


def forecast(path: Path, over_seconds: float, now: float | None = None) -> Forecast:
    """Look, measure, and reckon. Raises LedgerError."""
    with reading(path, now) as (connection, moment):
        strategy, _ = strategy_and_zone(connection)
        uses = use_of_limits(connection, moment)
        [recent] = _counted_since(connection, [moment - over_seconds])
        pace = recent / over_seconds
        used_up: dict[str, float | None] = {}
        for period, use in uses.items():
            if use.ends_at is not None:
                left = fixed_limit_used_up(use.limit, use.current, use.ends_at - moment, pace)
            else:
                still = _still_counted(connection, period, use, moment)
                left = rolling_limit_used_up(use.limit, still, ROLLING_SECONDS[period] / STEPS, pace)
            used_up[period.value] = None if left is None else moment + left
        spending = _spending(connection, over_seconds, moment)
    by_name = {period.value: use for period, use in uses.items()}
    return Forecast(moment, strategy.value, by_name, over_seconds, pace, used_up, spending)


def _spending(connection: Connection, over_seconds: float, now: float) -> Spending | None:
    budgets = {period.value: use for period, use in use_of_budgets(connection, now).items()}
    if not budgets:
        return None
    currency = next(use.currency for use in budgets.values())
    pace = pace_of_spending(connection, currency, over_seconds, now)
    return Spending(currency, budgets, pace, {period: _spent_at(use, pace, now) for period, use in budgets.items()})


def _spent_at(use: BudgetUse, pace: float, now: float) -> float | None:
    if use.allowed_nano is None:
        return None
    if use.frees_at is not None:
        return now  # what is left of it is too little for the next task
    left = fixed_limit_used_up(use.allowed_nano, use.spent_nano + use.reserved_nano, use.ends_at - now, pace)
    return None if left is None else now + left


def _still_counted(connection: Connection, period: Period, use: LimitUse, now: float) -> list[int]:
    """Of those counted now, how many will be after each step. Claimed tasks count as if they completed now."""
    length = ROLLING_SECONDS[period]
    since = [now - length + step * length / STEPS for step in range(STEPS + 1)]
    completed = _counted_since(connection, since)
    claimed = max(0, use.current - completed[0])
    return [count + claimed for count in completed[:-1]] + [0]


def _counted_since(connection: Connection, since: Sequence[float]) -> list[int]:
    newest, _ = newest_completion(connection)
    return [0 if first is None else newest + 1 - first for first in first_completions(connection, since)]
