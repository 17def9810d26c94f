"""`aitp eval` from outside: what it needs, what it prints, how it exits."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from aitp.demo.faults import Fault
from aitp.demo.ollama_api import OllamaApi
from aitp.demo.openai_api import OpenAIApi
from aitp.demo.wikidata_api import WikidataApi
from aitp.settings import PLACEHOLDER_KEY, PROJECT_ROOT, surroundings


def evaluate(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """With nothing set but `environ`."""
    return subprocess.run(
        [sys.executable, "-m", "aitp", "eval", *arguments],
        env={**surroundings(), "PYTHONPATH": str(PROJECT_ROOT), "AITP_ENV_FILE": "", "COLUMNS": "120", **environ},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def report_of(run: subprocess.CompletedProcess[str]) -> Any:
    assert run.returncode in (0, 1), run.stderr
    return json.loads(run.stdout)


def test_programs_get_json_of_the_texts_and_types_asked_for() -> None:
    types = "defining_severity,identifying_data"
    run = evaluate("--json", "--limit", "3", "--types", types, OPENAI_API_KEY=PLACEHOLDER_KEY)

    report = report_of(run)
    assert (report["provider"], report["mock"], report["stopped"]) == ("openai", True, None)
    assert [(row["task_type"], row["language"], row["texts"]) for row in report["rows"]] == [
        ("defining_severity", "en", 2),
        ("defining_severity", "pt", 1),
        ("defining_severity", "all", 3),
        ("identifying_data", "en", 2),
        ("identifying_data", "pt", 1),
        ("identifying_data", "all", 3),
    ]


def test_openai_is_asked_without_a_task_api(openai_api: OpenAIApi) -> None:
    run = evaluate(
        *("--json", "--limit", "2", "--types", "defining_impact_area"),
        OPENAI_API_KEY=openai_api.key,
        OPENAI_BASE_URL=openai_api.base_url,
    )

    report = report_of(run)
    assert (report["provider"], report["rows"][-1]["texts"]) == ("openai", 2)
    assert len(openai_api.purchases) == report["rows"][-1]["calls"] >= 2


def test_ollama_is_asked_for_a_model_of_its_own(ollama_api: OllamaApi) -> None:
    run = evaluate(
        *("--json", "--limit", "1", "--types", "defining_severity", "--model", "llama3.2"),
        PROCESSING_MODE="ollama",
        OLLAMA_BASE_URL=ollama_api.url,
        SUPPORTED_MODELS="nomic-embed-text,llama3.2",
    )

    report = report_of(run)
    assert (report["provider"], report["model"]) == ("ollama", "llama3.2")
    assert report["failures"] == []


def test_a_refused_key_ends_the_run_and_is_told(openai_api: OpenAIApi) -> None:
    run = evaluate(OPENAI_API_KEY="sk-wrong-and-not-to-be-shown", OPENAI_BASE_URL=openai_api.base_url)

    assert run.returncode == 1
    assert "Stopped after 1 tasks" in run.stdout
    assert "sk-wrong" not in run.stdout + run.stderr


def test_what_was_answered_before_an_outage_is_shown_and_the_run_fails(openai_api: OpenAIApi) -> None:
    openai_api.faults.add(Fault(status=503, skip=1))

    run = evaluate(
        *("--json", "--types", "defining_severity"), OPENAI_API_KEY=openai_api.key, OPENAI_BASE_URL=openai_api.base_url
    )

    assert run.returncode == 1
    report = report_of(run)
    assert report["stopped"]
    assert (report["rows"][-1]["texts"], report["rows"][-1]["scored"]) == (4, 1)


def test_wikidata_is_asked_only_if_wanted(openai_api: OpenAIApi) -> None:
    provider = {"OPENAI_API_KEY": openai_api.key, "OPENAI_BASE_URL": openai_api.base_url}
    arguments = ("--limit", "1", "--types", "defining_severity")
    with WikidataApi() as wikidata:
        without = evaluate(*arguments, **provider, WIKIDATA_BASE_URL=wikidata.url)
        calls = len(wikidata.calls)
        run = evaluate(*arguments, "--wikidata", **provider, WIKIDATA_BASE_URL=wikidata.url)

        assert (without.returncode, run.returncode) == (0, 0), run.stderr
        assert calls == 0
        assert "wbsearchentities" in str(wikidata.calls)


def test_invented_answers_are_called_so() -> None:
    run = evaluate("--limit", "1", OPENAI_API_KEY=PLACEHOLDER_KEY)

    assert run.returncode == 0, run.stderr
    assert run.stdout.startswith("MOCK MODE")


@pytest.mark.parametrize(
    ("environ", "said"),
    [
        ({}, "OPENAI_API_KEY: not set"),
        ({"PROCESSING_MODE": "ollama"}, "PROCESSING_MODE=ollama cannot ask gpt-"),
        ({"OPENAI_TIMEOUT": "soon", "OPENAI_API_KEY": "sk-x"}, "OPENAI_TIMEOUT=soon"),
    ],
)
def test_what_is_missing_is_said_before_anything_is_asked(environ: dict[str, str], said: str) -> None:
    run = evaluate(**environ)

    assert run.returncode == 78
    assert said in run.stderr
    assert "OAUTH2" not in run.stderr


def test_wrong_options_exit_2_or_78(tmp_path: Path) -> None:
    assert evaluate("--types", "text_embedding").returncode == 2
    run = evaluate("--texts", str(tmp_path), OPENAI_API_KEY=PLACEHOLDER_KEY)
    assert run.returncode == 78
    assert "no labelled texts" in run.stderr
