"""`aitp pause`, `resume` and `poll`."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import click

from aitp.commands.printing import print_json
from aitp.commands.service import open_ledger, scoreboard_of
from aitp.ledger.stats import snapshot
from aitp.process.scoreboard import signal_master

if TYPE_CHECKING:
    from aitp.settings import Settings


def pause(settings: Settings, *, paused: bool, as_json: bool) -> None:
    """Stop polling and claiming, or go on; a running service is told at once."""
    with open_ledger(settings) as ledger:
        ledger.pause(paused)
    if not paused:
        signal_master(scoreboard_of(settings), signal.SIGUSR1)
    if as_json:
        print_json({"paused": paused})
    else:
        print("Paused: calls in flight finish and are delivered" if paused else "Resumed")


def ask_for_poll(settings: Settings, *, as_json: bool) -> None:
    """Poll now."""
    if not signal_master(scoreboard_of(settings), signal.SIGUSR1):
        raise click.ClickException("the service is not running, or belongs to another user: see `aitp status`")
    paused = snapshot(settings.ledger_path).paused
    if as_json:
        print_json({"asked": True, "paused": paused})
    else:
        print("Asked, but it is paused: it polls after `aitp resume`" if paused else "Asked")
