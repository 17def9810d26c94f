"""How many tasks one worker claims."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aitp.policy.batching import fair_share


@pytest.mark.parametrize(
    ("claimable", "workers", "batch_size", "share"),
    [
        (1, 5, 32, 1),
        (5, 5, 32, 1),
        (6, 5, 32, 2),
        (160, 5, 32, 32),
        (10_000, 5, 32, 32),
        (33, 1, 32, 31),  # the last one is not left alone
        (34, 1, 32, 32),
        (3, 2, 32, 3),
        (2, 2, 32, 2),
        (2, 2, 1, 1),
        (7, 1, 32, 7),
        (7, 1, 1, 1),
        (0, 5, 32, 1),
        (3, 0, 32, 3),
    ],
)
def test_shares(claimable: int, workers: int, batch_size: int, share: int) -> None:
    assert fair_share(claimable, workers, batch_size) == share


@given(st.integers(1, 100_000), st.integers(1, 1_000), st.integers(1, 2_048))
def test_no_worker_takes_what_would_keep_a_sibling_busy(claimable: int, workers: int, batch_size: int) -> None:
    share = fair_share(claimable, workers, batch_size)

    assert 1 <= share <= batch_size
    assert share <= claimable
    # All of them together take everything, unless batches are full.
    assert share >= batch_size - 1 or share * workers >= claimable
    # With a task for each, each gets one, but the last one is not left alone.
    assert share == 1 or (share - 1) * workers < claimable or share == claimable
    assert claimable - share != 1 or batch_size <= 2
