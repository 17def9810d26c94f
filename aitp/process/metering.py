"""A worker's calls to a provider: each bounded, counted, told of and priced, whatever the processor does with it.

A price that is not known costs nothing here: while a budget is in force such a model is not called at all.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, TypeVar

from aitp.errors import AitpError, NoRoom
from aitp.logs import get_logger
from aitp.metrics import OTHER, TOKEN_TYPES, CallStatus, Metrics, known_models
from aitp.policy.costs import Bill
from aitp.prices import ALL_OTHERS, NANO, NOTHING, Prices
from aitp.processors.base import default_models
from aitp.providers import Embeddings, Provider, Question, Reply, Usage

if TYPE_CHECKING:
    from aitp.settings import Settings

log = get_logger(__name__)

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


A = TypeVar("A", Embeddings, Reply)


class WatchedProvider:
    """A provider whose calls end in time (`bound` is entered around each) and leave a trace. `calls`: made so far.

    `begin` comes before an attempt, which may make one call; before each further one `again` is asked for room.
    """

    def __init__(
        self,
        provider: Provider,
        metrics: Metrics,
        bound: Callable[[], AbstractContextManager[Any]],
        meter: Meter | None = None,
    ) -> None:
        self._provider = provider
        self._metrics = metrics
        self._meter = meter or Meter(provider.name, None, metrics)
        self._bound = bound
        self._leave_out: Collection[str] = ()
        self._again: Callable[[], bool] = lambda: True
        self._calls_before = 0
        self.name = provider.name
        self.calls = 0

    def begin(self, leave_out: Collection[str], again: Callable[[], bool]) -> None:
        """An attempt begins: its requests do without the parameters of `leave_out`."""
        self._leave_out, self._again, self._calls_before = leave_out, again, self.calls

    @property
    def sent(self) -> bool:
        """Whether this attempt has made a call."""
        return self.calls > self._calls_before

    def optional(self, model: str, *, chat: bool) -> tuple[str, ...]:
        """What this attempt's requests for `model` hold and could do without."""
        # A provider of another package may know of no such thing.
        ask: Callable[..., tuple[str, ...]] | None = getattr(self._provider, "optional", None)
        names = () if ask is None else ask(model, chat=chat)
        return tuple(name for name in names if name not in self._leave_out)

    def embed(
        self, texts: Sequence[str], model: str, dimensions: int | None = None, leave_out: Collection[str] = ()
    ) -> Embeddings:
        without = self._without(leave_out)
        return self._call(lambda: self._provider.embed(texts, model, dimensions, **without), model, len(texts))

    def ask(self, question: Question, model: str, leave_out: Collection[str] = ()) -> Reply:
        without = self._without(leave_out)
        return self._call(lambda: self._provider.ask(question, model, **without), model, 1)

    def _without(self, leave_out: Collection[str]) -> dict[str, Any]:
        names = (*self._leave_out, *leave_out)
        return {"leave_out": names} if names else {}

    def bill(self) -> Bill | None:
        """What the calls since the last bill cost; None if no prices are known."""
        return self._meter.bill()

    def reset(self) -> None:
        self._provider.reset()

    def close(self) -> None:
        self._provider.close()

    def _call(self, call: Callable[[], A], model: str, texts: int) -> A:
        if self.sent and not self._again():
            raise NoRoom(f"{self.name} was to be asked once more, and a limit or a budget has no room for that")
        started = time.monotonic()
        try:
            with self._bound():
                self.calls += 1
                answer = call()
        except Exception as error:
            self._metrics.provider_request(self.name, model, CallStatus.of(error), time.monotonic() - started)
            if not (isinstance(error, AitpError) and error.bought_nothing):
                self._meter.miss()
            raise
        seconds = time.monotonic() - started
        self._metrics.provider_request(self.name, model, CallStatus.SUCCESS, seconds)
        for type_ in TOKEN_TYPES:
            self._metrics.tokens(self.name, model, type_, getattr(answer.usage, type_))
        if not answer.mock:
            self._meter.count(model, answer.usage, getattr(answer, "tier", ""))
        log.info(
            "Provider call completed",
            provider=self.name,
            model=model,
            tasks=texts,
            tokens=answer.usage.total_tokens,
            estimated=answer.usage.estimated,
            seconds=round(seconds, 3),
            **({"mock": True} if answer.mock else {}),
        )
        return answer
