"""Whose fault a failed delivery is, and when a result is given up. Pure; the outbox, the inbox and the relay ask.

A task API that is out fails every delivery; a result whose target is broken fails every time. The answers look alike.
Evidence tells them apart: a delivery that failed before, while the API did something else well since, is a suspect by
itself and says nothing of the API. And however many fail in a row, a poll has the last word before the breaker opens,
because a poll depends on no result. So no number of broken targets opens it, and an outage costs a few deliveries.
"""

from __future__ import annotations

CONFLICT = 409
CONFLICT_TRIES = 3


def is_refused_for_good(status: int, conflicts: int) -> bool:
    """Whether a result that the API itself answered with `status` is a dead letter, after so many conflicts before.

    A conflict may be a race of two results that make the same thing there: the other one is through by the next try.
    """
    return status != CONFLICT or conflicts + 1 >= CONFLICT_TRIES


def is_suspect(tries: int, witnessed: bool) -> bool:
    """Whether a failed delivery is presumed to be its result's fault.

    `tries`: failures before this one; `witnessed`: the API took another result or answered a poll since the first.
    """
    return tries > 0 and witnessed


def awaits_poll(failures: int, threshold: int) -> bool:
    """Whether one more failure in a row would open the breaker, so that a poll is to be made before any delivery.

    A threshold of 1 leaves nothing to wait for: whoever set it wants the breaker open at the first failure.
    """
    return 1 < threshold <= failures + 1
