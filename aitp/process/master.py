"""The master: keeps a child in every slot, relays signals, enforces deadlines, and decides nothing else.

One loop (`reap → kill the overdue → manage → wait for a signal`) around one wait, ended by signals, by the next known
event, or by a tick. No network, no ledger connection: what needs the ledger is done by a one-shot helper process, which
the master bounds, and whose exit code it learns. `run_master` sets it up.
"""

from __future__ import annotations

import gc
import math
import os
import resource
import signal
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import NoReturn

from aitp.errors import ConfigurationError
from aitp.hardening import Parent
from aitp.ledger import Cause, SlotLocks
from aitp.logs import configure, get_logger
from aitp.process.child import EXIT_MACHINE, EXIT_QUIT, Inherited, Roles, Timings, run_child
from aitp.process.models import ModelPuller
from aitp.process.scoreboard import (
    LAST_SLOT,
    MASTER,
    TAKEN_OVER,
    Notifier,
    Record,
    Role,
    Scoreboard,
    State,
    name_process,
    role_of,
    scoreboard_path,
    slots_of,
)
from aitp.process.start import OTHER_DESCRIPTORS, most_descriptors, open_locks, own_directory, refuse_few_descriptors
from aitp.process.systemd import Systemd
from aitp.settings import Settings, surroundings, under_supervisord, withhold

log = get_logger(__name__)

DONE = 0

FAILED = 1

AGAIN = 75  # EX_TEMPFAIL: not all could be done yet

MISCONFIGURED = 78  # EX_CONFIG


@dataclass(frozen=True, slots=True)
class Helper:
    """One that is underway. `deadline` is monotonic; `ended` is told the exit code (negative: a signal)."""

    name: str
    deadline: float
    ended: Callable[[int], None]


class Helpers:
    """All that are underway. `after_fork` is what each does first: let go of what is the master's alone."""

    def __init__(self, after_fork: Callable[[], None]) -> None:
        self._after_fork = after_fork
        self._underway: dict[int, Helper] = {}  # by pid

    def send(self, name: str, seconds: float, work: Callable[[], bool | None], ended: Callable[[int], None]) -> None:
        """Do `work` in a process of its own. It exits AGAIN for False, MISCONFIGURED for a ConfigurationError."""
        try:
            pid = os.fork()
        except OSError as error:
            log.error("Cannot fork", reason=error.strerror, helper=name)
            ended(FAILED)
            return
        if pid == 0:
            _do(work, self._after_fork)
        self._underway[pid] = Helper(name, time.monotonic() + seconds, ended)

    def underway(self, name: str) -> bool:
        return any(helper.name == name for helper in self._underway.values())

    def __len__(self) -> int:
        return len(self._underway)

    def reap(self, pid: int, exit_code: int) -> None:
        """A process was reaped; if it was an helper, go on with what waits for it."""
        if helper := self._underway.pop(pid, None):
            helper.ended(exit_code)

    def kill_overdue(self) -> float:
        """Kill those that took too long; when to look again (monotonic)."""
        now = time.monotonic()
        for pid, helper in self._underway.items():
            if now >= helper.deadline:
                log.error("A short-lived process took too long and is killed", helper=helper.name)
                os.kill(pid, signal.SIGKILL)
        return min((helper.deadline for helper in self._underway.values() if helper.deadline > now), default=math.inf)

    def end(self, signum: signal.Signals, name: str | None = None) -> None:
        """Signal those of that name, or all."""
        for pid, helper in self._underway.items():
            if name in (None, helper.name):
                os.kill(pid, signum)


def _do(work: Callable[[], bool | None], after_fork: Callable[[], None]) -> NoReturn:
    code = FAILED
    try:
        after_fork()
        withhold()
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group: the master decides
        signal.pthread_sigmask(signal.SIG_SETMASK, [])
        code = AGAIN if work() is False else DONE
    except ConfigurationError as error:
        code = MISCONFIGURED
        for problem in error.problems:
            log.error("Configuration cannot be used", problem=problem)
    except Exception:
        log.exception("A short-lived process failed")
    finally:
        os._exit(code)  # whatever happens: it never runs on in the master's code


