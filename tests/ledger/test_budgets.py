"""Budgets: what is reserved and spent, when money is there again, and what happens to models without a price."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from aitp.ledger.budgets import BudgetUse, unpriced_models, use_of_budgets
from aitp.ledger.claims import Claim, ClaimOptions, IdleReason
from aitp.ledger.evidence import Settled
from aitp.ledger.outcomes import Cause
from aitp.policy.costs import FIRST_USAGE, FREE, Bill, Price, Pricing, estimate
from aitp.policy.routing import Route
from aitp.tasks import Ending, Health, Period
from tests.ledger.conftest import Create
from tests.ledger.test_plans import assert_no_scans, recorded
from tests.ledger.world import (
    LARGE,
    OTHER_WORKER,
    TOPICS,
    WORKER,
    World,
    at,
    names,
    priced,
    report,
    set_budgets,
    set_limits,
    terms,
)

CONTENT = b'{"text": "..."}'
SIZE = len(CONTENT)
EACH = 10 * SIZE  # nano-units for a byte: 10
EMBEDDING = Pricing(Price(10_000_000, 0))
CHAT = Pricing(Price(1_000_000, 4_000_000), answers=True)
PRICED = priced(EMBEDDING)


def budgeted(create: Create, zone: str = "UTC", **budgets: int) -> World:
    world = create()
    set_limits(world.ledger, "rolling", zone, {})
    set_budgets(world.ledger, "USD", budgets)
    return world


def use(world: World, period: str = "day") -> BudgetUse:
    with world.database.reading() as connection:
        return use_of_budgets(connection, world.clock.now)[Period(period)]


def pay(world: World, claim: Claim, nano: int, ending: Ending = Ending.SUCCEEDED, **more: Any) -> Settled:
    """Finish a claim that has cost so much."""
    bill = Bill("USD", nano)._replace(**more)
    return world.ledger.outcomes.finish(claim, dataclasses.replace(report(claim.tasks, ending), bill=bill))


# Reserving and settling


def test_a_claim_takes_no_more_than_its_estimate_leaves_money_for(create: Create) -> None:
    world = budgeted(create, day=3 * EACH + 1)
    world.admit(*names("t", 10))
    claim = world.claim(terms=PRICED)

    assert len(claim.tasks) == 3
    assert claim.reserved_nano == 3 * EACH
    assert (use(world).spent_nano, use(world).reserved_nano, use(world).remaining_nano) == (0, 3 * EACH, 1)


def test_what_others_have_reserved_is_not_there_and_tasks_wait_until_a_call_ends(create: Create) -> None:
    world = budgeted(create, day=3 * EACH)
    world.admit(*names("t", 10))
    first = world.claim(terms=PRICED)
    idle = world.idle(OTHER_WORKER, PRICED)
    assert (idle.because, idle.until) == (IdleReason.BUDGET, at("2025-07-31 00:00:00"))

    assert pay(world, first, EACH).frees_others  # cheaper than was thought: whoever sleeps is to be woken
    assert len(world.claim(OTHER_WORKER, PRICED).tasks) == 2


def test_real_usage_counts_and_not_the_estimate(create: Create) -> None:
    world = budgeted(create, day=100 * EACH)
    world.admit("a", "b")
    pay(world, world.claim(terms=priced(EMBEDDING, batch=1)), 7)
    pay(world, world.claim(terms=priced(EMBEDDING, batch=1)), 5 * EACH)  # more than its estimate: it counts as it is

    assert (use(world).spent_nano, use(world).reserved_nano) == (7 + 5 * EACH, 0)
    assert use(world, "month").spent_nano == 7 + 5 * EACH


def test_nobody_is_woken_by_a_finish_if_nobody_was_kept_back(create: Create) -> None:
    world = budgeted(create, day=100 * EACH)
    world.admit("first", "a")
    pay(world, world.claim(terms=priced(EMBEDDING, batch=1)), 1)  # nobody had been served before it

    assert not pay(world, world.claim(terms=PRICED), 1).frees_others


@pytest.mark.parametrize("cause", list(Cause))
def test_an_attempt_whose_process_is_gone_counts_its_estimate(create: Create, cause: Cause) -> None:
    world = budgeted(create, day=100 * EACH)
    world.admit("a", "b")
    world.claim(terms=PRICED)
    world.ledger.outcomes.release(WORKER, cause)

    assert (use(world).spent_nano, use(world).reserved_nano) == (2 * EACH, 0)


def test_a_second_request_of_who_owns_nothing_any_more_leaves_nothing_reserved(create: Create) -> None:
    """Another host gave it back: this one's line was cut."""
    world = budgeted(create, day=100 * EACH)
    world.admit("a")
    claim = world.claim(terms=PRICED)
    world.ledger.outcomes.release(WORKER, Cause.STOPPED)
    assert world.ledger.claims.again(claim)
    pay(world, claim, EACH)

    assert use(world).reserved_nano == 0
    assert world.problems() == ()


