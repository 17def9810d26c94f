"""What a worker's calls cost: each counted in the metrics, all of one attempt put on its bill.

A price that is not known costs nothing here: while a budget is in force such a model is not called at all.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from aitp.metrics import OTHER, Metrics, known_models
from aitp.policy.costs import Bill
from aitp.prices import ALL_OTHERS, NANO, NOTHING, Prices
from aitp.processors.base import default_models
from aitp.providers import Usage

if TYPE_CHECKING:
    from aitp.settings import Settings

# Of the models with a price so many have labels of their own: a file may list all that there are.
MOST_LABELS = 20


class Meter:
    """One provider's. Without `prices` there are no bills."""

    def __init__(self, provider: str, prices: Prices | None, metrics: Metrics) -> None:
        self._provider = provider
        self._prices = prices
        self._metrics = metrics
        self._begin()

    def _begin(self) -> None:
        self._nano = self._input_tokens = self._output_tokens = 0
        self._whole = True

    def count(self, model: str, usage: Usage, tier: str = "") -> None:
        """A call has been answered, by the terms of `tier` as the answer names it."""
        if self._prices is None:
            return
        price = self._prices.of(self._provider, model, tier) or NOTHING
        cost = price.cost(usage.prompt_tokens, usage.completion_tokens)
        self._nano += cost
        self._input_tokens += usage.prompt_tokens
        self._output_tokens += usage.completion_tokens
        if usage.estimated:
            self._whole = False
        self._metrics.cost(self._provider, model, self._prices.currency, cost / NANO)

    def miss(self) -> None:
        """A call ended without its usage, and may have cost something."""
        self._whole = False

    def bill(self) -> Bill | None:
        """What the calls since the last bill cost."""
        bill = None
        if self._prices is not None:
            bill = Bill(self._prices.currency, self._nano, self._input_tokens, self._output_tokens, self._whole)
        self._begin()
        return bill


def labelled_models(settings: Settings) -> tuple[str, ...]:
    """The models that get a label of their own in metrics."""
    priced = [] if settings.prices is None else [model for _, model in settings.prices.models if model != ALL_OTHERS]
    return known_models(
        (
            *settings.supported_models,
            *settings.fallback_models.values(),
            *settings.model_aliases.values(),
            *default_models(settings),
            *priced[:MOST_LABELS],
        )
    )


def priced_models(settings: Settings) -> set[tuple[str, str, str]]:
    """(provider, model, currency) of the series of costs that can be known before anything is bought."""
    if settings.prices is None:
        return set()
    prices, labelled = settings.prices, labelled_models(settings)
    return {
        (provider, model if model in labelled else OTHER, prices.currency)
        for (provider, model), price in prices.models.items()
        if not price.is_nothing
    }
