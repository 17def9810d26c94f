"""PRICES: a file that is right is read to the last digit; one that is wrong is refused, entry by entry."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

import pytest

from aitp.errors import ConfigurationError
from aitp.policy.costs import Price, amount, nano
from aitp.settings import CHAT_MODEL, EMBEDDING_MODEL, PROJECT_ROOT, Settings, load_settings
from aitp.validators import read_prices
from tests.settings.complete import COMPLETE

GOOD = """
currency = "EUR"
[openai."o3-mini"]
input = 1.10
output = 4.40
[openai.text-embedding-3-small]
input = 0.02
output = 0
[ollama.qwen3]
input = 0.0000000001
output = 1
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "prices.toml"
    path.write_text(GOOD)
    return path


def load(path: Path, **settings: str) -> Settings:
    return load_settings({**COMPLETE, "AITP_ENV_FILE": "", "PRICES": str(path), **settings})


def problems(path: Path, **settings: str) -> str:
    with pytest.raises(ConfigurationError) as caught:
        load(path, **settings)
    return "\n".join(caught.value.problems)


def test_prices_are_exact_and_rounded_up_where_they_are_finer_than_can_be_counted(file: Path) -> None:
    prices = read_prices(file)

    assert prices.currency == "EUR"
    assert prices.of("openai", "o3-mini") == Price(1_100_000_000, 4_400_000_000)
    assert prices.of("openai", "text-embedding-3-small") == Price(20_000_000, 0)
    assert prices.of("ollama", "qwen3") == Price(1, 1_000_000_000)


def test_a_tier_may_have_prices_of_its_own(file: Path) -> None:
    file.write_text(GOOD.replace("output = 4.40", "output = 4.40\nflex = { input = 0.55, output = 2.20 }"))
    prices = read_prices(file)

    assert prices.of("openai", "o3-mini", "flex") == Price(550_000_000, 2_200_000_000)
    for other in ("default", "priority", ""):
        assert (found := prices.of("openai", "o3-mini", other)) is not None
        assert (found.input_nano, found.output_nano) == (1_100_000_000, 4_400_000_000)
    assert prices.of("openai", "text-embedding-3-small", "flex") == Price(20_000_000, 0)


@pytest.mark.parametrize(
    ("tier", "said"),
    [
        ("flex = 0.5", "flex: Input should be a valid dictionary"),
        ("flex = { input = 1 }", "flex.output: Field required"),
        ("flex = { input = 1, output = 1, flex = 1 }", "flex.flex: Extra inputs are not permitted"),
        ("slow = { input = 1, output = 1 }", "slow: Extra inputs are not permitted"),
    ],
)
def test_a_tier_whose_prices_are_wrong_is_refused(file: Path, tier: str, said: str) -> None:
    file.write_text(GOOD.replace("output = 4.40", f"output = 4.40\n{tier}"))

    assert f"[openai.o3-mini] {said}" in problems(file)


def test_a_model_without_a_price_has_none_but_ollama_s_cost_nothing(file: Path) -> None:
    prices = read_prices(file)

    assert prices.of("openai", "gpt-4.1") is None
    assert prices.of("elsewhere", "model") is None
    assert prices.of("ollama", "nomic-embed-text") == Price(0, 0)
    assert prices.of("ollama", "qwen3:latest") == prices.of("ollama", "qwen3")


