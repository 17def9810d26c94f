"""What an operator's commands do: tasks, limits, dead letters, pause and poll, models, the ledger file; and how all
commands print: JSON for programs, tables for people, on any terminal or none.

Ids, reasons and names come from elsewhere. Whatever is in them, it is shown and never obeyed: control characters are
escaped, markup is text. On a terminal tables keep to its width; in a pipe or file no cell is ever cut. What a command
cannot do it says by click's exception or LedgerError.
"""

from __future__ import annotations

import dataclasses
import json
import signal
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

import click
from rich.bar import Bar
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from aitp.errors import AitpError, LedgerError, printable
from aitp.ledger.stats import DeadLetter, HeldTask, Snapshot, held_tasks, snapshot
from aitp.policy.costs import amount
from aitp.process.scoreboard import signal_master
from aitp.providers import uses_models
from aitp.providers.inventory import ModelState, Stage, read_inventory
from aitp.web.health import duration, of_master, read_facts

if TYPE_CHECKING:
    from aitp.ledger.ledger import Ledger
    from aitp.settings import Settings

BAR_SIGNS = 20
ALMOST_USED_UP = 0.9
WIDE = 1_000  # columns, where there is no terminal to tell
Cell = RenderableType | int | None  # of a table: a number with separators, nothing


def screen() -> Console:
    """Where people read."""
    console = Console(highlight=False, emoji=False, markup=False)
    if not console.is_terminal:
        console.width = WIDE
    return console


def show(*parts: RenderableType) -> None:
    """One below the other, a text as it stands. In a pipe or file no line ends in the spaces that fill a table."""
    console = screen()
    with nullcontext() if console.is_terminal else console.capture() as captured:
        for part in parts:
            console.print(part, soft_wrap=isinstance(part, str))
    for line in captured.get().splitlines() if captured else ():
        print(line.rstrip())


class Told:
    """What a command tells: a document for programs, or parts for people, one below the other; and its exit code."""

    def __init__(self, document: object, *parts: RenderableType, code: int = 0) -> None:
        self.document, self.parts, self.code = document, parts, code

    def print(self, *, as_json: bool) -> int:
        """To whoever reads it; the exit code."""
        if as_json:
            print(json.dumps(self.document, indent=2))
        else:
            show(*self.parts)
        return self.code


def table(
    head: Sequence[str], rows: Iterable[Sequence[Cell]], *, right: Sequence[str] = (), cut: Sequence[str] = ()
) -> Table:
    """A table without lines; None is an empty cell. Columns named in `right` hold numbers, never folded; those in `cut`
    lose their ends if there is no room, all others keep their words whole.
    """
    made = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for name in head:
        made.add_column(
            name,
            justify="right" if name in right else "left",
            no_wrap=name in (*cut, *right),
            overflow="ellipsis" if name in cut else "fold",
        )
    for row in rows:
        texts = (f"{cell:,}" if isinstance(cell, int) else cell or "" for cell in row)
        made.add_row(*(Text(printable(cell)) if isinstance(cell, str) else cell for cell in texts))
    return made


def grid(rows: Iterable[Sequence[Text]]) -> Table:
    """A table without a head, whose last column alone is folded."""
    made = Table.grid(padding=(0, 2, 0, 0))
    for row in rows:
        for _ in row[len(made.columns) :]:
            made.add_column(no_wrap=True)
        made.add_row(*row)
    made.columns[-1].no_wrap, made.columns[-1].overflow = False, "fold"
    return made


def moment(instant: float | None) -> str:
    """A point in time, in this machine's time zone, which is named."""
    return "" if instant is None else time.strftime("%Y-%m-%d %H:%M:%S %Z", time.localtime(instant))


def limits_table(ledger: Snapshot) -> RenderableType:
    """The limits in force: what is used of each, as figures and as a bar."""
    rows = [
        (period, use.current, use.limit, use.remaining, usage_bar(use.current, use.limit), moment(use.frees_at))
        for period, use in ledger.limits.items()
    ]
    figures = ("USED", "ALLOWED", "LEFT")
    return table((f"LIMIT ({ledger.strategy})", *figures, "", "ROOM AT"), rows, right=figures)


