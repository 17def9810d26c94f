"""A few of the random schedules, for every day; `bin/test --chaos --runs 200` is the long form."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chaos.acts import Acts
from tests.chaos.run import run
from tests.chaos.schedule import API_FAULTS, MACHINE, PROCESSES, PROVIDER_FAULTS, draw

# Together they hold a power cut, a full disk, kills of everything and of supervisord, limits, steps of the clock.
SEEDS = (13, 22)
MANY = 300


@pytest.mark.parametrize("seed", SEEDS)
def test_every_promise_is_kept(seed: int, tmp_path: Path) -> None:
    result = run(draw(seed), tmp_path)

    assert not result.violations, f"again: bin/test --chaos --runs 1 --seed {seed}\n{draw(seed)}\n{result.violations}"
    assert result.figures["requests struck"] > 0
    assert result.figures["deaths"] > 0


def test_a_seed_gives_the_same_schedule_again() -> None:
    assert str(draw(7)) == str(draw(7)) != str(draw(8))


def test_many_schedules_hold_every_kind_of_fault() -> None:
    acts = [act for seed in range(MANY) for act in draw(seed).acts]
    names = {act.name for act in acts}
    kinds = {str(act.options.get("kind", act.options.get("status"))) for act in acts if act.name == "fault"}

    assert {*PROCESSES, *MACHINE} <= names
    assert {str(fault.get("kind", fault.get("status"))) for fault in (*PROVIDER_FAULTS, *API_FAULTS)} <= kinds
    assert all(hasattr(Acts, f"_{name}") for name in names)
