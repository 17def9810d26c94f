"""What attempts at tasks are expected to cost, before they are made, and what they did cost. Pure.

An estimate must not fall short, for budgets rest on it. A tokenizer over bytes makes at most one token of a byte, so
the bytes of a task's content bound its tokens: the estimate of an embedding is never exceeded. What a chat takes
beyond that (instructions, a repair round, the answer with all that a model thinks to itself) nobody knows before; it is
taken to be the most that attempts of its kind took lately. An attempt that takes more exceeds its estimate by just
that.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from aitp.prices import NOTHING, Price


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