def budgets_table(ledger: Snapshot) -> RenderableType:
    """What was spent in the current calendar windows, and what their budgets leave."""
    rows = []
    for period, use in ledger.budgets.items():
        left: tuple[Cell, ...] = (None, None, None)
        if use.allowed_nano is not None and use.remaining_nano is not None:
            bar = usage_bar(use.spent_nano + use.reserved_nano, use.allowed_nano)
            left = (amount(use.allowed_nano), amount(use.remaining_nano), bar)
        rows.append((period, amount(use.spent_nano), amount(use.reserved_nano), *left, moment(use.frees_at)))
    currency = next(iter(ledger.budgets.values())).currency
    figures = ("SPENT", "RESERVED", "BUDGET", "LEFT")
    return table((f"SPENDING ({currency})", *figures, "", "ROOM AT"), rows, right=figures)


def usage_bar(current: int, limit: int) -> Bar:
    """How much of a limit is used."""
    used = current / limit
    return Bar(
        1, 0, used, width=BAR_SIGNS, color="red" if used >= 1 else "yellow" if used >= ALMOST_USED_UP else "green"
    )


def hosts_table(ledger: Snapshot) -> RenderableType:
    """A line for each host of a fleet."""
    rows = [
        (
            each.name,
            Text("here", style="green") if each.is_here else Text("away", style="bold red"),
            "never" if each.seen_at is None else duration(ledger.taken_at - each.seen_at),
            each.workers,
            each.relays,
            each.version,
            each.page,
        )
        for each in ledger.hosts
    ]
    head = ("HOST", "STATE", "SEEN", "WORKERS", "RELAYS", "VERSION", "PAGE")
    return table(head, rows, right=("SEEN", "WORKERS", "RELAYS"))


# ── the commands ─────────────────────────────────────────────────────────────────────────────────────────────────────
ROOMY = 110  # columns, from which on there is room for models and reasons
SHOWN_SIGNS = 300
COMPLETED_AT_MOST, COMPLETED_OF = 50, 10_000


def _open_ledger(settings: Settings) -> closing[Ledger]:
    """The ledger, to change something in it. Raises LedgerError if there is none, or one of another version."""
    from aitp.ledger.ledger import Ledger
    from aitp.ledger.queue import LedgerConfig

    snapshot(settings.ledger)  # says so clearly, and makes none
    return closing(Ledger.open(settings.ledger, LedgerConfig.of(settings)))


def _wake(settings: Settings) -> bool:
    """Have a running service look at once, and poll; False if there is none that this user may signal."""
    return signal_master(settings.runtime_dir / "scoreboard", signal.SIGUSR1)


# Look at it


def list_tasks(settings: Settings, states: Sequence[str], types: Sequence[str], limit: int) -> Told:
    """The oldest of them, as a table or as JSON."""
    found = held_tasks(settings.ledger, states, types, limit)
    head = ["TASK", "STATE", "TRIES", "AGE", "DUE", "TYPE"]
    rows = [_row(task, found.now) for task in found.tasks]
    if screen().width >= ROOMY:
        head += ["MODEL", "REASON"]
        rows = [[*row, task.model, task.reason] for row, task in zip(rows, found.tasks, strict=True)]
    shown = len(found.tasks)
    more = " in all" if shown == found.total else f" of {found.total:,}: --limit shows more, --json is for programs"
    parts = (table(head, rows, right=("TRIES", "AGE", "DUE"), cut=("REASON",)), f"{shown:,}{more}")
    none = "No such task is held" if states or types else "No tasks are held"
    document = {"at": found.now, "total": found.total, "tasks": [task._asdict() for task in found.tasks]}
    return Told(document, *(parts if rows else (none,)))


def _row(task: HeldTask, now: float) -> list[str]:
    if task.due_at is not None:
        due = duration(task.due_at - now)
    else:
        due = f"slot {task.slot}" if task.slot is not None else "" if task.state == "dead" else "now"
    # What failed is counted; what is delivered, or was refused, came of one try more, if it was sent at all.
    attempts = task.attempts + (task.state in ("finished", "dead") and task.provider is not None)
    tries = f"{attempts}" if not task.crashes else f"{attempts}, {task.crashes} crashed"
    return [task.id, task.state, tries, duration(now - task.entered_at), due, task.type]


