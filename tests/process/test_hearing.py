"""Waiting for signals: one that comes is heard, time ends, and a stopped process hears nothing that nobody said."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

import pytest

from aitp.process.child import wait_for_signal
from aitp.settings import PROJECT_ROOT
from tests.waiting import wait_until

HEARD = {signal.SIGUSR1, signal.SIGUSR2}


@pytest.fixture(autouse=True)
def blocked() -> Iterator[None]:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, HEARD)
    yield
    signal.pthread_sigmask(signal.SIG_SETMASK, before)


@pytest.mark.parametrize("seconds", [0, 60])
def test_a_signal_that_came_before_is_heard_at_once(seconds: float) -> None:
    signal.raise_signal(signal.SIGUSR2)  # of this thread: pytest-xdist has others

    assert wait_for_signal(HEARD, seconds) is signal.SIGUSR2
    assert wait_for_signal(HEARD, 0) is None


@pytest.mark.parametrize("seconds", [-1.0, 0.0, 1e-9, 0.05])
def test_time_ends(seconds: float) -> None:
    began = time.monotonic()

    assert wait_for_signal(HEARD, seconds) is None
    assert time.monotonic() - began >= seconds
    assert signal.SIGALRM not in signal.pthread_sigmask(signal.SIG_BLOCK, ())


class Stop(Exception):
    """What a signal's handler raises."""


def test_a_handler_that_raises_leaves_no_alarm_behind() -> None:
    def stop(number: int, frame: FrameType | None) -> NoReturn:
        raise Stop

    before = signal.signal(signal.SIGWINCH, stop)
    try:
        threading.Timer(0.1, signal.pthread_kill, (threading.get_ident(), signal.SIGWINCH)).start()
        with pytest.raises(Stop):
            wait_for_signal(HEARD, 60)
        assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)
        assert signal.SIGALRM not in signal.pthread_sigmask(signal.SIG_BLOCK, ())
    finally:
        signal.signal(signal.SIGWINCH, before)


@contextmanager
def listener(seconds: float) -> Iterator[subprocess.Popen[str]]:
    """A process that hears, over and over, and prints what."""
    program = (
        "import signal; from aitp.process.child import wait_for_signal\n"
        "signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1, signal.SIGTERM})\n"
        f"while True: print(repr(wait_for_signal((signal.SIGUSR1, signal.SIGTERM), {seconds})), flush=True)"
    )
    environ = {**os.environ, "PYTHONPATH": str(PROJECT_ROOT)}
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, env=environ) as process:
        try:
            yield process
        finally:
            process.kill()


def test_who_was_stopped_until_time_was_up_hears_nothing_that_nobody_said() -> None:
    with listener(0.2) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "None\n"
        for _ in range(5):
            process.send_signal(signal.SIGSTOP)
            _until(time.monotonic() + 0.3)
            process.send_signal(signal.SIGCONT)
            assert process.stdout.readline() == "None\n"
        process.send_signal(signal.SIGUSR1)
        wait_until(lambda: process.stdout is not None and "SIGUSR1" in process.stdout.readline())


def _until(monotonic: float) -> None:
    wait_until(lambda: time.monotonic() > monotonic)
