"""A leak is found by its slope, however slow it is and whatever noise there is; noise alone is none."""

from __future__ import annotations

import random

import pytest

from tests.chaos.flatness import Bound, Finding, judge

BOUNDS = {"memory": Bound(2.0), "files": Bound(0.5, most=20.0)}


def course(name: str, leak: float, noise: float = 1.0, count: int = 100) -> Finding:
    chance = random.Random(1)
    samples = [(float(at), {name: 10.0 + leak * at / count + chance.uniform(-noise, noise)}) for at in range(count)]
    (finding,) = judge(samples, BOUNDS)
    return finding


@pytest.mark.parametrize(("leak", "flat"), [(0.0, True), (2.0, True), (8.0, False), (100.0, False), (-50.0, True)])
def test_a_slope_is_told_from_noise(leak: float, flat: bool) -> None:
    assert course("memory of a worker", leak).flat is flat


def test_single_peaks_are_no_slope_but_may_be_too_high() -> None:
    samples = [(float(at), {"files": 15.0 + 3.0 * (at % 10 == 9)}) for at in range(100)]
    assert judge(samples, BOUNDS)[0].flat
    samples[80] = (80.0, {"files": 40.0})
    assert not judge(samples, BOUNDS)[0].flat


def test_what_grows_while_warming_up_is_no_leak() -> None:
    samples = [(float(at), {"memory": 10.0 + min(at, 30)}) for at in range(100)]
    assert judge(samples, BOUNDS)[0].flat
