"""`aitp once`: poll, work and deliver in the foreground, in one process, until nothing is left. For cron and debugging.

It is a master, a relay and a worker at once: it holds their slots' locks, so that it and a running service keep out of
each other's way, and takes the same steps as they do.
"""

from __future__ import annotations

import math
import os
import select
import signal
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import TYPE_CHECKING, NoReturn

from aitp.errors import LedgerError
from aitp.ledger import DISK_RESERVE_BYTES, Cause, Idle, IdleReason, Ledger, LedgerConfig
from aitp.ledger.stats import Snapshot, snapshot
from aitp.logs import get_logger
from aitp.metrics import open_metrics
from aitp.process.metering import labelled_models
from aitp.process.models import look_after_models
from aitp.process.relay import Relay
from aitp.process.reports import tell_of_release
from aitp.process.scoreboard import MASTER, SLACK_SECONDS, Role, slots_of
from aitp.process.service import keep_out_of_logs, metrics_directory, prepare_service
from aitp.process.start import blame_setting, open_locks, own_directory
from aitp.process.worker import worker_for
from aitp.taskapi import connect
from aitp.tasks import ExitCode

if TYPE_CHECKING:
    from aitp.settings import Settings

# What is due later than this (a limit of a day, a service that is down) is left to the next run.
PATIENCE_SECONDS = 90.0
LONGEST_SLEEP_SECONDS = 1.0
SOONEST_SECONDS = 0.001  # a timer that is set to nothing never fires
(RELAY,), (WORKER,) = slots_of(Role.RELAY, 1), slots_of(Role.WORKER, 1)

IN_USE = "{ledger} is in use: a service runs on this ledger, which does what `once` would do"

# What kept this run from polling, and what to do. Whatever it is, there may be work at the task API.
REASONS = {
    IdleReason.PAUSED: "paused by an operator: `aitp resume` ends it",
    IdleReason.DISK: f"less than {DISK_RESERVE_BYTES // 2**20} MB are free on the ledger's disk: make room there",
    IdleReason.BREAKER: "the task API or its authorization server is out: `aitp status` says why",
    IdleReason.COOLDOWN: "the task API or its authorization server asked to be left alone for a while (429)",
    IdleReason.UNDERWAY: "a process that outlived its service polls now: it leaves by itself",
}
TOLD_TO_STOP = "told to stop"

log = get_logger(__name__)


@dataclass(slots=True)
class OnceContext:
    """For a process that has nobody to wake, and no master to end a call that trickles, or outlasts a stop's grace.

    It ends itself then, as a master would end it: its locks go with it, and the next run frees what it had claimed.
    Times are monotonic.
    """

    slot: int
    done: int = 0
    grace_ends: float = math.inf
    _call_ends: float = math.inf

    def idle(self) -> None: ...

    def recording(self) -> None: ...

    def wake_workers(self, count: int = 1) -> None: ...

    def wake_relays(self, count: int = 1) -> None: ...

    def count_done(self, count: int = 1) -> None:
        self.done += count

    @contextmanager
    def call(self, task_id: str, seconds: float) -> Iterator[None]:
        self._call_ends = time.monotonic() + seconds + SLACK_SECONDS
        self._set_alarm()
        try:
            yield
        finally:
            self._call_ends = math.inf
            self._set_alarm()

    def stop(self, grace: float) -> None:
        self.grace_ends = min(self.grace_ends, time.monotonic() + grace)
        self._set_alarm()

    def _set_alarm(self) -> None:
        ends = min(self._call_ends, self.grace_ends)
        signal.signal(signal.SIGALRM, self._end)
        signal.setitimer(signal.ITIMER_REAL, 0.0 if ends == math.inf else max(ends - time.monotonic(), SOONEST_SECONDS))

    def _end(self, signum: int, frame: FrameType | None) -> NoReturn:
        what = "Call overran its deadline" if self._call_ends < self.grace_ends else "Grace is over"
        log.error(f"{what}, the run ends: what it had in hand goes back and may be bought again")
        os._exit(ExitCode.FAILED)

    @property
    def leaving(self) -> bool:
        return self.grace_ends != math.inf


