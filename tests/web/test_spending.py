"""Money as it is shown: on the page, in its verdict, on /ready, and in a scrape."""

from __future__ import annotations

from pathlib import Path

import pytest

from aitp.metrics import CallStatus, open_metrics
from aitp.policy.costs import NANO
from tests.ledger.world import set_budgets
from tests.metrics.reading import parse, value
from tests.web.test_page import change, page_of, rows
from tests.web.world import WORKER, World, ask

MODEL = "text-embedding-3-small"
A_DAY_LONG = (
    "INSERT INTO spending VALUES"
    " ('USD', unixepoch('now', 'start of day'), unixepoch('now', 'start of day', '+1 day'), ?)"
)


@pytest.fixture
def world(tmp_path: Path) -> World:
    world = World.create(tmp_path)
    ledger = world.ledger()
    set_budgets(ledger, "USD", {"day": 5 * NANO})
    ledger.close()
    return world


def test_the_page_shows_what_was_spent_and_what_is_left(world: World) -> None:
    change(world, A_DAY_LONG, 2 * NANO)
    change(world, "INSERT INTO reservations VALUES (101, 'USD', ?)", NANO // 2)
    metrics = open_metrics(world.settings.runtime_dir / "metrics", WORKER)
    metrics.provider_request("openai", MODEL, CallStatus.SUCCESS, 1)
    metrics.cost("openai", MODEL, "USD", 2.0)

    page = page_of(world)

    assert "Spending, USD" in page
    day, month = rows(page, "budgets")
    assert day == ["day", "", "2.00 of 5.00", "0.5000", "2.50", ""]
    assert month[:4] == ["month", "no budget", "2.00", "0.5000"]
    assert rows(page, "models")[0][-1] == "2.00 USD"


def test_a_spent_budget_is_a_reason_to_look_and_says_what_to_do(world: World) -> None:
    change(world, A_DAY_LONG, 5 * NANO)

    page = page_of(world)

    assert "The budget of the day keeps tasks back (5.00 of 5.00 USD spent)" in page
    assert "BUDGET_PER_DAY" in page.split("There is room again", 1)[-1].split("</li>", 1)[0]


def test_a_model_without_a_price_is_named_by_ready(world: World) -> None:
    change(world, "INSERT INTO unpriced VALUES ('openai', 'gpt-4.1')")

    answer = ask(world.app, "/ready")

    assert answer.status == 503
    assert b"gpt-4.1 of openai has no price" in answer.body


def test_a_scrape_has_the_budgets_and_only_the_spending_where_there_is_none(world: World) -> None:
    change(world, A_DAY_LONG, 2 * NANO)

    series = parse(ask(world.app, "/metrics").body)

    assert value(series, "aitp_budget_spent", period="month", currency="USD") == 2
    assert value(series, "aitp_budget_remaining", period="day", currency="USD") == 3
    assert value(series, "aitp_budget_remaining", period="month", currency="USD") is None
    assert value(series, "aitp_budget_room_timestamp_seconds", period="day", currency="USD") == 0


def test_without_prices_nothing_is_said_of_money(tmp_path: Path) -> None:
    world = World.create(tmp_path)

    assert 'id="budgets"' not in page_of(world)
