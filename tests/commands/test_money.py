"""What `aitp check` says of prices and budgets."""

from __future__ import annotations

from pathlib import Path

import pytest

from aitp.commands.check import of_prices
from aitp.settings import Settings, load_settings
from aitp.web.health import Problem, Severity
from tests.settings.complete import COMPLETE

SMALL = "[openai.text-embedding-3-small]\ninput = 0.02\noutput = 0\n"
CHAT = '[openai."gpt-6.1-terra"]\ninput = 1.10\noutput = 4.40\n'


def settings(folder: Path, models: str = SMALL + CHAT, **environ: str) -> Settings:
    path = folder / "prices.toml"
    path.write_text(f'currency = "USD"\n{models}')
    return load_settings({**COMPLETE, "AITP_ENV_FILE": "", "PROCESSING_MODE": "openai", "PRICES": str(path), **environ})


def found(told: Settings) -> list[Problem]:
    return list(of_prices(told))


def test_nothing_is_said_without_prices() -> None:
    assert found(load_settings({**COMPLETE, "AITP_ENV_FILE": ""})) == []


def test_prices_without_a_budget_are_fine(tmp_path: Path) -> None:
    [finding] = found(settings(tmp_path))

    assert (finding.severity, finding.sentence) == (Severity.OK, f"{tmp_path}/prices.toml: 2 in USD")


@pytest.mark.parametrize(("budget", "severity"), [("0", Severity.WARNING), ("5", Severity.FAULT)])
def test_a_model_in_use_without_a_price_is_named(tmp_path: Path, budget: str, severity: Severity) -> None:
    told = settings(tmp_path, SMALL, BUDGET_PER_DAY=budget)
    [missing] = [finding for finding in found(told) if "has no price" in finding.sentence]

    assert missing.severity is severity
    assert missing.sentence.partition(" has ")[2].startswith("no price for gpt-6.1-terra of openai: ")
    assert '[openai."gpt-6.1-terra"]' in missing.advice


def test_in_mode_hybrid_the_fallbacks_need_prices_and_ollama_s_models_do_not(tmp_path: Path) -> None:
    told = settings(
        tmp_path, PROCESSING_MODE="hybrid", FALLBACK_MODELS='{"nomic-embed-text": "text-embedding-3-large"}'
    )

    assert [
        f.sentence.rpartition("for ")[2].partition(":")[0] for f in found(told) if "has no price" in f.sentence
    ] == ["text-embedding-3-large of openai"]


def test_a_budget_that_no_task_fits_in_is_a_fault(tmp_path: Path) -> None:
    small = [f for f in found(settings(tmp_path, BUDGET_PER_DAY="0.01", BUDGET_PER_MONTH="10")) if f.code == "budget"]

    assert [finding.severity for finding in small] == [Severity.FAULT, Severity.OK]
    assert small[0].sentence.startswith("BUDGET_PER_DAY=0.01000 USD is less than one task of gpt-6.1-terra may cost")


def test_in_mock_mode_nothing_is_spent(tmp_path: Path) -> None:
    told = settings(tmp_path, SMALL, OPENAI_API_KEY="your_openai_api_key_here", BUDGET_PER_DAY="5")

    assert [finding.severity for finding in found(told)] == [Severity.NOTE]
    assert told.budgets == {}