def test_a_claim_s_reservation_is_its_own_whatever_its_slot_has_left_behind(create: Create) -> None:
    world = budgeted(create, day=100 * EACH)
    world.change("INSERT INTO reservations VALUES (?, 'USD', ?)", WORKER, 7 * EACH)
    world.admit("a")
    world.claim(terms=PRICED)

    assert use(world).reserved_nano == EACH


def test_an_attempt_of_which_a_part_is_unknown_counts_its_estimate_if_that_is_more(create: Create) -> None:
    world = budgeted(create, day=100 * EACH)
    world.admit("a", "b")
    pay(world, world.claim(terms=priced(EMBEDDING, batch=1)), 7, Ending.ABANDONED, whole=False)
    assert use(world).spent_nano == EACH
    pay(world, world.claim(terms=priced(EMBEDDING, batch=1)), 3 * EACH, Ending.ABANDONED, whole=False)
    assert use(world).spent_nano == 4 * EACH


def test_what_was_refused_or_never_sent_costs_nothing(create: Create) -> None:
    world = budgeted(create, day=2 * EACH)
    world.admit("a", "b")
    pay(world, world.claim(terms=PRICED), 0, Ending.SPLIT)
    pay(world, world.claim(terms=PRICED), 0, Ending.UNSENT, whole=False)

    assert (use(world).spent_nano, use(world).reserved_nano) == (0, 0)


def test_the_reservation_stays_until_the_last_task_of_a_claim_has_ended(create: Create) -> None:
    world = budgeted(create, day=10 * EACH)
    world.admit("a", "b")
    claim = world.claim(terms=PRICED)
    part = dataclasses.replace(report(claim.tasks[:1], Ending.SUCCEEDED), bill=Bill("USD", 5))
    world.ledger.outcomes.finish(claim, part)
    assert (use(world).spent_nano, use(world).reserved_nano) == (5, 2 * EACH)
    rest = dataclasses.replace(report(claim.tasks[1:], Ending.SUCCEEDED), bill=Bill("USD", 6))
    world.ledger.outcomes.finish(claim, rest)
    assert (use(world).spent_nano, use(world).reserved_nano) == (11, 0)


def test_a_chat_reserves_what_its_queue_took_lately(create: Create) -> None:
    world = budgeted(create, day=10**12)
    world.admit("a", "b", queue=TOPICS)
    chat = priced(CHAT, batch=1)
    first = world.claim(terms=chat)
    assert first.reserved_nano == estimate(CHAT, FIRST_USAGE, [SIZE])
    pay(world, first, 1, input_tokens=SIZE + 6_000, output_tokens=20_000)

    assert world.claim(terms=chat).reserved_nano == Price(1_000_000, 4_000_000).cost(SIZE + 6_000, 20_000)


# Waiting


def test_a_used_up_budget_is_warned_of_once_and_frees_at_midnight_of_its_zone(create: Create) -> None:
    world = budgeted(create, "America/Sao_Paulo", day=EACH)
    world.admit("a", "b")
    pay(world, world.claim(terms=PRICED), EACH)
    idle = world.idle(terms=PRICED)
    [news] = idle.overspent
    assert (news.period, news.use.spent_nano, news.use.allowed_nano, news.use.currency) == ("day", EACH, EACH, "USD")
    assert idle.until == news.use.ends_at == at("2025-07-31 03:00:00")
    assert world.idle(OTHER_WORKER, PRICED).overspent == ()

    world.clock.now = idle.until - 0.001
    assert world.idle(terms=PRICED).until == idle.until
    world.clock.now = idle.until
    assert len(world.claim(terms=PRICED).tasks) == 1


