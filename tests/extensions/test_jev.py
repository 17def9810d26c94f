"""examples/aitp_jev, a provider outside aitp: its own tests, run with it installed beside aitp."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from aitp.settings import PROJECT_ROOT
from tests.extensions.packages import declare, environment, pip_install, run

EXAMPLE = PROJECT_ROOT / "examples" / "aitp_jev"


@pytest.fixture
def places(tmp_path: Path) -> tuple[Path, Path]:
    """The package as an editable install leaves it."""
    declare(tmp_path, EXAMPLE)
    return EXAMPLE / "src", tmp_path


def test_it_is_installed_without_an_index_and_brings_its_settings(tmp_path: Path) -> None:
    python = environment(tmp_path / "venv")
    shutil.copytree(EXAMPLE, tmp_path / "example")

    ended = pip_install(python, tmp_path / "example")

    assert ended.returncode == 0, ended.stdout + ended.stderr
    program = (
        "from aitp.extensions import foreign_settings as s; print(sorted(n for n, secret in s().items() if secret))"
    )
    environ = {"PYTHONPATH": str(PROJECT_ROOT)}
    assert subprocess.check_output([python, "-c", program], env=environ, text=True) == "['TYPESAFE_API_KEY']\n"


def parts() -> list[list[str]]:
    """Its tests in three parts, which run side by side: those that start services take seconds each."""
    slow = EXAMPLE / "tests/test_service.py"
    names = re.findall(r"^def (test_\w+)", slow.read_text(), re.MULTILINE)
    services = [f"{slow}::{name}" for name in names]
    others = sorted(str(path) for path in slow.parent.glob("test_*.py") if path != slow)
    return [others, *(services[first::2] for first in range(2))]


@pytest.mark.parametrize("tests", parts(), ids=["parts", *(f"services {number}" for number in range(2))])
def test_the_packages_own_tests_pass(places: tuple[Path, Path], tests: list[str]) -> None:
    program = f"""
import pytest, sys
sys.exit(pytest.main(["-q", "-x", "-c", "/dev/null", "--rootdir", "{EXAMPLE}", *{tests!r}]))
"""
    ended = run(program, *places, timeout=280)

    assert ended.returncode == 0, ended.stdout[-6000:] + ended.stderr[-3000:]
