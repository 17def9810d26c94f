"""What is known about the running service at one moment: scoreboard, ledger and token, read and closed again.

Whatever is missing or garbled is a fact too, in words, and never an exception: the endpoints and the page are
looked at most when something is wrong. Called once a request by `aitp.web.app`.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from aitp.errors import LedgerError
from aitp.ledger.locks import master_of
from aitp.ledger.stats import History, Snapshot, read_history, snapshot
from aitp.process.scoreboard import MASTER, Record, Role, glance, is_hidden, master_ticks, role_of
from aitp.providers.inventory import Inventory, Retirement, read_inventory, uses_models, uses_openai
from aitp.settings import Settings

# Beside LedgerError: what rows that nobody of ours has written make the reading code raise.
_GARBLED = (ValueError, TypeError, LookupError, ArithmeticError)


@dataclass(frozen=True, slots=True)
class Facts:
    """One moment: `now` in UTC seconds, `monotonic` as deadlines have it. `ledger` is None exactly if `ledger_problem`
    says why; `stock`: of Ollama; `retirements`: of OpenAI's models that are asked for. `hidden`: this user may not look
    at the scoreboard, and cannot tell whether it runs. `ledger_holder`: the pid of the ledger's master, whosever that
    is, if no master of ours makes its rounds.
    """

    now: float
    master: Record | None
    master_ticks: bool
    children: tuple[Record, ...]
    overrun: tuple[Record, ...]
    ledger: Snapshot | None
    ledger_problem: str
    has_token: bool
    stock: Inventory | None = None
    retirements: Sequence[Retirement] = ()
    monotonic: float = 0.0
    hidden: bool = False
    ledger_holder: int | None = None


def read_facts(settings: Settings) -> Facts:
    """Look now. Never raises for the state of the service or of its files."""
    monotonic = time.monotonic()
    records = glance(settings.runtime_dir / "scoreboard")
    children = tuple(record for record in records if _is_child(record.slot))
    ledger, problem = _read_ledger(settings)
    ticks = master_ticks(records, monotonic)
    stock = read_inventory(settings.runtime_dir)
    return Facts(
        now=time.time(),
        master=next((record for record in records if record.slot == MASTER), None),
        master_ticks=ticks,
        children=children,
        overrun=tuple(record for record in children if record.overdue(monotonic)),
        ledger=ledger,
        ledger_problem=problem,
        has_token=_has_token(settings),
        stock=stock if uses_models(settings) else None,
        retirements=stock.retirements if stock is not None and uses_openai(settings) else (),
        monotonic=monotonic,
        ledger_holder=None if ticks else master_of(settings.ledger_path),
        hidden=is_hidden(settings.runtime_dir / "scoreboard"),
    )


def read_past(settings: Settings) -> History:
    """What was lately; nothing if the ledger cannot be read, which `read_facts` says."""
    try:
        return read_history(settings.ledger_path)
    except (LedgerError, *_GARBLED):
        return History()


def _read_ledger(settings: Settings) -> tuple[Snapshot | None, str]:
    try:
        return snapshot(settings.ledger_path, recovery=settings.circuit_breaker_recovery_seconds), ""
    except LedgerError as error:
        return None, str(error)
    except _GARBLED as error:
        return None, f"the ledger {settings.ledger_path} cannot be understood: {error!r}"


def _is_child(slot: int) -> bool:
    try:
        return role_of(slot) in Role
    except ValueError:
        return False  # the master's, or a number between the roles that only a garbled scoreboard has in use


def _has_token(settings: Settings) -> bool:
    try:
        return (settings.runtime_dir / "token").stat().st_size > 0
    except OSError:
        return False