@dataclass(frozen=True, slots=True)
class ExitRecord:
    """How a child ended. `told`: the master asked it to leave. `killed`: why, if the master killed it."""

    exit_code: int
    lived_seconds: float
    last: Record
    told: bool = False
    killed: Cause | None = None
    orderly: bool = False  # it chose that exit code itself, and not because of a bug

    @property
    def cause(self) -> Cause:
        if self.killed is not None:
            return self.killed
        return Cause.STOPPED if self.orderly else Cause.CRASHED

    @property
    def took_over(self) -> bool:
        return self.last.state in TAKEN_OVER

    def too_early(self, young_seconds: float) -> bool:
        """Whether the next child is likely to end the same way."""
        if self.told:
            return False
        if self.exit_code == 0 and self.last.done > 0:
            return False  # recycled after so many tasks
        return not self.took_over or self.lived_seconds < young_seconds


@dataclass(slots=True)
class Respawn:
    """One slot. `cause` is for the next child, `not_before` (monotonic) holds it back, `unclean`: it has to tidy up."""

    cause: Cause = Cause.STOPPED
    unclean: bool = False
    early_deaths: int = 0
    not_before: float = 0.0

    def note(self, ended: ExitRecord, now: float, young_seconds: float, longest_seconds: float) -> None:
        """A child is gone: 1, 2, 4 … seconds before the next one if they keep dying early."""
        if ended.took_over:
            self.cause = ended.cause
            self.unclean = ended.exit_code != 0
        if ended.too_early(young_seconds):
            self.not_before = now + min(2.0**self.early_deaths, longest_seconds)
            self.early_deaths = min(self.early_deaths + 1, 16)
        else:
            self.reset()

    def reset(self) -> None:
        """Start the next one at once."""
        self.early_deaths = 0
        self.not_before = 0.0


ORDERLY_EXITS = frozenset({0, EXIT_MACHINE, EXIT_QUIT, MISCONFIGURED})

FORKS_A_ROUND = 16  # signals are heard in between, however many children are to start


@dataclass(slots=True)
class ChildRecord:
    """A living child, as its master sees it. `killed` says why, if the master has done so."""

    pid: int
    slot: int
    role: Role
    born: float
    told: bool = False
    killed: Cause | None = None


