"""Budgets: what was spent today and this month, what calls in hand may cost, and whether more may be bought.

A claim reserves what its attempt may cost (`aitp.policy.costs`), the finish settles that by what was really used, so
that N processes together spend no more than a budget, but for what attempts cost beyond their estimates. An attempt
without an outcome counts its estimate (without a budget nothing is reserved: it counts nothing). Windows are calendar
days and months in RATE_LIMIT_TIMEZONE, whatever RATE_LIMIT_STRATEGY says: that is how providers bill, and one row a day
then tells all. Money is whole nano-units. Everything runs inside a transaction of the caller's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple
from zoneinfo import ZoneInfo

from aitp.ledger.engine import Connection, Row
from aitp.ledger.limits import zone_in_force
from aitp.policy.costs import FIRST_USAGE, Bill, UsageEstimate, learned
from aitp.policy.routing import Route
from aitp.policy.windows import fixed_window
from aitp.tasks import Period, QueueKey

PERIODS = (Period.DAY, Period.MONTH)
MOST_UNPRICED = 50
# A day of another time zone, which was in force before, may have begun so much earlier and still overlap a window.
OVERLAP_SECONDS = 2 * 86_400


@dataclass(frozen=True, slots=True)
class BudgetUse:
    """One period, in nano-units of `currency`. Without a budget (`allowed` None) it is only counted.

    `frees_at`: when tasks that are kept back may be sent (None: none is). It may be sooner, when a call in hand costs
    less than was reserved for it.
    """

    currency: str
    spent_nano: int
    reserved_nano: int
    allowed_nano: int | None
    remaining_nano: int | None
    frees_at: float | None
    ends_at: float


class Overspent(NamedTuple):
    """A budget that keeps tasks back for the first time in its window. `needed_nano`: for the next one of them."""

    period: str
    use: BudgetUse
    needed_nano: int


class BudgetState(NamedTuple):
    """The budgets in force at one claim. `left_nano`: what may be reserved within all of them."""

    currency: str
    left_nano: int
    uses: Mapping[Period, BudgetUse]


def publish_budgets(connection: Connection, currency: str, allowed: Mapping[str, int]) -> None:
    """Put budgets of newly loaded settings in force; without a currency there are none, and nothing is counted."""
    connection.execute("DELETE FROM unpriced")
    if not currency:
        connection.execute("DELETE FROM budgets")
        return
    for period in PERIODS:
        limit = allowed.get(period.value) or None
        connection.execute(
            # Whoever was warned of a budget that stays as it is was warned.
            "INSERT INTO budgets (period, currency, allowed) VALUES (?1, ?2, ?3) ON CONFLICT (period) DO UPDATE"
            " SET currency = ?2, allowed = ?3, warned_until = 0, kept_back_until = 0"
            " WHERE budgets.currency <> ?2 OR budgets.allowed IS DISTINCT FROM ?3",
            (period.value, currency, limit),
        )


def state(connection: Connection, now: float, zone: ZoneInfo) -> BudgetState:
    """What may be spent now. One read: the budgets, each with a month's days and with what is reserved."""
    uses = {period: use for period, use in use_of_budgets(connection, now, zone).items() if use.allowed_nano}
    left = min((use.remaining_nano or 0 for use in uses.values()), default=0)
    currency = next((use.currency for use in uses.values()), "")
    return BudgetState(currency, left, uses)


def usage(connection: Connection, queue: QueueKey, route: Route) -> UsageEstimate:
    """How much attempts of this kind took lately."""
    row = connection.execute(
        "SELECT input_tokens, output_tokens FROM habits WHERE provider = ? AND model = ? AND type = ?",
        (route.provider, route.model, queue.type),
    ).fetchone()
    return FIRST_USAGE if row is None else UsageEstimate(*row)


def reserve(connection: Connection, slot: int, currency: str, nano: int) -> None:
    """The slot's attempt may cost so much."""
    connection.execute(
        "INSERT INTO reservations (slot, currency, nano) VALUES (?, ?, ?)"
        " ON CONFLICT (slot) DO UPDATE SET currency = excluded.currency, nano = excluded.nano",
        (slot, currency, nano),
    )


def reserve_more(connection: Connection, slot: int, nano: int) -> None:
    """It makes a second request, for so much more. What was taken from the slot meanwhile is settled and stays so."""
    connection.execute("UPDATE reservations SET nano = nano + ? WHERE slot = ?", (nano, slot))


def keep_back(connection: Connection, budget: BudgetState, needed: int) -> tuple[float, tuple[Overspent, ...]]:
    """There is no room for an attempt that needs so much: when there will be, and budgets nobody was warned of."""
    full = {period: use for period, use in budget.uses.items() if (use.remaining_nano or 0) < needed}
    news = []
    for period, use in full.items():
        # Written once a window; of who comes back in vain nothing is.
        for column in ("kept_back_until", "warned_until"):
            connection.execute(
                f"UPDATE budgets SET {column} = ?1 WHERE period = ?2 AND {column} <> ?1", (use.ends_at, period)
            )
        if connection.changes():
            news.append(Overspent(period.value, use, needed))
    return max(use.ends_at for use in full.values()), tuple(news)


