"""Budgets under random interleavings of several workers, against a slow and obvious model: a list of what was paid.

What is held to: what is spent and reserved together never passes a budget by more than attempts cost beyond their
estimates; money that is there is given out; and "nothing until then" is exact.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from zoneinfo import ZoneInfo

from hypothesis import given
from hypothesis import strategies as st

from aitp.ledger.budgets import use_of_budgets
from aitp.ledger.claims import Claim, IdleReason
from aitp.ledger.engine import Place
from aitp.ledger.outcomes import Cause
from aitp.policy.costs import Bill, Price, Pricing
from aitp.policy.windows import fixed_window
from aitp.tasks import Ending, Health, Period
from tests.fuzz.cases import LONG
from tests.ledger.world import START, WORKER, World, example, examples, priced, report, set_budgets, set_limits

SLOTS = range(WORKER, WORKER + 4)
ZONES = ("UTC", "America/Sao_Paulo", "Australia/Lord_Howe")
CONTENT = b'{"text": "ab"}'
EACH = 10 * len(CONTENT)
TARIFF = Pricing(Price(10_000_000, 0))
A_DAY = 86_400.0

steps = st.lists(
    st.one_of(
        st.tuples(st.just("claim"), st.sampled_from(SLOTS), st.integers(1, 4)),
        # In hundredths of the estimate: what attempts really cost, some of them more than was thought.
        st.tuples(st.just("finish"), st.sampled_from(SLOTS), st.sampled_from((0, 10, 25, 99, 100, 130))),
        st.tuples(st.just("again"), st.sampled_from(SLOTS), st.just(0)),
        st.tuples(st.just("lose"), st.sampled_from(SLOTS), st.just(0)),
        st.tuples(st.just("release"), st.sampled_from(SLOTS), st.just(0)),
        st.tuples(st.just("wait"), st.just(0), st.sampled_from((1, 3_600, 30_000, 86_400, 600_000))),
        st.tuples(st.just("wait until told"), st.just(0), st.just(0)),
        st.tuples(st.just("restart"), st.just(0), st.just(0)),
    ),
    min_size=20,
    max_size=70,
)
budgets = st.fixed_dictionaries(
    {}, optional={"day": st.integers(EACH, 8 * EACH), "month": st.integers(EACH, 20 * EACH)}
).filter(bool)


@dataclass
class Model:
    """`paid`: (when, what it cost, what of that was beyond its estimate)."""

    world: World
    zone: ZoneInfo
    budgets: dict[str, int]
    paid: list[tuple[float, int, int]] = field(default_factory=list)
    claims: dict[int, Claim] = field(default_factory=dict)
    requests: dict[int, int] = field(default_factory=dict)  # of each claim
    told: float | None = None

    @property
    def now(self) -> float:
        return self.world.clock.now

    @property
    def reserved(self) -> int:
        return sum(self.estimate(slot, claim) for slot, claim in self.claims.items())

    def in_window(self, period: str, moment: float) -> tuple[int, int]:
        """(what was paid, what of it was beyond estimates) in the calendar window that holds `moment`."""
        window = fixed_window(Period(period), moment, self.zone)
        rows = [(cost, excess) for when, cost, excess in self.paid if window.holds(when)]
        return sum(cost for cost, _ in rows), sum(excess for _, excess in rows)

    def left_at(self, moment: float) -> int:
        """What could be reserved then, if nothing happened until then."""
        return min(
            budget - self.reserved - self.in_window(period, moment)[0] for period, budget in self.budgets.items()
        )

    # Steps

    def claim(self, slot: int, batch: int) -> None:
        if slot in self.claims:
            return
        left = self.left_at(self.now)
        found = self.world.ledger.claims.claim(slot, priced(TARIFF, batch))
        if isinstance(found, Claim):
            assert found.reserved_nano == len(found.tasks) * EACH <= left
            assert len(found.tasks) == min(batch, left // EACH)
            self.claims[slot] = found
            return
        assert found.because is IdleReason.BUDGET
        assert left < EACH
        full = [
            period
            for period, budget in self.budgets.items()
            if budget - self.reserved - self.in_window(period, self.now)[0] < EACH
        ]
        assert found.until == max(fixed_window(Period(period), self.now, self.zone).end for period in full)
        self.told = found.until

    def again(self, slot: int) -> None:
        """A second request of a claim: it is made only if there is money for as much once more."""
        if (claim := self.claims.get(slot)) is not None:
            can_pay = self.left_at(self.now) >= len(claim.tasks) * EACH
            assert self.world.ledger.claims.again(claim) is can_pay
            self.requests[slot] = self.requests.get(slot, 1) + can_pay

    def estimate(self, slot: int, claim: Claim) -> int:
        return len(claim.tasks) * EACH * self.requests.get(slot, 1)

    def finish(self, slot: int, hundredths: int) -> None:
        if (claim := self.claims.pop(slot, None)) is not None:
            estimate = self.estimate(slot, claim)
            self.requests.pop(slot, None)
            cost = estimate * hundredths // 100
            bill = Bill("USD", cost)
            done = report(claim.tasks, Ending.SUCCEEDED, Health.UNKNOWN)
            self.world.ledger.outcomes.finish(claim, dataclasses.replace(done, bill=bill))
            self.pay(cost, cost - estimate)

    def lose(self, slot: int) -> None:
        """A call ends, and nobody learns what it cost."""
        if (claim := self.claims.pop(slot, None)) is not None:
            lost = report(claim.tasks, Ending.ABANDONED, Health.UNKNOWN)
            bill = Bill("USD", 1, whole=False)
            self.world.ledger.outcomes.finish(claim, dataclasses.replace(lost, bill=bill))
            self.pay(self.estimate(slot, claim), 0)
            self.requests.pop(slot, None)

    def release(self, slot: int) -> None:
        if (claim := self.claims.pop(slot, None)) is not None:
            self.world.ledger.outcomes.release(slot, Cause.CRASHED)
            self.pay(self.estimate(slot, claim), 0)
            self.requests.pop(slot, None)

    def pay(self, cost: int, excess: int) -> None:
        self.paid.append((self.now, cost, max(0, excess)))
        self.told = None
        self.world.change(
            "UPDATE tasks SET state = 'ready', due_at = NULL, batch_limit = NULL, is_suspect = 0"
            " WHERE state <> 'claimed'"
        )
        self.world.change("DELETE FROM results")

    def wait_until_told(self) -> None:
        """Sleep as long as an idle worker was told: then there is money for a task, unless too much is in hand."""
        if self.told is None or self.told <= self.now:
            return
        self.world.clock.now = self.told - 1
        assert self.left_at(self.now) < EACH
        self.world.clock.now = self.told
        assert self.left_at(self.now) >= EACH or self.reserved
        self.told = None

    def run(self, todo: list[tuple[str, int, int]]) -> None:
        for verb, slot, argument in todo:
            match verb:
                case "claim":
                    self.claim(slot, argument)
                case "finish":
                    self.finish(slot, argument)
                case "again":
                    self.again(slot)
                case "lose":
                    self.lose(slot)
                case "release":
                    self.release(slot)
                case "wait":
                    self.world.clock.go(argument)
                    self.told = None
                case "wait until told":
                    self.wait_until_told()
                case "restart":
                    self.world.close()
                    self.world.open()
            self.check()

    def check(self) -> None:
        with self.world.database.reading() as connection:
            uses = use_of_budgets(connection, self.now)
        for period in ("day", "month"):
            spent, excess = self.in_window(period, self.now)
            use = uses[Period(period)]
            assert (use.spent_nano, use.reserved_nano) == (spent, self.reserved)
            if period in self.budgets:
                assert spent + self.reserved <= self.budgets[period] + excess


def test_several_workers_together_keep_within_their_budgets(prepared_place: Place) -> None:
    @examples(prepared_place, 1_500 if LONG else 60)
    @given(steps, budgets, st.sampled_from(ZONES), st.floats(0, 3 * A_DAY))
    def holds(todo: list[tuple[str, int, int]], allowed: dict[str, int], zone: str, later: float) -> None:
        with example(prepared_place, START + later) as world:
            set_limits(world.ledger, "rolling", zone, {})
            set_budgets(world.ledger, "USD", allowed)
            world.admit(*(f"t{number}" for number in range(20)), content=CONTENT)
            Model(world, ZoneInfo(zone), allowed).run(todo)

    holds()