def run_once(settings: Settings) -> int:
    """Do all there is to do; 0 if nothing is left, 1 if something waits for longer than this run does.

    Raises ConfigurationError, and LedgerError (also when a service runs on the same ledger).
    """
    settings = settings.model_copy(update={"concurrency_limit": 1})  # one call at a time: no share is left for others
    keep_out_of_logs(settings)
    own_directory(settings.runtime_dir)
    # Held to the end, and before anything of these settings is published: they may be others than those that a service
    # has in force, and none may start in between.
    with open_locks(settings.ledger_path) as locks:
        if not all(locks.acquire(slot, 0) for slot in (MASTER, RELAY, WORKER)):
            raise LedgerError(IN_USE.format(ledger=settings.ledger_path))
        try:
            prepare_service(settings, locks)
        except OSError as error:
            blame_setting("RATE_LIMIT_STORAGE_PATH", settings.ledger_path, error)
        look_after_models(settings, anew=True)
        with closing(Ledger.open(settings.ledger_path, LedgerConfig.of(settings), locks=locks)) as ledger:
            return _Run(ledger, settings).drive()


class _Run:
    def __init__(self, ledger: Ledger, settings: Settings) -> None:
        for slot in (RELAY, WORKER):
            tell_of_release(slot, ledger.claims.release(slot, Cause.STOPPED))
        for slot, settled in ledger.release_ownerless().items():
            tell_of_release(slot, settled)
        self._settings = settings
        self._mark, self._marked_at = (0, 0), time.monotonic()
        self._process = OnceContext(WORKER)
        relay_context = OnceContext(RELAY)
        self._contexts = (self._process, relay_context)
        directory, models = metrics_directory(settings), labelled_models(settings)
        metrics = open_metrics(directory, RELAY, models)
        api = connect(settings.without_provider_secrets(), metrics)
        self._relay = Relay(relay_context, ledger, api, metrics, settings)
        self._worker = worker_for(self._process, ledger, open_metrics(directory, WORKER, models), settings)

    def drive(self) -> int:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._stop)
        polled_for = -1  # tasks done when the last poll was asked for: results make the API create more tasks
        while not self._process.leaving:
            relay_until = self._relay.step(asked=False)
            found = self._worker.step()
            if not isinstance(found, Idle) or (relay_until is not None and relay_until <= time.time()):
                continue
            state = snapshot(self._settings.ledger_path)
            if state.held == 0:
                if polled_for == self._process.done:
                    return self._report(state, None)
                polled_for = self._process.done
                self._relay.step(asked=True)
                if self._relay.held_up is not None:
                    return self._report(state, None)
                continue
            until = self._due(found)
            if until is None or until > time.time() + PATIENCE_SECONDS or self._stuck(state):
                return self._report(state, until)
            select.select([], [], [], min(max(until - time.time(), 0.0), LONGEST_SLEEP_SECONDS))
        self._relay.empty_outbox()
        return self._report(snapshot(self._settings.ledger_path), None)

    def _due(self, found: Idle) -> float | None:
        """When something of what is held can be claimed or delivered. The next poll does not count: it brings more.

        Nor does the next look at a full disk: nobody knows when it will have room.
        """
        claimable_at = None if found.because is IdleReason.DISK else found.until
        return min((at for at in (self._relay.step(may_poll=False), claimable_at) if at is not None), default=None)

    def _stuck(self, state: Snapshot) -> bool:
        """Whether nothing was done or delivered for long: a service is away, and is tried again by the next run."""
        now, mark = time.monotonic(), (self._process.done, state.finished)
        if mark != self._mark:
            self._mark, self._marked_at = mark, now
        return now - self._marked_at > PATIENCE_SECONDS

    def _stop(self, signum: int, frame: FrameType | None) -> None:
        for process in self._contexts:
            process.stop(self._settings.shutdown_grace_seconds)

    def _report(self, state: Snapshot, until: float | None) -> int:
        """Say how the run ended; its exit code. That nothing is left is known by a last poll only."""
        facts = {"done": self._process.done, "left": state.held, "dead_letters": state.dead}
        held_up = self._relay.held_up
        reason = TOLD_TO_STOP if self._process.leaving else None if held_up is None else REASONS[held_up]
        if state.held or state.last_poll_problem:
            wait = None if until is None else round(until - time.time())
            poll = state.last_poll_problem
            log.warning("Work is left for the next run", **facts, due_in_seconds=wait, poll=poll, reason=reason)
            return ExitCode.FAILED
        if reason is not None:
            log.warning("Work may be left for the next run, the task API was not polled", **facts, reason=reason)
            return ExitCode.FAILED
        log.info("Nothing is left to do", **facts)
        return ExitCode.FINE
