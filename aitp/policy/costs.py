"""What models cost, by the operator's file of prices (PRICES); what attempts at tasks are expected to cost, before they
are made, and what they did cost. Pure; the settings read the file, once, and anew at a reload.

    currency = "USD"
    [openai."gpt-6.1-terra"]    # a provider, and a model by the name that is asked for there
    input = 1.00                # of a million tokens
    output = 5.00
    flex = { input = 0.50, output = 2.50 }      # by the terms of a service tier, where these differ

`"*"` as a model stands for all others of its provider. Money is counted in whole nano-units (a thousandth of a
millionth of the currency) and rounded up; no float takes part.

An estimate must not fall short, for budgets rest on it. A tokenizer over bytes makes at most one token of a byte, so
the bytes of a task's content bound its tokens: the estimate of an embedding is never exceeded. What a chat takes
beyond that (instructions, a repair round, the answer with all that a model thinks to itself) nobody knows before; it is
taken to be the most that attempts of its kind took lately. An attempt that takes more exceeds its estimate by just
that.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import ROUND_CEILING, Decimal
from pathlib import Path
from typing import NamedTuple

NANO = 10**9
MILLION = 10**6
ALL_OTHERS = "*"
FREE_UNLESS_PRICED = "ollama"


@dataclass(frozen=True, slots=True)
class Price:
    """What a million tokens cost, in nano-units: those that are sent, and those that are answered.

    `tiers`: the prices by service tiers that have their own.
    """

    input_nano: int = 0
    output_nano: int = 0
    tiers: Mapping[str, Price] = field(default_factory=dict, hash=False)

    @property
    def is_nothing(self) -> bool:
        return not (self.input_nano or self.output_nano)

    def cost(self, input_tokens: int, output_tokens: int) -> int:
        """In nano-units, rounded up."""
        return -(-(self.input_nano * input_tokens + self.output_nano * output_tokens) // MILLION)


NOTHING = Price()


@dataclass(frozen=True, slots=True)
class Prices:
    """What the file held when it was read. `models`: by (provider, model)."""

    path: Path
    currency: str
    models: Mapping[tuple[str, str], Price] = field(repr=False)

    def of(self, provider: str, model: str, tier: str = "") -> Price | None:
        """The price of a model, in that tier if it has one there; None if there is none.

        Ollama's models cost nothing unless the file has a price.
        """
        for name in (model, model.removesuffix(":latest"), f"{model}:latest", ALL_OTHERS):
            if (price := self.models.get((provider, name))) is not None:
                return price.tiers.get(tier, price)
        return NOTHING if provider == FREE_UNLESS_PRICED else None


def nano(amount: Decimal | int) -> int:
    """An amount of the currency in nano-units, rounded up."""
    return int((Decimal(amount) * NANO).to_integral_value(ROUND_CEILING))


def amount(nano_units: int) -> str:
    """Nano-units as people write money: two decimals, or as many as it takes to show four figures of less than one."""
    exact = Decimal(nano_units) / NANO
    if exact and abs(exact) < 1:
        return f"{exact:.{min(9, 3 - exact.adjusted())}f}"
    return f"{exact:,.2f}"


# ── what attempts cost ───────────────────────────────────────────────────────────────────────────────────────────────


class Pricing(NamedTuple):
    """What a task of one kind costs by one route. `price` None: nobody knows. `answers`: more is paid than content."""

    price: Price | None
    answers: bool = False

    @property
    def is_nothing(self) -> bool:
        return self.price is not None and self.price.is_nothing


FREE = Pricing(NOTHING)


class UsageEstimate(NamedTuple):
    """The most tokens that attempts took lately: sent beyond their contents' bytes, and answered."""

    input_tokens: int
    output_tokens: int


NO_USAGE = UsageEstimate(0, 0)
# Before the first attempt: instructions of a page, and an answer that a reasoning model has thought over.
FIRST_USAGE = UsageEstimate(4_000, 8_000)
FADING = 16  # of what was longer than anything since, this part is forgotten with each attempt


class Bill(NamedTuple):
    """What the calls of one attempt cost, by the usage that their provider reported.

    `whole`: nothing more can have been bought. Else a call ended without its usage: the estimate counts, if it is more.
    """

    currency: str
    nano: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    whole: bool = True


def estimate(pricing: Pricing, habit: UsageEstimate, sizes: Sequence[int]) -> int:
    """What one attempt at tasks whose contents have these sizes (bytes) may cost, in nano-units."""
    assert pricing.price is not None
    if not pricing.answers:
        habit = NO_USAGE
    count = len(sizes)
    return pricing.price.cost(sum(sizes) + count * habit.input_tokens, count * habit.output_tokens)


def affordable(pricing: Pricing, habit: UsageEstimate, sizes: Sequence[int], nano: int) -> int:
    """How many of the first tasks one attempt may be made at with so much money; 0: not even at the first."""
    count = len(sizes)
    while count and estimate(pricing, habit, sizes[:count]) > nano:
        count -= 1
    return count


def learned(habit: UsageEstimate, bill: Bill, size: int) -> UsageEstimate:
    """The habit after one more attempt, at a task of `size`: what it took, or what is left of the longest before."""
    return UsageEstimate(
        max(bill.input_tokens - size, habit.input_tokens - habit.input_tokens // FADING),
        max(bill.output_tokens, habit.output_tokens - habit.output_tokens // FADING),
    )
