"""What a process says when it may not go on: a limit or a budget is used up, a price is missing, the disk is full.

Of the first three, once a window each, the ledger tells the worker that finds it first: over all there is one line and
one count. Of a full disk, on which nothing is to be noted, each process speaks for itself.
"""

from __future__ import annotations

import time
from pathlib import Path

from aitp.ledger import DISK_RESERVE_BYTES, Idle, IdleReason
from aitp.logs import get_logger
from aitp.metrics import Metrics
from aitp.prices import amount

# A disk may be filled and emptied again and again around the bound: one pair of lines a minute tells that as well.
QUIET_SECONDS = 60.0

log = get_logger(__name__)


def warn_of_idleness(idle: Idle, metrics: Metrics) -> None:
    """Log and count what `idle` is to be warned about."""
    now = time.time()
    for limit in idle.exceeded:
        metrics.rate_limit_exceeded(limit.period)
        log.warning(
            "Rate limit exceeded, skipping task processing",
            period=limit.period,
            current=limit.current,
            limit=limit.limit,
            frees_in_seconds=None if limit.frees_at is None else round(max(0.0, limit.frees_at - now), 1),
        )
    for budget in idle.overspent:
        metrics.budget_exceeded(budget.period)
        log.warning(
            "Budget exceeded, skipping task processing",
            period=budget.period,
            currency=budget.currency,
            spent=amount(budget.spent_nano),
            reserved=amount(budget.reserved_nano),
            budget=amount(budget.allowed_nano),
            needed=amount(budget.needed_nano),
            frees_in_seconds=round(max(0.0, budget.frees_at - now), 1),
        )
    for model in idle.unpriced:
        log.error(
            "Model has no price, its tasks wait: a budget is in force",
            model=model,
            provider=idle.service,
            advice="give it a price in the file that PRICES names, and reload",
        )


class DiskWatch:
    """Says that `what` (task processing, polling) stops while the disk of `ledger` is nearly full, and that it goes on.

    Each once, however often the disk is looked at meanwhile.
    """

    def __init__(self, ledger: Path, what: str) -> None:
        self._ledger = ledger
        self._what = what
        self._stopped = False
        self._quiet_until = 0.0

    def heed(self, because: IdleReason | None, now: float) -> None:
        """`because`: what a claim or poll was refused for; None if it was not, or is not due. `now`: monotonic."""
        if because is IdleReason.PAUSED:
            return  # that comes first: nobody has looked at the disk
        if because is IdleReason.DISK:
            if not self._stopped and now >= self._quiet_until:
                self._stopped, self._quiet_until = True, now + QUIET_SECONDS
                log.warning(
                    "Ledger's disk is nearly full, new work waits",
                    stopped=self._what,
                    path=str(self._ledger),
                    needs_free_mb=DISK_RESERVE_BYTES // 2**20,
                )
        elif self._stopped:
            self._stopped = False
            log.info("Ledger's disk has room again", goes_on=self._what)
