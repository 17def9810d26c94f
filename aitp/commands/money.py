"""What prices and budgets come to: models that nobody has a price for, budgets that no task fits in. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from aitp.commands.findings import Finding, Severity, fine
from aitp.policy.costs import FIRST_USAGE, Pricing, estimate
from aitp.prices import amount
from aitp.settings import Settings

TYPICAL_BYTES = 2_000  # of a task's content: a page


def of_prices(settings: Settings, models: Sequence[tuple[str, str, bool]]) -> Iterator[Finding]:
    """`models`: those in use, as (provider, model, whether answers are paid for)."""
    prices = settings.prices
    if prices is None:
        return
    said = f"{prices.path}: {len(prices.models)} in {prices.currency}"
    if settings.mock:
        why, do = "In mock mode nothing is bought: nothing is counted either", "Set a real OPENAI_API_KEY"
        yield Finding(Severity.NOTE, "prices", said, why, do)
        return
    yield fine("prices", said)
    for provider, model, _ in models:
        if prices.of(provider, model) is None:
            yield _missing(settings, provider, model)
    for period, budget in settings.budgets.items():
        yield from _of_budget(settings, models, period, budget)


def _missing(settings: Settings, provider: str, model: str) -> Finding:
    assert settings.prices is not None
    what = f"PRICES={settings.prices.path} has no price for {model} of {provider}"
    do = f'Add [{provider}."{model}"] with input and output, of a million tokens; [{provider}."*"] is for all others'
    if settings.budgets:
        why = "While a budget is in force a model without a price is not called: its tasks wait, and /ready says so"
        return Finding(Severity.FAULT, "prices", what, why, do)
    return Finding(Severity.WARNING, "prices", what, "What it costs is not counted", do)


def _of_budget(
    settings: Settings, models: Sequence[tuple[str, str, bool]], period: str, budget: int
) -> Iterator[Finding]:
    assert settings.prices is not None
    name, currency = f"BUDGET_PER_{period.upper()}", settings.prices.currency
    small = False
    for provider, model, answers in models:
        pricing = Pricing(settings.prices.of(provider, model), answers)
        if pricing.price is None:
            continue
        needed = estimate(pricing, FIRST_USAGE, [TYPICAL_BYTES])
        if needed > budget:
            small = True
            yield Finding(
                Severity.FAULT,
                "budget",
                f"{name}={amount(budget)} {currency} is less than one task of {model} may cost ({amount(needed)})",
                "A task is sent only if its estimate fits: such tasks would wait for ever",
                f"Raise {name}, or correct the model's price",
            )
    if not small:
        yield fine("budget", f"{name}: {amount(budget)} {currency}, from midnight to midnight of its calendar")
