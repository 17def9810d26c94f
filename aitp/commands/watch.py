"""`aitp status`: what the service is doing now, and what keeps it from its work; with `--watch` until Ctrl-C.

What is wrong is the same list as /ready's, over the same facts (`aitp.web.health`). On a terminal the live view has the
alternate screen, which is given back whatever ends it. Between two looks the process sleeps in one wait for its
signals: a new size is drawn at once, Ctrl-Z gives the screen back while it is stopped. In a pipe or a file, and on a
terminal that cannot move its cursor, it prints one plain snapshot after the other.
"""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import sys
import time
from collections import deque
from collections.abc import Iterator
from contextlib import nullcontext
from functools import cache
from typing import TYPE_CHECKING, Any

from rich.console import Group, RenderableType
from rich.filesize import decimal
from rich.text import Text

from aitp import __version__, release, revision
from aitp.commands.console import budgets_table, hosts_table, limits_table, moment, screen, show, table
from aitp.errors import printable
from aitp.ledger.stats import Snapshot
from aitp.process.scoreboard import MASTER, Record, Role, role_of
from aitp.sources import published, runtime_dir
from aitp.web import health
from aitp.web.health import Facts, Phase, duration

if TYPE_CHECKING:
    from aitp.settings import Settings

MOST_PROCESSES = 30  # of a table that is not bounded by a terminal's height
# Problems, by their codes.
ROOM = ("limit", "budget")
OF_ITS_PROCESSES = ("token", "poll", "models", "model", "starting", "processes")


def show_status(watch: bool, interval: float, as_json: bool) -> int:
    """One look; 0 if the master is there and does its rounds, else 1. Or, to `watch`, one after the other."""
    if watch:
        return watch_status(interval, as_json)
    settings = _in_force()
    facts = health.read_facts(settings)
    if as_json:
        print(json.dumps(document(facts, settings), indent=2))
    else:
        show(picture(facts, settings))
    return 0 if facts.master_ticks else 1


def _in_force() -> health.Configuration:
    """As the service has it, if one runs that says so; else as every other command has it."""
    if (found := published(runtime_dir())) is None:
        from aitp.settings import in_force

        return in_force(_own_settings())
    return found


@cache
def _own_settings() -> Settings:
    from aitp.settings import load_settings, prepare_environment

    prepare_environment()
    return load_settings()


def document(facts: Facts, settings: health.Configuration) -> dict[str, Any]:
    """One look, for programs: docs/status.schema.json tells what each means."""
    return {
        "at": facts.now,
        "phase": facts.phase,
        "running": None if facts.phase is Phase.HIDDEN else facts.master_ticks,
        "version": __version__,
        "revision": revision(),
        "mode": settings.processing_mode,
        "mock": bool(settings.mocks),
        "problems": [dataclasses.asdict(problem) for problem in health.problems(facts, settings)],
        "processes": [_process(record, facts) for record in (facts.master, *facts.children) if record is not None],
        "ledger": facts.ledger and dataclasses.asdict(facts.ledger),
        "problem": facts.ledger_problem or None,
    }


def _process(record: Record, facts: Facts) -> dict[str, Any]:
    role = "master" if record.slot == MASTER else role_of(record.slot).value
    deadline = facts.now + record.deadline - facts.monotonic if record.deadline else None
    return {**dataclasses.asdict(record), "role": role, "state": record.state.name.lower(), "deadline": deadline}


def picture(
    facts: Facts, settings: health.Configuration, *, pace: float | None = None, lines: int | None = None
) -> Group:
    """One look, for people. `pace`: tasks a second, if it was measured; `lines`: how many there is room for."""
    parts: list[RenderableType] = [_headline(facts, settings, pace)]
    if settings.mocks:
        parts.append(Text("MOCK MODE: results are invented", style="bold yellow"))
    ledger = facts.ledger
    idle = ledger is None or not (ledger.ready or ledger.waiting)
    # Room that no task waits for; and what is no wonder where nothing runs.
    untold = (*(ROOM if idle else ()), *(() if facts.master_ticks else OF_ITS_PROCESSES))
    for problem in health.problems(facts, settings):
        if problem.code not in untold:
            parts.append(Text(f"! {printable(problem.sentence)}", style="yellow"))
    below = [] if ledger is None else list(_of_ledger(ledger))
    if facts.children:
        # What is below comes first: a queue is told in one line, a thousand workers are not.
        height = sum(getattr(part, "row_count", 0) + 1 for part in below)
        room = MOST_PROCESSES if lines is None else max(3, lines - len(parts) - 3 - height)
        parts += [Text(), _processes(facts, room)]
    return Group(*parts, *below)