class Children:
    """Children by pid, respawns by slot. `wanted` are the slots to keep filled."""

    def __init__(self, roles: Roles, inherited: Inherited) -> None:
        self._roles = roles
        self._board = inherited.board
        self._timings = inherited.timings
        self._inherited = inherited
        self._children: dict[int, ChildRecord] = {}
        self._respawns: dict[int, Respawn] = {}
        self.wanted: frozenset[int] = frozenset()

    def __len__(self) -> int:
        return len(self._children)

    def __iter__(self) -> Iterator[ChildRecord]:
        return iter(self._children.values())

    def want(self, settings: Settings) -> None:
        """Be as many as the settings say. Nobody is held back any longer: new settings may have mended it."""
        relays = slots_of(Role.RELAY, settings.relay_processes)
        workers = slots_of(Role.WORKER, settings.concurrency_limit)
        self.wanted = frozenset([*relays, *workers])
        for slot in (*relays, *workers):
            self._inherited.notifier.install(slot)
            self._respawns.setdefault(slot, Respawn()).reset()

    @property
    def unclean(self) -> bool:
        """Whether someone may have left things behind for a successor to free."""
        return any(respawn.unclean for respawn in self._respawns.values())

    def causes(self, but: frozenset[int]) -> Mapping[int, Cause]:
        """What ended the last child of each slot, `but` excepted."""
        return {slot: respawn.cause for slot, respawn in self._respawns.items() if slot not in but}

    def fill(self, settings: Settings) -> float:
        """Start children in vacant slots, as far as they may start now; when to look again (monotonic)."""
        now = time.monotonic()
        again = math.inf
        vacant = sorted(self.wanted - {child.slot for child in self})
        due = [slot for slot in vacant if self._respawns[slot].not_before <= now]
        for slot in due[:FORKS_A_ROUND]:
            self._start(slot, settings)
        if len(due) > FORKS_A_ROUND:
            again = now
        return min([again, *(self._respawns[slot].not_before for slot in vacant if slot not in due)])

    def _start(self, slot: int, settings: Settings) -> None:
        now, wall = time.monotonic(), time.time()
        respawn = self._respawns[slot]
        # The deadline counts from now on: whoever hangs in start-up is overdue like anyone else.
        deadline = now + self._timings.start_seconds
        self._board.write(Record(slot, state=State.STARTING, started=wall, since=wall, deadline=deadline))
        try:
            pid = os.fork()
        except OSError as error:
            log.error("Cannot fork", reason=error.strerror, child=slot)
            self._board.write(Record(slot))
            respawn.not_before = now + self._timings.longest_hold_back_seconds
            return
        if pid == 0:
            run_child(slot, settings, respawn.cause, self._roles, self._inherited)
        self._children[pid] = ChildRecord(pid, slot, role_of(slot), now)
        log.info("Child started", child=slot, role=role_of(slot).value, pid=pid)

    def reap(self, pid: int, exit_code: int) -> int | None:
        """A process was reaped: if it was a child, note its slot. That slot."""
        child = self._children.pop(pid, None)
        if child is None:
            return None
        now = time.monotonic()
        last = self._board.read(child.slot)
        if last.pid != pid:
            last = Record(child.slot)  # it never came to write its own
        ended = ExitRecord(exit_code, now - child.born, last, child.told, child.killed, exit_code in ORDERLY_EXITS)
        respawn = self._respawns[child.slot]
        respawn.note(ended, now, self._timings.young_seconds, self._timings.longest_hold_back_seconds)
        self._board.write(Record(child.slot))
        facts = {"child": child.slot, "role": child.role.value, "pid": pid, "exit_code": exit_code}
        if exit_code == 0:
            log.info("Child left", **facts)
        else:
            held_back = round(max(respawn.not_before - now, 0.0), 1)
            cause = ended.cause.value
            log.warning("Child died", **facts, cause=cause, task_id=last.task_id, held_back_seconds=held_back)
        return child.slot

    def kill_overdue(self, resume_grace_until: float) -> float:
        """Kill whoever should have ended a step some time ago; when to look again (monotonic)."""
        now = time.monotonic()
        again = math.inf
        for child in self:
            if child.killed is not None:
                continue
            record = self._board.read(child.slot)
            moment = max(record.deadline + self._timings.slack_seconds, resume_grace_until)
            if moment > now:
                again = min(again, moment)
                continue
            text = "Child overran its deadline and is killed"
            log.error(text, child=child.slot, pid=child.pid, state=record.state.name, task_id=record.task_id)
            self.kill(child, Cause.DEADLINE)
        return again

    def give_up(self) -> None:
        """Kill all who are left when the grace is over."""
        for child in self:
            if child.killed is None:
                task_id = self._board.read(child.slot).task_id
                text = "Grace is over, child is killed: what it had in hand goes back and may be bought again"
                log.warning(text, child=child.slot, task_id=task_id)
                self.kill(child, Cause.STOPPED)

    def tell(self, child: ChildRecord, signum: signal.Signals) -> None:
        """Ask a child to leave."""
        child.told = True
        os.kill(child.pid, signum)

    def kill(self, child: ChildRecord, cause: Cause) -> None:
        child.killed = cause
        os.kill(child.pid, signal.SIGKILL)


SOONEST_SECONDS = 0.001  # a timer that is set to nothing never fires


def wait_for_signal(signals: Iterable[signal.Signals], seconds: float) -> signal.Signals | None:
    """The next of `signals`, all of which are blocked; None if none comes within `seconds`. Borrows SIGALRM's timer.

    It does not leave the time to sigtimedwait: where that is interrupted (by a stop and SIGCONT, signal(7)) and its
    time is up meanwhile, CPython (3.11) returns memory that nobody has written as the signal that was heard.
    """
    if seconds <= 0:
        told = signal.sigtimedwait(signals, 0)  # sleeps not, and is never interrupted
        return None if told is None else signal.Signals(told.si_signo)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGALRM,))
    try:
        signal.setitimer(signal.ITIMER_REAL, max(seconds, SOONEST_SECONDS))
        heard = signal.Signals(signal.sigwaitinfo((*signals, signal.SIGALRM)).si_signo)
    finally:
        # Also when another signal's handler raises: an alarm that came later would end the process.
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.sigtimedwait((signal.SIGALRM,), 0)  # it may have fired just before
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return None if heard is signal.SIGALRM else heard


