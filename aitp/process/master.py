"""The master: keeps a child in every slot, relays signals, enforces deadlines, and decides nothing else.

One loop (`reap → kill the overdue → manage → wait for a signal`) around one wait, ended by signals, by the next known
event, or by a tick. No network, no ledger connection: what needs the ledger is done by a one-shot helper process, which
the master bounds, and whose exit code it learns. `run_master` sets it up.
"""

from __future__ import annotations

import math
import os
import signal
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum

from aitp.errors import ConfigurationError
from aitp.hardening import Parent, end_with
from aitp.ledger.locks import SlotLocks
from aitp.ledger.outcomes import Cause
from aitp.logs import configure, get_logger
from aitp.process import models, scoreboard, start
from aitp.process.child import (
    EXIT_QUIT,
    Inherited,
    Roles,
    Timings,
    run_child,
    run_forked,
    share_memory,
    wait_for_signal,
)
from aitp.process.scoreboard import MASTER, Notifier, Record, Role, Scoreboard, State, role_of, slots_of
from aitp.settings import Settings, under_supervisord
from aitp.tasks import ExitCode

AT_ONCE = 0.0  # by the monotonic clock
STOPPING_TICK_SECONDS = 1.0
LOOK_SECONDS = 3_600.0  # between looks while all is well: a model may vanish, or be announced to be shut down
LOOK_AGAIN_SECONDS = 0.2  # for another master's lock, whose end nothing tells
DESCRIPTORS = scoreboard.LAST_SLOT + start.OTHER_DESCRIPTORS  # a reload may ask for any number of children
FORKS_A_ROUND = 16  # signals are heard in between, however many children are to start
# A child that ends so chose it itself, and not because of a bug.
ORDERLY_EXITS = frozenset({ExitCode.FINE, ExitCode.AGAIN, EXIT_QUIT, ExitCode.MISCONFIGURED})

log = get_logger(__name__)


class Helper:
    """One-shot processes for something that must not happen in the master; one at a time. Moments are monotonic.

    When it is `due`, `work` is done in a process of its own, which exits as `run_forked` says, and may take `seconds`;
    then `ended` is told the exit code (negative: a signal).
    """

    def __init__(
        self,
        name: str,
        inherited: Inherited,
        seconds: float,
        work: Callable[[], bool | None],
        ended: Callable[[int], None],
    ) -> None:
        self._name, self._inherited, self._work, self._ended = name, inherited, work, ended
        self.seconds = seconds
        self._master = os.getpid()
        self.pid = 0
        self.due = self._deadline = math.inf

    def send_if_due(self) -> float:
        """When to look again."""
        now = time.monotonic()
        if self.pid or self.due > now:
            return math.inf if self.pid else self.due
        try:
            pid = os.fork()
        except OSError as error:
            log.error("Cannot fork", reason=error.strerror, helper=self._name)
            self.due = math.inf
            self._ended(ExitCode.FAILED)
            return self.due
        if pid == 0:
            run_forked("A short-lived process", self._help, self._inherited)
        self.pid, self.due, self._deadline = pid, math.inf, now + self.seconds
        return math.inf

    def _help(self) -> bool | None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group: the master decides
        signal.pthread_sigmask(signal.SIG_SETMASK, [])
        # A server that says nothing would keep it beyond the master's death, and the next one's from the models.
        end_with(self._master)
        return self._work()

    def reap(self, pid: int, exit_code: int) -> None:
        """A process was reaped; if it was this one, go on with what waits for it."""
        if pid == self.pid:
            self.pid, self._deadline = 0, math.inf
            self._ended(exit_code)

    def end(self, signum: signal.Signals) -> None:
        """Signal the one that is underway."""
        if self.pid:
            os.kill(self.pid, signum)

    def kill_overdue(self) -> float:
        """Kill the one that is underway if it took too long; when to look again."""
        if self._deadline <= time.monotonic():
            log.error("A short-lived process took too long and is killed", helper=self._name)
            self.end(signal.SIGKILL)
            self._deadline = math.inf
        return self._deadline


