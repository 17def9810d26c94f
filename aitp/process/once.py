"""`aitp once`: poll, work and deliver in the foreground, until nothing is left. For cron and debugging.

A service like any other, with a worker and a relay, under a master that is this process's child; and this process looks
on, at the ledger alone, and stops it when there is nothing to do any more, or nothing that this run should wait for. So
whatever holds for a service holds for it. Beside a service on the same ledger it does nothing.
"""

from __future__ import annotations

import os
import signal
import time

from aitp.errors import LedgerError
from aitp.ledger.engine import DISK_RESERVE_BYTES
from aitp.ledger.stats import Snapshot, snapshot
from aitp.logs import configure, get_logger
from aitp.process import start
from aitp.process.child import Timings, wait_for_signal
from aitp.process.master import run_master
from aitp.process.scoreboard import MASTER, glance, scoreboard_path
from aitp.process.service import roles
from aitp.providers.inventory import read_inventory
from aitp.settings import Settings
from aitp.tasks import BreakerState, ExitCode, Service

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
    start.own_directory(settings.runtime_dir)
    with start.open_locks(settings) as locks:
        if locks.holder(MASTER) is not None:
            said = f"{settings.ledger} is in use: a service runs on this ledger, which does what `once` would do"
            raise LedgerError(said)
    roles_of_all = roles(settings)
    signal.pthread_sigmask(signal.SIG_BLOCK, HEARD)
    if (master := os.fork()) == 0:
        # Should a service start just now, this one leaves at once.
        os._exit(run_master(settings, roles_of_all, Timings(takeover_seconds=-settings.shutdown_grace_seconds)))
    done, complete, reason = _watch(settings, master)
    os.kill(master, signal.SIGTERM)  # one that has ended does not mind
    exit_code = os.waitstatus_to_exitcode(os.waitpid(master, 0)[1])
    return (exit_code if exit_code >= 0 else ExitCode.FAILED) or _report(settings, done, complete, reason)


def _watch(settings: Settings, master: int) -> tuple[int, bool, str | None]:
    """Until there is nothing to wait for: tasks done, whether all that there are, and if we were told to stop, that."""
    seen, since, ask_at, done = None, time.monotonic(), 0.0, 0
    polls = set[float | None]()
    while os.waitid(os.P_PID, master, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        if wait_for_signal(HEARD, LOOK_SECONDS) in (signal.SIGTERM, signal.SIGINT):
            return done, False, "told to stop"
        records = glance(scoreboard_path(settings.runtime_dir))
        if not records or records[0].pid != master:
            continue  # it is not there yet
        try:
            state = snapshot(settings.ledger)
        except LedgerError:  # it is being prepared
            continue
        done = max(done, sum(record.done for record in records))
        inventory = read_inventory(settings.runtime_dir)
        # Who waits for a model that is being pulled does not wait in vain.
        pulled = 0 if inventory is None else sum(model.completed for model in inventory.models.values())
        now, last, seen = time.monotonic(), seen, (done, state.held, state.finished, pulled)
        if seen != last:
            since, polls = now, set()
        polls.add(state.last_poll_at)
        if state.held == 0 and len(polls) > POLLS_THAT_BROUGHT_NOTHING:
            return done, True, None
        if now - since > PATIENCE_SECONDS or held_up(state):
            break
        if state.held == 0 and now >= ask_at:
            ask_at = now + ASK_SECONDS
            os.kill(master, signal.SIGUSR1)
    return done, False, None


def _report(settings: Settings, done: int, complete: bool, reason: str | None) -> int:
    """Say how the run ended; its exit code. That nothing is left is known by the last polls only."""
    state = snapshot(settings.ledger)
    facts = {"done": done, "left": state.held, "dead_letters": state.dead}
    reason = reason or held_up(state)
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
    if state.held:
        late = time.time() + PATIENCE_SECONDS
        if any(use.remaining <= 0 and (use.frees_at or 0.0) > late for use in state.limits.values()):
            return "a limit has no room for longer than this run waits: `aitp status` says which"
    elif any(state.breakers[each].state != BreakerState.CLOSED for each in (Service.API, Service.OAUTH)):
        return "the task API or its authorization server is out: `aitp status` says why"
    return None
