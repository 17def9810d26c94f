"""`aitp once`: poll, work and deliver in the foreground, until nothing is left. For cron and debugging.

A service like any other, with a worker and a relay, under a master that is this process's child; and this process looks
on, at the ledger alone, and stops it when there is nothing to do any more, or nothing that this run should wait for. So
whatever holds for a service holds for it. Beside a service on the same ledger it does nothing.
"""

from __future__ import annotations

import os
import signal
import time
from typing import TYPE_CHECKING

from aitp.errors import LedgerError
from aitp.ledger.engine import DISK_RESERVE_BYTES, lock_file
from aitp.ledger.stats import Snapshot, snapshot
from aitp.logs import configure, get_logger
from aitp.process.child import Timings, wait_for_signal
from aitp.process.master import run_master
from aitp.process.scoreboard import MASTER, glance, scoreboard_path
from aitp.process.service import roles
from aitp.process.start import open_locks, own_directory
from aitp.providers.inventory import read_inventory
from aitp.tasks import BreakerState, ExitCode, Service

if TYPE_CHECKING:
    from aitp.settings import Settings

# What takes longer (a limit of a day, a service that is down) is left to the next run.
PATIENCE_SECONDS = 90.0
LOOK_SECONDS, ASK_SECONDS = 0.2, 1.0
# Since anything was last seen to happen: one of them may have begun before that.
POLLS_THAT_BROUGHT_NOTHING = 2
HEARD = (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD)
ONE_OF_EACH = {"concurrency_limit": 1, "relay_processes": 1, "worker_max_tasks": 0}

log = get_logger(__name__)


def run_once(settings: Settings) -> int:
    """Do all there is to do; 0 if nothing is left, 1 if something waits for longer than this run does.

    Raises ConfigurationError, and LedgerError when a service runs on the same ledger.
    """
    configure(settings.log_level, settings.log_format)
    settings = settings.model_copy(update=ONE_OF_EACH)
    own_directory(settings.runtime_dir)
    with open_locks(lock_file(settings.ledger)) as locks:
        if locks.holder(MASTER) is not None:
            said = f"{settings.ledger} is in use: a service runs on this ledger, which does what `once` would do"
            raise LedgerError(said)
    roles_of_all = roles(settings)
    signal.pthread_sigmask(signal.SIG_BLOCK, HEARD)
    if (pid := os.fork()) == 0:
        # Should a service start just now, this one leaves at once.
        os._exit(run_master(settings, roles_of_all, Timings(takeover_seconds=-settings.shutdown_grace_seconds)))
    return _Run(settings, pid).watch()


class _Run:
    """`pid`: the master's."""

    def __init__(self, settings: Settings, pid: int) -> None:
        self._settings, self._pid = settings, pid
        self._told_to_stop = False
        self._done = 0
        self._exit_code: int | None = None

    def watch(self) -> int:
        seen, since, ask_at = None, time.monotonic(), 0.0
        polls = set[float | None]()
        complete = False
        while not (complete or self._told_to_stop or self._has_ended()):
            self._told_to_stop = wait_for_signal(HEARD, LOOK_SECONDS) in (signal.SIGTERM, signal.SIGINT)
            if (state := self._look()) is None:
                continue
            now = time.monotonic()
            last, seen = seen, (self._done, state.held, state.finished, self._pulled())
            if seen != last:
                since, polls = now, set()
            polls.add(state.last_poll_at)
            complete = state.held == 0 and len(polls) > POLLS_THAT_BROUGHT_NOTHING
            if now - since > PATIENCE_SECONDS or held_up(state) or _waits_for_room(state):
                break
            if state.held == 0 and now >= ask_at and not complete:
                ask_at = now + ASK_SECONDS
                os.kill(self._pid, signal.SIGUSR1)
        if not self._has_ended():
            os.kill(self._pid, signal.SIGTERM)
            self._has_ended(wait=True)
        return self._exit_code or self._report(complete)

    def _look(self) -> Snapshot | None:
        """How the ledger is; None if the master is not there yet."""
        records = glance(scoreboard_path(self._settings.runtime_dir))
        if not records or records[0].pid != self._pid:
            return None
        self._done = max(self._done, sum(record.done for record in records))
        try:
            return snapshot(self._settings.ledger)
        except LedgerError:  # it is being prepared
            return None

    def _pulled(self) -> int:
        """Bytes of models that are being pulled: who waits for one of them does not wait in vain."""
        inventory = read_inventory(self._settings.runtime_dir)
        return 0 if inventory is None else sum(model.completed for model in inventory.models.values())

    def _has_ended(self, *, wait: bool = False) -> bool:
        if self._exit_code is None:
            pid, status = os.waitpid(self._pid, 0 if wait else os.WNOHANG)
            if pid:
                code = os.waitstatus_to_exitcode(status)
                self._exit_code = code if code >= 0 else ExitCode.FAILED
        return self._exit_code is not None

    def _report(self, complete: bool) -> int:
        """Say how the run ended; its exit code. That nothing is left is known by the last polls only."""
        state = snapshot(self._settings.ledger)
        facts = {"done": self._done, "left": state.held, "dead_letters": state.dead}
        reason = "told to stop" if self._told_to_stop else held_up(state)
        if state.held or state.last_poll_problem:
            log.warning("Work is left for the next run", **facts, poll=state.last_poll_problem, reason=reason)
        elif not complete:
            log.warning("Work may be left for the next run, the task API was not polled", **facts, reason=reason)
        else:
            log.info("Nothing is left to do", **facts)
            return ExitCode.FINE
        return ExitCode.FAILED


def held_up(state: Snapshot) -> str | None:
    """What keeps this run from going on, and what to do. Whatever it is, there may be work at the task API."""
    if state.claimed or state.finished:
        return None
    if state.needs_upgrade:
        return "the ledger is of the next release already: upgrade this host"
    if state.paused:
        return "paused by an operator: `aitp resume` ends it"
    if state.disk_free < DISK_RESERVE_BYTES:
        return f"less than {DISK_RESERVE_BYTES // 10**6} MB are free on the ledger's disk: make room there"
    if not state.held and any(
        state.breakers[each].state != BreakerState.CLOSED for each in (Service.API, Service.OAUTH)
    ):
        return "the task API or its authorization server is out: `aitp status` says why"
    return None


def _waits_for_room(state: Snapshot) -> bool:
    """Whether a limit has none for longer than this run waits."""
    if state.claimed or state.finished or not state.held:
        return False
    late = time.time() + PATIENCE_SECONDS
    return any(use.remaining <= 0 and (use.frees_at or 0.0) > late for use in state.limits.values())