@dataclass(slots=True)
class Slot:
    """A slot that a child is wanted in, or was, and its living child (`pid`; 0: it is vacant). Moments are monotonic.

    `told`: to leave, and `killed`: for what cause, by the master. `cause` is what ended the last child that had taken
    the slot over; `unclean`: the next one has to tidy up. It starts at `not_before`, held back for 1, 2, 4 … seconds
    while children keep dying early.
    """

    number: int
    pid: int = 0
    born: float = 0.0
    told: bool = False
    killed: Cause | None = None
    cause: Cause = Cause.STOPPED
    unclean: bool = False
    held_back_seconds: float = 0.0
    not_before: float = 0.0

    @property
    def role(self) -> Role:
        return role_of(self.number)


class Children:
    """All living children. `wanted` are the slots to keep filled."""

    def __init__(self, roles: Roles, inherited: Inherited) -> None:
        self._roles = roles
        self._inherited = inherited
        self._board, self._timings = inherited.board, inherited.timings
        self._slots: dict[int, Slot] = {}
        self.wanted: frozenset[int] = frozenset()

    def __iter__(self) -> Iterator[Slot]:
        return (slot for slot in self._slots.values() if slot.pid)

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def want(self, settings: Settings) -> None:
        """Be as many as the settings say. Nobody is held back any longer: new settings may have mended it."""
        relays = slots_of(Role.RELAY, settings.relay_processes)
        workers = slots_of(Role.WORKER, settings.concurrency_limit)
        self.wanted = frozenset([*relays, *workers])
        for number in (*relays, *workers):
            self._inherited.notifier.install(number)
            slot = self._slots.setdefault(number, Slot(number))
            slot.held_back_seconds = slot.not_before = 0.0

    @property
    def unclean(self) -> bool:
        """Whether someone may have left things behind for a successor to free."""
        return any(slot.unclean for slot in self._slots.values())

    def causes(self, but: frozenset[int]) -> Mapping[int, Cause]:
        """What ended the last child of each slot, `but` excepted."""
        return {number: slot.cause for number, slot in self._slots.items() if number not in but}

    def fill(self, settings: Settings) -> float:
        """Start children in vacant slots, as far as they may start now; when to look again (monotonic)."""
        now = time.monotonic()
        vacant = [slot for number, slot in self._slots.items() if number in self.wanted and not slot.pid]
        for slot in [slot for slot in vacant if slot.not_before <= now][:FORKS_A_ROUND]:
            self._start(slot, settings)
        return min((slot.not_before for slot in vacant if not slot.pid), default=math.inf)

    def _start(self, slot: Slot, settings: Settings) -> None:
        now, wall = time.monotonic(), time.time()
        # The deadline counts from now on: whoever hangs in start-up is overdue like anyone else.
        deadline = now + self._timings.start_seconds
        self._board.write(Record(slot.number, state=State.STARTING, started=wall, since=wall, deadline=deadline))
        try:
            pid = os.fork()
        except OSError as error:
            log.error("Cannot fork", reason=error.strerror, child=slot.number)
            self._board.write(Record(slot.number))
            slot.not_before = now + self._timings.longest_hold_back_seconds
            return
        if pid == 0:
            run_child(slot.number, settings, slot.cause, self._roles, self._inherited)
        slot.pid, slot.born, slot.told, slot.killed = pid, now, False, None
        log.info("Child started", child=slot.number, role=slot.role.value, pid=pid)

    def reap(self, pid: int, exit_code: int) -> int | None:
        """A process was reaped: if it was a child, its slot's number, which is vacant now."""
        slot = next((slot for slot in self if slot.pid == pid), None)
        if slot is None:
            return None
        now = time.monotonic()
        last = self._board.read(slot.number)
        if last.pid != pid:
            last = Record(slot.number)  # it never came to write its own
        took_over = last.state in scoreboard.TAKEN_OVER
        cause = slot.killed or (Cause.STOPPED if exit_code in ORDERLY_EXITS else Cause.CRASHED)
        if took_over:
            slot.cause, slot.unclean = cause, exit_code != 0
        recycled = exit_code == 0 and last.done > 0
        if slot.told or recycled or (took_over and now - slot.born >= self._timings.young_seconds):
            slot.held_back_seconds = 0.0
        else:
            longest = self._timings.longest_hold_back_seconds
            slot.held_back_seconds = min(max(2 * slot.held_back_seconds, 1.0), longest)
        slot.pid, slot.not_before = 0, now + slot.held_back_seconds
        self._board.write(Record(slot.number))
        facts: dict[str, object] = {"child": slot.number, "role": slot.role.value, "pid": pid, "exit_code": exit_code}
        if exit_code == 0:
            log.info("Child left", **facts)
        else:
            facts |= {"cause": cause.value, "task_id": last.task_id, "held_back_seconds": slot.held_back_seconds}
            log.warning("Child died", **facts)
        return slot.number

    def kill_overdue(self, resume_grace_until: float) -> float:
        """Kill whoever should have ended a step some time ago; when to look again (monotonic)."""
        now = time.monotonic()
        again = math.inf
        for child in self:
            if child.killed is not None:
                continue
            record = self._board.read(child.number)
            moment = max(record.deadline + self._timings.slack_seconds, resume_grace_until)
            if moment > now:
                again = min(again, moment)
            else:
                text = "Child overran its deadline and is killed"
                log.error(text, child=child.number, pid=child.pid, state=record.state.name, task_id=record.task_id)
                self._kill(child, Cause.DEADLINE)
        return again

    def give_up(self, children: Iterable[Slot]) -> None:
        """Kill those who are left when the grace is over."""
        for child in children:
            if child.killed is None:
                task_id = self._board.read(child.number).task_id
                text = "Grace is over, child is killed: what it had in hand goes back and may be bought again"
                log.warning(text, child=child.number, task_id=task_id)
                self._kill(child, Cause.STOPPED)

    def tell(self, child: Slot, signum: signal.Signals) -> None:
        """Ask a child to leave."""
        child.told = True
        os.kill(child.pid, signum)

    def _kill(self, child: Slot, cause: Cause) -> None:
        child.killed = cause
        os.kill(child.pid, signal.SIGKILL)


