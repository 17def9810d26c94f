"""The bound on a whole call, from inside: a timer that raises in the middle of whatever blocks.

Time-outs of sockets bound each read, not the call; one byte a second would last for ever. The call ends with
`DeadlineExceeded` at its own deadline, or with `GraceOver` when a stop's grace ends first.

For the main thread of a child, one call at a time. Needs SIGALRM for itself.
"""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Self

from aitp.errors import AitpError, DeadlineExceeded, GraceOver

# It fires again until the call is over: an alarm can come just before a system call and interrupt nothing, and what it
# raises can be swallowed where exceptions have nowhere to go (`__del__`, callbacks from C).
AGAIN_SECONDS = 1.0
SOONEST_SECONDS = 0.0001  # 0 would switch the timer off


class BoundedCall:
    """`with BoundedCall(seconds, grace_ends, ended):` ends in time, and calls `ended` once its timer is off.

    `grace_ends` gives monotonic time, math.inf while nobody stops us; it is asked again whenever `rearm` is called.
    """

    def __init__(self, seconds: float, grace_ends: Callable[[], float], ended: Callable[[], None]) -> None:
        self._seconds = seconds
        self._deadline = math.inf
        self._grace_ends = grace_ends
        self._ended = ended
        self._over = False
        self._raised: AitpError | None = None

    def __enter__(self) -> Self:
        now = time.monotonic()
        if now >= self._grace_ends():
            raise GraceOver("the stop's grace is over: no call is begun")
        signal.signal(signal.SIGALRM, self._alarm)
        self._deadline = now + self._seconds
        self.rearm()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._over = True
        signal.setitimer(signal.ITIMER_REAL, 0)
        self._ended()
        # Clients wrap whatever is raised inside them into errors of their own.
        if self._raised is not None and error is not None and error is not self._raised:
            raise self._raised from None

    def rearm(self) -> None:
        """Set the timer anew, as the grace's end may have become known. Does nothing before the call and after it."""
        if self._over or self._deadline == math.inf:
            return
        left = min(self._deadline, self._grace_ends()) - time.monotonic()
        signal.setitimer(signal.ITIMER_REAL, max(left, SOONEST_SECONDS), AGAIN_SECONDS)

    def _alarm(self, signum: int, frame: FrameType | None) -> None:
        if self._over or _within(frame, BoundedCall.__exit__):
            return  # the call was over before its time was
        if _within(frame, BoundedCall.__enter__):
            # Raised there, it would leave the timer running behind it: __exit__ follows only what __enter__ returned.
            signal.setitimer(signal.ITIMER_REAL, SOONEST_SECONDS, AGAIN_SECONDS)
            return
        now = time.monotonic()
        if now >= self._grace_ends():
            self._raised = GraceOver("the stop's grace is over: the call was abandoned")
            raise self._raised
        if now >= self._deadline:
            self._raised = DeadlineExceeded(f"the call took longer than {self._seconds:g} s")
            raise self._raised
        self.rearm()


def _within(frame: FrameType | None, function: Callable[..., object]) -> bool:
    """Whether `function` runs now. All callers count: one alarm may come while another is answered."""
    while frame is not None and frame.f_code is not function.__code__:
        frame = frame.f_back
    return frame is not None
