"""The staff: all living children, and the slots they are in. Starts, tells, kills and buries them for the master."""

from __future__ import annotations

import math
import os
import resource
import signal
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from aitp.errors import ConfigurationError
from aitp.ledger import Cause
from aitp.logs import get_logger
from aitp.process import errand
from aitp.process.child import EXIT_MACHINE, EXIT_QUIT, run_child
from aitp.process.crew import Crew, Heritage
from aitp.process.places import Death, Place
from aitp.process.scoreboard import Record, State
from aitp.process.slots import Role, role_of, slots_of
from aitp.settings import Settings

ORDERLY_EXITS = frozenset({0, EXIT_MACHINE, EXIT_QUIT, errand.MISCONFIGURED})
FORKS_A_ROUND = 16  # signals are heard in between, however many children are to start

OTHER_DESCRIPTORS = 100  # beside a bell for each child: files, pipes, what libraries open

log = get_logger(__name__)


def descriptors_needed(settings: Settings) -> int:
    """About how many files the master has open at a time."""
    return settings.concurrency_limit + settings.relay_processes + OTHER_DESCRIPTORS


def refuse_few_descriptors(settings: Settings, most: int) -> None:
    """Raise ConfigurationError if `most`, the hard limit on open files, is too low for as many children."""
    if most < (needed := descriptors_needed(settings)):
        raise ConfigurationError(
            [
                f"CONCURRENCY_LIMIT={settings.concurrency_limit}: a process may have {most:,} files open here, and the "
                f"master needs about {needed:,}; raise the hard limit (ulimit -Hn; LimitNOFILE= of the unit), or lower "
                "CONCURRENCY_LIMIT"
            ]
        )


def most_descriptors(pid: int = 0) -> int:
    """The hard limit on open files of `pid` (0: of this process). Raises OSError."""
    _, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    return (1 << 62) if hard == resource.RLIM_INFINITY else hard


@dataclass(slots=True)
class Employed:
    """A living child, as its master sees it. `killed` says why, if the master has done so."""

    pid: int
    slot: int
    role: Role
    born: float
    told: bool = False
    killed: Cause | None = None


class Staff:
    """Children by pid, places by slot. `wanted` are the slots to keep filled."""

    def __init__(self, crew: Crew, heritage: Heritage) -> None:
        self._crew = crew
        self._board = heritage.board
        self._timings = heritage.timings
        self._heritage = heritage
        self._children: dict[int, Employed] = {}
        self._places: dict[int, Place] = {}
        self.wanted: frozenset[int] = frozenset()

    def __len__(self) -> int:
        return len(self._children)

    def __iter__(self) -> Iterator[Employed]:
        return iter(self._children.values())

    def want(self, settings: Settings) -> None:
        """Be as many as the settings say. Nobody is held back any longer: new settings may have mended it."""
        relays = slots_of(Role.RELAY, settings.relay_processes)
        workers = slots_of(Role.WORKER, settings.concurrency_limit)
        self.wanted = frozenset([*relays, *workers])
        for slot in (*relays, *workers):
            self._heritage.wakes.install(slot)
            self._places.setdefault(slot, Place()).forgive()

    @property
    def unclean(self) -> bool:
        """Whether someone may have left things behind for a successor to free."""
        return any(place.unclean for place in self._places.values())

    def causes(self, but: frozenset[int]) -> Mapping[int, Cause]:
        """What ended the last child of each slot, `but` excepted."""
        return {slot: place.cause for slot, place in self._places.items() if slot not in but}

    def fill(self, settings: Settings) -> float:
        """Start children in vacant slots, as far as they may start now; when to look again (monotonic)."""
        now = time.monotonic()
        again = math.inf
        vacant = sorted(self.wanted - {child.slot for child in self})
        due = [slot for slot in vacant if self._places[slot].not_before <= now]
        for slot in due[:FORKS_A_ROUND]:
            self._start(slot, settings)
        if len(due) > FORKS_A_ROUND:
            again = now
        return min([again, *(self._places[slot].not_before for slot in vacant if slot not in due)])

    def _start(self, slot: int, settings: Settings) -> None:
        now, wall = time.monotonic(), time.time()
        place = self._places[slot]
        # The deadline counts from now on: whoever hangs in start-up is overdue like anyone else.
        deadline = now + self._timings.start_seconds
        self._board.write(Record(slot, state=State.STARTING, started=wall, since=wall, deadline=deadline))
        try:
            pid = os.fork()
        except OSError as error:
            log.error("Cannot fork", reason=error.strerror, child=slot)
            self._board.write(Record(slot))
            place.not_before = now + self._timings.longest_hold_back_seconds
            return
        if pid == 0:
            run_child(slot, settings, place.cause, self._crew, self._heritage)
        self._children[pid] = Employed(pid, slot, role_of(slot), now)
        log.info("Child started", child=slot, role=role_of(slot).value, pid=pid)

    def bury(self, pid: int, exit_code: int) -> int | None:
        """A process was reaped: if it was a child, vacate its slot. That slot."""
        child = self._children.pop(pid, None)
        if child is None:
            return None
        now = time.monotonic()
        last = self._board.read(child.slot)
        if last.pid != pid:
            last = Record(child.slot)  # it never came to write its own
        death = Death(exit_code, now - child.born, last, child.told, child.killed, exit_code in ORDERLY_EXITS)
        place = self._places[child.slot]
        place.vacate(death, now, self._timings.young_seconds, self._timings.longest_hold_back_seconds)
        self._board.write(Record(child.slot))
        facts = {"child": child.slot, "role": child.role.value, "pid": pid, "exit_code": exit_code}
        if exit_code == 0:
            log.info("Child left", **facts)
        else:
            held_back = round(max(place.not_before - now, 0.0), 1)
            cause = death.cause.value
            log.warning("Child died", **facts, cause=cause, task_id=last.task_id, held_back_seconds=held_back)
        return child.slot

    def kill_overdue(self, mercy_until: float) -> float:
        """Kill whoever should have ended a step some time ago; when to look again (monotonic)."""
        now = time.monotonic()
        again = math.inf
        for child in self:
            if child.killed is not None:
                continue
            record = self._board.read(child.slot)
            moment = max(record.deadline + self._timings.slack_seconds, mercy_until)
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

    def tell(self, child: Employed, signum: signal.Signals) -> None:
        """Ask a child to leave."""
        child.told = True
        os.kill(child.pid, signum)

    def kill(self, child: Employed, cause: Cause) -> None:
        child.killed = cause
        os.kill(child.pid, signal.SIGKILL)
