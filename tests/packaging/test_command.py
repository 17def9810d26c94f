"""The command line: what is cheap stays cheap, and exit codes mean what they should."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from aitp import release
from aitp.settings import PROJECT_ROOT, surroundings
from aitp.tasks import TaskType
from tests.settings.complete import COMPLETE


def aitp(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return python("-m", "aitp", *arguments, **environ)


def python(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        env={**surroundings(), "PYTHONPATH": str(PROJECT_ROOT), "AITP_ENV_FILE": "", **environ},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def test_version_is_told_without_loading_the_service() -> None:
    program = (
        "import sys, atexit\n"
        "atexit.register(lambda: print(*sys.modules, file=sys.stderr))\n"
        "from aitp.commands.cli import main\n"
        "main()"
    )
    run = python("-c", program, "--version")

    assert run.stdout == f"aitp {release()}\n"
    loaded = set(run.stderr.split())
    assert "click" in loaded
    assert not loaded & {
        "openai",
        "requests",
        "rich",
        "pydantic",
        "numpy",
        "apsw",
        "supervisor",
        "structlog",
        "asyncio",
    }


def test_settings_load_without_the_service() -> None:
    program = "import sys, aitp.settings; print(*sys.modules)"
    loaded = set(python("-c", program).stdout.split())

    assert not loaded & {"openai", "requests", "rich", "numpy", "apsw", "supervisor", "structlog", "asyncio"}


@pytest.mark.parametrize("arguments", [("fly",), ("check", "--fast"), ("--loud",)])
def test_wrong_usage_exits_2(arguments: tuple[str, ...]) -> None:
    run = aitp(*arguments)

    assert run.returncode == 2
    assert run.stderr.startswith("Usage: aitp")


def test_check_passes_complete_settings() -> None:
    run = aitp("check", "--offline", **COMPLETE, METRICS_HOST="127.0.0.1", WIKIDATA_CONTACT="aitp@example.org")

    assert (run.returncode, run.stderr) == (0, "")
    first, types, *_, last = run.stdout.splitlines()
    assert first == "ok    settings    usable, from the environment; mode hybrid"
    assert types == f"ok    task types  {', '.join(sorted(TaskType))}"
    assert last == "All is well"


def test_check_lists_all_problems_and_exits_78() -> None:
    run = aitp("check", **{**COMPLETE, "METRICS_PORT": "0", "LOG_LEVEL": "loud"})

    assert (run.returncode, run.stderr) == (78, "")
    assert [line for line in run.stdout.splitlines() if line.startswith("error")] == [
        "error  settings  METRICS_PORT=0: must be a whole number from 1 to 65,535",
        "error  settings  LOG_LEVEL=loud: must be one of DEBUG, INFO, WARNING, ERROR, CRITICAL",
    ]
    assert run.stdout.splitlines()[-1] == "2 errors (exit code 78)"


def test_check_shows_warnings_and_mock_mode(tmp_path: Path) -> None:
    file = tmp_path / "aitp.env"
    file.write_text("OPENAI_API_KEY=your_openai_api_key_here\nOLLAMA_URL=x\n")
    environ = {**COMPLETE, "AITP_ENV_FILE": str(file)}
    del environ["OPENAI_API_KEY"]

    run, strict = aitp("check", "--offline", **environ), aitp("check", "--offline", "--strict", **environ)

    assert (run.returncode, strict.returncode) == (0, 1)
    lines = run.stdout.splitlines()
    assert lines[0] == f"ok       settings    usable, from the environment and {file}; mode hybrid"
    assert lines[1] == "warning  settings    OLLAMA_URL is not a setting and is ignored"
    assert lines[2].strip() == "Do:  Did you mean OLLAMA_BASE_URL?"
    assert any(line.startswith("warning  mock mode   MOCK MODE: OPENAI_API_KEY is the placeholder") for line in lines)


def test_check_speaks_json() -> None:
    fine = aitp("check", "--offline", "--json", **COMPLETE, WIKIDATA_CONTACT="aitp@example.org")
    wrong = aitp("check", "--json", **COMPLETE, METRICS_PORT="0")

    assert (fine.returncode, wrong.returncode) == (0, 78)
    report = json.loads(fine.stdout)
    assert [entry["name"] for entry in report["task_types"]] == sorted(TaskType)
    assert (report["ok"], report["exit_code"], report["mock"], report["env_file"]) == (True, 0, False, None)
    assert {finding["severity"] for finding in report["findings"]} <= {"ok", "note"}
    [finding] = json.loads(wrong.stdout)["findings"]
    assert finding["sentence"] == "METRICS_PORT=0: must be a whole number from 1 to 65,535"
    assert set(finding) == {"code", "severity", "sentence", "advice"}


def test_numerical_libraries_are_told_to_start_no_threads() -> None:
    program = (
        "import os; from aitp.settings import prepare_environment; prepare_environment(); import numpy; "
        "print(len(os.listdir('/proc/self/task')))"
    )
    assert python("-c", program, OPENBLAS_NUM_THREADS=str(os.cpu_count())).stdout == "1\n"