def test_a_star_is_the_price_of_all_other_models(file: Path) -> None:
    file.write_text(GOOD + '[openai."*"]\ninput = 10\noutput = 40\n')

    assert read_prices(file).of("openai", "anything") == Price(10 * 10**9, 40 * 10**9)
    assert read_prices(file).of("openai", "o3-mini") == Price(1_100_000_000, 4_400_000_000)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('currency = "EUR"\n[openai\n', "line 2"),
        ("[openai.a]\ninput = 1\noutput = 1\n", "currency: Field required"),
        ('currency = "euro"\n[openai.a]\ninput = 1\noutput = 1\n', "currency: String should match pattern"),
        ('currency = "EUR"\n', "it has no price"),
        ('currency = "EUR"\nopenai = 3\n', "openai: Input should be a valid dictionary"),
        ('currency = "EUR"\n[openai]\na = 3\n', "[openai.a]: Input should be a valid dictionary"),
        ('currency = "EUR"\n[openai.a]\ninput = 1\n', "[openai.a] output: Field required"),
        ("input = 1e999999999999999999999", "must be a TOML file of prices"),
        (
            'currency = "EUR"\n[openai.a]\ninput = -1\noutput = 1\n',
            "[openai.a] input: Input should be greater than or equal to 0",
        ),
        ('currency = "EUR"\n[openai.a]\ninput = nan\noutput = true\n', "[openai.a] output: "),
        ('currency = "EUR"\n[openai.a]\ninput = 1\noutput = 1\ncached = 1\n', "cached: Extra inputs are not permitted"),
        (
            'currency = "EUR"\n[openai.a]\ninput = "one"\noutput = 1\n',
            "[openai.a] input: Input should be a valid decimal",
        ),
    ],
)
def test_a_wrong_file_is_refused_by_name_and_entry(file: Path, text: str, said: str) -> None:
    file.write_text(text)

    assert f"PRICES={file}: " in problems(file)
    assert said in problems(file)


def test_all_that_is_wrong_is_said_at_once(file: Path) -> None:
    file.write_text("[openai.a]\ninput = -1\n")

    assert all(word in problems(file) for word in ("currency", "[openai.a] input", "[openai.a] output"))


def test_a_file_that_cannot_be_read_says_so(tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(b"\xff\xfe")

    assert "No such file" in problems(tmp_path / "missing.toml")
    assert "Is a directory" in problems(tmp_path)
    assert "not UTF-8" in problems(tmp_path / "binary")


def test_the_example_can_be_used_as_it_is() -> None:
    prices = read_prices(PROJECT_ROOT / "etc/prices.example.toml")

    assert all(prices.of("openai", model) for model in (EMBEDDING_MODEL, CHAT_MODEL))


def test_a_budget_needs_prices(file: Path) -> None:
    for name in ("BUDGET_PER_DAY", "BUDGET_PER_MONTH"):
        with pytest.raises(ConfigurationError, match=f"{name}=5: PRICES is not set"):
            load_settings({**COMPLETE, "AITP_ENV_FILE": "", name: "5"})
    assert not load_settings({**COMPLETE, "AITP_ENV_FILE": "", "BUDGET_PER_DAY": "0.00"}).budgets
    assert load(file, BUDGET_PER_DAY="5", BUDGET_PER_MONTH="0.000000001").budgets == {"day": 5 * 10**9, "month": 1}


@pytest.mark.parametrize("value", ["-1", "nan", "inf", "5 EUR", "1e10"])
def test_a_budget_is_an_amount(file: Path, value: str) -> None:
    assert "must be a number from 0 to 1,000,000,000" in problems(file, BUDGET_PER_DAY=value)


def test_a_day_s_budget_that_the_month_s_makes_unreachable_is_odd(file: Path) -> None:
    [warning] = load(file, BUDGET_PER_DAY="5", BUDGET_PER_MONTH="4").warnings

    assert warning.startswith("BUDGET_PER_MONTH=4 is below BUDGET_PER_DAY=5: ")


@pytest.mark.parametrize(
    ("money", "shown"),
    [
        ("0", "0.00"),
        ("12.5", "12.50"),
        ("1234.567", "1,234.57"),
        ("0.012345", "0.01234"),
        ("0.000000001", "0.000000001"),
    ],
)
def test_money_is_shown_as_people_write_it(money: str, shown: str) -> None:
    assert amount(nano(Decimal(money))) == shown
