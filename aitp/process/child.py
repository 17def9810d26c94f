"""What a relay or a worker knows of its own process: its slot, who asked it to leave, and how to wait.

`run_child` is a child's whole life after fork: signals, slot lock, the role's main, exit code. The master learns of it
by the scoreboard and by how it ends. A role's main first frees what its slot's former process owned, and only then
says `idle` for the first time: until then the master keeps the former process's cause of death for the next one.

The roles are handed to the master as functions (`service.roles` builds the real ones; tests build toys).
"""

from __future__ import annotations

import ctypes
import dataclasses
import gc
import math
import os
import select
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import NoReturn

from aitp.errors import ConfigurationError, LedgerError
from aitp.ledger.engine import lock_file
from aitp.ledger.locks import SlotLocks
from aitp.ledger.outcomes import Cause
from aitp.logs import configure, get_logger
from aitp.process.scoreboard import LAST_SLOT, MASTER, Notifier, Record, Role, Scoreboard, State, name_process, role_of
from aitp.settings import Settings, withhold
from aitp.tasks import ExitCode

RECORD_SECONDS = 3600.0  # a disk that hangs (a failing one, a network under it) may come back; a kill buys again
EXIT_QUIT = 128 + signal.SIGQUIT
# Wall clocks step, machines are suspended: nobody sleeps on one look at the clock for longer.
LONGEST_WAIT_SECONDS = 60.0
SOONEST_SECONDS = 0.001  # a timer that is set to nothing never fires
CALLS_OF_A_CLAIM = 3  # with a repair, and a text that is cut and sent again
M_TRIM_THRESHOLD, KEPT_BYTES = -1, 65_536  # mallopt(3)
# Of a heap: larger blocks come from elsewhere. All holes together are some 200 kB.
LARGEST_HOLE, MOST_FILLED = 98_304, 4_194_304

log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Roles:
    """What the processes do.

    mains      a role's whole life; frees what `cause` left behind, then says `child.idle()`, returns when leaving
    load       the settings as they are now, for a reload; raises ConfigurationError
    prepare    in a short-lived process, at start and reload: migrate, publish limits; raises ConfigurationError
    sweep      in a short-lived process: free what slots outside `wanted` own, for those whose lock nobody holds; the
               mapping names causes that are known (else STOPPED); False if some are still held: asked again later
    warm_up    in the master before it forks: import and touch what all children need, open nothing
    """

    mains: Mapping[Role, Callable[[Child, Settings, Cause], None]]
    load: Callable[[], Settings]
    prepare: Callable[[Settings], None]
    sweep: Callable[[Settings, frozenset[int], Mapping[int, Cause]], bool]
    warm_up: Callable[[], None] = lambda: None


@dataclass(frozen=True, slots=True)
class Timings:
    """The master's patience, in seconds. Tests shorten it."""

    tick_seconds: float = 5.0
    start_seconds: float = 60.0  # from fork to a child's first idle
    step_seconds: float = 60.0  # for what is not a call: a transaction, a file
    slack_seconds: float = 5.0  # from a deadline to the kill
    young_seconds: float = 10.0  # whoever dies before is held back
    longest_hold_back_seconds: float = 30.0
    grace_margin_seconds: float = 2.0  # before the grace ends, calls are given up, and relays bring out what is there
    takeover_seconds: float = 5.0  # beyond the grace, for another master to leave
    prepare_seconds: float = 900.0  # migrations and integrity checks read the whole ledger
    orphan_seconds: float = 900.0  # for a dead master's child to go, on top of what its calls may take
    sweep_seconds: float = 5.0
    sweep_again_seconds: float = 60.0
    look_again_seconds: float = 30.0  # between looks at the models while one is missing

    def patience_with_orphans(self, settings: Settings) -> float:
        """Seconds that a dead master's child has to end what it has in hand: answers that it waits for are paid for."""
        longest = max(settings.openai_timeout, settings.ollama_timeout, settings.request_timeout)
        return self.orphan_seconds + CALLS_OF_A_CLAIM * longest


@dataclass(frozen=True, slots=True)
class Inherited:
    """What children have from the master. Only it holds `death_pipe_end`: `death_pipe` shows its end."""

    board: Scoreboard
    notifier: Notifier
    death_pipe: int
    death_pipe_end: int
    locks: SlotLocks
    timings: Timings

    def after_fork(self) -> None:
        """In a child, first of all: let go of what must be the master's alone."""
        os.close(self.death_pipe_end)
        # Before the child opens its own: closing this later would drop the child's locks.
        self.locks.close()


