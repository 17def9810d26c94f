"""A worker's bill: what calls cost, and when nobody can know it."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from contextlib import nullcontext
from pathlib import Path

import pytest

from aitp.errors import AitpError, DeadlineExceeded, InputRefused, ServiceFault
from aitp.metrics import Metrics
from aitp.policy.costs import Bill, Price, Prices
from aitp.process.service import labelled_models
from aitp.process.worker import MeteredProvider
from aitp.providers import Embeddings, Question, Reply, Usage
from aitp.settings import CHAT_MODEL, EMBEDDING_MODEL, load_settings
from tests.process.house import House

PRICES = Prices(Path("prices.toml"), "USD", {("openai", "small"): Price(2_000_000, 0)})


class Scripted:
    """Answers, or fails, as told."""

    name = "openai"

    def __init__(self, *script: Usage | Exception, mock: bool = False, tier: str = "") -> None:
        self.tier = tier
        self.script = list(script)
        self.mock = mock

    def optional(self, model: str, *, chat: bool) -> tuple[str, ...]:
        return ()

    def embed(
        self, texts: Sequence[str], model: str, dimensions: int | None = None, leave_out: Collection[str] = ()
    ) -> Embeddings:
        said = self.script.pop(0)
        if isinstance(said, Exception):
            raise said
        return Embeddings([b"[1]"], said, mock=self.mock)

    def ask(self, question: Question, model: str, leave_out: Collection[str] = ()) -> Reply:
        said = self.script.pop(0)
        assert isinstance(said, Usage)
        return Reply("{}", said, tier=self.tier)

    def close(self) -> None: ...


def bill_of(provider: Scripted, prices: Prices | None = PRICES) -> Bill | None:
    """What all calls of its script come to."""
    metrics = Metrics()
    watched = MeteredProvider(provider, metrics, nullcontext, prices)
    while provider.script:
        try:
            watched.embed(["text"], "small")
        except AitpError:
            pass
    bill = watched.bill
    watched.begin((), lambda: True)
    assert watched.bill in (None, Bill("USD"))  # the next attempt's begins with nothing
    return bill


def test_an_answer_costs_what_its_tier_does() -> None:
    price = Price(1_000_000, 4_000_000, {"flex": Price(500_000, 2_000_000)})
    for tier, cost in (("", 500), ("default", 500), ("flex", 250), ("unheard_of", 500)):
        prices = Prices(Path("prices.toml"), "USD", {("openai", "o3"): price})
        metered = MeteredProvider(Scripted(Usage(100, 100, 200), tier=tier), Metrics(), nullcontext, prices)
        metered.ask(Question("any", {}, ()), "o3")
        assert metered.bill == Bill("USD", cost, 100, 100)


def refused() -> InputRefused:
    error = InputRefused("400")
    error.bought_nothing = True
    return error


def test_all_calls_of_an_attempt_are_on_its_bill() -> None:
    assert bill_of(Scripted(Usage(10, 0, 10), Usage(5, 0, 5))) == Bill("USD", 30, 15, 0)


def test_what_was_refused_costs_nothing() -> None:
    assert bill_of(Scripted(refused(), Usage(10, 0, 10))) == Bill("USD", 20, 10, 0)


@pytest.mark.parametrize("error", [DeadlineExceeded("openai", "late"), ServiceFault("openai", "cut off")])
def test_what_a_call_cost_that_broke_off_nobody_knows(error: Exception) -> None:
    assert bill_of(Scripted(Usage(10, 0, 10), error)) == Bill("USD", 20, 10, 0, whole=False)


def test_usage_that_was_only_estimated_is_no_whole_bill() -> None:
    assert bill_of(Scripted(Usage(10, 0, 10, estimated=True))) == Bill("USD", 20, 10, 0, whole=False)


def test_invented_answers_cost_nothing_and_without_prices_there_are_no_bills() -> None:
    assert bill_of(Scripted(Usage(10, 0, 10), mock=True)) == Bill("USD")
    assert bill_of(Scripted(Usage(10, 0, 10)), None) is None


def test_models_that_tasks_go_to_by_default_or_by_settings_have_labels_of_their_own(tmp_path: Path) -> None:
    house = House(tmp_path)
    house.settings(SUPPORTED_MODELS="mine", FALLBACK_MODELS='{"mine": "theirs"}')

    labelled = labelled_models(load_settings(house.environment()))

    assert {"mine", "theirs", EMBEDDING_MODEL, CHAT_MODEL} <= set(labelled)