class Phase(Enum):
    """Where a master's life stands. At any time a stop leads to DRAINING, QUIT to QUITTING."""

    PREPARING = "preparing"  # a helper prepares the ledger; there are no children yet
    WORKING = "working"
    RELOADING = "reloading"  # working, while a helper prepares the ledger for new settings
    DRAINING = "draining"  # workers leave, then relays, all within the grace
    SWEEPING = "sweeping"  # everyone has left: what some left behind is freed now rather than at the next start
    QUITTING = "quitting"  # everyone is killed, and nothing is tidied up: the next start does that


STOPPING = frozenset({Phase.DRAINING, Phase.SWEEPING, Phase.QUITTING})


class Master:
    """One service's master. Made once; `run` is its life. Its signals must be blocked before it is made."""

    def __init__(self, settings: Settings, roles: Roles, inherited: Inherited, systemd: start.Systemd) -> None:
        self._settings = self._new_settings = settings
        self._roles = roles
        self._board, self._notifier, self._timings = inherited.board, inherited.notifier, inherited.timings
        self._children = Children(roles, inherited)
        timings = inherited.timings
        self._preparer = Helper("prepare", inherited, timings.prepare_seconds, self._prepare, self._prepared)
        self._sweeper = Helper("sweep", inherited, timings.sweep_seconds, self._sweep, self._swept)
        self._looker = Helper("look after models", inherited, 0.0, self._look_after_models, self._looked)
        self._helpers = (self._preparer, self._sweeper, self._looker)
        self._systemd = systemd
        self._parent = Parent(supervised=under_supervisord())
        self._started = time.time()
        self._phase = Phase.PREPARING
        self._reload_asked = False
        self._exit_code: int | None = None
        # All monotonic.
        self._kill_at = math.inf  # a stop is on: whoever is left then is killed
        self._last_round = self._may_look_at = time.monotonic()  # … after models
        self._resume_grace_until = 0.0
        self._next_event = 0.0

    def run(self) -> int:
        """Keep the service going until told to stop; the exit code."""
        self._preparer.due = AT_ONCE
        while self._exit_code is None:
            self._tick()
            self._reap()
            self._expect(self._children.kill_overdue(self._resume_grace_until))
            for helper in self._helpers:
                self._expect(helper.kill_overdue())
            self._manage()
            if self._exit_code is None:
                self._wait()
        self._board.write(Record(MASTER))
        log.info("Master stopped", exit_code=self._exit_code)
        if self._exit_code == ExitCode.FINE:
            self._systemd.master_stopped()
        return self._exit_code

    # One round

    def _tick(self) -> None:
        """Say that we are there, on the scoreboard and to systemd."""
        now = time.monotonic()
        stopping = self._phase in STOPPING
        tick = STOPPING_TICK_SECONDS if stopping else self._timings.tick_seconds
        if now - self._last_round > tick + self._timings.slack_seconds:
            # The machine slept, or starved us. The children were no better off: let them have their turn first.
            self._resume_grace_until = now + self._timings.slack_seconds
        self._last_round = now
        self._next_event = now + tick
        if stopping:
            state = State.DRAINING
            self._systemd.draining()
        elif self._phase is Phase.PREPARING:
            state = State.STARTING
            self._systemd.preparing()
        else:
            state = State.RUNNING
            children = [self._board.read(child.number) for child in self._children]
            self._expect(self._systemd.working(children, len(self._children.wanted), now))
        self._board.write(Record(MASTER, os.getpid(), state, self._started, time.time(), deadline=now + tick))

    def _reap(self) -> None:
        """Reap all who are dead: many may have died behind one SIGCHLD."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            exit_code = os.waitstatus_to_exitcode(status)
            for helper in self._helpers:
                helper.reap(pid, exit_code)
            vacant = self._children.reap(pid, exit_code)
            if vacant is not None and vacant not in self._children.wanted:
                self._sweeper.due = AT_ONCE

    def _manage(self) -> None:
        if self._phase not in STOPPING and self._parent.is_gone:
            log.warning("The parent process is gone: stopping")
            # The tick that it took to notice comes out of the grace: our successor waits for so long and no longer.
            self._stop(max(self._settings.shutdown_grace_seconds - self._timings.tick_seconds, 0.0))
        if self._phase in STOPPING:
            self._drain()
            return
        if self._phase is Phase.WORKING and self._reload_asked:
            self._reload()
        self._expect(self._children.fill(self._settings))
        for helper in self._helpers:
            self._expect(helper.send_if_due())

    def _wait(self) -> None:
        """Sleep until a signal or the next event; answer all signals that are pending."""
        heard = wait_for_signal(SIGNALS, self._next_event - time.monotonic())
        while heard is not None:
            SIGNALS[heard](self)
            heard = wait_for_signal(SIGNALS, 0)

    def _expect(self, monotonic: float) -> None:
        """Something is to be looked at then: sleep no longer."""
        self._next_event = min(self._next_event, monotonic)

    # Taking settings over: prepare (a helper) → adopt. At the start and at a reload alike

    def _ask_for_reload(self) -> None:
        """HUP: take new settings over, as soon as none are being prepared."""
        self._reload_asked = True

    def _reload(self) -> None:
        """New settings, if they are good; children leave at leisure and come back with them."""
        self._reload_asked = False
        self._systemd.reloading(time.monotonic())
        try:
            settings = self._roles.load()
            start.refuse_at_reload(settings, running=self._settings)
            start.refuse_few_descriptors(settings)
        except ConfigurationError as error:
            self._keep_settings(problems=list(error.problems), warnings=list(error.warnings))
            return
        self._phase = Phase.RELOADING
        self._new_settings = settings
        self._preparer.due = AT_ONCE

    def _prepare(self) -> None:
        """In a helper."""
        try:
            self._roles.prepare(self._new_settings)
        except Exception as error:
            if self._phase is Phase.PREPARING:  # the start has failed with it
                problems = error.problems if isinstance(error, ConfigurationError) else [str(error) or repr(error)]
                start.tell_of_failed_start(self._settings.runtime_dir, problems)
            raise

    def _prepared(self, exit_code: int) -> None:
        if self._phase in STOPPING:
            return
        if exit_code == ExitCode.FINE:
            self._adopt(self._new_settings)
        elif self._phase is Phase.RELOADING:
            self._phase = Phase.WORKING
            self._keep_settings(exit_code=exit_code)
        else:
            log.error("The ledger cannot be prepared", exit_code=exit_code)
            self._exit_code = exit_code if exit_code == ExitCode.MISCONFIGURED else ExitCode.FAILED

    def _adopt(self, settings: Settings) -> None:
        configure(settings.log_level, settings.log_format, slot=MASTER)
        self._systemd.reloaded(refused=False)
        start.forget(settings.runtime_dir, start.FailedStart.FILE)
        text = "Master ready" if self._phase is Phase.PREPARING else "New settings are in force"
        log.info(text, relays=settings.relay_processes, workers=settings.concurrency_limit)
        self._phase = Phase.WORKING
        self._settings = settings
        self._children.want(settings)
        self._sweeper.due = AT_ONCE
        self._looker.seconds = models.longest_look_seconds(settings)
        self._looker.due = AT_ONCE if self._looker.seconds else math.inf
        self._looker.end(signal.SIGTERM)
        for child in self._children:
            self._children.tell(child, signal.SIGHUP)

    def _keep_settings(self, **why: object) -> None:
        log.error("New settings are not valid, the running ones stay", **why)
        self._systemd.reloaded(refused=True)

    # Freeing what slots own that nobody will take over: after a change of numbers, or the death of everything

    def _sweep(self) -> bool:
        """In a helper."""
        wanted = self._children.wanted
        return self._roles.sweep(self._settings, wanted, self._children.causes(but=wanted))

    def _swept(self, exit_code: int) -> None:
        if exit_code != ExitCode.FINE:
            self._sweeper.due = min(self._sweeper.due, time.monotonic() + self._timings.sweep_again_seconds)

    # Looking after models: at once with other settings, when a worker misses one, and time and again

    def _look_after_models(self) -> bool:
        """In a helper."""
        # With other settings, or by another master than before, nothing of what was is waited for. When it was due is
        # forgotten by the master alone, once it has sent us.
        return bool(models.look_after_models(self._settings, anew=self._looker.due == AT_ONCE))

    def _looked(self, exit_code: int) -> None:
        self._wake(Role.WORKER)  # their tasks may be waiting for a model
        now, asked = time.monotonic(), self._looker.due
        self._may_look_at = now + self._timings.look_again_seconds
        if asked != AT_ONCE and self._looker.seconds:
            # What was asked for meanwhile was asked for the sake of what this look may have found already.
            soon = exit_code != ExitCode.FINE or asked < math.inf
            self._looker.due = self._may_look_at if soon else now + LOOK_SECONDS

    def _miss_model(self) -> None:
        """USR2: a worker misses a model that it should find. Have somebody look, however often this is asked for."""
        if self._looker.seconds:  # else there is nothing to look for
            self._looker.due = min(self._looker.due, self._may_look_at)

    # Other signals

    def _poll_now(self) -> None:
        """USR1: relays poll, and nobody sleeps on."""
        for child in self._children:
            if child.role is Role.RELAY:
                os.kill(child.pid, signal.SIGUSR1)
            self._notifier.notify(child.number)

    def _wake(self, role: Role) -> None:
        for child in self._children:
            if child.role is role:
                self._notifier.notify(child.number)

    def _stop_gracefully(self) -> None:
        """TERM, INT: workers end their calls, relays deliver what comes of them, all within the grace."""
        self._stop(self._settings.shutdown_grace_seconds)

    def _quit(self) -> None:
        """QUIT: stop at once."""
        log.warning("Told to quit at once: calls in hand are lost, and may be bought again")
        self._stop(0.0)
        self._phase, self._kill_at = Phase.QUITTING, 0.0
        for helper in self._helpers:
            helper.end(signal.SIGKILL)

    # Stopping

    def _stop(self, grace: float) -> None:
        if self._phase in STOPPING:
            return
        log.info("Stopping", grace_seconds=grace, children=len(self._children))
        self._phase = Phase.DRAINING
        self._kill_at = time.monotonic() + max(grace, 1.0)
        self._tick()  # all see that we drain
        self._preparer.end(signal.SIGTERM)
        self._looker.end(signal.SIGTERM)
        self._wake(Role.RELAY)

    def _drain(self) -> None:
        """Workers leave first, and have a little less than the grace, so that relays can deliver the last results."""
        now = time.monotonic()
        workers = [child for child in self._children if child.role is Role.WORKER]
        margin = min(self._timings.grace_margin_seconds, self._settings.shutdown_grace_seconds / 4)
        workers_end_at = self._kill_at - margin
        # Told again in each round: a signal that comes just before a system call interrupts nothing.
        for child in self._children if not workers or now >= workers_end_at else workers:
            self._children.tell(child, signal.SIGTERM)
        if now >= workers_end_at:
            self._children.give_up(workers)
        if now >= self._kill_at:
            self._children.give_up(self._children)
            self._preparer.end(signal.SIGKILL)
            self._looker.end(signal.SIGKILL)
        for moment in (self._kill_at, workers_end_at):
            self._expect(moment if moment > now else math.inf)
        if self._children or any(helper.pid for helper in self._helpers):
            return
        if self._phase is Phase.DRAINING and self._children.unclean:
            self._phase = Phase.SWEEPING
            self._children.wanted = frozenset()
            self._sweeper.due = AT_ONCE
            self._sweeper.send_if_due()
        else:
            self._exit_code = ExitCode.FINE


# The one signal table: blocked in the master, and heard in `_wait`.
SIGNALS: Mapping[signal.Signals, Callable[[Master], None]] = {
    signal.SIGCHLD: lambda master: None,  # the next round reaps
    signal.SIGTERM: Master._stop_gracefully,
    signal.SIGINT: Master._stop_gracefully,
    signal.SIGQUIT: Master._quit,
    signal.SIGHUP: Master._ask_for_reload,
    signal.SIGUSR1: Master._poll_now,
    signal.SIGUSR2: Master._miss_model,
}


def run_master(settings: Settings, roles: Roles, timings: Timings = Timings()) -> int:  # noqa: B008 (frozen)
    """Be the master until told to stop; the exit code (0, 1, 78)."""
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS.keys())
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # inherited as ignored, the dead would be reaped behind our back
    os.umask(0o077)
    scoreboard.name_process("aitp master")
    configure(settings.log_level, settings.log_format, slot=MASTER)
    try:
        start.refuse_few_descriptors(settings)
        start.own_directory(settings.runtime_dir)
        locks = start.open_locks(settings)
        if (code := _take_over(locks, settings.shutdown_grace_seconds + timings.takeover_seconds)) is not None:
            return code
        board = Scoreboard.create(scoreboard.scoreboard_path(settings.runtime_dir))
        death_pipe, death_pipe_end = os.pipe2(os.O_CLOEXEC)
        start.raise_descriptors(DESCRIPTORS)
    except ConfigurationError as error:
        log.error("Configuration cannot be used", problems=list(error.problems))
        start.tell_of_failed_start(settings.runtime_dir, error.problems)
        return ExitCode.MISCONFIGURED
    except OSError as error:
        log.error("Master cannot start", reason=str(error))
        start.tell_of_failed_start(settings.runtime_dir, [str(error)])
        return ExitCode.FAILED
    log.info("Master started", pid=os.getpid())
    roles.warm_up()
    share_memory()
    inherited = Inherited(board, Notifier(), death_pipe, death_pipe_end, locks, timings)
    return Master(settings, roles, inherited, start.Systemd()).run()


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
            return ExitCode.FAILED
        if wait_for_signal((signal.SIGTERM, signal.SIGINT, signal.SIGQUIT), LOOK_AGAIN_SECONDS):
            return ExitCode.FINE
    return None