STOPPING_TICK_SECONDS = 1.0


class Master:
    """One service's master. Made once; `run` is its life. Its signals must be blocked before it is made."""

    def __init__(self, settings: Settings, roles: Roles, inherited: Inherited, systemd: Systemd) -> None:
        self._settings = settings
        self._roles = roles
        self._board = inherited.board
        self._notifier = inherited.notifier
        self._timings = inherited.timings
        self._children = Children(roles, inherited)
        self._helpers = Helpers(inherited.after_fork)
        self._puller = ModelPuller(self._helpers, inherited.timings, self._wake_workers)
        self._systemd = systemd
        self._parent = Parent(supervised=under_supervisord())
        self._started = time.time()
        self._prepared = False
        self._reload_again = False
        self._sweep_due = math.inf
        self._kill_at: float | None = None  # a stop is on: whoever is left then is killed
        self._last_round = time.monotonic()
        self._resume_grace_until = 0.0
        self._next_event = 0.0
        self._exit_code: int | None = None

    def run(self) -> int:
        """Keep the service going until told to stop; the exit code."""
        self._children.want(self._settings)
        settings = self._settings
        self._send("prepare", lambda: self._roles.prepare(settings), self._prepare_ended)
        while self._exit_code is None:
            self._tick()
            self._reap()
            self._kill_overdue()
            self._manage()
            if self._exit_code is None:
                self._wait()
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
            self._resume_grace_until = now + self._timings.slack_seconds
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
        children = [self._board.read(child.slot) for child in self._children]
        return self._systemd.working(children, len(self._children.wanted), now)

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
            self._helpers.reap(pid, exit_code)
            vacated = self._children.reap(pid, exit_code)
            if vacated is not None and vacated not in self._children.wanted:
                self._sweep_due = 0.0

    def _kill_overdue(self) -> None:
        self._expect(self._children.kill_overdue(self._resume_grace_until))
        self._expect(self._helpers.kill_overdue())

    def _manage(self) -> None:
        if not self._stopping and self._parent.is_gone:
            log.warning("The parent process is gone: stopping")
            # The tick that it took to notice comes out of the grace: our successor waits for so long and no longer.
            self._stop(max(self._settings.shutdown_grace_seconds - self._timings.tick_seconds, 0.0))
        if self._stopping:
            self._drain()
        elif self._prepared:
            self._expect(self._children.fill(self._settings))
            self._expect(self._puller.send_if_due(self._settings))
            self._sweep_if_due()

    def _wait(self) -> None:
        """Sleep until a signal or the next event; answer all signals that are pending."""
        heard = wait_for_signal(SIGNALS, self._next_event - time.monotonic())
        while heard is not None:
            SIGNALS[heard](self)
            heard = wait_for_signal(SIGNALS, 0)

    def _expect(self, monotonic: float) -> None:
        """Something is to be looked at then: sleep no longer."""
        self._next_event = min(self._next_event, monotonic)

    # Helpers

    def _send(self, name: str, work: Callable[[], bool | None], ended: Callable[[int], None]) -> None:
        patience = {"prepare": self._timings.prepare_seconds, "sweep": self._timings.sweep_seconds}
        self._helpers.send(name, patience[name], work, ended)

    def _prepare_ended(self, exit_code: int) -> None:
        if self._stopping:
            return
        if exit_code != DONE:
            log.error("The ledger cannot be prepared", exit_code=exit_code)
            self._exit_code = MISCONFIGURED if exit_code == MISCONFIGURED else FAILED
            return
        self._prepared = True
        self._sweep_due = 0.0
        self._puller.begin_anew()
        log.info("Master ready", relays=self._settings.relay_processes, workers=self._settings.concurrency_limit)
        self._reload_if_asked_again()

    def _sweep_if_due(self) -> None:
        """Free what slots own that nobody will take over: after a change of numbers, or the ended of everything."""
        if self._helpers.underway("sweep"):
            return
        if self._sweep_due > time.monotonic():
            self._expect(self._sweep_due)
            return
        self._sweep_due = math.inf
        self._sweep(self._children.wanted, self._sweep_ended)

    def _sweep(self, wanted: frozenset[int], ended: Callable[[int], None]) -> None:
        causes = self._children.causes(but=wanted)
        self._send("sweep", lambda: self._roles.sweep(self._settings, wanted, causes), ended)

    def _sweep_ended(self, exit_code: int) -> None:
        if exit_code != DONE:
            self._sweep_due = min(self._sweep_due, time.monotonic() + self._timings.sweep_again_seconds)

    # Reloading

    def _reload(self) -> None:
        """HUP: take new settings over, if they are good; children leave at leisure and come back with them."""
        if self._stopping:
            return
        if not self._prepared or self._helpers.underway("prepare"):
            self._reload_again = True
            return
        self._systemd.reloading(time.monotonic())
        try:
            settings = self._roles.load()
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
        self._send("prepare", lambda: self._roles.prepare(settings), lambda code: self._reload_ended(settings, code))

    def _reload_if_asked_again(self) -> None:
        if self._reload_again:
            self._reload_again = False
            self._reload()

    def _refuse_moves(self, settings: Settings) -> None:
        respawns = (
            ("RATE_LIMIT_STORAGE_PATH", self._settings.ledger_path, settings.ledger_path),
            ("RUNTIME_DIR", self._settings.runtime_dir, settings.runtime_dir),
        )
        moved = [
            f"{name}={new}: a reload cannot move it from {old}; restart the service"
            for name, old, new in respawns
            if old != new
        ]
        if moved:
            raise ConfigurationError(moved)

    def _reload_ended(self, settings: Settings, exit_code: int) -> None:
        if self._stopping:
            return
        if exit_code == DONE:
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
        self._children.want(settings)
        self._sweep_due = 0.0
        self._puller.begin_anew()
        for child in self._children:
            self._children.tell(child, signal.SIGHUP)

    # Other signals

    def _look_around(self) -> None:
        """CHLD: the next round reaps."""

    def _poll_now(self) -> None:
        """USR1: relays poll, and nobody sleeps on."""
        for child in self._children:
            if child.role is Role.RELAY:
                os.kill(child.pid, signal.SIGUSR1)
            self._notifier.notify(child.slot)

    def _wake_workers(self) -> None:
        for child in self._children:
            if child.role is Role.WORKER:
                self._notifier.notify(child.slot)

    def _look_after_models(self) -> None:
        """USR2: a worker misses a model that it should find."""
        self._puller.ask()

    def _stop_gracefully(self) -> None:
        """TERM, INT: workers end their calls, relays deliver what comes of them, all within the grace."""
        self._stop(self._settings.shutdown_grace_seconds)

    def _quit(self) -> None:
        """QUIT: stop at once."""
        log.warning("Told to quit at once: calls in hand are lost, and may be bought again")
        self._stop(0.0)
        self._kill_at = 0.0
        self._prepared = False  # nothing is tidied up: the next start does that
        self._helpers.end(signal.SIGKILL)

    # Stopping

    @property
    def _stopping(self) -> bool:
        return self._kill_at is not None

    def _stop(self, grace: float) -> None:
        if self._stopping:
            return
        log.info("Stopping", grace_seconds=grace, children=len(self._children))
        self._systemd.master_stops()
        now = time.monotonic()
        # Calls are given up a little before the grace ends, so that children can still put on record how they ended.
        self._board.grace_ends = now + grace - min(self._timings.grace_margin_seconds, grace / 4)
        self._kill_at = now + max(grace, 1.0)
        self._tick()  # all see that we drain
        self._helpers.end(signal.SIGTERM, "prepare")
        self._puller.stop()
        for child in self._children:
            if child.role is Role.RELAY:
                self._notifier.notify(child.slot)

    def _drain(self) -> None:
        """Workers leave first, so that relays can deliver the last results."""
        now = time.monotonic()
        assert self._kill_at is not None
        if now >= self._kill_at:
            self._children.give_up()
            self._helpers.end(signal.SIGKILL, "prepare")
        workers = [child for child in self._children if child.role is Role.WORKER]
        everyone = not workers or now >= self._board.grace_ends
        # Told again in each round: a signal that comes just before a system call interrupts nothing.
        for child in list(self._children) if everyone else workers:
            self._children.tell(child, signal.SIGTERM)
        for moment in (self._kill_at, self._board.grace_ends):
            self._expect(moment if moment > now else math.inf)
        if not self._children and not self._helpers:
            self._final_sweep()

    def _final_sweep(self) -> None:
        """Everyone has left. What some left behind is freed now rather than at the next start."""
        if self._prepared and self._children.unclean:
            self._prepared = False
            self._sweep(frozenset(), lambda _: None)
        else:
            self._exit_code = 0