_HEADLINES = {phase: phase.upper() for phase in Phase} | {Phase.DOWN: "NOT RUNNING"}
_COLOURS = {Phase.RUNNING: "green", Phase.STARTING: "yellow", Phase.DRAINING: "yellow"}


def _headline(facts: Facts, settings: health.Configuration, pace: float | None) -> Text:
    is_paused = facts.ledger is not None and facts.ledger.paused
    return Text.assemble(
        (_HEADLINES[facts.phase], f"bold {_COLOURS.get(facts.phase, 'red')}"),
        "" if facts.master is None else f" for {duration(facts.now - facts.master.started)}",
        (", PAUSED" if is_paused else "", "bold yellow"),
        " (`aitp resume` goes on)" if is_paused else "",
        (f"   mode {settings.processing_mode}   aitp {release()}", "dim"),
        "" if pace is None else f"   {pace:.1f} tasks/s",
    )


def _processes(facts: Facts, room: int) -> RenderableType:
    """One line each for up to `room` processes, the busy ones first; a sum for those left over."""
    crowded = len(facts.children) > room
    shown, rest = health.at_work(facts.children, facts.overrun, room - 1 if crowded else room)
    rows = [
        (
            f"{role_of(record.slot)} {record.slot}",
            Text("overdue", style="bold red") if record in facts.overrun else record.state.name.lower(),
            duration(facts.now - record.since),
            record.task_id,
            record.done if role_of(record.slot) is Role.WORKER else None,  # relays do not count
        )
        for record in shown
    ]
    made = table(("PROCESS", "STATE", "SINCE", "TASK", "DONE"), rows, right=("SINCE", "DONE"))
    return Group(made, Text(f"and {rest}")) if rest else made


def _of_ledger(ledger: Snapshot) -> Iterator[RenderableType]:
    """Its tasks, and tables of what it has more of."""
    queue = (ledger.ready, ledger.waiting, ledger.claimed, ledger.finished, ledger.dead, ledger.unreadable)
    head = ("READY", "WAITING", "CLAIMED", "OUTBOX", "DEAD LETTERS", "UNREADABLE")
    ages = []
    if ledger.ready or ledger.waiting:
        ages.append(f"oldest task {duration(ledger.oldest_ready_age)}")
    if ledger.finished:
        ages.append(f"oldest result {duration(ledger.oldest_finished_age)}")
    polled = "never" if ledger.last_poll_at is None else f"{duration(ledger.taken_at - ledger.last_poll_at)} ago"
    told = ", ".join((*ages, f"last poll {polled}", f"{decimal(ledger.disk_free)} free"))
    yield from (Text(), table(head, [queue], right=head), Text(told, style="dim"))
    tables = ((ledger.hosts, hosts_table), (ledger.limits, limits_table), (ledger.budgets, budgets_table))
    for there, drawn in tables:
        if there:
            yield from (Text(), drawn(ledger))


# ── again and again ──────────────────────────────────────────────────────────────────────────────────────────────────
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


def watch_status(interval: float, as_json: bool) -> int:
    """Until Ctrl-C, TERM, or nobody reads on; always 0."""
    from rich.live import Live

    from aitp.process.child import wait_for_signal

    console, pace = screen(), Pace()
    on_screen = console.is_terminal and not console.is_dumb_terminal and not as_json
    live = Live(console=console, screen=True, auto_refresh=False, vertical_overflow="crop") if on_screen else None
    heard = ENDS | OF_THE_SCREEN if on_screen else ENDS
    # Blocked, and waited for: no look is ever cut in two by a signal.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, heard)
    try:
        with live or nullcontext():
            while True:
                settings = _in_force()
                facts = health.read_facts(settings)
                measured = pace.after(time.monotonic(), {child.slot: child.done for child in facts.children})
                if as_json:
                    print(json.dumps(document(facts, settings)))
                elif live:
                    hint = Text(f"\n{moment(facts.now)}, every {interval:g} s. Ctrl-C ends this", style="dim")
                    shown = picture(facts, settings, pace=measured, lines=console.height - 2)
                    live.update(Group(shown, hint), refresh=True)
                else:
                    show(Text(f"--- {moment(facts.now)}"), picture(facts, settings, pace=measured), Text())
                sys.stdout.flush()
                told = wait_for_signal(heard, interval)
                if live and told is signal.SIGTSTP:
                    live.stop()
                    signal.raise_signal(signal.SIGSTOP)
                    live.start(refresh=True)
                elif told in ENDS:
                    return 0
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC), 1)  # what is left in the buffer has nowhere to go
        return 0
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
