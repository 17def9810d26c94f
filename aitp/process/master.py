"""The master: keeps a child in every slot, relays signals, enforces deadlines, and decides nothing else.

One loop (`reap → kill the overdue → manage → hear`) around one wait for signals, woken by signals, by the next known
event, or by a tick. No network, no ledger connection: what needs the ledger is an errand, done by a short-lived
process. `start.run_master` sets it up.
"""

from __future__ import annotations

import math
import os
import signal
import time
from collections.abc import Callable, Mapping

from aitp.errors import ConfigurationError
from aitp.hardening import Parent
from aitp.logs import configure, get_logger
from aitp.process import errand
from aitp.process.crew import Crew, Heritage
from aitp.process.errand import Errands
from aitp.process.hearing import hear
from aitp.process.scoreboard import Record, State
from aitp.process.slots import MASTER, Role
from aitp.process.staff import Staff, most_descriptors, refuse_few_descriptors
from aitp.process.systemd import Systemd
from aitp.process.tending import Tending
from aitp.settings import Settings, under_supervisord

STOPPING_TICK_SECONDS = 1.0

log = get_logger(__name__)


class Master:
    """One service's master. Made once; `run` is its life. Its signals must be blocked before it is made."""

    def __init__(self, settings: Settings, crew: Crew, heritage: Heritage, systemd: Systemd) -> None:
        self._settings = settings
        self._crew = crew
        self._board = heritage.board
        self._wakes = heritage.wakes
        self._timings = heritage.timings
        self._staff = Staff(crew, heritage)
        self._errands = Errands(heritage.shed)
        self._tending = Tending(self._errands, heritage.timings, self._wake_workers)
        self._systemd = systemd
        self._parent = Parent(supervised=under_supervisord())
        self._started = time.time()
        self._prepared = False
        self._reload_again = False
        self._sweep_due = math.inf
        self._kill_at: float | None = None  # a stop is on: whoever is left then is killed
        self._last_round = time.monotonic()
        self._mercy_until = 0.0
        self._next_event = 0.0
        self._exit_code: int | None = None

    def run(self) -> int:
        """Keep the service going until told to stop; the exit code."""
        self._staff.want(self._settings)
        settings = self._settings
        self._send("prepare", lambda: self._crew.prepare(settings), self._prepare_ended)
        while self._exit_code is None:
            self._tick()
            self._reap()
            self._kill_overdue()
            self._manage()
            if self._exit_code is None:
                self._hear()
        self._board.write(Record(MASTER))
        log.info("Master stopped", exit_code=self._exit_code)
        self._systemd.master_stopped()
        return self._exit_code

    # One round

    def _tick(self) -> None:
        now = time.monotonic()
        tick = STOPPING_TICK_SECONDS if self._stopping else self._timings.tick_seconds
        if now - self._last_round > tick + self._timings.slack_seconds:
            # The machine slept, or starved us. The children were no better off: let them have their turn first.
            self._mercy_until = now + self._timings.slack_seconds
        self._last_round = now
        self._next_event = now + tick
        state = State.DRAINING if self._stopping else State.RUNNING if self._prepared else State.STARTING
        self._board.write(Record(MASTER, os.getpid(), state, self._started, time.time(), deadline=now + tick))
        self._expect(self._report(state, now))

    def _report(self, state: State, now: float) -> float:
        """Tell systemd how things stand; when to look again (monotonic)."""
        if state is State.STARTING:
            return self._systemd.preparing()
        if state is State.DRAINING:
            return self._systemd.draining()
        children = [self._board.read(child.slot) for child in self._staff]
        return self._systemd.working(children, len(self._staff.wanted), now)

    def _reap(self) -> None:
        """Bury all who are dead: many may have died behind one SIGCHLD."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            exit_code = os.waitstatus_to_exitcode(status)
            self._errands.bury(pid, exit_code)
            vacated = self._staff.bury(pid, exit_code)
            if vacated is not None and vacated not in self._staff.wanted:
                self._sweep_due = 0.0

    def _kill_overdue(self) -> None:
        self._expect(self._staff.kill_overdue(self._mercy_until))
        self._expect(self._errands.kill_overdue())

    def _manage(self) -> None:
        if not self._stopping and self._parent.is_gone:
            log.warning("The parent process is gone: stopping")
            # The tick that it took to notice comes out of the grace: our successor waits for so long and no longer.
            self._stop(max(self._settings.shutdown_grace_seconds - self._timings.tick_seconds, 0.0))
        if self._stopping:
            self._see_them_off()
        elif self._prepared:
            self._expect(self._staff.fill(self._settings))
            self._expect(self._tending.send_if_due(self._settings))
            self._sweep_if_due()

    def _hear(self) -> None:
        """Sleep until a signal or the next event; answer all signals that are pending."""
        heard = hear(ANSWERS, self._next_event - time.monotonic())
        while heard is not None:
            ANSWERS[heard](self)
            heard = hear(ANSWERS, 0)

    def _expect(self, monotonic: float) -> None:
        """Something is to be looked at then: sleep no longer."""
        self._next_event = min(self._next_event, monotonic)

    # Errands

    def _send(self, name: str, work: Callable[[], bool | None], ended: Callable[[int], None]) -> None:
        patience = {"prepare": self._timings.prepare_seconds, "sweep": self._timings.sweep_seconds}
        self._errands.send(name, patience[name], work, ended)

    def _prepare_ended(self, exit_code: int) -> None:
        if self._stopping:
            return
        if exit_code != errand.DONE:
            log.error("The ledger cannot be prepared", exit_code=exit_code)
            self._exit_code = errand.MISCONFIGURED if exit_code == errand.MISCONFIGURED else errand.FAILED
            return
        self._prepared = True
        self._sweep_due = 0.0
        self._tending.begin_anew()
        log.info("Master ready", relays=self._settings.relay_processes, workers=self._settings.concurrency_limit)
        self._reload_if_asked_again()

    def _sweep_if_due(self) -> None:
        """Free what slots own that nobody will take over: after a change of numbers, or the death of everything."""
        if self._errands.underway("sweep"):
            return
        if self._sweep_due > time.monotonic():
            self._expect(self._sweep_due)
            return
        self._sweep_due = math.inf
        self._sweep(self._staff.wanted, self._sweep_ended)

    def _sweep(self, wanted: frozenset[int], ended: Callable[[int], None]) -> None:
        causes = self._staff.causes(but=wanted)
        self._send("sweep", lambda: self._crew.sweep(self._settings, wanted, causes), ended)

    def _sweep_ended(self, exit_code: int) -> None:
        if exit_code != errand.DONE:
            self._sweep_due = min(self._sweep_due, time.monotonic() + self._timings.sweep_again_seconds)

    # Reloading

    def _reload(self) -> None:
        """HUP: take new settings over, if they are good; children leave at leisure and come back with them."""
        if self._stopping:
            return
        if not self._prepared or self._errands.underway("prepare"):
            self._reload_again = True
            return
        self._systemd.reloading(time.monotonic())
        try:
            settings = self._crew.load()
            self._refuse_moves(settings)
            refuse_few_descriptors(settings, most_descriptors())
        except ConfigurationError as error:
            log.error(
                "New settings are not valid, the running ones stay",
                problems=list(error.problems),
                warnings=list(error.warnings),
            )
            self._systemd.reloaded(refused=True)
            return
        self._send("prepare", lambda: self._crew.prepare(settings), lambda code: self._reload_ended(settings, code))

    def _reload_if_asked_again(self) -> None:
        if self._reload_again:
            self._reload_again = False
            self._reload()

    def _refuse_moves(self, settings: Settings) -> None:
        places = (
            ("RATE_LIMIT_STORAGE_PATH", self._settings.ledger_path, settings.ledger_path),
            ("RUNTIME_DIR", self._settings.runtime_dir, settings.runtime_dir),
        )
        moved = [
            f"{name}={new}: a reload cannot move it from {old}; restart the service"
            for name, old, new in places
            if old != new
        ]
        if moved:
            raise ConfigurationError(moved)

    def _reload_ended(self, settings: Settings, exit_code: int) -> None:
        if self._stopping:
            return
        if exit_code == errand.DONE:
            self._adopt(settings)
        else:
            log.error("New settings cannot be used, the running ones stay", exit_code=exit_code)
            self._systemd.reloaded(refused=True)
        self._reload_if_asked_again()

    def _adopt(self, settings: Settings) -> None:
        configure(settings.log_level, settings.log_format, slot=MASTER)
        self._systemd.reloaded(refused=False)
        log.info("New settings are in force", relays=settings.relay_processes, workers=settings.concurrency_limit)
        self._settings = settings
        self._staff.want(settings)
        self._sweep_due = 0.0
        self._tending.begin_anew()
        for child in self._staff:
            self._staff.tell(child, signal.SIGHUP)

    # Other signals

    def _look_around(self) -> None:
        """CHLD: the next round reaps."""

    def _poll_now(self) -> None:
        """USR1: relays poll, and nobody sleeps on."""
        for child in self._staff:
            if child.role is Role.RELAY:
                os.kill(child.pid, signal.SIGUSR1)
            self._wakes.ring(child.slot)

    def _wake_workers(self) -> None:
        for child in self._staff:
            if child.role is Role.WORKER:
                self._wakes.ring(child.slot)

    def _look_after_models(self) -> None:
        """USR2: a worker misses a model that it should find."""
        self._tending.ask()

    def _stop_gracefully(self) -> None:
        """TERM, INT: workers end their calls, relays deliver what comes of them, all within the grace."""
        self._stop(self._settings.shutdown_grace_seconds)

    def _quit(self) -> None:
        """QUIT: stop at once."""
        log.warning("Told to quit at once: calls in hand are lost, and may be bought again")
        self._stop(0.0)
        self._kill_at = 0.0
        self._prepared = False  # nothing is tidied up: the next start does that
        self._errands.end(signal.SIGKILL)

    # Stopping

    @property
    def _stopping(self) -> bool:
        return self._kill_at is not None

    def _stop(self, grace: float) -> None:
        if self._stopping:
            return
        log.info("Stopping", grace_seconds=grace, children=len(self._staff))
        self._systemd.master_stops()
        now = time.monotonic()
        # Calls are given up a little before the grace ends, so that children can still put on record how they ended.
        self._board.grace_ends = now + grace - min(self._timings.grace_margin_seconds, grace / 4)
        self._kill_at = now + max(grace, 1.0)
        self._tick()  # all see that we drain
        self._errands.end(signal.SIGTERM, "prepare")
        self._tending.stop()
        for child in self._staff:
            if child.role is Role.RELAY:
                self._wakes.ring(child.slot)

    def _see_them_off(self) -> None:
        """Workers leave first, so that relays can deliver the last results."""
        now = time.monotonic()
        assert self._kill_at is not None
        if now >= self._kill_at:
            self._staff.give_up()
            self._errands.end(signal.SIGKILL, "prepare")
        workers = [child for child in self._staff if child.role is Role.WORKER]
        everyone = not workers or now >= self._board.grace_ends
        # Told again in each round: a signal that comes just before a system call interrupts nothing.
        for child in list(self._staff) if everyone else workers:
            self._staff.tell(child, signal.SIGTERM)
        for moment in (self._kill_at, self._board.grace_ends):
            self._expect(moment if moment > now else math.inf)
        if not self._staff and not self._errands:
            self._turn_the_light_off()

    def _turn_the_light_off(self) -> None:
        """Everyone has left. What some left behind is freed now rather than at the next start."""
        if self._prepared and self._staff.unclean:
            self._prepared = False
            self._sweep(frozenset(), lambda _: None)
        else:
            self._exit_code = 0


# The one signal table: blocked in the master, and heard in `_hear`.
ANSWERS: Mapping[signal.Signals, Callable[[Master], None]] = {
    signal.SIGCHLD: Master._look_around,
    signal.SIGTERM: Master._stop_gracefully,
    signal.SIGINT: Master._stop_gracefully,
    signal.SIGQUIT: Master._quit,
    signal.SIGHUP: Master._reload,
    signal.SIGUSR1: Master._poll_now,
    signal.SIGUSR2: Master._look_after_models,
}
