"""How a demo is told to stop: once, and in order.

What it starts is in sessions of its own, so that Ctrl-C and a closed terminal reach the demo alone. Each of the signals
that end a command must therefore be answered here, or the service would go on without anybody to stop it.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

EXIT_INTERRUPTED = 130
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)


@contextmanager
def told_to_stop_once() -> Iterator[None]:
    r"""Ctrl-C, TERM, a closed terminal and Ctrl-\ raise KeyboardInterrupt, the first of them only.

    One that nobody within answers ends the process with 130.
    """

    def interrupt(signum: int, frame: FrameType | None) -> None:
        hear_no_more()
        raise KeyboardInterrupt

    # Whoever starts it with nohup wants it to outlive the terminal.
    heard = [number for number in SIGNALS if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN]
    before = {number: signal.getsignal(number) for number in heard}
    try:
        for number in heard:
            signal.signal(number, interrupt)  # in here, as it may be answered at once
        yield
    except KeyboardInterrupt:
        raise SystemExit(EXIT_INTERRUPTED) from None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def hear_no_more() -> None:
    """From now on it is stopping: none of the signals changes that."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


@contextmanager
def undisturbed() -> Iterator[None]:
    """A signal that comes meanwhile is answered at the end: no process may be started and not be known."""
    came: list[int] = []
    before = {
        number: signal.signal(number, lambda signum, frame: came.append(signum))
        for number in SIGNALS
        if callable(signal.getsignal(number))
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for signum in came[:1]:
            signal.raise_signal(signum)