def show_limits(settings: Settings) -> Told:
    """The limits and budgets in force."""
    seen = snapshot(settings.ledger)
    limits, budgets = (
        {period: dataclasses.asdict(use) for period, use in uses.items()} for uses in (seen.limits, seen.budgets)
    )
    document = {"at": seen.taken_at, "strategy": seen.strategy, "limits": limits, "budgets": budgets}
    parts = [limits_table(seen) if seen.limits else "No limits are in force"]
    if seen.budgets:
        parts += ["", budgets_table(seen)]
    return Told(document, *parts)


def list_hosts(settings: Settings) -> Told:
    """Those of a fleet."""
    _refuse_file(settings)
    seen = snapshot(settings.ledger)
    document = {"at": seen.taken_at, "hosts": [dataclasses.asdict(each) for each in seen.hosts]}
    return Told(document, hosts_table(seen))


def forget_host(settings: Settings, name: str) -> Told:
    """One that is away."""
    _refuse_file(settings)
    with _open_ledger(settings) as ledger:
        released = ledger.forget_host(name)
    task_ids = [outcome.task.id for settled in released.values() for outcome in settled.outcomes]
    said = [f"Forgotten: {printable(name)}"]
    said += [f"{printable(each)}: anyone's again, it may be bought once more" for each in task_ids]
    return Told({"forgotten": name, "released": task_ids}, *said)


def _refuse_file(settings: Settings) -> None:
    if isinstance(settings.ledger, Path):
        raise click.ClickException("the ledger is a file of this host's alone: LEDGER_URL is what hosts share")


# Steer it


def pause(settings: Settings) -> Told:
    """Stop polling and claiming."""
    with _open_ledger(settings) as ledger:
        ledger.pause(True)
    return Told({"paused": True}, "Paused: calls in flight finish and are delivered")


def resume(settings: Settings) -> Told:
    """Go on; a running service is told at once."""
    with _open_ledger(settings) as ledger:
        ledger.pause(False)
    _wake(settings)
    return Told({"paused": False}, "Resumed")


def ask_for_poll(settings: Settings) -> Told:
    """Poll now."""
    if not _wake(settings):
        why = next(of_master(read_facts(settings)), None)
        said = f"{why.sentence}: {why.advice}" if why else "the running service is not this user's to ask"
        raise click.ClickException(printable(said))
    paused = snapshot(settings.ledger).paused
    said = "Asked, but it is paused: it polls after `aitp resume`" if paused else "Asked"
    return Told({"asked": True, "paused": paused}, said)


def list_dead_letters(settings: Settings) -> Told:
    """Dead letters without their results."""
    with _open_ledger(settings) as ledger:
        letters = ledger.dead.list()
    rows = [(each.id, each.type, each.status.value, moment(each.refused_at), each.refusal) for each in letters]
    shown = table(("TASK", "TYPE", "STATUS", "REFUSED AT", "REASON"), rows) if rows else "There are no dead letters"
    return Told([_document(letter) for letter in letters], shown)


def show_dead_letter(settings: Settings, task_id: str) -> Told:
    """One: with the beginning of its result, or as JSON with all of it."""
    with _open_ledger(settings) as ledger:
        letter = ledger.dead.show(task_id)
    if letter is None:
        raise click.ClickException(f"there is no dead letter of task {printable(task_id)}")
    result = None if letter.result is None else json.loads(letter.result)
    shown = {
        "Task": letter.id,
        "Type": letter.type,
        "Model": letter.model,
        "Status": letter.status.value,
        "Finished": moment(letter.finished_at),
        "Refused": moment(letter.refused_at),
        "Reason": letter.refusal,
        "Result": _beginning(result),
    }
    rows = [(Text(name, style="bold"), Text(printable(value))) for name, value in shown.items()]
    return Told(_document(letter) | {"result": result}, grid(rows))


def _document(letter: DeadLetter) -> dict[str, Any]:
    return {name: value for name, value in dataclasses.asdict(letter).items() if name != "result"}


def _beginning(result: object) -> str:
    text = json.dumps(result, ensure_ascii=False)
    return text if len(text) <= SHOWN_SIGNS else f"{text[:SHOWN_SIGNS]}… (--json prints all of it)"


