"""`aitp status --watch`: the same picture again and again, until Ctrl-C.

On a terminal it has the alternate screen, which is given back whatever ends it. Between two looks the process sleeps in
one wait for its signals: a new size is drawn at once, Ctrl-Z gives the screen back while it is stopped. In a pipe or a
file, and on a terminal that cannot move its cursor, it prints one plain snapshot after the other.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections import deque
from typing import TYPE_CHECKING

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from aitp.commands.printing import moment, screen, show
from aitp.commands.status import document, picture
from aitp.process.master import wait_for_signal
from aitp.web.health import Facts, read_facts

if TYPE_CHECKING:
    from aitp.settings import Settings

ENDS = frozenset({signal.SIGINT, signal.SIGTERM, signal.SIGHUP})
OF_THE_SCREEN = frozenset({signal.SIGWINCH, signal.SIGTSTP})
PACE_LOOKS = 15


class Pace:
    """Tasks a second, by what the children say they have done, over the last few looks."""

    def __init__(self) -> None:
        self._looks: deque[tuple[float, int]] = deque(maxlen=PACE_LOOKS)

    def after(self, monotonic: float, done: dict[int, int]) -> float | None:
        """With one more look: `done` by slot. None before the second look."""
        total = sum(done.values())
        if self._looks and total < self._looks[-1][1]:
            self._looks.clear()  # the service was started anew, and counts from 0
        self._looks.append((monotonic, total))
        (first, before), (last, now) = self._looks[0], self._looks[-1]
        return (now - before) / (last - first) if last > first else None


def watch_status(settings: Settings, interval: float, *, as_json: bool) -> int:
    """Until Ctrl-C, TERM, or nobody reads on; always 0."""
    console = screen()
    # Blocked, and waited for: no look is ever cut in two by a signal.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ENDS)
    try:
        if as_json:
            _lines(settings, interval)
        elif console.is_terminal and not console.is_dumb_terminal:
            signal.pthread_sigmask(signal.SIG_BLOCK, OF_THE_SCREEN)
            _live(settings, interval, console)
        else:
            _snapshots(settings, interval)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC), 1)  # what is left in the buffer has nowhere to go
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return 0


def _live(settings: Settings, interval: float, console: Console) -> None:
    pace = Pace()
    with Live(console=console, screen=True, auto_refresh=False, vertical_overflow="crop") as live:
        while True:
            facts = read_facts(settings)
            shown = picture(facts, settings, pace=_pace(pace, facts), lines=console.height - 2)
            hint = Text(f"\n{moment(facts.now)}, every {interval:g} s. Ctrl-C ends this", style="dim")
            live.update(Group(shown, hint), refresh=True)
            match wait_for_signal(ENDS | OF_THE_SCREEN, interval):
                case signal.SIGTSTP:
                    live.stop()
                    os.kill(os.getpid(), signal.SIGSTOP)
                    live.start(refresh=True)
                case number if number in ENDS:
                    return


def _snapshots(settings: Settings, interval: float) -> None:
    pace = Pace()
    while True:
        facts = read_facts(settings)
        show(Text(f"--- {moment(facts.now)}"), picture(facts, settings, pace=_pace(pace, facts)), Text())
        sys.stdout.flush()
        if wait_for_signal(ENDS, interval):
            return


def _lines(settings: Settings, interval: float) -> None:
    while True:
        print(json.dumps(document(read_facts(settings), settings)), flush=True)
        if wait_for_signal(ENDS, interval):
            return


def _pace(pace: Pace, facts: Facts) -> float | None:
    return pace.after(time.monotonic(), {child.slot: child.done for child in facts.children})
