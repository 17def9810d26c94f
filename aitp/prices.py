"""What models cost: the operator's file of prices (PRICES), read once with the settings, anew at a reload.

    currency = "USD"
    [openai."gpt-6.1-terra"]    # a provider, and a model by the name that is asked for there
    input = 1.00                # of a million tokens
    output = 5.00
    flex = { input = 0.50, output = 2.50 }      # by the terms of a service tier, where these differ

`"*"` as a model stands for all others of its provider. Money is counted in whole nano-units (a thousandth of a
millionth of the currency) and rounded up; no float takes part. Called by the settings.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import ROUND_CEILING, Decimal
from pathlib import Path

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
