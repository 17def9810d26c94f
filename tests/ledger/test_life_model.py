"""The life of tasks in many hands: whatever relays, workers and operators do, in any order, against a model in memory.

Each slot has a connection of its own, as each process has. Processes die between any two statements and are succeeded,
clocks are set, limits and settings change by a reload, and tasks are twins of one another. Whatever the ledger does
must be a step that the model (`life_model.py`) allows, and afterwards both must agree on every task, completion, limit.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar
from zoneinfo import ZoneInfo

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize, precondition, rule, run_state_machine_as_test

from aitp.ledger.claims import Claim, Idle, IdleReason
from aitp.ledger.engine import HOST_SLOTS, Place
from aitp.ledger.evidence import Failure, Report, Settled
from aitp.ledger.ledger import Ledger, prepare
from aitp.ledger.outbox import Delivery, DeliveryOutcome, Nothing
from aitp.ledger.outcomes import Cause
from aitp.tasks import Culprit, Ending, NewTask, Outcome
from tests.fuzz.cases import LONG
from tests.ledger.life_agreement import Agreement
from tests.ledger.life_hands import Cut, Died, Hands
from tests.ledger.life_model import NAMES, RULES, STARTS, TEXTS, ZONES, Model, result_of
from tests.ledger.world import POLLING, SMALL, World, examples, terms

T = TypeVar("T")
# The last of each is another host's, where the ledger is a fleet's.
WORKERS, RELAYS = (101, 102, HOST_SLOTS + 101), (1, HOST_SLOTS + 1)
# BUG pauses processors and FALLBACK changes routes: they have tests of their own.
ENDINGS = [ending for ending in Ending if ending not in (Ending.BUG, Ending.FALLBACK)]

CULPRITS = st.sampled_from((Culprit.ANSWER, Culprit.ANSWER, Culprit.SERVICE))

pages = st.lists(st.sampled_from(NAMES), unique=True)
some = {"minute": st.integers(1, 6), "hour": st.integers(1, 12), "day": st.integers(1, 30)}
allowed: st.SearchStrategy[dict[str, int]] = st.just({}) | st.fixed_dictionaries({}, optional=some)
strategies = st.sampled_from(("rolling", "fixed"))
FINAL = st.sampled_from((Ending.SUCCEEDED, Ending.SUCCEEDED, Ending.FAILED))
scopes = st.sampled_from(("", "", "", "another prompt"))


class Life(Agreement):
    """Relays and workers do whatever they can, in any order."""

    def __init__(self, place: Place) -> None:
        super().__init__()
        memory = Path("/dev/shm")
        self.folder = Path(tempfile.mkdtemp(prefix="aitp-life-", dir=memory if memory.is_dir() else None))
        self.world = World.create(self.folder, place, RULES)  # an operator's
        self.model = Model(self.world.clock)
        self.hands = Hands(self.world, RULES)
        self.claims: dict[int, Claim] = {}
        self.chunks: dict[int, list[Delivery]] = {}
        self.scope = ""
        self.paused = False

    def teardown(self) -> None:
        self.hands.close()
        problems = self.world.problems()
        self.world.close()
        shutil.rmtree(self.folder)
        assert problems == ()

    # Processes

    def attempt(self, slot: int, act: Callable[[Ledger], T]) -> T:
        """Do something with the slot's hands. Raises Died, Cut."""
        return self.hands.attempt(slot, act)

    def succeed(self, slot: int, cause: Cause) -> None:
        """Another process takes the slot over, and what it had claimed goes back."""
        self.hands.hang_up(slot)
        mine = self.model.claimed_by(slot)
        settled = self.hands.of(slot).outcomes.release(slot, cause)
        self.give_up(slot)
        endings = self.model.release(mine, cause)
        found = sorted((outcome.task.id, outcome.ending.value) for outcome in settled.outcomes)
        assert found == sorted((name, ending.value) for name, ending in zip(mine, endings, strict=True))
        assert settled.reused == ()
        self.acknowledged()

    def give_up(self, slot: int) -> None:
        """What a slot had in hand but its claim."""
        self.claims.pop(slot, None)
        self.chunks.pop(slot, None)
        self.model.let_go(slot)
        self.give_up_poll(slot)

    def acknowledged(self) -> None:
        """Somebody relies on what has just been done."""

    def give_up_poll(self, slot: int) -> None:
        """A slot does one thing at a time."""
        if self.polling_slot == slot:
            self.listing, self.given_up = None, False

    def at_hand(self, things: Mapping[int, Any]) -> list[int]:
        """Slots that have such a thing, and can do something about it."""
        return sorted(things.keys() - self.away)

    # Settings

    @rule(strategy=strategies, zone=st.sampled_from(ZONES), limits=allowed, scope=scopes)
    def reload(self, strategy: str, zone: str, limits: dict[str, int], scope: str) -> None:
        published = {"strategy": strategy, "timezone": zone, "limits": limits, "reuse_scope": scope}
        prepare(self.world.place, **published, clock=self.world.clock)  # type: ignore[arg-type]
        self.model.strategy, self.model.zone, self.model.limits = strategy, ZoneInfo(zone), limits
        if scope != self.scope:
            self.scope = scope
            self.model.change_settings()
        self.acknowledged()

    # In

    @initialize(start=st.sampled_from(STARTS), strategy=strategies, zone=st.sampled_from(ZONES), limits=allowed)
    def begin(self, start: float, strategy: str, zone: str, limits: dict[str, int]) -> None:
        self.world.clock.now = start
        self.reload(strategy, zone, limits, "")
        self.list_pending(1, NAMES[::2], complete=False)

    @rule(slot=st.sampled_from(RELAYS), page=pages, complete=st.booleans())
    def list_pending(self, slot: int, page: list[str], complete: bool) -> None:
        """A whole poll."""
        if self.listing is None:
            self.begin_poll(slot)
            if self.polls:
                self.admit(page)
            if self.polls:
                self.end_poll(complete)

    @rule(slot=st.sampled_from(RELAYS))
    def begin_poll(self, slot: int) -> None:
        if slot in self.chunks or slot in self.away:
            return  # that relay delivers
        try:
            found = self.attempt(slot, lambda ledger: ledger.inbox.begin_poll(slot, POLLING, asked=True))
        except Died:
            self.succeed(slot, Cause.CRASHED)
            return
        except Cut:
            self.begin_poll(slot)
            return
        self.model.let_go(slot)
        self.give_up_poll(slot)
        if isinstance(found, Idle):
            assert self.paused or self.listing is not None
            return
        assert not self.paused
        assert self.listing is None
        self.listing = found, self.model.begin_poll()

    @precondition(lambda self: self.polls)
    @rule(page=pages)
    def admit(self, page: list[str]) -> None:
        assert self.listing is not None
        poll, listed = self.listing
        tasks = [NewTask(name, SMALL, b"{}", fingerprint=TEXTS[name].encode() or None) for name in page]
        try:
            admitted = self.attempt(poll.slot, lambda ledger: ledger.inbox.admit(poll, tasks))
        except Died:
            self.succeed(poll.slot, Cause.CRASHED)
            return
        except Cut as cut:
            if cut.committed:
                self.model.admit(page, listed)
            self.fail_poll()
            return
        entered, reused = self.model.admit(page, listed)
        assert admitted.tasks == len(entered)
        assert [task.id for task in admitted.reused] == list(reused)
        assert all(task.of in reused[task.id] for task in admitted.reused)

    @precondition(lambda self: self.polls)
    @rule(complete=st.booleans())
    def end_poll(self, complete: bool) -> None:
        assert self.listing is not None
        poll, listed = self.listing
        regular_at = self.model.now + POLLING.interval
        try:
            dropped = self.attempt(
                poll.slot,
                lambda ledger: ledger.inbox.end_poll(poll, complete=complete, more_there=False, regular_at=regular_at),
            )
        except Died:
            self.succeed(poll.slot, Cause.CRASHED)
            return
        except Cut as cut:
            self.given_up = True
            if cut.committed:
                self.model.end_poll(listed, complete=complete)
                self.give_up_poll(poll.slot)
            return
        self.listing = None
        assert dropped == self.model.end_poll(listed, complete=complete)

    @precondition(lambda self: self.polls)
    @rule()
    def fail_poll(self) -> None:
        assert self.listing is not None
        poll, _ = self.listing
        self.hands.of(poll.slot).inbox.fail_poll(poll, "500")
        self.listing = None

    # The middle

    @rule(slot=st.sampled_from(WORKERS), batch=st.integers(1, 4))
    def claim(self, slot: int, batch: int) -> None:
        if slot in self.claims or slot in self.away:
            return
        try:
            found = self.attempt(slot, lambda ledger: ledger.claims.claim(slot, terms(batch=batch)))
        except Died:
            # Before the claim was written, or after: then it is the successor's to give back.
            taken = self.world.rows("SELECT id FROM tasks WHERE state = 'claimed' AND slot = ?", slot)
            if taken:
                self.model.take([name for (name,) in taken], slot)
            self.succeed(slot, Cause.CRASHED)
            return
        except Cut as cut:
            if cut.committed:  # it claims again, and what it had so goes back
                taken = self.world.rows("SELECT id FROM tasks WHERE state = 'claimed' AND slot = ?", slot)
                self.model.take([name for (name,) in taken], slot)
                self.model.release([name for (name,) in taken], Cause.STOPPED)
            self.claim(slot, batch)
            return
        if self.paused:
            assert not isinstance(found, Claim)
            assert found.because is IdleReason.PAUSED
            return
        room, could, turn = self.model.room(), self.model.claimable(), self.model.next_in_turn()
        if not isinstance(found, Claim):
            if not could:
                assert (found.because, found.until) == (IdleReason.NOTHING_READY, self.model.next_due())
            elif room <= 0:
                assert found.because is IdleReason.LIMIT
            else:
                assert (found.because, turn) == (IdleReason.TURN, set())
            return
        picked = [self.model.tasks[task.id] for task in found.tasks]
        assert {task.id for task in found.tasks} <= turn
        assert 1 <= len(picked) <= min(batch, room)
        assert all(known.most is None or len(picked) <= known.most for known in picked)
        for task, known in zip(found.tasks, picked, strict=True):
            assert (task.attempts, task.crashes) == (known.failures, known.crashes)
            known.row = task.seq
        self.model.take([task.id for task in found.tasks], slot)
        self.claims[slot] = found
        self.acknowledged()

    @precondition(lambda self: self.at_hand(self.claims))
    @rule(data=st.data(), ending=st.sampled_from(ENDINGS), partly=st.booleans(), culprit=CULPRITS)
    def finish(self, data: st.DataObject, ending: Ending, partly: bool, culprit: Culprit) -> None:
        self.end(data.draw(st.sampled_from(self.at_hand(self.claims))), ending, partly, culprit)

    def end(self, slot: int, ending: Ending, partly: bool, culprit: Culprit = Culprit.ANSWER) -> None:
        claim = self.claims[slot]
        partly = partly and len(claim.tasks) > 1
        told = claim.tasks[:-1] if partly else claim.tasks
        results = {task.id: result_of(TEXTS[task.id]) for task in told if ending is Ending.SUCCEEDED}
        failure = Failure(culprit) if ending is Ending.RETRY else None
        report = Report([Outcome(task, ending, results.get(task.id), culprit=culprit) for task in told], failure)
        was_told = False
        try:
            settled = self.attempt(slot, lambda ledger: ledger.outcomes.finish(claim, report))
        except Died:
            self.succeed(slot, Cause.CRASHED)
            return
        except Cut as cut:
            was_told = cut.committed
            settled = self.attempt(slot, lambda ledger: ledger.outcomes.finish(claim, report))
        if partly:
            self.claims[slot] = claim._replace(tasks=claim.tasks[-1:])
        else:
            del self.claims[slot]
        # Its own still; others it may have lost with its host's line, and their answers are late.
        mine = [task.id for task in told if task.id in self.model.claimed_by(slot)]
        late = [task.id for task in told if ending is Ending.SUCCEEDED and self.model.waits(task.id, task.seq)]
        endings, given = self.model.finish(mine, ending, culprit)
        given |= self.model.finish_late(late)
        if was_told:
            assert settled == Settled()
        else:
            assert [outcome.ending for outcome in settled.outcomes] == [*endings, *(ending for _ in late)]
            assert settled.late == len(late)
            assert {task.id: task.of for task in settled.reused} == given
        self.acknowledged()

    # Out

    @rule(slot=st.sampled_from(RELAYS), most=st.integers(1, 3))
    def take(self, slot: int, most: int) -> None:
        if slot in self.chunks or slot in self.away:
            return
        try:
            found = self.attempt(slot, lambda ledger: ledger.outbox.take(slot, most))
        except Died:
            taken = self.world.rows("SELECT id FROM tasks WHERE state = 'finished' AND slot = ?", slot)
            assert {name for (name,) in taken} <= set(self.model.in_state("finished"))
            self.succeed(slot, Cause.CRASHED)
            return
        except Cut:
            self.take(slot, most)
            return
        self.model.let_go(slot)
        self.give_up_poll(slot)
        self.model.promote("finished")
        free = {name: known for name, known in self.model.in_state("finished").items() if known.slot is None}
        could = {name for name, known in free.items() if not known.due_at}
        if isinstance(found, Nothing):
            assert could == set()
            assert found.until == min((known.due_at for known in free.values()), default=None)
            return
        assert {delivery.id for delivery in found} <= could
        assert len(found) == min(most, len(could))
        for delivery in found:
            assert delivery.tries == free[delivery.id].tries
            free[delivery.id].slot = slot
        self.chunks[slot] = list(found)

    @precondition(lambda self: self.at_hand(self.chunks))
    @rule(data=st.data(), verdict=st.sampled_from(DeliveryOutcome))
    def settle(self, data: st.DataObject, verdict: DeliveryOutcome) -> None:
        self.hand_over(data.draw(st.sampled_from(self.at_hand(self.chunks))), verdict)

    def hand_over(self, slot: int, verdict: DeliveryOutcome) -> None:
        delivery = self.chunks[slot][-1]
        try:
            self.attempt(slot, lambda ledger: ledger.outbox.settle(delivery, verdict))
        except Died:
            self.succeed(slot, Cause.CRASHED)
            return
        except Cut as cut:
            del self.chunks[slot]  # the relay begins anew
            if cut.committed:
                self.model_settle(delivery, verdict)
            return
        self.chunks[slot].pop()
        if not self.chunks[slot]:
            del self.chunks[slot]
        self.model_settle(delivery, verdict)

    def model_settle(self, delivery: Delivery, verdict: DeliveryOutcome) -> None:
        known = self.model.tasks[delivery.id]
        known.slot = None
        match verdict:
            case DeliveryOutcome.DELIVERED:
                self.model.deliver(delivery.id)
            case DeliveryOutcome.REFUSED:
                known.state = "dead"
            case DeliveryOutcome.LATER | DeliveryOutcome.CONFLICT:
                self.model.put_off(delivery.id)

    @precondition(lambda self: self.model.in_state("dead"))
    @rule(data=st.data(), drop=st.booleans())
    def decide(self, data: st.DataObject, drop: bool) -> None:
        name = data.draw(st.sampled_from(sorted(self.model.in_state("dead"))))
        if drop:
            assert self.world.ledger.dead.drop(name)
            self.model.bury(name)
        else:
            assert self.world.ledger.dead.retry(name)
            known = self.model.tasks[name]
            known.state, known.tries, known.due_at = "finished", 0, 0.0
        self.acknowledged()

    @rule(worker=st.sampled_from(WORKERS), relay=st.sampled_from(RELAYS), ending=FINAL, delivered=st.booleans())
    def see_through(self, worker: int, relay: int, ending: Ending, delivered: bool) -> None:
        """A claim that ends for good, and it may be the deliveries that follow."""
        if worker not in self.claims:
            self.claim(worker, 2)
        if worker in self.claims and worker not in self.away:
            self.end(worker, ending, partly=False)
        if delivered:
            self.take(relay, 3)
        while delivered and relay in self.chunks and relay not in self.away:
            self.hand_over(relay, DeliveryOutcome.DELIVERED)

    # Around

    @precondition(lambda self: self.at_hand({**self.claims, **self.chunks}))
    @rule(data=st.data(), cause=st.sampled_from(Cause))
    def die(self, data: st.DataObject, cause: Cause) -> None:
        self.succeed(data.draw(st.sampled_from(self.at_hand({**self.claims, **self.chunks}))), cause)

    @rule(seconds=st.sampled_from((0.0, 1.0, 2.0, 5.0, 31.0, 60.0, 100.0, 1_800.0)))
    def wait(self, seconds: float) -> None:
        self.world.clock.go(seconds)

    @rule(seconds=st.sampled_from((-3_600.0, -31.0, -0.5, 0.5, 31.0, 3_600.0)))
    def set_clock(self, seconds: float) -> None:
        self.world.clock.step(seconds)
        self.follow_clock(seconds)

    def follow_clock(self, seconds: float) -> None:
        with self.world.database.transaction():
            pass  # whoever comes first has the ledger follow
        self.model.set_clock(seconds, self.listing and self.listing[1])

    @rule(paused=st.sampled_from((True, False, False, False)))
    def pause(self, paused: bool) -> None:
        self.world.ledger.pause(paused)
        self.paused = paused
        self.acknowledged()

    @rule(statements=st.integers(1, 14))
    def light_fuse(self, statements: int) -> None:
        self.hands.fuse = statements

    @rule()
    def everything_dies(self) -> None:
        """Power, say. Whoever starts first frees what nobody holds."""
        self.all_die((*WORKERS, *RELAYS))

    def all_die(self, slots: Sequence[int]) -> dict[int, Settled]:
        """What was released beside what these owned."""
        for slot in slots:
            self.hands.hang_up(slot)
        released = self.world.ledger.release_ownerless()
        for slot in slots:
            self.claims.pop(slot, None)
            self.has_released(slot, released.pop(slot, Settled()))
        return released

    def has_released(self, slot: int, settled: Settled) -> None:
        """What a slot had is anyone's."""
        mine = self.model.claimed_by(slot)
        assert sorted(outcome.task.id for outcome in settled.outcomes) == sorted(mine)
        if mine:
            self.acknowledged()
        self.model.release(mine, Cause.STOPPED)
        self.chunks.pop(slot, None)
        self.model.let_go(slot)
        self.give_up_poll(slot)


# At length with `bin/test --fuzz`: rare orders of events (a clock set back between a claim and its end, say) take many.
# What befalls a fleet besides is in test_fleet_model.py.
@pytest.mark.sqlite
def test_the_life_of_tasks(prepared_place: Place) -> None:
    bounds = settings(examples(prepared_place, 1_500 if LONG else 40), stateful_step_count=50)
    run_state_machine_as_test(lambda: Life(prepared_place), settings=bounds)  # type: ignore[arg-type]
