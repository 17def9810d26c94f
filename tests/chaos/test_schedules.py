"""A few of the random schedules, for every day; `bin/test --chaos --runs 200` is the long form."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.chaos.acts import Acts
from tests.chaos.schedule import API_FAULTS, MACHINE, PROCESSES, PROVIDER_FAULTS, draw

ROOT = Path(__file__).parents[2]
# These hold power cuts, a full disk, kills of supervisord and workers, a limit, steps of the clock.
FIRST_SEED, RUNS = 12, 2
MANY = 300


@pytest.mark.timeout(300)
def test_every_promise_is_kept() -> None:
    command = [sys.executable, "-m", "tests.chaos", "--runs", str(RUNS), "--seed", str(FIRST_SEED)]

    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=280)

    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{RUNS} schedules in" in done.stdout
    figures = dict(
        line.split() for line in done.stdout.splitlines() if re.fullmatch(r"  (deaths|twins|tasks) +\d+", line)
    )
    assert int(figures["tasks"]) > 100
    assert int(figures["deaths"]) > 0


def test_a_seed_gives_the_same_schedule_again() -> None:
    assert str(draw(7)) == str(draw(7)) != str(draw(8))


def test_many_schedules_hold_every_kind_of_fault() -> None:
    acts = [act for seed in range(MANY) for act in draw(seed).acts]
    names = {act.name for act in acts}
    kinds = {str(act.options.get("kind", act.options.get("status"))) for act in acts if act.name == "fault"}

    assert {*PROCESSES, *MACHINE} <= names
    assert {str(fault.get("kind", fault.get("status"))) for fault in (*PROVIDER_FAULTS, *API_FAULTS)} <= kinds
    assert all(hasattr(Acts, f"_{name}") for name in names)
