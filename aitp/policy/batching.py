"""How many tasks one provider call takes. Pure; the claim asks."""

from __future__ import annotations


def fair_share(claimable: int, workers: int, batch_size: int) -> int:
    """Tasks that one worker may claim, so that no worker takes what would keep its idle siblings busy.

    `claimable`: tasks of the kind that could be claimed now, bounded by the room in the limits.
    At least 1, at most `batch_size`.
    """
    return max(1, min(batch_size, -(-claimable // max(1, workers))))
