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
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.live import Live
from rich.measure import Measurement
from rich.text import Text

from aitp import __version__
from aitp.commands.console import moment, print_json, screen, show, size, table, visible
from aitp.ledger.budgets import BudgetUse
from aitp.ledger.stats import Snapshot
from aitp.prices import amount
from aitp.process.master import wait_for_signal
from aitp.process.scoreboard import Role, State, living_master, role_of
from aitp.web.health import Facts, Problem, duration, problems, read_facts

if TYPE_CHECKING:
    from aitp.settings import Settings

BAR_SIGNS, FEWEST_BAR_SIGNS = 20, 4
MOST_PROCESSES = 30  # of a table that is not bounded by a terminal's height
ALMOST_USED_UP = 0.9
NOT_FOR_THIS_USER = "whether the service runs is not for this user to see"
AS_ITS_USER = "ask as the service's user, or by sudo"


def show_status(settings: Settings, *, as_json: bool) -> int:
    """One look; 0 if the master is there and does its rounds, else 1."""
    facts = read_facts(settings)
    if as_json:
        print_json(document(facts, settings))
    else:
        show(picture(facts, settings))
    return 0 if is_running(facts) else 1


def is_running(facts: Facts) -> bool:
    """Whether there is a living master that does its rounds."""
    return facts.master is not None and living_master([facts.master]) is not None


def document(facts: Facts, settings: Settings) -> dict[str, Any]:
    """One look, for programs."""
    running = is_running(facts)
    processes = [record for record in (facts.master, *facts.children) if record is not None]
    return {
        "at": facts.now,
        "running": None if facts.hidden and not running else running,
        "mock": settings.mock,
        "problems": [dataclasses.asdict(problem) for problem in problems(facts, settings)],
        "processes": [dataclasses.asdict(record) | {"state": record.state.name.lower()} for record in processes],
        "ledger": None if facts.ledger is None else dataclasses.asdict(facts.ledger),
        "problem": facts.ledger_problem or None,
    }


def picture(facts: Facts, settings: Settings, *, pace: float | None = None, lines: int | None = None) -> Group:
    """One look, for people. `pace`: tasks a second, if it was measured; `lines`: how many there is room for."""
    parts: list[RenderableType] = [_headline(facts, settings, pace)]
    running = is_running(facts)
    if settings.mock:
        parts.append(Text("MOCK MODE: results are invented", style="bold yellow"))
    if running:
        told = [problem for problem in problems(facts, settings) if not _is_missed_by_nobody(problem, facts)]
        parts += [Text(f"! {visible(problem.sentence)}", style="yellow") for problem in told]
    elif facts.hidden:
        parts.append(Text(visible(f"{NOT_FOR_THIS_USER} (RUNTIME_DIR={settings.runtime_dir}): {AS_ITS_USER}")))
    elif facts.ledger is None:
        parts.append(Text(visible(facts.ledger_problem)))
    below = [] if facts.ledger is None else list(_state(facts.ledger))
    if running:
        # What is below comes first: a queue is told in one line, a thousand workers are not.
        room = MOST_PROCESSES if lines is None else max(3, lines - len(parts) - 3 - _height(below))
        parts += [Text(), _processes(facts, room)]
    return Group(*parts, *below)


def _is_missed_by_nobody(problem: Problem, facts: Facts) -> bool:
    """Room that no task waits for."""
    waiting = facts.ledger is not None and bool(facts.ledger.ready or facts.ledger.waiting)
    return problem.code in ("limit", "budget") and not waiting


def _headline(facts: Facts, settings: Settings, pace: float | None) -> Text:
    line = Text()
    if is_running(facts) and facts.master is not None:
        state = "DRAINING" if facts.master.state is State.DRAINING else "RUNNING"
        line.append(state, style="bold green" if state == "RUNNING" else "bold yellow")
        line.append(f" for {duration(facts.now - facts.master.started)}")
    else:
        line.append("HIDDEN" if facts.hidden else "NOT RUNNING", style="bold red")
    if facts.ledger is not None and facts.ledger.paused:
        line.append(", PAUSED", style="bold yellow")
        line.append(" (`aitp resume` goes on)")
    line.append(f"   mode {settings.processing_mode}   aitp {__version__}", style="dim")
    if pace is not None:
        line.append(f"   {pace:.1f} tasks/s")
    return line


def _processes(facts: Facts, room: int) -> RenderableType:
    """One line each for up to `room` processes, the busy ones first; a sum for those left over."""
    shown = list(facts.children)
    left_over: Counter[str] = Counter()
    if len(shown) > room:
        # The order of slots says nothing to somebody who can't see all of them.
        shown.sort(key=lambda record: (record.state is State.IDLE, record.slot))
        left_over.update(record.state.name.lower() for record in shown[room - 1 :])
        del shown[room - 1 :]
    rows = [
        (
            f"{role_of(record.slot)} {record.slot}",
            Text("overdue", style="bold red") if record in facts.overrun else record.state.name.lower(),
            duration(facts.now - record.since),
            record.task_id,
            f"{record.done:,}" if role_of(record.slot) is Role.WORKER else "",  # relays do not count
        )
        for record in shown
    ]
    made = table(("PROCESS", "STATE", "SINCE", "TASK", "DONE"), rows, right=("SINCE", "DONE"))
    if not left_over:
        return made
    return Group(made, Text(f"and {', '.join(f'{count} {state}' for state, count in sorted(left_over.items()))}"))


