"""`aitp dead`: what becomes of results that the task API refused for good."""

from __future__ import annotations

import dataclasses
import json
import signal
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import click

from aitp.commands.printing import facts, moment, print_json, show, table, visible
from aitp.commands.service import open_ledger, scoreboard_of
from aitp.errors import AitpError
from aitp.ledger.outbox import DeadLetter, dead_letter_ids
from aitp.process.scoreboard import signal_master

if TYPE_CHECKING:
    from aitp.settings import Settings

SHOWN_SIGNS = 300
COMPLETED_AT_MOST = 50


def list_dead_letters(settings: Settings, *, as_json: bool) -> None:
    """Dead letters without their results."""
    with open_ledger(settings) as ledger:
        letters = ledger.dead.list()
    if as_json:
        print_json([_document(letter) for letter in letters])
        return
    if not letters:
        print("There are no dead letters")
        return
    rows = [
        (letter.id, letter.type, letter.status.value, moment(letter.refused_at), letter.refusal) for letter in letters
    ]
    show(table(("TASK", "TYPE", "STATUS", "REFUSED AT", "REASON"), rows))


def show_dead_letter(settings: Settings, task_id: str, *, as_json: bool) -> None:
    """One: with the beginning of its result, or as JSON with all of it."""
    with open_ledger(settings) as ledger:
        letter = ledger.dead.show(task_id)
    if letter is None:
        raise click.ClickException(f"there is no dead letter of task {visible(task_id)}")
    result = None if letter.result is None else json.loads(letter.result)
    if as_json:
        print_json(_document(letter) | {"result": result})
        return
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
    show(facts(shown))


def retry_dead_letters(settings: Settings, task_ids: Sequence[str] | None, *, as_json: bool) -> int:
    """Put them (None: all) back into the outbox, and wake the relays; 1 if one was not there."""
    with open_ledger(settings) as ledger:
        chosen = task_ids if task_ids is not None else [letter.id for letter in ledger.dead.list()]
        code = _each(chosen, ledger.dead.retry, "retried", "will be delivered again", as_json=as_json)
    signal_master(scoreboard_of(settings), signal.SIGUSR1)
    return code


def drop_dead_letters(settings: Settings, task_ids: Sequence[str] | None, *, as_json: bool) -> int:
    """Throw them (None: all) away; 1 if one was not there."""
    with open_ledger(settings) as ledger:
        chosen = task_ids if task_ids is not None else [letter.id for letter in ledger.dead.list()]
        code = _each(chosen, ledger.dead.drop, "dropped", "dropped", as_json=as_json)
        ledger.flush()
        return code


def ids_beginning(incomplete: str) -> list[str]:
    """Some ids of dead letters that begin so, for the shell: none of them where there is anything wrong."""
    from aitp.settings import load_settings

    try:
        return dead_letter_ids(load_settings().ledger_path, incomplete, COMPLETED_AT_MOST)
    except AitpError:
        return []


def _document(letter: DeadLetter) -> dict[str, Any]:
    return {name: value for name, value in dataclasses.asdict(letter).items() if name != "result"}


def _beginning(result: object) -> str:
    """A vector of a thousand numbers tells nobody anything."""
    if isinstance(result, list) and result and all(isinstance(part, int | float) for part in result):
        return f"{len(result):,} numbers (--json prints them)"
    text = json.dumps(result, ensure_ascii=False)
    return text if len(text) <= SHOWN_SIGNS else f"{text[:SHOWN_SIGNS]}… (--json prints all of it)"


def _each(task_ids: Sequence[str], act: Callable[[str], bool], done: str, said: str, *, as_json: bool) -> int:
    acted: list[str] = []
    missing: list[str] = []
    for task_id in dict.fromkeys(task_ids):  # one that is given twice is not missing the second time
        (acted if act(task_id) else missing).append(task_id)
    if as_json:
        print_json({done: acted, "missing": missing})
    else:
        for task_id in acted:
            print(f"{visible(task_id)}: {said}")
        if not task_ids:
            print("There are no dead letters")
    if missing:
        print(f"aitp: no dead letter of: {', '.join(map(visible, missing))}", file=sys.stderr)
    return 1 if missing else 0
