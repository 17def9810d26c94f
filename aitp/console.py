"""What the commands print, and what they do to the ledger on an operator's behalf: one function a command of `cli`.

`--json` prints what programs read; otherwise tables for people. The service need not be running, unless it says so.
"""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

from aitp.errors import LedgerError
from aitp.ledger import Ledger, Rules
from aitp.ledger.views import Snapshot, snapshot
from aitp.logs import configure
from aitp.process.pulls import Look, look_after_models
from aitp.process.scoreboard import Record, glance, master_ticks
from aitp.process.slots import MASTER, role_of
from aitp.process.start import scoreboard_path
from aitp.providers.stock import ModelState, Stage, read_stock, uses_models

if TYPE_CHECKING:
    from rich.progress import TaskID

    from aitp.settings import Settings


@contextmanager
def _ledger(settings: Settings) -> Iterator[Ledger]:
    try:
        snapshot(settings.ledger_path)  # says clearly if there is none, or one of another version
        ledger = Ledger.open(settings.ledger_path, Rules.of(settings))
    except LedgerError as error:
        raise click.ClickException(str(error)) from error
    try:
        yield ledger
    except LedgerError as error:
        raise click.ClickException(str(error)) from error
    finally:
        ledger.close()


def show_status(settings: Settings, *, as_json: bool) -> int:
    """Processes, queue, limits, breakers; 0 if the master is there and does its rounds, else 1."""
    records = glance(scoreboard_path(settings.runtime_dir))
    running = master_ticks(records, time.monotonic()) and _alive(records)
    try:
        state: Snapshot | None = snapshot(settings.ledger_path, recovery=settings.circuit_breaker_recovery_seconds)
        problem = None
    except LedgerError as error:
        state, problem = None, str(error)
    if as_json:
        report = {
            "running": running,
            "mock": settings.mock,
            "processes": [dataclasses.asdict(record) | {"state": record.state.name.lower()} for record in records],
            "ledger": None if state is None else dataclasses.asdict(state),
            "problem": problem,
        }
        print(json.dumps(report, indent=2))
    else:
        print("running" if running else "NOT RUNNING")
        if settings.mock:
            print("MOCK MODE: results are invented")
        if running:
            _print_processes(records)
        print(problem) if state is None else _print_state(state)
    return 0 if running else 1


def _print_processes(records: Sequence[Record]) -> None:
    now = time.time()
    rows = [
        (
            "master" if record.slot == MASTER else f"{role_of(record.slot)} {record.slot}",
            record.state.name.lower(),
            f"{max(0.0, now - record.since):.0f} s",
            record.task_id,
            str(record.done) if record.slot != MASTER else "",
        )
        for record in records
    ]
    _table(("process", "state", "since", "task", "done"), rows)


def _print_state(state: Snapshot) -> None:
    if state.paused:
        print("PAUSED: `aitp resume` goes on")
    _table(
        ("ready", "waiting", "claimed", "outbox", "dead letters", "unreadable"),
        [tuple(map(str, (state.ready, state.waiting, state.claimed, state.finished, state.dead, state.unreadable)))],
    )
    limits = [
        (period, str(use.current), str(use.limit), str(use.remaining), _moment(use.frees_at))
        for period, use in state.limits.items()
    ]
    _table((f"limit ({state.strategy})", "used", "allowed", "left", "room at"), limits)
    breakers = [(name, view.state, str(view.failures), view.reason) for name, view in sorted(state.breakers.items())]
    _table(("breaker", "state", "failures", "reason"), breakers)
    for pause in state.cooldowns:
        print(
            f"cooldown: {pause.provider} {pause.model or '(all models)'} until {_moment(pause.until)}: {pause.reason}"
        )
    if state.last_poll_problem:
        print(f"last poll: {state.last_poll_problem}")


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    if not rows:
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(*head, box=None, pad_edge=False, header_style="bold")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    console = Console()
    console.print(table)
    console.print()


def _moment(instant: float | None) -> str:
    return "" if instant is None else time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(instant))


def list_dead_letters(settings: Settings, *, as_json: bool) -> None:
    """Dead letters without their results."""
    with _ledger(settings) as ledger:
        letters = ledger.dead.list()
    if as_json:
        print(json.dumps([_letter(letter) for letter in letters], indent=2))
        return
    rows = [
        (letter.id, letter.type, letter.status.value, _moment(letter.refused_at), letter.refusal) for letter in letters
    ]
    _table(("task", "type", "status", "refused at", "reason"), rows) if rows else print("There are no dead letters")


