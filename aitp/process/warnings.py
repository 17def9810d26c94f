"""What a worker says when it may not go on: a limit or a budget is used up, a price is missing. Once a window each.

The ledger tells whoever finds it first: over all workers there is one line and one count.
"""

from __future__ import annotations

import time

from aitp.counting import Metrics
from aitp.ledger import Idle
from aitp.logs import get_logger
from aitp.prices import amount

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
