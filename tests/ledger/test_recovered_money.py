"""Recovery and what counts against budgets and limits: nobody may spend twice because a page was lost."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from aitp.ledger.claims import IdleReason
from aitp.ledger.ledger import prepare
from aitp.ledger.limits import ALL_SENT, day_of, stand_ins_sent
from aitp.ledger.maintenance import Allowance, Recovery, check, recover
from aitp.policy.costs import Price, Pricing
from tests.ledger.conftest import Create
from tests.ledger.damage import closed, overwrite, pages_of
from tests.ledger.test_budgets import pay, use
from tests.ledger.world import OTHER_WORKER, WORKER, Clock, World, priced, set_budgets, set_limits

pytestmark = pytest.mark.sqlite

PRICED = priced(Pricing(Price(10_000_000, 0)), batch=2)  # ten nano-units for a byte
DAY, MONTH = 100_000, 1_000_000
SPENT = 30_000
ALLOWANCE = Allowance("USD", {"day": DAY, "month": MONTH})


@pytest.fixture
def spender(create: Create) -> World:
    """Something was spent, and two workers are at calls that will cost more."""
    world = create()
    set_limits(world.ledger, "rolling", "UTC", {"month": 1_000})
    set_budgets(world.ledger, "USD", ALLOWANCE.budgets)
    world.admit("a", "b", "c", "d", "e", "f", "g", "h")
    pay(world, world.claim(terms=PRICED), SPENT)
    world.claim(WORKER, PRICED)
    world.claim(OTHER_WORKER, PRICED)
    return world


def recovered(path: Path, clock: Clock, allowance: Allowance = ALLOWANCE) -> tuple[World, Recovery]:
    """The ledger as the next start finds it, with the same budgets in force."""
    outcome = recover(path, allowance, clock=clock)
    prepare(
        path, strategy="rolling", timezone="UTC", limits={"month": 1_000}, currency="USD", budgets=ALLOWANCE.budgets,
        clock=clock,
    )  # fmt: skip
    world = World(path, clock)
    world.open()
    return world, outcome


def lose(path: Path, table: str) -> None:
    for page in pages_of(path, table):
        overwrite(path, page)


def test_calls_in_anothers_stead_are_brought_over_and_of_lost_counts_the_days_are_used_up(create: Create) -> None:
    world = create()
    world.change("INSERT INTO stand_ins VALUES ('jev', ?, 7)", day_of(world.clock()))
    path, clock = closed(world), world.clock
    lose(path, "tombstones")
    kept, _ = recovered(path, clock)
    assert stand_ins_sent(kept.file.connection, "jev", clock()) == 7

    kept.close()
    lose(path, "stand_ins")
    lost, _ = recovered(path, clock)
    assert stand_ins_sent(lost.file.connection, "jev", clock()) >= ALL_SENT
    assert stand_ins_sent(lost.file.connection, "jev", clock() + 86_400) == 0


def test_what_was_spent_is_brought_over_to_the_unit_and_calls_in_hand_count_as_made(spender: World) -> None:
    reserved, counted = use(spender).reserved_nano, spender.completions()
    path = closed(spender)
    lose(path, "tombstones")
    world, outcome = recovered(path, spender.clock)

    assert "budgets" not in outcome.lost
    assert (use(world).spent_nano, use(world).reserved_nano) == (SPENT + reserved, 0)
    assert world.completions() == counted + 4
    assert check(path).sound
    world.close()


@pytest.mark.parametrize("table", ["spending", "reservations"])
def test_budgets_whose_spending_cannot_be_read_are_used_up_until_their_end(spender: World, table: str) -> None:
    path = closed(spender)
    lose(path, table)
    world, outcome = recovered(path, spender.clock)

    assert outcome.lost["budgets"] == 2
    assert (use(world, "day").remaining_nano, use(world, "month").remaining_nano) == (0, 0)
    world.admit("again")
    idle = world.idle(terms=PRICED)
    assert idle.because is IdleReason.BUDGET
    assert use(world, "month").frees_at == use(world, "month").ends_at
    world.close()


def test_an_amount_that_only_damage_can_have_made_is_not_believed(spender: World) -> None:
    spender.change("UPDATE spending SET nano = -900000")
    path = closed(spender)
    world, outcome = recovered(path, spender.clock)

    assert outcome.lost["budgets"] == 2
    assert use(world, "month").remaining_nano == 0
    world.close()


def test_without_budgets_nothing_is_made_up(spender: World) -> None:
    reserved = use(spender).reserved_nano
    path = closed(spender)
    lose(path, "spending")
    world, outcome = recovered(path, spender.clock, Allowance())

    assert "budgets" not in outcome.lost
    assert use(world).spent_nano == reserved
    world.close()


def test_limits_whose_page_is_another_table_s_are_used_up(spender: World) -> None:
    path = closed(spender)
    content = path.read_bytes()
    (page,), (other, *_) = pages_of(path, "task_completions"), pages_of(path, "cache")
    overwrite(path, page, content[(other - 1) * 4_096 : other * 4_096])
    lose(path, "tombstones")
    allowance = dataclasses.replace(ALLOWANCE, limits={"month": 1_000})
    world, outcome = recovered(path, spender.clock, allowance)

    assert outcome.lost["limits"] == 1
    assert world.value("SELECT MAX(id) FROM task_completions") == 1_000 + 4
    world.admit("again")
    assert world.idle().because is IdleReason.LIMIT
    world.close()