def show_dead_letter(settings: Settings, task_id: str) -> None:
    """One, with its result."""
    with _ledger(settings) as ledger:
        letter = ledger.dead.show(task_id)
    if letter is None:
        raise click.ClickException(f"there is no dead letter of task {task_id}")
    result = None if letter.result is None else json.loads(letter.result)
    print(json.dumps(_letter(letter) | {"result": result}, indent=2))


def retry_dead_letters(settings: Settings, task_ids: Sequence[str]) -> None:
    """Put them back into the outbox, and wake the relays."""
    with _ledger(settings) as ledger:
        _each(task_ids, ledger.dead.retry, "will be delivered again")
    _signal_master(settings, signal.SIGUSR1)


def drop_dead_letters(settings: Settings, task_ids: Sequence[str]) -> None:
    """Throw them away."""
    with _ledger(settings) as ledger:
        _each(task_ids, ledger.dead.drop, "dropped")


def pause(settings: Settings, *, paused: bool) -> None:
    """Stop polling and claiming, or go on."""
    with _ledger(settings) as ledger:
        ledger.pause(paused)
    if not paused:
        _signal_master(settings, signal.SIGUSR1)
    print("Paused: calls in flight finish and are delivered" if paused else "Resumed")


def ask_for_poll(settings: Settings) -> None:
    """Poll now."""
    if not _signal_master(settings, signal.SIGUSR1):
        raise click.ClickException("the service is not running")
    print("Asked")


def pull_models(settings: Settings, *, as_json: bool) -> int:
    """Pull what Ollama lacks, with a progress bar for people; 0 if all is there."""
    if not uses_models(settings):
        raise click.ClickException("Ollama is not used: see PROCESSING_MODE, SUPPORTED_MODELS and OPENAI_API_KEY")
    configure("CRITICAL", settings.log_format)  # what it would say is shown here
    settings.runtime_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    if as_json:
        look = look_after_models(settings, anew=True)
    else:
        with _progress_bars() as told:
            look = look_after_models(settings, anew=True, told=told)
    if look is Look.ELSEWHERE:
        raise click.ClickException("the service is pulling models already: /ready and its log tell how far it is")
    stock = read_stock(settings.runtime_dir)
    states = dict(stock.models) if stock else {}
    if as_json:
        report = {name: dataclasses.asdict(state) for name, state in states.items()}
        print(json.dumps({"models": report, "problem": stock.problem if stock else ""}, indent=2))
    elif stock and stock.problem:
        raise click.ClickException(stock.problem)
    else:
        rows = [(name, state.stage.value, state.reason) for name, state in states.items()]
        _table(("model", "state", "reason"), rows)
    return 0 if look is Look.ALL_THERE else 1


@contextmanager
def _progress_bars() -> Iterator[Callable[[str, ModelState], None]]:
    """One bar a model that is being pulled."""
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    columns = (BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(TextColumn("{task.description}", markup=False), *columns) as progress:
        bars: dict[str, TaskID] = {}

        def told(name: str, state: ModelState) -> None:
            if state.stage is Stage.PULLING and name not in bars:
                bars[name] = progress.add_task(name, total=None)
            if name in bars:
                progress.update(bars[name], completed=state.completed, total=state.total or None)

        yield told


def _letter(letter: object) -> dict[str, object]:
    facts = dataclasses.asdict(letter)  # type: ignore[call-overload]
    return {name: value for name, value in facts.items() if name != "result"}


def _each(task_ids: Sequence[str], act: Callable[[str], bool], said: str) -> None:
    missing = []
    for task_id in task_ids:
        if act(task_id):
            print(f"{task_id}: {said}")
        else:
            missing.append(task_id)
    if missing:
        print(f"no dead letter of: {', '.join(missing)}", file=sys.stderr)
        raise click.exceptions.Exit(1)


def _alive(records: Sequence[Record]) -> bool:
    return any(record.slot == MASTER and _signal(record.pid, 0) for record in records)


def _signal_master(settings: Settings, number: int) -> bool:
    """Signal the running master; False if there is none."""
    records = glance(scoreboard_path(settings.runtime_dir))
    if not master_ticks(records, time.monotonic()):
        return False
    return any(record.slot == MASTER and _signal(record.pid, number) for record in records)


def _signal(pid: int, number: int) -> bool:
    try:
        os.kill(pid, number)
    except (ProcessLookupError, PermissionError):
        return False
    return True
