"""The soak in its shortest form; `bin/test --soak --minutes 60` is the long one."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chaos.soak import soak

SECONDS = 8.0
MOST_KILOBYTES = 0.5  # that a task of a short soak may add to the ledger
LONG = pytest.param(300.0, marks=[pytest.mark.slow, pytest.mark.timeout(900)])


@pytest.mark.parametrize("seconds", [SECONDS, LONG])
def test_at_full_speed_with_faults_nothing_grows_and_nothing_is_lost(tmp_path: Path, seconds: float) -> None:
    short = seconds == SECONDS

    outcome = soak(seconds, tmp_path, short=short)

    assert outcome.good, str(outcome)
    [ledger] = [finding for finding in outcome.findings if finding.name == "ledger, MB"]
    assert not short or ledger.growth * 1024 <= MOST_KILOBYTES * outcome.tasks, str(outcome)
    assert outcome.kills >= 5
    assert outcome.days > seconds
    assert len(outcome.findings) >= 12