class Child:
    """A child's own view."""

    def __init__(self, slot: int, settings: Settings, inherited: Inherited) -> None:
        self.slot = slot
        self.role: Role = role_of(slot)
        self.locks = SlotLocks(lock_file(settings.ledger))
        self.poll_asked = False  # USR1 came: poll now. The reader resets it.
        self._settings = settings
        self._board, self._notifier, self._timings = inherited.board, inherited.notifier, inherited.timings
        self._told_to_leave = False
        now = time.time()
        self._record = Record(slot, os.getpid(), State.STARTING, started=now, since=now)
        self._signals, self._signalled = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._sleep = select.poll()
        for descriptor in (self._signals, self._notifier.descriptor(slot), inherited.death_pipe):
            self._sleep.register(descriptor, select.POLLIN)
        self._death_pipe = select.poll()
        self._death_pipe.register(inherited.death_pipe, select.POLLIN)

    # What others ask of us

    @property
    def leaving(self) -> bool:
        """Told to leave (TERM, HUP), or the master is dead: finish what is in hand, begin nothing, return from main."""
        return self._told_to_leave or bool(self._death_pipe.poll(0))

    @property
    def draining(self) -> bool:
        """The master is stopping: bring no new work in. Relays go on delivering until they are told to leave."""
        return self._board.state(MASTER) == State.DRAINING

    def listen(self) -> None:
        """Install the signal handlers, then let signals in: the master blocks them, and its mask was inherited."""
        signal.set_wakeup_fd(self._signalled, warn_on_full_buffer=False)
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group: the master decides
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.signal(signal.SIGTERM, self._leave)
        signal.signal(signal.SIGHUP, self._leave)
        signal.signal(signal.SIGQUIT, lambda *_: os._exit(EXIT_QUIT))
        signal.signal(signal.SIGUSR1, self._poll_now)
        signal.signal(signal.SIGALRM, self._end_orphan)
        signal.pthread_sigmask(signal.SIG_SETMASK, [])

    # What we tell others

    def idle(self) -> None:
        """Say that this child is to be woken for new work. Before the look for work that finds none, not after it."""
        self._write(State.IDLE)

    def recording(self) -> None:
        """Say that answers which are paid for are being put on record: however slow the disk is, for an hour."""
        self._write(State.RECORDING, task_id=self._record.task_id, allow=RECORD_SECONDS)

    def count_done(self, count: int = 1) -> None:
        """Add finished tasks to the scoreboard's count."""
        self._write(self._record.state, done=self._record.done + count)

    @contextmanager
    def call(self, task_id: str, seconds: float) -> Iterator[None]:
        """`with child.call(id, seconds):` bounds a call to another service as a whole. Not nested.

        Sockets' time-outs end what is silent. What trickles is ended by the master, and this process with it, soon
        after `seconds`, or by its own timer where no master is left: nothing that runs here is ever interrupted
        half-way.
        """
        self._write(State.BUSY, task_id=task_id, allow=seconds)
        self._wake(self.role, self._notifier.drain(self.slot))  # they were meant for someone with time
        tick = self._timings.tick_seconds
        signal.setitimer(signal.ITIMER_REAL, seconds + 2 * (self._timings.slack_seconds + tick), tick)
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0.0)
            self._write(State.BUSY)

    def wake_workers(self, count: int = LAST_SLOT) -> None:
        """There is work for `count` workers: wake as many idle ones."""
        self._wake(Role.WORKER, count)

    def wake_relays(self, count: int = LAST_SLOT) -> None:
        """There are results to deliver, or room to poll for: wake `count` idle relays."""
        self._wake(Role.RELAY, count)

    def miss_model(self) -> None:
        """Have the master send somebody to look after the models: one of them is not where it should be."""
        if (master := os.getppid()) == self._board.read(MASTER).pid:  # a stranger's parent is to be left alone
            os.kill(master, signal.SIGUSR2)

    # Waiting

    def wait(self, until: float | None = None, line: int | None = None) -> None:
        """Sleep until `until` (wall clock), a wake-up, a signal or the master's death; 60 s at most.

        `line`: a descriptor that ends it as well when it can be read. Its reader is to read it, or name it no more.
        """
        seconds = LONGEST_WAIT_SECONDS
        if until is not None:
            seconds = min(max(until - time.time(), 0.0), seconds)
        if self._told_to_leave:
            seconds = 0.0
        self._write(self._record.state, allow=seconds + self._timings.step_seconds)
        if line is not None:
            self._sleep.register(line, select.POLLIN)
        self._sleep.poll(math.ceil(seconds * 1000))
        if line is not None:
            self._sleep.unregister(line)
        notified = self._notifier.drain(self.slot)
        with suppress(BlockingIOError):
            os.read(self._signals, 65_536)  # all that a pipe holds
        self._wake(self.role, notified - 1)  # two notified one of us: another has work to do as well

    def take_slot(self) -> bool:
        """Wait for the slot's former process to be gone; False if told to leave before that."""
        patience = time.monotonic() + self._timings.patience_with_orphans(self._settings)
        warned = False
        while not self.locks.acquire(self.slot, timeout=1.0):
            if self.leaving:
                return False
            self._write(State.WAITING, allow=self._timings.start_seconds)
            holder = self.locks.holder(self.slot)
            if not warned:
                warned = True
                log.warning("Slot is still held by its former process", holder=holder)
            if holder and time.monotonic() >= patience:
                # An orphan, since a master replaces no living child of its own; and a stuck one, with nobody else to
                # end it. The lock says that this pid is it.
                log.error("Former process of this slot is stuck and is killed", holder=holder)
                with suppress(ProcessLookupError):
                    os.kill(holder, signal.SIGKILL)
        self._write(State.STARTING, allow=self._timings.start_seconds)
        return True

    def leave(self) -> None:
        """Say that main has returned."""
        self._write(State.LEAVING)
        self._wake(self.role, self._notifier.drain(self.slot))

    # Inside

    def _write(self, state: State, *, task_id: str = "", allow: float | None = None, done: int | None = None) -> None:
        before = self._record
        self._record = dataclasses.replace(
            before,
            state=state,
            since=before.since if state is before.state and task_id == before.task_id else time.time(),
            deadline=time.monotonic() + (self._timings.step_seconds if allow is None else allow),
            task_id=task_id,
            done=before.done if done is None else done,
        )
        self._board.write(self._record)

    def _wake(self, role: Role, count: int) -> None:
        self._notifier.notify_idle(role, count, self._board, but=self.slot)

    def _leave(self, signum: int, frame: object) -> None:
        self._told_to_leave = True

    def _end_orphan(self, signum: int, frame: object) -> None:
        # A living master judges by itself: it knows whether both of us were stopped, or the machine slept.
        if self._death_pipe.poll(0):
            os._exit(ExitCode.AGAIN)

    def _poll_now(self, signum: int, frame: object) -> None:
        self.poll_asked = True