def test_news_of_a_fresh_task_that_was_to_make_a_suspect_s_probe_are_told(create: Create) -> None:
    world = create()
    world.admit("suspect")
    world.run(Ending.RETRY, Health.FAULTY)
    world.clock.go(100)
    world.admit("fresh", queue=LARGE)
    world.change("UPDATE breakers SET state = 'open', opened_at = ? WHERE service = 'openai'", world.clock.now - 1_000)
    set_budgets(world.ledger, "USD", {"day": 1})
    mixed = dataclasses.replace(PRICED, pricing=lambda queue, route: Pricing(None) if queue == LARGE else EMBEDDING)

    assert [news.period for news in world.idle(terms=PRICED).overspent] == ["day"]
    assert world.idle(terms=mixed).unpriced == ("text-embedding-3-large",)


def test_the_month_binds_as_well_and_frees_on_the_first(create: Create) -> None:
    world = budgeted(create, day=10 * EACH, month=EACH)
    world.admit("a", "b")
    pay(world, world.claim(terms=PRICED), EACH)
    idle = world.idle(terms=PRICED)

    assert [news.period for news in idle.overspent] == ["month"]
    assert idle.until == at("2025-08-01 00:00:00")


def test_days_of_a_month_add_up_and_those_before_do_not(create: Create) -> None:
    world = budgeted(create, month=100 * EACH)
    for day, nano in (("2025-06-30 23:59:59", 1_000), ("2025-07-01 00:00:00", 20), ("2025-07-30 12:00:00", 3)):
        world.clock.now = at(day)
        world.admit(day)
        pay(world, world.claim(terms=PRICED), nano)

    assert use(world, "month").spent_nano == 23
    assert use(world, "day").spent_nano == 3


def test_room_for_a_cheaper_queue_is_used_while_a_dear_one_waits(create: Create) -> None:
    world = budgeted(create, day=EACH)
    dear = Pricing(Price(10**12, 0))
    mixed = dataclasses.replace(PRICED, pricing=lambda queue, route: dear if queue == LARGE else EMBEDDING)
    world.admit("dear", queue=LARGE)
    world.admit("cheap")

    assert world.claim(terms=mixed).queue.model == "text-embedding-3-small"


def test_what_costs_nothing_goes_on_when_the_money_is_gone(create: Create) -> None:
    world = budgeted(create, day=1)
    world.admit("a")
    assert world.idle(terms=PRICED).because is IdleReason.BUDGET

    assert len(world.claim(terms=priced(FREE)).tasks) == 1
    assert world.rows("SELECT * FROM reservations") == []


def test_of_two_budgets_the_one_with_too_little_left_is_waited_for_as_well(create: Create) -> None:
    world = budgeted(create, day=EACH, month=EACH + 1)
    world.admit("a", "b")
    pay(world, world.claim(terms=priced(EMBEDDING, batch=1)), EACH)
    idle = world.idle(terms=PRICED)

    assert [news.period for news in idle.overspent] == ["day", "month"]
    assert idle.until == at("2025-08-01 00:00:00")


@pytest.mark.parametrize("left", [0, 1])
def test_another_provider_that_is_free_stands_in_when_too_little_money_is_left(create: Create, left: int) -> None:
    world = budgeted(create, day=1 + left)
    world.change("INSERT INTO spending VALUES ('USD', ?, ?, 1)", at("2025-07-30 00:00:00"), at("2025-07-31 00:00:00"))
    world.admit("a")
    routes = (Route("openai", "small", "ollama", "failed"), Route("ollama", "nomic"))
    both = ClaimOptions(
        1,
        lambda queue: routes,
        lambda queue: 1,
        pricing=lambda queue, route: EMBEDDING if route.provider == "openai" else FREE,
        currency="USD",
    )

    assert world.claim(terms=both).provider == "ollama"


def test_a_raised_budget_lets_work_go_on_and_is_warned_of_anew(create: Create) -> None:
    world = budgeted(create, day=EACH)
    world.admit("a", "b", "c")
    pay(world, world.claim(terms=PRICED), EACH)
    assert world.idle(terms=PRICED).overspent
    set_budgets(world.ledger, "USD", {"day": 2 * EACH})
    pay(world, world.claim(terms=PRICED), EACH)

    assert world.idle(terms=PRICED).overspent
    set_budgets(world.ledger, "USD", {"day": 2 * EACH})  # a reload that changes nothing
    assert world.idle(terms=PRICED).overspent == ()


# Prices