def _state(ledger: Snapshot) -> Iterator[RenderableType]:
    """Everything that the ledger knows, each table with an empty line before it."""
    yield Text()
    queue = (ledger.ready, ledger.waiting, ledger.claimed, ledger.finished, ledger.dead, ledger.unreadable)
    head = ("READY", "WAITING", "CLAIMED", "OUTBOX", "DEAD LETTERS", "UNREADABLE")
    yield table(head, [[f"{count:,}" for count in queue]], right=head)
    yield Text(_ages(ledger), style="dim")
    if ledger.limits:
        yield Text()
        yield limits_table(ledger)
    if ledger.budgets:
        yield Text()
        yield budgets_table(ledger.budgets)
    yield Text()
    yield from _breakers(ledger)
    for pause in ledger.cooldowns:
        until, whose = moment(pause.until), f"{pause.provider} {pause.model or '(all models)'}"
        yield Text(visible(f"Cooldown: {whose} until {until}: {pause.reason}"), style="yellow")
    for each in ledger.quarantines:
        whose = f"{each.type} by {each.model} of {each.provider}"
        yield Text(visible(f"Tasks wait: {whose}, probed from {moment(each.until)}: {each.reason}"), style="yellow")
    for profile in ledger.profiles:
        left_out = ", ".join(profile.left_out)
        yield Text(visible(f"Left out of requests for {profile.model} of {profile.provider}: {left_out}"))
    for processor, until_ in sorted(ledger.paused_processors.items()):
        yield Text(visible(f"Processor paused: {processor} until {moment(until_)}, after several bugs in a row"))


def _ages(ledger: Snapshot) -> str:
    parts = []
    if ledger.ready or ledger.waiting:
        parts.append(f"oldest task {duration(ledger.oldest_ready_age)}")
    if ledger.finished:
        parts.append(f"oldest result {duration(ledger.oldest_finished_age)}")
    polled = "never" if ledger.last_poll_at is None else f"{duration(ledger.taken_at - ledger.last_poll_at)} ago"
    return ", ".join((*parts, f"last poll {polled}", f"{size(ledger.disk_free)} free"))


def limits_table(ledger: Snapshot) -> RenderableType:
    """The limits in force: what is used of each, as figures and as a bar."""
    rows = [
        (
            period,
            f"{use.current:,}",
            f"{use.limit:,}",
            f"{use.remaining:,}",
            UsageBar(use.current, use.limit),
            moment(use.frees_at),
        )
        for period, use in ledger.limits.items()
    ]
    figures = ("USED", "ALLOWED", "LEFT")
    return table((f"LIMIT ({ledger.strategy})", *figures, "", "ROOM AT"), rows, right=figures)


def budgets_table(budgets: Mapping[str, BudgetUse]) -> RenderableType:
    """What was spent in the current calendar windows, and what their budgets leave."""
    rows = [
        (
            period,
            amount(use.spent_nano),
            amount(use.reserved_nano),
            "" if use.allowed_nano is None else amount(use.allowed_nano),
            "" if use.remaining_nano is None else amount(use.remaining_nano),
            "" if use.allowed_nano is None else UsageBar(use.spent_nano + use.reserved_nano, use.allowed_nano),
            moment(use.frees_at),
        )
        for period, use in budgets.items()
    ]
    currency = next(iter(budgets.values())).currency
    figures = ("SPENT", "RESERVED", "BUDGET", "LEFT")
    return table((f"SPENDING ({currency})", *figures, "", "ROOM AT"), rows, right=figures)


@dataclasses.dataclass(frozen=True, slots=True)
class UsageBar:
    """How much of a limit is used; as long as there is room for, on a narrow terminal."""

    current: int
    limit: int
    longest: int = BAR_SIGNS

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        return Measurement(min(FEWEST_BAR_SIGNS, options.max_width), min(self.longest, options.max_width))

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        used = min(1.0, self.current / self.limit)
        length = min(self.longest, options.max_width)
        full = round(used * length)
        bar = Text("█" * full, style="red" if used >= 1 else "yellow" if used >= ALMOST_USED_UP else "green")
        yield bar.append("·" * (length - full), style="dim")


def _breakers(ledger: Snapshot) -> Iterator[RenderableType]:
    troubled = [(name, view) for name, view in sorted(ledger.breakers.items()) if view.state != "closed"]
    if not troubled:
        yield Text("Breakers: all closed", style="dim")
        return
    rows = [
        (name, Text(view.state, style="bold red"), f"{view.failures:,}", _time(view.probe_at), view.reason)
        for name, view in troubled
    ]
    yield table(("BREAKER", "STATE", "FAILURES", "PROBE AT", "REASON"), rows, right=("FAILURES",))


def _time(instant: float | None) -> str:
    return "" if instant is None else time.strftime("%H:%M:%S", time.localtime(instant))


def _height(parts: Sequence[RenderableType]) -> int:
    """Lines that `parts` take, where none of them is folded."""
    return sum(part.row_count + 1 if hasattr(part, "row_count") else 1 for part in parts)


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
