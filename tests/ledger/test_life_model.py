"""The life of tasks in many hands: whatever relays, workers and operators do, in any order, against a model in memory.

Each slot has a connection of its own, as each process has. Processes die between any two statements and are succeeded,
clocks are set, limits change by a reload. The model knows each task's state and why it may leave it; whatever the
ledger does must be a step that the model allows, and afterwards both must agree on every task, completion and limit.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar
from zoneinfo import ZoneInfo

import apsw
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from aitp.errors import LedgerError
from aitp.ledger import Because, Cause, Claim, Delivery, Ledger, Nothing, NotYet, Poll, Report, Rules, Verdict, prepare
from aitp.ledger.limits import use_of_limits
from aitp.ledger.soundness import check
from aitp.ledger.tombstones import LISTING_LAG_SECONDS
from aitp.policy.backoff import MAX_RETRY_DELAY_SECONDS
from aitp.policy.windows import ROLLING_SECONDS, Period, fixed_window
from aitp.tasks import Ending, Health, NewTask, Outcome
from tests.fuzz.cases import LONG
from tests.ledger.world import POLLING, SMALL, World, make_template, middle, terms

NAMES = [f"t{number}" for number in range(8)]
WORKERS, RELAYS = (101, 102, 103), (1, 2)
RULES = Rules(max_retries=1, max_crashes=2)
# BUG pauses processors and FALLBACK changes routes: they have tests of their own.
ENDINGS = [ending for ending in Ending if ending not in (Ending.BUG, Ending.FALLBACK)]
WAITS_A_MOMENT = (Ending.POSTPONED, Ending.UNSENT)
# Before changes of the clocks, so that some runs cross one.
STARTS = (1_753_900_000.0, 1_541_300_000.0, 1_550_368_000.0, 1_761_437_000.0, 1_743_865_000.0)
ZONES = ("UTC", "America/Sao_Paulo", "Europe/Lisbon", "Australia/Lord_Howe")

T = TypeVar("T")
pages = st.lists(st.sampled_from(NAMES), unique=True)
allowed = st.fixed_dictionaries(
    {}, optional={"minute": st.integers(1, 6), "hour": st.integers(1, 12), "day": st.integers(1, 30)}
)
strategies = st.sampled_from(("rolling", "fixed"))


@dataclass
class Known:
    """A task as the model sees it."""

    entered: int = 0  # when: in the order of polls and burials
    state: str = "ready"  # ready, claimed, finished, dead
    slot: int | None = None
    due_at: float = 0.0
    failures: int = 0
    first_failure: int | None = None
    crashes: int = 0
    attempted: bool = False
    missed: int = 0
    tries: int = 0
    most: int | None = None  # of the batch it may be in


@dataclass
class Buried:
    """A tombstone: when, by the order of polls and burials, by the wall clock, and by the one that nobody sets."""

    order: int
    at: float
    uptime: float


@dataclass
class Listing:
    """A poll underway, and what it has listed so far."""

    poll: Poll
    order: int
    uptime: float
    seen: set[str] = field(default_factory=set)


class Died(Exception):
    """The process of a slot died in the middle of what it did."""


class Life(RuleBasedStateMachine):
    """Relays and workers do whatever they can, in any order."""

    def __init__(self) -> None:
        super().__init__()
        memory = Path("/dev/shm")
        self.folder = Path(tempfile.mkdtemp(prefix="aitp-life-", dir=memory if memory.is_dir() else None))
        self.world = World.create(self.folder, make_template(self.folder), RULES)  # an operator's
        self.ledgers: dict[int, Ledger] = {}
        self.tasks: dict[str, Known] = {}
        self.buried: dict[str, Buried] = {}
        self.claims: dict[int, Claim] = {}
        self.chunks: dict[int, list[Delivery]] = {}
        self.listing: Listing | None = None
        self.completions: list[float] = []
        self.limits: dict[str, int] = {}
        self.strategy, self.zone = "rolling", ZoneInfo("UTC")
        self.paused = False
        self.order = 0  # of polls and burials
        self.events = 0  # of failures and successes
        self.last_success = 0
        self.sequence = 0  # the ledger's own, as last seen
        self.fuse = 0  # the next process to do something dies at its statement of this number; 0: none does

    def teardown(self) -> None:
        for slot in [*self.ledgers]:
            self.hang_up(slot)
        self.world.close()
        found = check(self.world.path)
        shutil.rmtree(self.folder)
        # But for the mirror of windows, which the check measures by the real time.
        assert found.problems == ()

    @property
    def now(self) -> float:
        return self.world.clock.now

    def in_state(self, state: str) -> dict[str, Known]:
        return {name: known for name, known in self.tasks.items() if known.state == state}

    def is_owned(self, name: str, slot: int) -> bool:
        """Not so if it was finished before, as a part of its claim."""
        return name in self.tasks and self.tasks[name].slot == slot

    def next_order(self) -> int:
        self.order += 1
        return self.order

    def promote(self, state: str) -> None:
        """What is due is due now; so is what is further away than any delay, since the clock was set back."""
        for known in self.in_state(state).values():
            if known.due_at <= self.now or known.due_at > self.now + MAX_RETRY_DELAY_SECONDS:
                known.due_at = 0.0

    # Hands

    def hands(self, slot: int) -> Ledger:
        """The slot's own connection."""
        if slot not in self.ledgers:
            clock = self.world.clock
            locks = self.world.ledger.locks  # a process has these once: another descriptor closed would drop them
            ledger = Ledger.open(self.world.path, RULES, clock=clock, uptime=clock.uptime, locks=locks)
            for part in (ledger.outbox, ledger.claims._endings):
                part._draw = middle
            self.ledgers[slot] = ledger
        return self.ledgers[slot]

    def hang_up(self, slot: int) -> None:
        """As when its process is killed: what was not committed is gone."""
        if slot in self.ledgers:
            self.ledgers.pop(slot)._database.connection.close()

    def attempt(self, slot: int, act: Callable[[Ledger], T]) -> T:
        """Do something with the slot's hands. Raises Died if the fuse burnt down meanwhile."""
        ledger, fuse = self.hands(slot), self.fuse
        self.fuse = 0
        if not fuse:
            return act(ledger)
        left = fuse

        def burn(cursor: apsw.Cursor, sql: str, bindings: object) -> bool:
            nonlocal left
            left -= 1
            return left >= 0

        connection = ledger._database.connection
        connection.exec_trace = burn
        try:
            done = act(ledger)
        except LedgerError:
            self.hang_up(slot)
            raise Died from None
        connection.exec_trace = None
        return done

    def succeed(self, slot: int, cause: Cause) -> list[Ending]:
        """Another process takes the slot over; what became of its claim."""
        self.hang_up(slot)
        mine = [name for name, known in self.tasks.items() if known.slot == slot and known.state == "claimed"]
        settled = self.hands(slot).claims.release(slot, cause)
        self.give_up(slot)
        endings = self.end_for(mine, cause)
        assert sorted(outcome.task.id for outcome in settled.outcomes) == sorted(mine)
        assert {outcome.task.id: outcome.ending for outcome in settled.outcomes} == dict(
            zip(mine, endings, strict=True)
        )
        return endings

    def give_up(self, slot: int) -> None:
        """What a slot had in hand but its claim."""
        self.claims.pop(slot, None)
        for delivery in self.chunks.pop(slot, ()):
            self.tasks[delivery.id].slot = None
        if self.listing is not None and self.listing.poll.slot == slot:
            self.listing = None

    def end_for(self, mine: list[str], cause: Cause) -> list[Ending]:
        if mine:
            self.events += 1
        self.count(len(mine))
        endings = []
        for name in mine:
            known = self.tasks[name]
            ending = Ending.RETRY if cause is Cause.DEADLINE else Ending.ABANDONED
            if cause is Cause.CRASHED:
                known.crashes += 1
                known.most = 1
                ending = Ending.FAILED if known.crashes >= RULES.max_crashes else ending
            endings.append(self.end(name, ending, 1))
        return endings

    # Limits

    def count(self, tasks: int) -> None:
        """Attempts that ended now."""
        if tasks:
            self.stamp_anew()
            self.completions += [self.now] * tasks

    def stamp_anew(self) -> None:
        """Whoever counts takes what is from the future as having happened now."""
        self.completions = [min(instant, self.now) for instant in self.completions]

    def used(self, period: str) -> int:
        """Tasks that count in the present window."""
        if self.strategy == "rolling":
            since = self.now - ROLLING_SECONDS[Period(period)]
            ended = sum(min(instant, self.now) > since for instant in self.completions)
        else:
            start = fixed_window(Period(period), self.now, self.zone).start
            ended = sum(min(instant, self.now) >= start for instant in self.completions)
        return ended + len(self.in_state("claimed"))

    def room(self) -> int:
        return min((limit - self.used(period) for period, limit in self.limits.items()), default=len(NAMES))

    @rule(strategy=strategies, zone=st.sampled_from(ZONES), limits=allowed)
    def reload(self, strategy: str, zone: str, limits: dict[str, int]) -> None:
        prepare(self.world.path, strategy=strategy, timezone=zone, limits=limits, clock=self.world.clock)
        self.strategy, self.zone, self.limits = strategy, ZoneInfo(zone), limits

    # In

    @initialize(start=st.sampled_from(STARTS), strategy=strategies, zone=st.sampled_from(ZONES), limits=allowed)
    def begin(self, start: float, strategy: str, zone: str, limits: dict[str, int]) -> None:
        self.world.clock.now = start
        self.reload(strategy, zone, limits)
        self.list_pending(1, NAMES[:5], complete=False)

    @rule(slot=st.sampled_from(RELAYS), page=pages, complete=st.booleans())
    def list_pending(self, slot: int, page: list[str], complete: bool) -> None:
        """A whole poll."""
        if slot not in self.chunks and self.listing is None:
            self.begin_poll(slot)
            if self.listing is not None:
                self.admit(page)
            if self.listing is not None:
                self.end_poll(complete)

    @rule(slot=st.sampled_from(RELAYS))
    def begin_poll(self, slot: int) -> None:
        if slot in self.chunks:
            return  # that relay delivers
        mine = self.listing is not None and self.listing.poll.slot == slot
        try:
            found = self.attempt(slot, lambda ledger: ledger.inbox.begin_poll(slot, POLLING, asked=True))
        except Died:
            if self.world.value("SELECT COALESCE(MAX(completed_at), 0) FROM task_completions") <= self.now:
                self.stamp_anew()  # after the poll was written
            self.succeed(slot, Cause.CRASHED)
            return
        if mine:
            self.listing = None  # a slot does one thing at a time
        if isinstance(found, NotYet):
            assert self.paused or self.listing is not None
            return
        assert not self.paused
        assert self.listing is None
        self.stamp_anew()
        self.listing = Listing(found, self.next_order(), self.world.clock.uptime())

    @precondition(lambda self: self.listing)
    @rule(page=pages)
    def admit(self, page: list[str]) -> None:
        listing = self.listing
        assert listing is not None
        poll = listing.poll
        tasks = [NewTask(name, SMALL, b"{}") for name in page]
        try:
            admitted = self.attempt(poll.slot, lambda ledger: ledger.inbox.admit(poll, tasks))
        except Died:
            self.succeed(poll.slot, Cause.CRASHED)
            return
        new = [name for name in page if name not in self.tasks and not self.is_stale_news(name, listing)]
        listing.seen |= set(page)
        assert admitted.tasks == len(new)
        for name in new:
            self.tasks[name] = Known(listing.order)

    def is_stale_news(self, name: str, listing: Listing) -> bool:
        tombstone = self.buried.get(name)
        if tombstone is None:
            return False
        before = listing.order < tombstone.order or listing.poll.began_at < tombstone.at + LISTING_LAG_SECONDS
        return before or 0 <= listing.uptime - tombstone.uptime < LISTING_LAG_SECONDS

    @precondition(lambda self: self.listing)
    @rule(complete=st.booleans())
    def end_poll(self, complete: bool) -> None:
        listing = self.listing
        assert listing is not None
        poll, regular_at = listing.poll, self.now + POLLING.interval
        try:
            dropped = self.attempt(
                poll.slot,
                lambda ledger: ledger.inbox.end_poll(poll, complete=complete, more_there=False, regular_at=regular_at),
            )
        except Died:
            self.succeed(poll.slot, Cause.CRASHED)
            return
        self.listing = None
        gone = []
        for name, known in self.in_state("ready").items() if complete else ():
            if known.attempted:
                continue
            if name in listing.seen:
                known.missed = 0
            elif known.entered < listing.order:
                known.missed += 1
            if known.missed >= 2:
                gone.append(name)
        assert dropped == len(gone)
        for name in gone:
            del self.tasks[name]
        uptime = self.world.clock.uptime()
        for name, tombstone in list(self.buried.items()):
            by_uptime = uptime - LISTING_LAG_SECONDS <= tombstone.uptime <= uptime
            if tombstone.order < listing.order and tombstone.at < self.now - LISTING_LAG_SECONDS and not by_uptime:
                del self.buried[name]
            tombstone.at = min(tombstone.at, self.now)

    @precondition(lambda self: self.listing)
    @rule()
    def fail_poll(self) -> None:
        assert self.listing is not None
        poll = self.listing.poll
        self.hands(poll.slot).inbox.fail_poll(poll, "500")
        self.listing = None

    # The middle

    @rule(slot=st.sampled_from(WORKERS), batch=st.integers(1, 4))
    def claim(self, slot: int, batch: int) -> None:
        if slot in self.claims:
            return
        try:
            found = self.attempt(slot, lambda ledger: ledger.claims.claim(slot, terms(batch=batch)))
        except Died:
            # Before the claim was written, or after: then it is the successor's to give back.
            for (name,) in self.world.rows("SELECT id FROM tasks WHERE state = 'claimed' AND slot = ?", slot):
                self.take_hold(name, slot)
            self.succeed(slot, Cause.CRASHED)
            return
        if self.paused:
            assert not isinstance(found, Claim)
            assert found.because is Because.PAUSED
            return
        room = self.room()
        self.promote("ready")
        could = {name for name, known in self.in_state("ready").items() if not known.due_at}
        if could:
            self.stamp_anew()
        if not isinstance(found, Claim):
            if not could:
                waiting = [known.due_at for known in self.in_state("ready").values()]
                assert (found.because, found.until) == (Because.NOTHING_READY, min(waiting, default=None))
            else:
                assert (found.because, room <= 0) == (Because.LIMIT, True)
            return
        taken = [self.tasks[task.id] for task in found.tasks]
        assert {task.id for task in found.tasks} <= could
        assert 1 <= len(taken) <= min(batch, room)
        assert all(known.most is None or len(taken) <= known.most for known in taken)
        for task in found.tasks:
            known = self.tasks[task.id]
            assert (task.attempts, task.crashes) == (known.failures, known.crashes)
            self.take_hold(task.id, slot)
        self.claims[slot] = found

    def take_hold(self, name: str, slot: int) -> None:
        known = self.tasks[name]
        assert (known.state, known.slot) == ("ready", None)
        known.state, known.slot, known.attempted, known.missed, known.due_at = "claimed", slot, True, 0, 0.0

    @precondition(lambda self: self.claims)
    @rule(data=st.data(), ending=st.sampled_from(ENDINGS), partly=st.booleans())
    def finish(self, data: st.DataObject, ending: Ending, partly: bool) -> None:
        slot = data.draw(st.sampled_from(sorted(self.claims)))
        claim = self.claims[slot]
        mine = [task for task in claim.tasks if self.is_owned(task.id, slot)]
        partly = partly and len(mine) > 1
        mine = mine[:-1] if partly else mine
        result = b"[1]" if ending is Ending.SUCCEEDED else None
        report = Report([Outcome(task, ending, result) for task in mine], Health.UNKNOWN)
        try:
            settled = self.attempt(slot, lambda ledger: ledger.claims.finish(claim, report))
        except Died:
            self.succeed(slot, Cause.CRASHED)
            return
        if not partly:
            del self.claims[slot]
        self.events += 1
        if ending is Ending.SUCCEEDED:
            self.last_success = self.events
        if ending is not Ending.UNSENT:
            self.count(len(mine))
        endings = [self.end(task.id, ending, len(mine)) for task in mine]

        assert [outcome.ending for outcome in settled.outcomes] == endings

    @precondition(lambda self: self.claims)
    @rule(data=st.data(), cause=st.sampled_from(Cause))
    def die(self, data: st.DataObject, cause: Cause) -> None:
        self.succeed(data.draw(st.sampled_from(sorted(self.claims))), cause)

    def end(self, name: str, ending: Ending, batch: int) -> Ending:
        """What becomes of a task, and the ending after blame."""
        known = self.tasks[name]
        known.slot = None
        if ending is Ending.RETRY:
            known.failures += 1
            known.first_failure = known.first_failure or self.events
            if known.failures > RULES.max_retries and self.last_success > known.first_failure:
                ending = Ending.FAILED
        if ending in (Ending.SUCCEEDED, Ending.FAILED):
            known.state, known.due_at = "finished", 0.0
            return ending
        known.state = "ready"
        known.due_at = 0.0
        if ending is Ending.RETRY:
            known.due_at = self.now + min(48.0, 2.0**known.failures)
        elif ending in WAITS_A_MOMENT:
            known.due_at = self.now + 5.0
        elif ending is Ending.SPLIT:
            known.most = min(max(1, batch // 2), known.most or 99)
        return ending

    # Out

    @rule(slot=st.sampled_from(RELAYS), most=st.integers(1, 3))
    def take(self, slot: int, most: int) -> None:
        if slot in self.chunks:
            return
        try:
            found = self.attempt(slot, lambda ledger: ledger.outbox.take(slot, most))
        except Died:
            for (name,) in self.world.rows("SELECT id FROM tasks WHERE state = 'finished' AND slot = ?", slot):
                assert self.tasks[name].state == "finished"
            self.succeed(slot, Cause.CRASHED)
            return
        if self.listing is not None and self.listing.poll.slot == slot:
            self.listing = None  # a slot does one thing at a time
        self.promote("finished")
        free = {name for name, known in self.in_state("finished").items() if known.slot is None}
        could = {name for name in free if not self.tasks[name].due_at}
        if isinstance(found, Nothing):
            assert could == set()
            assert found.until == min((self.tasks[name].due_at for name in free), default=None)
            return
        assert {delivery.id for delivery in found} <= could
        assert len(found) == min(most, len(could))
        for delivery in found:
            assert delivery.tries == self.tasks[delivery.id].tries
            self.tasks[delivery.id].slot = slot
        self.chunks[slot] = list(found)

    @precondition(lambda self: self.chunks)
    @rule(data=st.data(), verdict=st.sampled_from(Verdict))
    def settle(self, data: st.DataObject, verdict: Verdict) -> None:
        slot = data.draw(st.sampled_from(sorted(self.chunks)))
        delivery = self.chunks[slot][-1]
        try:
            self.attempt(slot, lambda ledger: ledger.outbox.settle(delivery, verdict))
        except Died:
            self.succeed(slot, Cause.CRASHED)
            return
        self.chunks[slot].pop()
        if not self.chunks[slot]:
            del self.chunks[slot]
        known = self.tasks[delivery.id]
        known.slot = None
        match verdict:
            case Verdict.DELIVERED:
                self.bury(delivery.id)
            case Verdict.REFUSED:
                known.state = "dead"
            case Verdict.LATER:
                known.tries += 1
                known.due_at = self.now + min(48.0, 2.0**known.tries)

    def bury(self, name: str) -> None:
        del self.tasks[name]
        self.buried[name] = Buried(self.next_order(), self.now, self.world.clock.uptime())

    @precondition(lambda self: self.chunks)
    @rule(data=st.data())
    def relay_dies(self, data: st.DataObject) -> None:
        self.succeed(data.draw(st.sampled_from(sorted(self.chunks))), Cause.CRASHED)

    @precondition(lambda self: self.in_state("dead"))
    @rule(data=st.data(), drop=st.booleans())
    def decide(self, data: st.DataObject, drop: bool) -> None:
        name = data.draw(st.sampled_from(sorted(self.in_state("dead"))))
        if drop:
            assert self.world.ledger.dead.drop(name)
            self.bury(name)
        else:
            assert self.world.ledger.dead.retry(name)
            self.tasks[name].state, self.tasks[name].tries, self.tasks[name].due_at = "finished", 0, 0.0

    # Around

    @rule(seconds=st.sampled_from((0.0, 1.0, 2.0, 5.0, 31.0, 60.0, 100.0, 1_800.0)))
    def wait(self, seconds: float) -> None:
        self.world.clock.go(seconds)

    @rule(seconds=st.sampled_from((-3_600.0, -31.0, -0.5, 0.5, 31.0, 3_600.0)))
    def set_clock(self, seconds: float) -> None:
        self.world.clock.step(seconds)

    @rule(paused=st.booleans())
    def pause(self, paused: bool) -> None:
        self.world.ledger.pause(paused)
        self.paused = paused

    @rule(statements=st.integers(1, 14))
    def light_fuse(self, statements: int) -> None:
        self.fuse = statements

    @rule()
    def everything_dies(self) -> None:
        """Power, say. Whoever starts first frees what nobody holds."""
        for slot in (*WORKERS, *RELAYS):
            self.hang_up(slot)
        released = self.world.ledger.release_ownerless()
        for slot in (*WORKERS, *RELAYS):
            mine = [name for name, known in self.tasks.items() if known.slot == slot and known.state == "claimed"]
            outcomes = released[slot].outcomes if slot in released else ()
            assert sorted(outcome.task.id for outcome in outcomes) == sorted(mine)
            self.give_up(slot)
            self.end_for(mine, Cause.STOPPED)

    # Always

    @invariant()
    def both_agree(self) -> None:
        found = dict(self.world.rows("SELECT id, state FROM tasks"))
        assert found == {name: known.state for name, known in self.tasks.items()}
        owned = dict(self.world.rows("SELECT id, slot FROM tasks WHERE slot IS NOT NULL"))
        assert owned == {name: known.slot for name, known in self.tasks.items() if known.slot is not None}
        polling = self.world.value("SELECT slot FROM polls")
        assert polling == (None if self.listing is None else self.listing.poll.slot)

    @invariant()
    def nothing_is_left_lying_about(self) -> None:
        results = {name for (name,) in self.world.rows("SELECT id FROM tasks JOIN results USING (seq)")}
        assert results == {*self.in_state("finished"), *self.in_state("dead")}
        assert self.world.value("SELECT COUNT(*) FROM contents") == len(self.tasks)
        assert self.world.value("SELECT COUNT(*) FROM results") == len(results)

    @invariant()
    def every_attempt_counts_once(self) -> None:
        rows = self.world.rows("SELECT id, completed_at FROM task_completions ORDER BY id")
        assert [number for number, _ in rows] == list(range(1, len(self.completions) + 1))
        times = [time for _, time in rows]
        assert times == sorted(times)
        assert [min(time, self.now) for time in times] == [min(time, self.now) for time in self.completions]

    @invariant()
    def limits_count_what_ended_and_what_is_claimed(self) -> None:
        uses = use_of_limits(self.world.ledger._database.connection, self.now)
        assert {period.value: use.current for period, use in uses.items()} == {
            period: self.used(period) for period in self.limits
        }
        assert all(use.remaining == max(0, self.limits[period] - use.current) for period, use in uses.items())

    @invariant()
    def the_sequence_never_goes_back(self) -> None:
        before, self.sequence = self.sequence, int(self.world.value("SELECT sequence FROM ledger"))
        assert self.sequence >= before


# At length with `bin/test --fuzz`: rare orders of events (a clock set back between a claim and its end, say) take many.
Life.TestCase.settings = settings(
    max_examples=1_500 if LONG else 40, stateful_step_count=50, deadline=None, suppress_health_check=list(HealthCheck)
)
test_the_life_of_tasks = Life.TestCase
