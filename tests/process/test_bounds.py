"""The bound on a whole call: it interrupts what blocks, and never anything outside the call."""

from __future__ import annotations

import math
import random
import select
import signal
import socket
import sys
import time
from types import FrameType
from typing import Any

import pytest

from aitp.errors import DeadlineExceeded, GraceOver
from aitp.process.bounds import BoundedCall
from tests.process.forks import in_child


def bounded(seconds: float, grace_ends: float = math.inf) -> BoundedCall:
    return BoundedCall(seconds, lambda: grace_ends, lambda: None)


def test_it_ends_a_read_from_a_peer_that_trickles() -> None:
    def reads_for_ever() -> float:
        ours, theirs = socket.socketpair()
        started = time.monotonic()

        def trickle() -> None:
            while True:
                theirs.send(b"x")  # each read is answered: a time-out of the socket would never end this
                ours.recv(1)
                select.select([], [], [], 0.01)

        with pytest.raises(DeadlineExceeded, match=r"longer than 0\.3 s"), bounded(0.3):
            trickle()
        return time.monotonic() - started

    assert 0.3 <= in_child(reads_for_ever) < 1


def test_it_ends_a_single_system_call() -> None:
    def blocks() -> float:
        ours, _theirs = socket.socketpair()
        started = time.monotonic()
        with pytest.raises(DeadlineExceeded), bounded(0.2):
            ours.recv(1)
        return time.monotonic() - started

    assert 0.2 <= in_child(blocks) < 1


def test_it_stays_itself_when_a_client_wraps_it_into_an_error_of_its_own() -> None:
    def wraps() -> None:
        ours, _theirs = socket.socketpair()

        def client() -> None:
            try:
                ours.recv(1)
            except Exception as error:
                raise ConnectionError("no answer") from error

        with pytest.raises(DeadlineExceeded), bounded(0.1):
            client()

    in_child(wraps)


def test_whoever_swallows_it_gets_it_again() -> None:
    def swallows() -> None:
        ours, _theirs = socket.socketpair()

        def go_on() -> None:
            try:
                ours.recv(1)
            except DeadlineExceeded:
                ours.recv(1)

        with pytest.raises(DeadlineExceeded), bounded(0.1):
            go_on()

    in_child(swallows)


def test_a_call_in_time_leaves_no_timer_behind() -> None:
    def is_quick() -> Any:
        with bounded(0.05):
            pass
        select.select([], [], [], 0.2)
        return signal.getitimer(signal.ITIMER_REAL)

    assert in_child(is_quick) == [0.0, 0.0]


def test_the_graces_end_comes_before_the_deadline() -> None:
    def blocks() -> None:
        ours, _theirs = socket.socketpair()
        with pytest.raises(GraceOver), bounded(60, grace_ends=time.monotonic() + 0.1):
            ours.recv(1)

    in_child(blocks)


def test_no_call_begins_when_the_grace_is_over() -> None:
    def begins() -> Any:
        with pytest.raises(GraceOver), bounded(60, grace_ends=time.monotonic()):
            raise AssertionError("begun")
        return signal.getitimer(signal.ITIMER_REAL)

    assert in_child(begins) == [0.0, 0.0]


def test_a_timer_set_anew_heeds_a_grace_that_was_not_known() -> None:
    def is_told_meanwhile() -> None:
        ends = math.inf
        call = BoundedCall(60, lambda: ends, lambda: None)

        def told(*_: object) -> None:
            nonlocal ends
            ends = time.monotonic() + 0.1
            call.rearm()

        signal.signal(signal.SIGVTALRM, told)
        signal.setitimer(signal.ITIMER_VIRTUAL, 0.05)
        with pytest.raises(GraceOver), call:
            busy_loop()

    def busy_loop() -> None:
        while True:
            pass

    in_child(is_told_meanwhile)


def test_an_alarm_at_the_first_step_out_of_the_call_is_no_longer_raised() -> None:
    frames = []

    def remember(frame: FrameType, event: str, argument: object) -> None:
        if event == "call" and frame.f_code is BoundedCall.__exit__.__code__:
            frames.append(frame)

    def leaves() -> None:
        sys.setprofile(remember)
        with bounded(60):
            pass
        sys.setprofile(None)
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGALRM])
        late = bounded(0.001)
        with late:
            select.select([], [], [], 0.01)
            late._alarm(signal.SIGALRM, frames[0])

    in_child(leaves)


def test_an_alarm_on_the_way_into_the_call_waits_until_it_has_begun() -> None:
    def enters() -> None:
        steps: list[str] = []

        def grace_ends() -> float:
            if call._deadline < math.inf and not steps:
                steps.append("alarm")
                call._alarm(signal.SIGALRM, sys._getframe())
            return math.inf

        def blocks() -> None:
            steps.append("begun")
            signal.sigtimedwait([], 10)

        call = BoundedCall(-1, grace_ends, lambda: None)
        with pytest.raises(DeadlineExceeded), call:
            blocks()
        assert steps == ["alarm", "begun"]

    in_child(enters)


def test_a_bound_that_comes_as_the_call_ends_never_strikes_outside() -> None:
    def many_close_ones() -> list[int]:
        ended, struck = 0, 0
        give_up = time.monotonic() + 30
        while min(ended, struck) <= 50 and time.monotonic() < give_up:
            try:
                with bounded(random.choice([0.00001, 0.0005])):
                    stop = time.monotonic() + 0.0005 + random.uniform(-0.0001, 0.0001)
                    while time.monotonic() < stop:
                        pass
                ended += 1
            except DeadlineExceeded:
                struck += 1
            assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)
        return [ended, struck]

    ended, struck = in_child(many_close_ones)
    assert ended > 50
    assert struck > 50