def retry_dead_letters(settings: Settings, task_ids: Sequence[str], of_all: bool) -> Told:
    """Put them back into the outbox, and wake the relays; 1 if one was not there."""
    _refuse_both(task_ids, of_all)
    with _open_ledger(settings) as ledger:
        told = _each(ledger, task_ids, ledger.dead.retry, "retried", "will be delivered again")
    _wake(settings)
    return told


def drop_dead_letters(settings: Settings, task_ids: Sequence[str], of_all: bool, yes: bool) -> Told:
    """Throw them away, once a person says yes; 1 if one was not there."""
    _refuse_both(task_ids, of_all)
    if not (yes or _agreed("Their results are lost, and tasks that the task API still lists are bought anew. Go on?")):
        raise click.ClickException("nothing is dropped: you did not say yes; with --yes nobody is asked")
    with _open_ledger(settings) as ledger:
        told = _each(ledger, task_ids, ledger.dead.drop, "dropped", "dropped")
        ledger.flush()
        return told


def _refuse_both(task_ids: Sequence[str], of_all: bool) -> None:
    if bool(task_ids) == of_all:
        raise click.UsageError("Give ids of tasks, or --all")


def _agreed(question: str) -> bool:
    """Whether a person says yes. Nobody there to ask is a no."""
    try:
        return click.confirm(question, err=True)
    except click.Abort:
        click.echo(err=True)
        return False


def _each(ledger: Ledger, named: Sequence[str], act: Callable[[str], bool], done: str, words: str) -> Told:
    """With each that is named, or with all of them."""
    task_ids = named or [letter.id for letter in ledger.dead.list()]
    acted: list[str] = []
    missing: list[str] = []
    for task_id in dict.fromkeys(task_ids):  # one that is given twice is not missing the second time
        (acted if act(task_id) else missing).append(task_id)
    if missing:
        click.echo(f"aitp: no dead letter of: {', '.join(map(printable, missing))}", err=True)
    said = [f"{printable(task_id)}: {words}" for task_id in acted] if task_ids else ["There are no dead letters"]
    return Told({done: acted, "missing": missing}, *said, code=1 if missing else 0)


def completed(what: str, begun: str) -> list[str]:
    """For the shell: some ids of dead letters, or names of hosts that are away, none where there is anything wrong."""
    from aitp.settings import load_settings

    try:
        ledger = load_settings().ledger
        if what == "hosts":
            found = [host.name for host in snapshot(ledger).hosts if not host.is_here]
        else:
            found = [task.id for task in held_tasks(ledger, ["dead"], (), COMPLETED_OF).tasks]
    except AitpError:
        return []
    return [name for name in found if name.startswith(begun)][:COMPLETED_AT_MOST]


def pull_models(settings: Settings, as_json: bool) -> int:
    """Pull what Ollama lacks, with a progress bar for people; 0 if all is there."""
    from aitp.logs import configure
    from aitp.process.models import look_after_models

    if not uses_models(settings):
        raise click.ClickException("Ollama is not used: see PROCESSING_MODE, SUPPORTED_MODELS and OPENAI_API_KEY")
    configure("CRITICAL", settings.log_format)  # what it would say is shown here
    settings.runtime_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    with _progress_bars(hidden=as_json) as told:
        all_there = look_after_models(settings, anew=True, told=told)
    if all_there is None:
        raise click.ClickException("the service is pulling models already: /ready and its log tell how far it is")
    stock = read_inventory(settings.runtime_dir)
    states, problem = (dict(stock.models), stock.problem) if stock else ({}, "")
    if problem and not as_json:
        raise click.ClickException(printable(problem))
    document = {name: state._asdict() for name, state in states.items()}
    rows = [(name, state.stage.value, state.reason) for name, state in states.items()]
    shown = table(("MODEL", "STATE", "REASON"), rows)
    Told({"models": document, "problem": problem}, shown).print(as_json=as_json)
    return 0 if all_there else 1


