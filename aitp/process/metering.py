"""A worker's calls to a provider: each bounded, counted, told of and priced, whatever the processor does with it.

A price that is not known costs nothing here: while a budget is in force such a model is not called at all.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Any

from aitp.errors import AitpError, NoRoom
from aitp.logs import get_logger
from aitp.metrics import OTHER, TOKEN_TYPES, CallStatus, Metrics, known_models
from aitp.policy.costs import Bill
from aitp.prices import ALL_OTHERS, NANO, NOTHING, Prices
from aitp.processors.base import default_models
from aitp.providers import Embeddings, Provider, Question, Reply

if TYPE_CHECKING:
    from aitp.settings import Settings

# Of the models with a price so many have labels of their own: a file may list all that there are.
MOST_LABELS = 20

log = get_logger(__name__)


class MeteredProvider:
    """A provider whose calls are bounded (`bound` is entered around each) and leave a trace: counted, priced, told of.

    `begin` comes before an attempt, which may make one call; before each further one `again` is asked for room. Without
    `prices` there are no bills.
    """

    def __init__(
        self,
        provider: Provider,
        metrics: Metrics,
        bound: Callable[[], AbstractContextManager[Any]],
        prices: Prices | None = None,
    ) -> None:
        self._provider = provider
        self._metrics = metrics
        self._bound = bound
        self._prices = prices
        self.name = provider.name
        self.begin((), lambda: True)

    def begin(self, leave_out: Collection[str], again: Callable[[], bool]) -> None:
        """An attempt begins: its requests do without the parameters of `leave_out`."""
        self._leave_out, self._again = leave_out, again
        self.calls = 0  # of this attempt
        self._nano = self._input_tokens = self._output_tokens = 0
        self._whole = True

    def optional(self, model: str, *, chat: bool) -> tuple[str, ...]:
        """What this attempt's requests for `model` hold and could do without."""
        # A provider of another package may know of no such thing.
        ask: Callable[..., tuple[str, ...]] | None = getattr(self._provider, "optional", None)
        names = () if ask is None else ask(model, chat=chat)
        return tuple(name for name in names if name not in self._leave_out)

    def embed(
        self, texts: Sequence[str], model: str, dimensions: int | None = None, leave_out: Collection[str] = ()
    ) -> Embeddings:
        with self._metered(model, len(texts)) as answered:
            answer = self._provider.embed(texts, model, dimensions, **self._without(leave_out))
            answered(answer)
        return answer

    def ask(self, question: Question, model: str, leave_out: Collection[str] = ()) -> Reply:
        with self._metered(model, 1) as answered:
            answer = self._provider.ask(question, model, **self._without(leave_out))
            answered(answer)
        return answer

    def close(self) -> None:
        self._provider.close()

    def bill(self) -> Bill | None:
        """What this attempt's calls cost; None if no prices are known."""
        if self._prices is None:
            return None
        return Bill(self._prices.currency, self._nano, self._input_tokens, self._output_tokens, self._whole)

    def _without(self, leave_out: Collection[str]) -> dict[str, Any]:
        names = (*self._leave_out, *leave_out)
        return {"leave_out": names} if names else {}

    @contextmanager
    def _metered(self, model: str, texts: int) -> Iterator[Callable[[Embeddings | Reply], None]]:
        """Around a call; what it gives is told the answer, and tells of it."""
        if self.calls and not self._again():
            raise NoRoom(f"{self.name} was to be asked once more, and a limit or a budget has no room for that")
        started = time.monotonic()
        try:
            with self._bound():
                self.calls += 1
                yield lambda answer: self._answered(model, texts, answer, time.monotonic() - started)
        except Exception as error:
            self._metrics.provider_request(self.name, model, CallStatus.of(error), time.monotonic() - started)
            if not (isinstance(error, AitpError) and error.bought_nothing):
                self._whole = False  # it may have cost something, and nobody knows how much
            raise

    def _answered(self, model: str, texts: int, answer: Embeddings | Reply, seconds: float) -> None:
        usage = answer.usage
        self._metrics.provider_request(self.name, model, CallStatus.SUCCESS, seconds)
        for type_ in TOKEN_TYPES:
            self._metrics.tokens(self.name, model, type_, getattr(usage, type_))
        if not answer.mock and self._prices is not None:
            # By the terms of the tier that the answer names.
            price = self._prices.of(self.name, model, getattr(answer, "tier", "")) or NOTHING
            cost = price.cost(usage.prompt_tokens, usage.completion_tokens)
            self._nano += cost
            self._input_tokens += usage.prompt_tokens
            self._output_tokens += usage.completion_tokens
            self._whole = self._whole and not usage.estimated
            self._metrics.cost(self.name, model, self._prices.currency, cost / NANO)
        log.info(
            "Provider call completed",
            provider=self.name,
            model=model,
            tasks=texts,
            tokens=usage.total_tokens,
            estimated=usage.estimated,
            seconds=round(seconds, 3),
            **({"mock": True} if answer.mock else {}),
        )


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
