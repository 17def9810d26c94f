"""A worker's calls to a provider: each bounded, counted and told of, whatever the processor does with it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, TypeVar

from aitp.counting import Metrics
from aitp.errors import AitpError
from aitp.logs import get_logger
from aitp.metrics import TOKEN_TYPES, CallStatus
from aitp.policy.costs import Bill
from aitp.process.billing import Meter
from aitp.providers import Embeddings, Provider, Question, Reply

A = TypeVar("A", Embeddings, Reply)

log = get_logger(__name__)


class WatchedProvider:
    """A provider whose calls end in time (`bound` is entered around each) and leave a trace. `calls`: made so far."""

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
        self.name = provider.name
        self.calls = 0

    def embed(self, texts: Sequence[str], model: str, dimensions: int | None = None) -> Embeddings:
        return self._call(lambda: self._provider.embed(texts, model, dimensions), model, len(texts))

    def ask(self, question: Question, model: str) -> Reply:
        return self._call(lambda: self._provider.ask(question, model), model, 1)

    def bill(self) -> Bill | None:
        """What the calls since the last bill cost; None if no prices are known."""
        return self._meter.bill()

    def reset(self) -> None:
        self._provider.reset()

    def close(self) -> None:
        self._provider.close()

    def _call(self, call: Callable[[], A], model: str, texts: int) -> A:
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
            self._meter.count(model, answer.usage)
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
