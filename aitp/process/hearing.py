"""Waiting for a signal, and no longer than some seconds: the sleep of the master, and of a live view."""

from __future__ import annotations

import signal
from collections.abc import Iterable

SOONEST_SECONDS = 0.001  # a timer that is set to nothing never fires


def hear(signals: Iterable[signal.Signals], seconds: float) -> signal.Signals | None:
    """The next of `signals`, all of which are blocked; None if none comes within `seconds`. Borrows SIGALRM's timer.

    It does not leave the time to sigtimedwait: where that is interrupted (by a stop and SIGCONT, signal(7)) and its
    time is up meanwhile, CPython (3.11) returns memory that nobody has written as the signal that was heard.
    """
    if seconds <= 0:
        told = signal.sigtimedwait(signals, 0)  # sleeps not, and is never interrupted
        return None if told is None else signal.Signals(told.si_signo)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGALRM,))
    try:
        signal.setitimer(signal.ITIMER_REAL, max(seconds, SOONEST_SECONDS))
        heard = signal.Signals(signal.sigwaitinfo((*signals, signal.SIGALRM)).si_signo)
    finally:
        # Also when another signal's handler raises: an alarm that came later would end the process.
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.sigtimedwait((signal.SIGALRM,), 0)  # it may have fired just before
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return None if heard is signal.SIGALRM else heard
