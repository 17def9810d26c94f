"""When a task that failed is tried again, and when it has been tried enough. Pure; the finish transaction asks."""

from __future__ import annotations

MAX_RETRY_DELAY_SECONDS = 3_600.0
SPREAD = (0.75, 1.25)


def retry_delay(attempt: int, factor: float, spread: float) -> float:
    """Seconds to wait after failed attempt number `attempt`, counting from 1: factor ** attempt × `spread`.

    An hour at most. `spread` is the caller's draw from uniform(0.75, 1.25), so that tasks which failed together don't
    return together.
    """
    try:
        delay = factor**attempt
    except OverflowError:
        delay = MAX_RETRY_DELAY_SECONDS
    # Cut before the spread is applied: cut afterwards, most of the longest delays would be the same hour.
    return min(delay, MAX_RETRY_DELAY_SECONDS / SPREAD[1]) * spread


def is_blamed(attempts: int, max_retries: int, first_failure: int, last_success: int) -> bool:
    """Whether a task that has failed `attempts` times is itself to blame, and is to be failed.

    It is once its retries are used up *and* its provider has succeeded for another task since this task's first
    failure. Both instants are ledger sequence numbers, which no clock step can turn round.
    """
    return attempts > max_retries and last_success > first_failure