@contextmanager
def _progress_bars(*, hidden: bool) -> Iterator[Callable[[str, ModelState], None]]:
    """One bar a model that is being pulled."""
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    columns = (BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(TextColumn("{task.description}", markup=False), *columns, disable=hidden) as progress:
        bars: dict[str, Any] = {}

        def told(name: str, state: ModelState) -> None:
            if state.stage is Stage.PULLING and name not in bars:
                bars[name] = progress.add_task(printable(name), total=None)
            if name in bars:
                progress.update(bars[name], completed=state.completed, total=state.total or None)

        yield told


# Keep it


def _file_of(settings: Settings) -> Path:
    """The ledger's file. Raises LedgerError where it is a database, which has programs of its own."""
    if isinstance(ledger := settings.ledger, Path):
        return ledger
    said = "what keeps it is PostgreSQL's own: pg_dump, pg_basebackup, its log for a point in time, pg_amcheck"
    raise LedgerError(f"the ledger {ledger} is no file of this host's; {said}")


def check_ledger(settings: Settings, quick: bool) -> Told:
    """Say what is wrong with it; 0 if nothing is, else 1."""
    from aitp.ledger.maintenance import check

    place = settings.ledger
    found = check(place, quick=quick)
    if found.sound:
        said = f"{place} is sound: version {found.version}, {found.bytes:,} bytes{_counts('; ', found.rows)}"
    else:
        listed = "".join(f"  {problem}\n" for problem in found.problems)
        advice = "Stop the service, then `aitp ledger recover` sets it aside and saves what can be read."
        if not isinstance(place, Path):
            advice = "Stop the service on every host, and restore it by PostgreSQL's own means."
        said = f"{place} is damaged:\n{listed}{advice}"
    document = {"ok": found.sound, "path": str(place), **dataclasses.asdict(found)}
    return Told(document, said, code=0 if found.sound else 1)


def back_up_ledger(settings: Settings, file: str, force: bool) -> Told:
    """Write it to `file`."""
    from aitp.ledger.maintenance import back_up

    path = _file_of(settings)
    found = back_up(path, Path(file), overwrite=force)
    said = f"Backed up to {file}, {found.bytes:,} bytes{_counts(': ', found.rows)}"
    document = {"path": str(path), "backup": str(file), "bytes": found.bytes, "rows": found.rows}
    return Told(document, said)


def recover_ledger(settings: Settings) -> Told:
    """Put a new ledger in the place of a damaged one, and say what was saved and lost."""
    from aitp.ledger.maintenance import Allowance, recover

    path = _file_of(settings)
    currency = settings.prices.currency if settings.prices is not None else ""
    zone = ZoneInfo(settings.rate_limit_timezone)
    outcome = recover(path, Allowance(currency, settings.budgets, zone, settings.rate_limits))
    said = [f"{path} is sound: there is nothing to recover"]
    if outcome.set_aside is not None:
        said = [
            f"The damaged ledger is now {outcome.set_aside} ({outcome.problems[0]})",
            f"saved: {_counts('', outcome.saved) or 'nothing'}",
            f"lost: {_counts('', outcome.lost) or 'nothing that is known of'}",
            "What is lost counts as used up; its tasks are run, and bought, again if the task API lists them",
        ]
    set_aside = outcome.set_aside and str(outcome.set_aside)
    document = {"path": str(path), **dataclasses.asdict(outcome), "set_aside": set_aside}
    return Told(document, *said)


def move_ledger(settings: Settings, to: str) -> Told:
    """Copy it to the other place that the settings name, and say what to do next."""
    file, fleet = settings.rate_limit_storage_path, settings.ledger
    if isinstance(fleet, Path):
        raise click.ClickException(
            "LEDGER_URL is not set: it says where a fleet's ledger is, before the move and after"
        )
    from aitp.ledger.move import move

    source, target = (file, fleet) if to == "fleet" else (fleet, file)
    moved = move(source, target)
    then = "Start the service with LEDGER_URL on every host, and never again on the file: it stays as a backup"
    if to == "file":
        then = "Take LEDGER_URL out of the settings, and start the service on this host alone"
    said = f"Moved {source} to {target}, and compared them{_counts(': ', moved)}\n{then}"
    return Told({"from": str(source), "to": str(target), "rows": moved}, said)


def _counts(before: str, rows: Mapping[str, int]) -> str:
    counted = ", ".join(f"{count:,} {name.replace('_', ' ')}" for name, count in rows.items() if count)
    return before + counted if counted else ""
