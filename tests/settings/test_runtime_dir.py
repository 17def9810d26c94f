"""A service is reached by its RUNTIME_DIR, whatever else is wrong with its settings."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from aitp.settings import PROJECT_ROOT, load_settings, surroundings
from aitp.sources import runtime_dir
from tests.end_to_end.running import see_that_programs_can_start
from tests.settings.complete import COMPLETE

SPOILT = "CONCURRENCY_LIMIT=lots\nPRICES=/nowhere\nOAUTH2_CLIENT_SECRET='no end\n"


@pytest.mark.parametrize(
    ("lines", "place"),
    [
        ("RUNTIME_DIR=/srv/a/run", "/srv/a/run"),
        ("RUNTIME_DIR=elsewhere", f"{PROJECT_ROOT}/elsewhere"),
        ("RATE_LIMIT_STORAGE_PATH=/srv/a/data/ledger.db", "/srv/a/run"),
        ("RUNTIME_DIR=\nRATE_LIMIT_STORAGE_PATH=/srv/a/data/ledger.db", "/srv/a/run"),
        ("", f"{PROJECT_ROOT}/run"),
    ],
)
def test_it_is_told_from_settings_that_cannot_be_used(tmp_path: Path, lines: str, place: str) -> None:
    file = tmp_path / "aitp.env"
    file.write_text(f"{lines}\n{SPOILT}")

    assert runtime_dir({"AITP_ENV_FILE": str(file)}) == Path(place)


@pytest.mark.parametrize("lines", ["RUNTIME_DIR=~/x", "RATE_LIMIT_STORAGE_PATH=x/y/z.db", ""])
def test_it_is_where_the_settings_have_it(tmp_path: Path, lines: str) -> None:
    file = tmp_path / "aitp.env"
    file.write_text(lines)

    assert (
        runtime_dir({"AITP_ENV_FILE": str(file)}) == load_settings({**COMPLETE, "AITP_ENV_FILE": str(file)}).runtime_dir
    )


def test_without_its_file_the_environment_alone_tells() -> None:
    assert runtime_dir({"AITP_ENV_FILE": "/nowhere/aitp.env", "RUNTIME_DIR": "/srv/a"}) == Path("/srv/a")


def test_supervisorctl_says_where_it_looked_for_a_service_that_is_not_there(tmp_path: Path) -> None:
    see_that_programs_can_start()
    file = tmp_path / "aitp.env"
    file.write_text(f"RUNTIME_DIR={tmp_path}/run\n{SPOILT}")

    run = subprocess.run(
        [PROJECT_ROOT / "bin/supervisorctl", "signal", "HUP", "aitp-master"],
        env={**surroundings(), "AITP_ENV_FILE": str(file), "AITP_VENV": sys.prefix},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert run.returncode != 0
    assert run.stderr.startswith(f"aitp: no service that you may reach runs in RUNTIME_DIR={tmp_path}/run; ")