def note_unpriced(connection: Connection, route: Route) -> bool:
    """Tasks wait for want of a price; whether nobody has met that model since the settings were loaded."""
    connection.execute(
        "INSERT INTO unpriced (provider, model) SELECT CAST(? AS TEXT), CAST(? AS TEXT)"
        " WHERE (SELECT COUNT(*) FROM unpriced) < ? ON CONFLICT (provider, model) DO NOTHING",
        (route.provider, route.model, MOST_UNPRICED),
    )
    return connection.changes() > 0


def settle(connection: Connection, slot: int, bill: Bill | None, now: float, *, sent: bool, over: bool = True) -> bool:
    """An attempt has ended: its bill is spent, what was reserved for it (if `over`) is free again.

    Without a bill what was `sent` counts its estimate. Returns whether that may let tasks go on that wait for it.
    """
    reserved = None
    if over:
        reserved = connection.execute("DELETE FROM reservations WHERE slot = ? RETURNING currency, nano", (slot,)).get
    currency, estimate = reserved or ("", 0)
    spent = 0 if bill is None else bill.nano
    if sent and (bill is None or not bill.whole):
        spent = max(spent, estimate)
    if spent:
        spend(connection, currency if bill is None else bill.currency, spent, now, zone_in_force(connection))
    if spent >= estimate:
        return False
    connection.execute("UPDATE budgets SET kept_back_until = 0 WHERE kept_back_until > ?", (now,))
    return connection.changes() > 0


def learn(connection: Connection, queue: QueueKey, route: Route, bill: Bill, size: int) -> None:
    """How much an attempt at one task took."""
    before = usage(connection, queue, route)
    if (after := learned(before, bill, size)) != before:
        connection.execute(
            "INSERT INTO habits (provider, model, type, input_tokens, output_tokens) VALUES (?, ?, ?, ?, ?)"
            " ON CONFLICT (provider, model, type) DO UPDATE"
            " SET input_tokens = excluded.input_tokens, output_tokens = excluded.output_tokens",
            (route.provider, route.model, queue.type, after.input_tokens, after.output_tokens),
        )


def use_of_budgets(connection: Connection, now: float, zone: ZoneInfo | None = None) -> dict[Period, BudgetUse]:
    """What was spent, day before month, if prices are known. Reads only. `zone`: in force, if it is known."""
    zone = zone or zone_in_force(connection)
    windows = {period: fixed_window(period, now, zone) for period in PERIODS}
    day, month = windows.values()
    rows: list[Row] = connection.execute(
        # Served by the primary key: a month's days, and a row for each call in hand.
        "SELECT period, currency, allowed, kept_back_until,"
        " (SELECT CAST(COALESCE(SUM(nano), 0) AS BIGINT) FROM spending WHERE currency = budgets.currency"
        f" AND starts > ?1 AND ends > CASE period WHEN '{Period.DAY}' THEN ?2 ELSE ?3 END),"
        " (SELECT CAST(COALESCE(SUM(nano), 0) AS BIGINT) FROM reservations WHERE currency = budgets.currency)"
        " FROM budgets ORDER BY period",
        (month.start - OVERLAP_SECONDS, day.start, month.start),
    ).fetchall()
    uses = {}
    for name, currency, allowed, kept_back_until, spent, reserved in rows:
        end = windows[period := Period(name)].end
        remaining = None if allowed is None else max(0, allowed - spent - reserved)
        kept_back = allowed is not None and kept_back_until == end
        frees_at = end if kept_back or remaining == 0 else None
        uses[period] = BudgetUse(currency, spent, reserved, allowed, remaining, frees_at, end)
    return uses


def unpriced_models(connection: Connection) -> tuple[str, ...]:
    """Models that tasks wait for, because they have no price while a budget is in force: `model of provider`."""
    rows: list[Row] = connection.execute("SELECT model, provider FROM unpriced ORDER BY model, provider").fetchall()
    return tuple(f"{model} of {provider}" for model, provider in rows)


def spend(connection: Connection, currency: str, nano: int, now: float, zone: ZoneInfo) -> None:
    """So much was spent now."""
    today = fixed_window(Period.DAY, now, zone)
    connection.execute(
        "INSERT INTO spending (currency, starts, ends, nano) VALUES (?, ?, ?, ?)"
        " ON CONFLICT (currency, starts) DO UPDATE SET nano = spending.nano + excluded.nano,"
        " ends = CASE WHEN excluded.ends > spending.ends THEN excluded.ends ELSE spending.ends END",
        (currency, int(today.start), int(today.end), nano),
    )


def spent_by_now(connection: Connection, now: float) -> None:
    """The clock was set: what would be spent on days to come was spent today."""
    ahead: list[Row] = connection.execute(
        "DELETE FROM spending WHERE starts > ? RETURNING currency, nano", (now,)
    ).fetchall()
    for currency, nano in ahead:
        spend(connection, currency, nano, now, zone_in_force(connection))


def left_nano(
    connection: Connection, currency: str, budgets: Mapping[str, int], now: float, zone: ZoneInfo
) -> dict[str, int]:
    """What is left of each of these budgets, by period. Reads only, and does not need them to be in force."""
    left = {}
    for period, allowed in budgets.items():
        spent = connection.execute(
            "SELECT CAST(COALESCE(SUM(nano), 0) AS BIGINT) FROM spending WHERE currency = ? AND ends > ?",
            (currency, fixed_window(Period(period), now, zone).start),
        ).get
        left[period] = max(0, allowed - spent)
    return left
