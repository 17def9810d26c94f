"""A program of supervisord's ends with it, also if supervisord died before the program had started."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ASK = """
from aitp.hardening import Parent
from aitp.settings import under_supervisord
print(Parent(supervised=under_supervisord()).is_gone)
"""


def answer(stdin: int, **environment: str) -> str:
    environ = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), **environment}
    return subprocess.run(
        [sys.executable, "-c", ASK], stdin=stdin, env=environ, capture_output=True, text=True, check=True, timeout=30
    ).stdout.strip()


@pytest.mark.parametrize("alive", [True, False])
def test_the_other_end_of_a_programs_standard_input_is_supervisord(alive: bool) -> None:
    here, there = os.pipe()
    try:
        if not alive:
            os.close(there)
        assert answer(here, SUPERVISOR_ENABLED="1") == str(not alive)
    finally:
        os.close(here)
        if alive:
            os.close(there)


def test_standard_input_says_nothing_of_whoever_started_it_by_hand() -> None:
    here, there = os.pipe()
    os.close(there)
    try:
        assert answer(here) == "False"
    finally:
        os.close(here)
    assert answer(subprocess.DEVNULL, SUPERVISOR_ENABLED="1") == "False"
