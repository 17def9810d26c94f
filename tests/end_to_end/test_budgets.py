"""BUDGET_PER_DAY, judged by the provider's own bill, over several workers; more money by HUP lets work go on."""

from __future__ import annotations

import signal
from datetime import UTC, datetime

import pytest

from aitp.policy.costs import NANO
from tests.end_to_end.running import Service
from tests.metrics.reading import parse, value

TASKS, WORKERS, BUDGET = 60, 4, 500
PRICES = """
currency = "USD"
[openai.text-embedding-3-small]
input = 1_000_000  # each token costs 1
output = 0
"""


def noon() -> str:
    """The time zone in which it is about noon: no day ends while a test runs."""
    return f"Etc/GMT{datetime.now(UTC).hour - 12:+d}"


def tokens(service: Service) -> int:
    """What the provider has on its bill (aitp/demo/openai_api.py counts a token for four characters)."""
    return sum(max(1, len(purchase.text) // 4) for purchase in service.world.purchases() if purchase.status == 200)


def start(service: Service, prices: str = PRICES, **settings: int) -> None:
    (service.directory / "prices.toml").write_text(prices)
    service.open_world(TASKS, openai_api={"latency_seconds": 0.05})
    service.configure(PRICES=service.directory / "prices.toml", RATE_LIMIT_TIMEZONE=noon(), **settings)
    service.start(CONCURRENCY_LIMIT=WORKERS, EMBEDDING_BATCH_SIZE=4)


def test_the_day_s_budget_stops_work_and_a_higher_one_lets_it_go_on(service: Service) -> None:
    start(service, BUDGET_PER_DAY=BUDGET, BUDGET_PER_MONTH=100 * BUDGET)
    service.wait(lambda: service.said("Budget exceeded, skipping task processing"), what="nothing stops it")
    service.await_idle()
    state = service.snapshot()
    day = state.budgets["day"]
    spent = tokens(service)
    assert day.spent_nano == spent * NANO
    assert (day.reserved_nano, day.remaining_nano) == (0, (BUDGET - spent) * NANO)
    [largest] = sorted(len(purchase.text.encode()) for purchase in service.world.purchases())[-1:]
    assert BUDGET - 3 * largest < spent <= BUDGET
    assert state.ready > 0
    assert day.frees_at == day.ends_at
    # One warning a window: money that calls gave back may have let some go on since, and it is not said again.
    [warning] = service.said("Budget exceeded")
    assert (warning["period"], warning["currency"], warning["budget"]) == ("day", "USD", f"{BUDGET}.00")

    code, shown = service.ask("limits")
    assert code == 0
    assert f"{spent}.00" in shown
    service.start_metrics()
    answered = service.get("/metrics")
    assert answered is not None
    series = parse(answered[1].encode())
    model = {"provider": "openai", "model": "text-embedding-3-small", "currency": "USD"}
    assert value(series, "aitp_cost_total", **model) == pytest.approx(spent)
    assert value(series, "aitp_budget_remaining", period="day", currency="USD") == BUDGET - spent
    assert value(series, "aitp_budget_exceeded_total", period="day") == 1

    service.configure(BUDGET_PER_DAY=100 * BUDGET)
    service.signal(signal.SIGHUP)
    service.await_states(succeeded=TASKS)
    assert service.snapshot().budgets["day"].spent_nano == tokens(service) * NANO


def test_a_model_without_a_price_waits_and_is_called_once_it_has_one(service: Service) -> None:
    start(service, PRICES.replace("3-small", "3-large"), BUDGET_PER_DAY=10 * BUDGET)
    [told] = service.wait(lambda: service.said("Model has no price"), what="it is not said")
    assert (told["model"], told["provider"]) == ("text-embedding-3-small", "openai")
    assert service.snapshot().unpriced == ("text-embedding-3-small of openai",)
    assert service.world.purchases() == []

    (service.directory / "prices.toml").write_text(PRICES.replace("1_000_000 ", "0.02 "))
    service.signal(signal.SIGHUP)
    service.await_states(succeeded=TASKS)
