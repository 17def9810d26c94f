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

import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import ROUND_CEILING, Decimal
from pathlib import Path
from typing import Any

NANO = 10**9
MILLION = 10**6
MOST = 1_000_000  # of a million tokens
FILE_BYTES = 1_048_576
ALL_OTHERS = "*"
FREE_UNLESS_PRICED = "ollama"
TIERS = ("flex", "priority")  # service tiers that may have prices of their own


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


def read_prices(path: Path) -> Prices:
    """The prices in a TOML file. Raises ValueError that says all that is wrong with it, entry by entry."""
    try:
        with path.open("rb") as file:
            text = file.read(FILE_BYTES + 1).decode()
        document = tomllib.loads(text, parse_float=Decimal)
    except OSError as error:
        raise ValueError(f"{error.strerror}; it must be a readable TOML file of prices") from None
    except UnicodeDecodeError:
        raise ValueError("is not UTF-8 text; it must be a TOML file of prices") from None
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise ValueError(f"{error}; it must be a TOML file of prices, as etc/prices.example.toml is") from None
    currency = document.pop("currency", None)
    problems = []
    if not isinstance(currency, str) or not re.fullmatch("[A-Z]{3}", currency):
        problems.append('currency: must be three capital letters, like "USD"')
    models: dict[tuple[str, str], Price] = {}
    for provider, entries in document.items():
        if not isinstance(entries, dict) or not re.fullmatch("[A-Za-z0-9_-]+", provider):
            problems.append(f'{_short(provider)}: must be a table of models, like [openai."gpt-6.1-terra"]')
            continue
        for model, entry in entries.items():
            faults = list(_faults(entry))
            if faults:
                problems += [f"[{_short(provider)}.{_short(model)}] {fault}" for fault in faults]
            else:
                models[provider, model] = _price(entry)
    if not models and not problems:
        problems.append(
            'it has no price; a model has one like this: [openai."gpt-6.1-terra"] input = 1.00, output = 5.00'
        )
    if problems:
        raise ValueError("; ".join(problems))
    return Prices(path, str(currency), models)


def _price(entry: Mapping[str, Any]) -> Price:
    tiers = {name: _price(each) for name, each in entry.items() if isinstance(each, dict)}
    return Price(nano(entry["input"]), nano(entry["output"]), tiers)


def _faults(entry: Any, tiers: Sequence[str] = TIERS) -> Iterator[str]:
    if not isinstance(entry, dict):
        yield "must be a table with input and output, each the price of a million tokens"
        return
    for name in sorted(entry.keys() - {"input", "output", *tiers}):
        allowed = ", ".join(["input", "output", *tiers])
        yield f"{_short(name)}: is not known here; allowed are {allowed}"
    for name in ("input", "output"):
        value = entry.get(name)
        if name not in entry:
            yield f"{name}: is missing; write 0 if such tokens cost nothing"
        elif isinstance(value, bool) or not isinstance(value, int | Decimal) or not _is_price(Decimal(value)):
            yield f"{name}: must be a number from 0 to {MOST:,}, the price of a million tokens"
    for name in tiers:
        if name in entry:
            yield from (f"{name}: {fault}" for fault in _faults(entry[name], ()))


def _is_price(value: Decimal) -> bool:
    return value.is_finite() and 0 <= value <= MOST


def _short(name: str) -> str:
    return name if len(name) <= 60 else f"{name[:60]}…"
