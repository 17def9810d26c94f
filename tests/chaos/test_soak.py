"""The soak in its shortest form; `bin/test --soak --minutes 60` is the long one."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chaos.soak import soak

SECONDS = 40.0
LONG = pytest.param(300.0, marks=[pytest.mark.slow, pytest.mark.timeout(900)])


@pytest.mark.parametrize("seconds", [SECONDS, LONG])
def test_at_full_speed_with_faults_nothing_grows_and_nothing_is_lost(tmp_path: Path, seconds: float) -> None:
    outcome = soak(seconds, tmp_path)

    assert outcome.good, str(outcome)
    assert outcome.kills > 5
    assert outcome.days > seconds
    assert len(outcome.findings) >= 12
