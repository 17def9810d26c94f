"""A model of the life of tasks, in memory: the state of each, why it may leave it, its twins, and what limits count.

Small enough to be read as what is promised; `test_life_model.py` holds the ledger to it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from zoneinfo import ZoneInfo

from aitp.ledger.clock import TOLERANCE_SECONDS
from aitp.ledger.outbox import LISTING_LAG_SECONDS
from aitp.ledger.outcomes import Cause
from aitp.ledger.queue import LedgerConfig
from aitp.policy.windows import ROLLING_SECONDS, fixed_window
from aitp.tasks import Culprit, Ending, Period
from tests.ledger.world import Clock

# No world is ever ill, nor a breaker open: they have tests of their own.
RULES = LedgerConfig(max_retries=1, max_crashes=2, reuse_seconds=600.0, breaker_threshold=1_000)
IMPROBABLE = 0.0005
WAITS_A_MOMENT = (Ending.POSTPONED, Ending.UNSENT)

# Before changes of the clocks, so that some runs cross one.
STARTS = (1_753_900_000.0, 1_541_300_000.0, 1_550_368_000.0, 1_761_437_000.0, 1_743_865_000.0)
ZONES = ("UTC", "America/Sao_Paulo", "Europe/Lisbon", "Australia/Lord_Howe")

# What the tasks are about: some are twins, and two are to have none.
TEXTS = {"t0": "a", "t1": "a", "t2": "a", "t3": "b", "t4": "b", "t5": "c", "t6": "", "t7": ""}
NAMES = list(TEXTS)


def result_of(text: str) -> bytes:
    """What a provider makes of it: to be told from that of any other."""
    return f'"{text}"'.encode()


@dataclass
class Known:
    """A task as the model sees it."""

    text: str = ""  # that it shares with its twins; empty: it is to have none
    entered: int = 0  # when: in the order of polls and burials
    number: int = 0  # in the order of entering
    row: int = 0  # of the ledger, as its last claim told it
    state: str = "ready"  # ready, claimed, finished, dead
    slot: int | None = None
    due_at: float = 0.0
    failures: int = 0
    first_failure: int | None = None  # of the world's calls so far, when it was
    in_flight: int = 0  # other calls at that moment: none of them is a witness
    witnessed: int = 0  # good calls of the world when its own began
    alone: dict[Culprit, int] = field(default_factory=dict)  # failures since
    is_suspect: bool = False
    crashes: int = 0
    attempted: bool = False
    missed: int = 0
    tries: int = 0
    most: int | None = None  # of the batch it may be in
    twin_of: str | None = None  # whose result it waits for
    succeeded: bool = False
    finished_at: float = 0.0
    of_earlier_settings: bool = False  # its result is for nobody who comes later


@dataclass
class Called:
    """What came of a call: whose failure it was, and of which tasks. None: it was good for them."""

    failure: Culprit | None
    tasks: frozenset[str]


@dataclass
class Buried:
    """A tombstone: when, by the order of polls and burials, and by the clock."""

    order: int
    at: float


@dataclass
class Kept:
    """The result of a task that was delivered, for twins that come later."""

    of: str
    finished_at: float


@dataclass
class Listed:
    """What a poll has listed so far."""

    order: int
    began_at: float
    seen: set[str] = field(default_factory=set)


class Model:
    """All tasks. Each method is what one transaction may do, and says what is to come of it."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.tasks: dict[str, Known] = {}
        self.buried: dict[str, Buried] = {}
        self.kept: dict[str, Kept] = {}
        self.completions: list[float] = []
        self.limits: dict[str, int] = {}
        self.strategy, self.zone = "rolling", ZoneInfo("UTC")
        self._order = 0  # of polls and burials
        self._entered = 0
        self._unnoticed = 0.0
        self.world: list[Called] = []
        self.suspects_last = False  # in turn with fresh ones
        self.absent: dict[int, float] = {}  # slots of hosts that are away, and since when that is known

    @property
    def now(self) -> float:
        return self._clock.now

    def in_state(self, state: str) -> dict[str, Known]:
        return {name: known for name, known in self.tasks.items() if known.state == state}

    def claimed_by(self, slot: int) -> list[str]:
        return [name for name, known in self.in_state("claimed").items() if known.slot == slot]

    def owns(self, slot: int) -> bool:
        """Whether tasks are in its hands, to be run or delivered."""
        return any(known.slot == slot for known in self.tasks.values())

    def promote(self, state: str) -> None:
        """What is due is due now."""
        for known in self.in_state(state).values():
            if known.due_at <= self.now:
                known.due_at = 0.0

    def set_clock(self, seconds: float, listed: Listed | None) -> None:
        """All that waits, or that is so old, is so still. What would have been sent in the future was sent now."""
        self._unnoticed += seconds
        if abs(self._unnoticed) <= TOLERANCE_SECONDS:
            return
        seconds, self._unnoticed = self._unnoticed, 0.0
        for known in self.tasks.values():
            known.due_at += seconds if known.due_at else 0.0
            known.finished_at += seconds
        for tombstone in self.buried.values():
            tombstone.at += seconds
        self.absent = {slot: since + seconds for slot, since in self.absent.items()}
        for kept in self.kept.values():
            kept.finished_at += seconds
        if listed is not None:
            listed.began_at += seconds
        self.completions = [min(instant, self.now) for instant in self.completions]

    # Limits

    def count(self, tasks: int) -> None:
        """Attempts that ended now."""
        if tasks:
            self.completions += [max([self.now, *self.completions[-1:]])] * tasks

    def used(self, period: str) -> int:
        """Tasks that count in the present window."""
        if self.strategy == "rolling":
            since = self.now - ROLLING_SECONDS[Period(period)]
            ended = sum(instant > since for instant in self.completions)
        else:
            start = fixed_window(Period(period), self.now, self.zone).start
            ended = sum(instant >= start for instant in self.completions)
        return ended + len(self.in_state("claimed"))

    def room(self) -> int:
        return min((limit - self.used(period) for period, limit in self.limits.items()), default=len(NAMES))

    # In

    def begin_poll(self) -> Listed:
        self._order += 1
        return Listed(self._order, self.now)

    def admit(self, page: Sequence[str], listed: Listed) -> tuple[list[str], dict[str, set[str]]]:
        """Enter the new ones of a page; who they are, and for those that have their results at once, whose."""
        entered, reused = [], {}
        for name in page:
            if name in self.tasks or self._is_stale_news(name, listed):
                continue
            entered.append(name)
            self._entered += 1
            known = Known(TEXTS[name], listed.order, self._entered)
            if givers := self._givers(name):
                reused[name] = givers
                known.state, known.succeeded, known.finished_at = "finished", True, self.now
            else:
                known.twin_of = self._original(known.text)
            self.tasks[name] = known
        listed.seen |= set(page)
        return entered, reused

    def _is_stale_news(self, name: str, listed: Listed) -> bool:
        tombstone = self.buried.get(name)
        if tombstone is None:
            return False
        return listed.order < tombstone.order or listed.began_at < tombstone.at + LISTING_LAG_SECONDS

    def _givers(self, name: str) -> set[str]:
        """Tasks whose recent result `name` may have: those that are still there, else the one that was kept."""
        text, oldest = TEXTS[name], self.now - RULES.reuse_seconds
        held = {
            other
            for other, known in self.tasks.items()
            if text and known.text == text and known.succeeded and known.finished_at > oldest
            if not known.of_earlier_settings
        }
        kept = self.kept.get(text)
        if held or kept is None or kept.of == name or kept.finished_at <= oldest:
            return held
        return {kept.of}

    def _original(self, text: str) -> str | None:
        """The one task that is still to be run and that others of its text wait for."""
        found = [
            name
            for name, known in self.tasks.items()
            if text and known.text == text and known.twin_of is None and known.state in ("ready", "claimed")
        ]
        assert len(found) <= 1
        return found[0] if found else None

    def end_poll(self, listed: Listed, *, complete: bool) -> int:
        """Forget what is not listed any more, old tombstones, old results; how many tasks were dropped."""
        gone = []
        for name, known in self.in_state("ready").items():
            if known.attempted:
                continue
            if name in listed.seen:
                known.missed = 0
            elif complete and known.entered < listed.order:
                known.missed += 1
            if known.missed >= 2:
                gone.append(name)
        for name in gone:
            del self.tasks[name]
        for name in gone:
            self._hand_on(name)
        for name, tombstone in list(self.buried.items()):
            if tombstone.order < listed.order and tombstone.at < self.now - LISTING_LAG_SECONDS:
                del self.buried[name]
        self.kept = {
            text: kept for text, kept in self.kept.items() if kept.finished_at > self.now - RULES.reuse_seconds
        }
        return len(gone)

    def change_settings(self) -> None:
        """Those that decide what results look like."""
        self.kept.clear()
        for known in self.tasks.values():
            known.of_earlier_settings = True

    # The middle

    def claimable(self) -> set[str]:
        self.promote("ready")
        return {name for name, known in self._waits_for_nobody().items() if not known.due_at}

    def next_due(self) -> float | None:
        return min((known.due_at for known in self._waits_for_nobody().values() if known.due_at), default=None)

    def _waits_for_nobody(self) -> dict[str, Known]:
        return {name: known for name, known in self.in_state("ready").items() if known.twin_of is None}

    def next_in_turn(self) -> set[str]:
        """Of those that may be claimed, those that one batch may be of: fresh ones, or suspects like the least one."""
        could = self.claimable()
        suspects = {name for name in could if self.tasks[name].is_suspect}
        fresh = could - suspects
        in_flight = any(known.is_suspect for known in self.in_state("claimed").values())
        if not suspects or in_flight or (fresh and self.suspects_last):
            return fresh
        least = min(suspects, key=lambda name: (self.tasks[name].failures, self.tasks[name].number))
        return {name for name in suspects if self.tasks[name].most == self.tasks[least].most}

    def take(self, names: Iterable[str], slot: int) -> None:
        """A claim of these."""
        if any(self.tasks[name].is_suspect for name in self.claimable()):
            self.suspects_last = any(self.tasks[name].is_suspect for name in names)
        for name in names:
            self.take_hold(name, slot)

    def take_hold(self, name: str, slot: int) -> None:
        known = self.tasks[name]
        known.witnessed = sum(call.failure is None for call in self.world)
        assert (known.state, known.slot, known.twin_of) == ("ready", None, None)
        known.state, known.slot, known.attempted, known.missed, known.due_at = "claimed", slot, True, 0, 0.0

    def finish(self, names: Sequence[str], ending: Ending, culprit: Culprit) -> tuple[list[Ending], dict[str, str]]:
        """An attempt at these has ended; their endings once judged, and the twins that have a result, of whom."""
        if ending is not Ending.UNSENT:
            self.count(len(names))
        if names:
            self._befalls(names, ending, culprit)
        endings = [self._end(name, ending, len(names), culprit) for name in names]
        return endings, self._settle_twins(names)

    def waits(self, name: str, row: int) -> bool:
        """Whether a late answer to the task that was in this row is welcome: nobody is at it, and it has none."""
        known = self.tasks.get(name)
        return known is not None and (known.row, known.state, known.twin_of) == (row, "ready", None)

    def finish_late(self, names: Sequence[str]) -> dict[str, str]:
        """Good answers of a former owner, whose attempt has been counted; the twins that have a result, of whom."""
        for name in names:
            self._end(name, Ending.SUCCEEDED, 1, Culprit.ANSWER)
        return self._settle_twins(names)

    def release(self, names: Sequence[str], cause: Cause) -> list[Ending]:
        """The process that ran these is gone; their endings."""
        self.count(len(names))
        if names and cause is Cause.DEADLINE:
            self._befalls(names, Ending.RETRY, Culprit.SERVICE)
        endings = []
        for name in names:
            known = self.tasks[name]
            ending = Ending.RETRY if cause is Cause.DEADLINE else Ending.ABANDONED
            known.witnessed = sum(call.failure is None for call in self.world)  # when that call began, nobody knows
            if cause is Cause.CRASHED:
                known.crashes += 1
                known.most, known.is_suspect = 1, True
                ending = Ending.FAILED if known.crashes >= RULES.max_crashes else ending
            endings.append(self._end(name, ending, len(names), Culprit.SERVICE))
        assert self._settle_twins(names) == {}
        return endings

    def _befalls(self, names: Sequence[str], ending: Ending, culprit: Culprit) -> None:
        if ending in (Ending.SUCCEEDED, Ending.RETRY):
            self.world.append(Called(culprit if ending is Ending.RETRY else None, frozenset(names)))

    def _is_at_fault(self, name: str, culprit: Culprit) -> bool:
        """By what befell others since its first failure."""
        known = self.tasks[name]
        since = self.world[known.first_failure :]
        good = max(0, sum(call.failure is None for call in since) - known.in_flight)
        before = sum(call.failure is None for call in self.world[: known.first_failure]) + known.in_flight
        has_witness = known.witnessed > before
        others = sum(call.failure is culprit and name not in call.tasks for call in since)
        if known.alone[culprit] <= RULES.max_retries or not (has_witness or culprit is Culprit.ANSWER):
            return False
        failed, called = {Culprit.ANSWER: (1, 20), Culprit.SERVICE: (1, 2)}[culprit]
        return bool(((others + failed) / (good + others + called)) ** known.alone[culprit] < IMPROBABLE)

    def _end(self, name: str, ending: Ending, batch: int, culprit: Culprit) -> Ending:
        """What becomes of a task, and the ending once it is judged."""
        known = self.tasks[name]
        slot, known.slot = known.slot, None
        tries = 1
        if ending is Ending.RETRY:
            known.failures += 1
            known.is_suspect = True
            if known.first_failure is None:
                known.first_failure = len(self.world)
                known.in_flight = len({other.slot for other in self.in_state("claimed").values()} - {slot})
            if batch > 1:
                known.most = batch // 2
            else:
                known.alone[culprit] = known.alone.get(culprit, 0) + 1
                tries = sum(known.alone.values())
                if self._is_at_fault(name, culprit):
                    ending = Ending.FAILED
        if ending in (Ending.SUCCEEDED, Ending.FAILED):
            known.state, known.due_at, known.finished_at = "finished", 0.0, self.now
            known.is_suspect = False
            known.succeeded = ending is Ending.SUCCEEDED
            return ending
        known.state = "ready"
        known.due_at = 0.0
        if ending is Ending.RETRY:
            known.due_at = self.now + min(2_880.0, 2.0**tries)
        elif ending in WAITS_A_MOMENT:
            known.due_at = self.now + 5.0
        elif ending is Ending.SPLIT:
            known.most, known.is_suspect = max(1, batch // 2), True
        return ending

    def _settle_twins(self, names: Iterable[str]) -> dict[str, str]:
        """Whoever waits for one of these that succeeded has its result; for one that failed, the oldest goes on."""
        given = {}
        for name in names:
            if self.tasks[name].state != "finished":
                continue
            if not self.tasks[name].succeeded:
                self._hand_on(name)
                continue
            for twin in self._twins_of(name):
                known = self.tasks[twin]
                known.state, known.twin_of, known.succeeded, known.finished_at = "finished", None, True, self.now
                given[twin] = name
        return given

    def _hand_on(self, name: str) -> None:
        twins = self._twins_of(name)
        for twin in twins:
            self.tasks[twin].twin_of = None if twin == twins[0] else twins[0]

    def _twins_of(self, name: str) -> list[str]:
        """The oldest first."""
        found = [twin for twin, known in self.tasks.items() if known.twin_of == name]
        return sorted(found, key=lambda twin: self.tasks[twin].number)

    # Out

    def let_go(self, slot: int) -> None:
        """What it had in hand to deliver is anyone's."""
        for known in self.in_state("finished").values():
            if known.slot == slot:
                known.slot = None

    def deliver(self, name: str) -> None:
        """Its delivery was acknowledged. Its result stays for a while, if it was bought for it."""
        known = self.tasks[name]
        if known.text and known.attempted and known.succeeded and not known.of_earlier_settings:
            self.kept[known.text] = Kept(name, known.finished_at)
        self.bury(name)

    def put_off(self, name: str) -> None:
        known = self.tasks[name]
        known.tries += 1
        known.due_at = self.now + min(2_880.0, 2.0**known.tries)

    def bury(self, name: str) -> None:
        del self.tasks[name]
        self._order += 1
        self.buried[name] = Buried(self._order, self.now)
