"""What attempts may cost and did cost: estimates that do not fall short, and habits that follow what is seen."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aitp.policy.costs import FIRST_USAGE, Bill, Price, Pricing, UsageEstimate, affordable, estimate, learned

EMBEDDING = Pricing(Price(20_000_000, 0))  # 0.02 of a million tokens
CHAT = Pricing(Price(1_100_000_000, 4_400_000_000), answers=True)

sizes = st.lists(st.integers(1, 300_000), min_size=1, max_size=64)
prices = st.builds(Price, st.integers(0, 10**15), st.integers(0, 10**15))


def test_money_is_rounded_up_to_whole_units() -> None:
    assert Price(1, 0).cost(1, 0) == 1
    assert Price(20_000_000, 0).cost(1_000, 0) == 20_000
    assert Price(0, 0).cost(10**9, 10**9) == 0


@given(prices, st.text(min_size=1, max_size=2_000))
def test_an_embedding_costs_no_more_than_its_estimate_whatever_its_tokens_are(price: Price, text: str) -> None:
    content = text.encode("utf-8", "surrogatepass")
    most_tokens = len(content)  # of a tokenizer over bytes

    assert price.cost(most_tokens, 0) <= estimate(Pricing(price), FIRST_USAGE, [len(content)])


@pytest.mark.parametrize(("money", "count"), [(0, 0), (19_999, 0), (20_000, 1), (59_999, 1), (60_000, 2), (10**9, 3)])
def test_as_many_tasks_are_affordable_as_their_estimate_allows(money: int, count: int) -> None:
    assert affordable(EMBEDDING, FIRST_USAGE, [1_000, 2_000, 3_000], money) == count


@given(prices, sizes, st.integers(0, 10**18))
def test_what_is_affordable_stays_within_the_money_and_one_more_would_not(
    price: Price, contents: list[int], money: int
) -> None:
    count = affordable(Pricing(price), FIRST_USAGE, contents, money)

    assert estimate(Pricing(price), FIRST_USAGE, contents[:count]) <= money
    if count < len(contents):
        assert estimate(Pricing(price), FIRST_USAGE, contents[: count + 1]) > money


def test_a_chat_is_taken_to_need_as_much_as_its_queue_needed_lately() -> None:
    habit = UsageEstimate(500, 1_000)

    assert estimate(CHAT, habit, [2_000]) == CHAT.price.cost(2_500, 1_000)  # type: ignore[union-attr]


def test_a_longer_answer_than_any_before_is_remembered_at_once_and_forgotten_slowly() -> None:
    habit = UsageEstimate(500, 1_000)
    habit = learned(habit, Bill("USD", 0, input_tokens=2_700, output_tokens=9_000), 2_000)
    assert habit == UsageEstimate(700, 9_000)
    for _ in range(11):
        habit = learned(habit, Bill("USD", 0, input_tokens=2_700, output_tokens=1_000), 2_000)
    assert habit.input_tokens == 700
    assert 4_000 < habit.output_tokens < 5_000


def test_what_is_sent_beyond_a_long_content_is_never_less_than_nothing() -> None:
    assert learned(UsageEstimate(0, 0), Bill("USD", 0, input_tokens=700, output_tokens=5), 2_000) == UsageEstimate(0, 5)
