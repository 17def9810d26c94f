"""The life of tasks under any order of events, against a small model in memory.

The model knows each task's state and why it may leave it; whatever the ledger does must be a step that the model
allows, and afterwards both must agree on every task.
"""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from aitp.ledger import Because, Cause, Claim, Delivery, Nothing, Report, Rules, Verdict
from aitp.ledger.tombstones import LISTING_LAG_SECONDS
from aitp.tasks import Ending, Health, Outcome
from tests.ledger.world import World, make_template, terms

NAMES = [f"t{number}" for number in range(8)]
WORKERS, RELAYS = (101, 102), (1, 2)
RULES = Rules(max_retries=1, max_crashes=2)
# BUG pauses processors and FALLBACK changes routes: they have tests of their own.
ENDINGS = [ending for ending in Ending if ending not in (Ending.BUG, Ending.FALLBACK)]
WAITS_A_MOMENT = (Ending.POSTPONED, Ending.UNSENT)

pages = st.lists(st.sampled_from(NAMES), unique=True)


@dataclass
class Known:
    """A task as the model sees it."""

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
    """A tombstone: when, and before which poll."""

    at: float
    poll: int


class Life(RuleBasedStateMachine):
    """Relays and workers do whatever they can, in any order."""

    def __init__(self) -> None:
        super().__init__()
        memory = Path("/dev/shm")
        self.folder = Path(tempfile.mkdtemp(prefix="aitp-life-", dir=memory if memory.is_dir() else None))
        self.world = World.create(self.folder, make_template(self.folder), RULES)
        self.tasks: dict[str, Known] = {}
        self.buried: dict[str, Buried] = {}
        self.claims: dict[int, Claim] = {}
        self.chunks: dict[int, list[Delivery]] = {}
        self.polls = 0
        self.events = 0  # an order of failures and successes
        self.last_success = 0

    def teardown(self) -> None:
        self.world.close()
        shutil.rmtree(self.folder)

    @property
    def now(self) -> float:
        return self.world.clock.now

    def in_state(self, state: str) -> dict[str, Known]:
        return {name: known for name, known in self.tasks.items() if known.state == state}

    def is_owned(self, name: str, slot: int) -> bool:
        """Not so if it was finished before, as a part of its claim."""
        return name in self.tasks and self.tasks[name].slot == slot

    # In

    @initialize()
    def begin(self) -> None:
        self.list_pending(NAMES[:4], complete=False)

    @rule(page=pages, complete=st.booleans())
    def list_pending(self, page: list[str], complete: bool) -> None:
        if 1 in self.chunks:
            return  # that relay delivers
        self.polls += 1
        new = [name for name in page if name not in self.tasks and not self.is_stale_news(name)]
        gone = []
        for name, known in self.tasks.items():
            untouched = known.state == "ready" and not known.attempted
            if complete and untouched and name not in page:
                known.missed += 1
            elif complete and untouched:
                known.missed = 0
            if untouched and known.missed >= 2:
                gone.append(name)
        admitted, dropped = self.world.listing(*page, complete=complete)

        assert (admitted.tasks, dropped) == (len(new), len(gone))
        for name in gone:
            del self.tasks[name]
        for name in new:
            self.buried.pop(name, None)
            self.tasks[name] = Known()

    def is_stale_news(self, name: str) -> bool:
        tombstone = self.buried.get(name)
        return tombstone is not None and self.now < tombstone.at + LISTING_LAG_SECONDS

    # The middle

    @rule(slot=st.sampled_from(WORKERS), batch=st.integers(1, 4))
    def claim(self, slot: int, batch: int) -> None:
        if slot in self.claims:
            return
        could = {name for name, known in self.in_state("ready").items() if known.due_at <= self.now}
        found = self.world.ledger.claims.claim(slot, terms(batch=batch))
        if not isinstance(found, Claim):
            assert could == set()
            waiting = [known.due_at for known in self.in_state("ready").values()]
            assert (found.because, found.until) == (Because.NOTHING_READY, min(waiting, default=None))
            return
        taken = [self.tasks[task.id] for task in found.tasks]
        assert {task.id for task in found.tasks} <= could
        assert 1 <= len(taken) <= batch
        assert all(known.most is None or len(taken) <= known.most for known in taken)
        for task in found.tasks:
            known = self.tasks[task.id]
            assert (task.attempts, task.crashes) == (known.failures, known.crashes)
            known.state, known.slot, known.attempted, known.missed = "claimed", slot, True, 0
        self.claims[slot] = found

    @precondition(lambda self: self.claims)
    @rule(data=st.data(), ending=st.sampled_from(ENDINGS), partly=st.booleans())
    def finish(self, data: st.DataObject, ending: Ending, partly: bool) -> None:
        slot = data.draw(st.sampled_from(sorted(self.claims)))
        claim = self.claims[slot]
        mine = [task for task in claim.tasks if self.is_owned(task.id, slot)]
        if partly and len(mine) > 1:
            mine = mine[:-1]
        else:
            del self.claims[slot]
        result = b"[1]" if ending is Ending.SUCCEEDED else None
        report = Report([Outcome(task, ending, result) for task in mine], Health.UNKNOWN)
        settled = self.world.ledger.claims.finish(claim, report)
        self.events += 1
        if ending is Ending.SUCCEEDED:
            self.last_success = self.events
        endings = [self.end(task.id, ending, len(mine)) for task in mine]

        assert [outcome.ending for outcome in settled.outcomes] == endings

    @precondition(lambda self: self.claims)
    @rule(data=st.data(), cause=st.sampled_from(Cause))
    def die(self, data: st.DataObject, cause: Cause) -> None:
        slot = data.draw(st.sampled_from(sorted(self.claims)))
        claim = self.claims.pop(slot)
        mine = [task.id for task in claim.tasks if self.is_owned(task.id, slot)]
        settled = self.world.ledger.claims.release(slot, cause)
        self.events += 1
        endings = []
        for name in mine:
            known = self.tasks[name]
            ending = Ending.RETRY if cause is Cause.DEADLINE else Ending.ABANDONED
            if cause is Cause.CRASHED:
                known.crashes += 1
                known.most = 1
                ending = Ending.FAILED if known.crashes >= RULES.max_crashes else ending
            endings.append(self.end(name, ending, 1))

        assert [outcome.ending for outcome in settled.outcomes] == endings

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
        free = {name for name, known in self.in_state("finished").items() if known.slot is None}
        could = {name for name in free if self.tasks[name].due_at <= self.now}
        found = self.world.ledger.outbox.take(slot, most)
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
        delivery = self.chunks[slot].pop()
        if not self.chunks[slot]:
            del self.chunks[slot]
        self.world.ledger.outbox.settle(delivery, verdict)
        known = self.tasks[delivery.id]
        known.slot = None
        match verdict:
            case Verdict.DELIVERED:
                del self.tasks[delivery.id]
                self.buried[delivery.id] = Buried(self.now, self.polls)
            case Verdict.REFUSED:
                known.state = "dead"
            case Verdict.LATER:
                known.tries += 1
                known.due_at = self.now + min(48.0, 2.0**known.tries)

    @precondition(lambda self: self.chunks)
    @rule(data=st.data())
    def relay_dies(self, data: st.DataObject) -> None:
        slot = data.draw(st.sampled_from(sorted(self.chunks)))
        for delivery in self.chunks.pop(slot):
            self.tasks[delivery.id].slot = None
        self.world.ledger.claims.release(slot, Cause.CRASHED)

    @precondition(lambda self: self.in_state("dead"))
    @rule(data=st.data(), drop=st.booleans())
    def decide(self, data: st.DataObject, drop: bool) -> None:
        name = data.draw(st.sampled_from(sorted(self.in_state("dead"))))
        if drop:
            assert self.world.ledger.dead.drop(name)
            del self.tasks[name]
            self.buried[name] = Buried(self.now, self.polls)
        else:
            assert self.world.ledger.dead.retry(name)
            self.tasks[name].state, self.tasks[name].tries = "finished", 0

    @rule(seconds=st.sampled_from((0.0, 1.0, 2.0, 5.0, 31.0, 100.0)))
    def wait(self, seconds: float) -> None:
        self.world.clock.go(seconds)

    @rule()
    def restart(self) -> None:
        """Everything is on disk: another process would see the same."""
        self.world.close()
        self.world.open()

    # Always

    @invariant()
    def both_agree(self) -> None:
        found = dict(self.world.rows("SELECT id, state FROM tasks"))
        assert found == {name: known.state for name, known in self.tasks.items()}
        owned = dict(self.world.rows("SELECT id, slot FROM tasks WHERE slot IS NOT NULL"))
        assert owned == {name: known.slot for name, known in self.tasks.items() if known.slot is not None}

    @invariant()
    def nothing_is_left_lying_about(self) -> None:
        results = {name for (name,) in self.world.rows("SELECT id FROM tasks JOIN results USING (seq)")}
        assert results == {*self.in_state("finished"), *self.in_state("dead")}
        assert self.world.value("SELECT COUNT(*) FROM contents") == len(self.tasks)
        assert self.world.value("SELECT COUNT(*) FROM results") == len(results)


Life.TestCase.settings = settings(
    max_examples=40, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
)
test_the_life_of_tasks = Life.TestCase