# The one signal table: blocked in the master, and heard in `_wait`.
SIGNALS: Mapping[signal.Signals, Callable[[Master], None]] = {
    signal.SIGCHLD: Master._look_around,
    signal.SIGTERM: Master._stop_gracefully,
    signal.SIGINT: Master._stop_gracefully,
    signal.SIGQUIT: Master._quit,
    signal.SIGHUP: Master._reload,
    signal.SIGUSR1: Master._poll_now,
    signal.SIGUSR2: Master._look_after_models,
}

LOOK_AGAIN_SECONDS = 0.2  # for another master's lock, whose end nothing tells

DESCRIPTORS = LAST_SLOT + OTHER_DESCRIPTORS  # a reload may ask for any number of children


def run_master(settings: Settings, roles: Roles, timings: Timings = Timings()) -> int:  # noqa: B008 (frozen)
    """Be the master until told to stop; the exit code (0, 1, 78)."""
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS.keys())
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # inherited as ignored, the dead would be reaped behind our back
    os.umask(0o077)
    name_process("aitp master")
    configure(settings.log_level, settings.log_format, slot=MASTER)
    try:
        refuse_few_descriptors(settings, most_descriptors())
        own_directory(settings.runtime_dir)
        locks = open_locks(settings.ledger_path)
        if (code := _take_over(locks, settings.shutdown_grace_seconds + timings.takeover_seconds)) is not None:
            return code
        board = Scoreboard.create(scoreboard_path(settings.runtime_dir))
        death_pipe, death_pipe_end = os.pipe2(os.O_CLOEXEC)
        _allow_descriptors()
    except ConfigurationError as error:
        log.error("Configuration cannot be used", problems=list(error.problems))
        return MISCONFIGURED
    except OSError as error:
        log.error("Master cannot start", reason=str(error))
        return FAILED
    log.info("Master started", pid=os.getpid())
    roles.warm_up()
    gc.collect()
    gc.freeze()  # children share what a collection would otherwise touch
    inherited = Inherited(board, Notifier(), death_pipe, death_pipe_end, locks, timings)
    return Master(settings, roles, inherited, Systemd(surroundings())).run()


def _take_over(locks: SlotLocks, patience: float) -> int | None:
    """Wait for another master of this ledger to leave. None: we are the master now; else the exit code."""
    give_up = time.monotonic() + patience
    waiting = False
    while not locks.acquire(MASTER, timeout=0):
        if not waiting:
            waiting = True
            log.warning("Another master is running, waiting for it to leave", holder=locks.holder(MASTER))
        if time.monotonic() >= give_up:
            log.error("Another master is still running: one ledger has one master", holder=locks.holder(MASTER))
            return FAILED
        if wait_for_signal((signal.SIGTERM, signal.SIGINT, signal.SIGQUIT), LOOK_AGAIN_SECONDS):
            return 0
    return None


def _allow_descriptors() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < DESCRIPTORS:
        wanted = DESCRIPTORS if hard == resource.RLIM_INFINITY else min(DESCRIPTORS, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