def test_a_model_without_a_price_is_not_called_while_a_budget_is_in_force(create: Create) -> None:
    world = budgeted(create, day=10**9)
    world.admit("a")
    unknown = priced(Pricing(None))
    idle = world.idle(terms=unknown)

    assert (idle.because, idle.until, idle.unpriced) == (IdleReason.PRICE, None, ("text-embedding-3-small",))
    assert world.idle(OTHER_WORKER, unknown).unpriced == ()  # said once
    with world.database.reading() as connection:
        assert unpriced_models(connection) == ("text-embedding-3-small of openai",)
    set_budgets(world.ledger, "USD", {})
    with world.database.reading() as connection:
        assert unpriced_models(connection) == ()
    assert len(world.claim(terms=unknown).tasks) == 1  # without a budget nothing keeps it


def test_prices_in_another_currency_than_the_budgets_are_none(create: Create) -> None:
    world = budgeted(create, day=10**9)
    world.admit("a")

    assert world.idle(terms=priced(EMBEDDING, currency="EUR")).because is IdleReason.PRICE


def test_what_was_spent_in_another_currency_does_not_count(create: Create) -> None:
    world = budgeted(create, day=10 * EACH)
    world.admit("a")
    pay(world, world.claim(terms=PRICED), EACH)
    set_budgets(world.ledger, "EUR", {"day": 10 * EACH})
    assert use(world).spent_nano == 0
    set_budgets(world.ledger, "USD", {"day": 10 * EACH})
    assert use(world).spent_nano == EACH


# Clocks


def test_a_clock_set_back_moves_what_was_spent_ahead_of_it_to_today(create: Create) -> None:
    world = budgeted(create, day=EACH)
    world.admit("a", "b")
    world.clock.step(40 * 86_400)
    pay(world, world.claim(terms=PRICED), EACH)
    world.clock.step(-40 * 86_400)
    assert use(world).spent_nano == EACH
    assert world.idle(terms=PRICED).until == at("2025-07-31 00:00:00")

    world.clock.now = at("2025-07-31 00:00:00")
    assert len(world.claim(terms=PRICED).tasks) == 1


def test_a_new_time_zone_forgets_nothing_of_a_day_that_is_not_over(create: Create) -> None:
    world = budgeted(create, "America/Sao_Paulo", day=10 * EACH)
    world.clock.now = at("2025-07-30 02:00:00")  # the 29th there
    world.admit("a")
    pay(world, world.claim(terms=PRICED), EACH)
    set_limits(world.ledger, "rolling", "UTC", {})

    assert use(world).spent_nano == EACH


# Speed


def test_without_a_budget_a_claim_and_a_finish_ask_nothing_more(create: Create) -> None:
    world = create()
    world.admit("first", "second", "a", "b")
    for _ in range(2):  # then it is known that this model answers
        world.finish(world.claim(terms=terms(batch=1)))
    with recorded(world) as without:
        world.finish(world.claim(terms=terms(batch=1)))
    with recorded(world) as priced_too:
        world.finish(world.claim(terms=priced(EMBEDDING, batch=1)))

    assert list(priced_too) == list(without)
    named = [sql for sql in without if any(table in sql for table in ("spending", "reservations", "habits"))]
    assert named == []


def test_with_budgets_no_statement_walks_what_grows(create: Create) -> None:
    world = budgeted(create, day=10**15, month=10**15)
    world.admit(*names("t", 30))
    world.admit("chat", queue=TOPICS)
    with recorded(world) as statements:
        for pricing in (EMBEDDING, CHAT):
            pay(world, world.claim(terms=priced(pricing, batch=1)), 5, input_tokens=100, output_tokens=100)
        world.claim(terms=PRICED)
        world.ledger.outcomes.release(WORKER, Cause.CRASHED)
    assert_no_scans(world, statements, 25)


@pytest.mark.sqlite
def test_with_budgets_what_was_spent_is_looked_up(create: Create) -> None:
    world = budgeted(create, day=10**15, month=10**15)
    world.admit("a", "b")
    with recorded(world) as statements:
        pay(world, world.claim(terms=priced(EMBEDDING, batch=1)), 5)
        world.claim(terms=PRICED)
    plans = [
        step
        for sql, bound in statements.items()
        if "spending" in sql
        for *_, step in world.rows(f"EXPLAIN QUERY PLAN {sql}", *(bound or ()))
    ]
    assert plans
    assert not any(step.startswith("SCAN spending") for step in plans)