def run_child(slot: int, settings: Settings, cause: Cause, roles: Roles, inherited: Inherited) -> NoReturn:
    """Be the child in `slot`, from fork to exit."""

    def life() -> None:
        name_process(f"aitp {role_of(slot).value} {slot}")
        child = Child(slot, settings, inherited)
        child.listen()
        configure(settings.log_level, settings.log_format, slot=slot)
        if child.take_slot():
            roles.mains[child.role](child, settings, cause)
        child.leave()

    run_forked("Child", life, inherited)


def run_forked(what: str, work: Callable[[], bool | None], inherited: Inherited) -> NoReturn:
    """Do `work` and exit: AGAIN for False, or where the machine fails; never unwinds into the master's stack."""
    code = ExitCode.FAILED
    try:
        inherited.after_fork()
        withhold()  # nobody loads settings here again
        code = ExitCode.AGAIN if work() is False else ExitCode.FINE
    except ConfigurationError as error:
        log.error("Configuration cannot be used", problems=list(error.problems))
        code = ExitCode.MISCONFIGURED
    except (LedgerError, OSError, MemoryError):
        log.exception(f"{what} gives up: the machine or the ledger fails it")
        code = ExitCode.AGAIN
    except Exception:
        log.exception(f"{what} failed")
    finally:
        os._exit(code)  # whatever happens: it never runs on in the master's code


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


# ── memory ───────────────────────────────────────────────────────────────────────────────────────────────────────────
#
# A page that a child writes to is copied for it. What follows keeps that rare; with a C library other than GNU's, and
# an interpreter other than CPython, it does less, or nothing.


def share_memory() -> None:
    """In the master, once all is loaded: what it has is there for good, and is left alone by its children."""
    gc.collect()
    # Else a child's first look at an attribute drops the name in the cache that another one had there, and so writes to
    # it, wherever it lies. 3.13 has it under another name.
    clear = getattr(sys, "_clear_internal_caches", None) or sys._clear_type_cache
    clear()
    with suppress(AttributeError):
        libc = ctypes.CDLL(None)
        libc.mallopt(M_TRIM_THRESHOLD, KEPT_BYTES)
        _fill_holes(libc)
    gc.freeze()  # a collection would touch it all


def _fill_holes(libc: ctypes.CDLL) -> None:
    """Take what is free among the blocks of the heap, for good. A child's small blocks would go there, each to another
    page of all that are shared; so they stand together at the heap's end.
    """
    libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    libc.free.restype, libc.free.argtypes = None, [ctypes.c_void_p]
    end = libc.malloc(LARGEST_HOLE)
    libc.free(end)
    left = MOST_FILLED
    for size in (*range(LARGEST_HOLE, 1024, -1024), *range(1024, 8, -16)):
        while (block := libc.malloc(size)) and block < end and left > 0:
            left -= size
        libc.free(block)


def give_back() -> None:
    """Before a rest, after some work: an answer for a batch takes a megabyte for a moment, of which the C library would
    keep a part. Takes a few tenths of a millisecond.
    """
    with suppress(AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
