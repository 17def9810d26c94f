"""Limits under random interleavings, against a slow and obvious model: lists of instants, counted by walking them.

What is held to: the provider's own log never shows more than a limit in any window; room is seen where the model sees
it; and "nothing until then" is exact.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aitp.errors import LedgerError
from aitp.ledger.claims import Claim, Idle, IdleReason
from aitp.ledger.engine import Connection, Database, Place
from aitp.ledger.limits import BASIS, COUNTED, Basis, Counted, Limits, count, prune_completions, use_of_limits
from aitp.ledger.outcomes import Cause
from aitp.policy.windows import ROLLING_SECONDS, fixed_window
from aitp.tasks import Ending, Health, Period
from tests.fuzz.cases import LONG
from tests.ledger.world import START, WORKER, Clock, World, example, examples, set_limits, terms

SLOTS = range(WORKER, WORKER + 3)
ZONES = ("UTC", "America/Sao_Paulo", "Europe/Lisbon", "Australia/Lord_Howe")
# Among them moments before changes of the clocks, so that some runs cross one.
STARTS = (START, 1_541_300_000.0, 1_550_368_000.0, 1_761_437_000.0, 1_743_865_000.0)

NOT_SENT = Ending.UNSENT
ENDINGS = (Ending.SUCCEEDED, Ending.FAILED, Ending.ABANDONED, Ending.SPLIT, Ending.UNSENT)

steps = st.lists(
    st.one_of(
        st.tuples(st.just("claim"), st.sampled_from(SLOTS), st.integers(1, 6)),
        st.tuples(st.just("send"), st.sampled_from(SLOTS), st.just(0)),
        st.tuples(st.just("again"), st.sampled_from(SLOTS), st.just(0)),
        st.tuples(st.just("finish"), st.sampled_from(SLOTS), st.sampled_from(ENDINGS)),
        st.tuples(st.just("release"), st.sampled_from(SLOTS), st.sampled_from(Cause)),
        st.tuples(st.just("wait"), st.just(0), st.sampled_from((0.0, 0.25, 1.0, 7.0, 30.0, 59.9, 60.0, 61.0, 1_800.0))),
        st.tuples(st.just("wait until told"), st.just(0), st.just(0)),
    ),
    min_size=20,
    max_size=80,
)
allowed = st.fixed_dictionaries(
    {}, optional={"minute": st.integers(1, 6), "hour": st.integers(1, 12), "day": st.integers(1, 30)}
).filter(bool)


@dataclass
class Model:
    """`real`: seconds that have really passed, while the wall clock may be set back. `log`: what the provider saw."""

    world: World
    strategy: str
    zone: ZoneInfo
    limits: dict[str, int]
    real: float = 0.0
    completions: list[float] = field(default_factory=list)
    claims: dict[int, Claim] = field(default_factory=dict)
    sent: set[int] = field(default_factory=set)
    log: list[tuple[float, float]] = field(default_factory=list)  # (real, wall)
    told: float | None = None

    @property
    def now(self) -> float:
        return self.world.clock.now

    @property
    def reserved(self) -> int:
        return sum(len(claim.tasks) for claim in self.claims.values())

    def room_at(self, moment: float) -> int:
        """Tasks that could be claimed at `moment`, if nothing happened until then."""
        return min(
            limit - self.reserved - sum(self.counts(Period(period), instant, moment) for instant in self.completions)
            for period, limit in self.limits.items()
        )

    def counts(self, period: Period, instant: float, moment: float) -> bool:
        if self.strategy == "rolling":
            return instant > moment - ROLLING_SECONDS[period]
        return instant >= fixed_window(period, moment, self.zone).start

    def next_room(self) -> float | None:
        """The first moment with room again if no call ends; None if there is none."""
        if any(self.reserved >= limit for limit in self.limits.values()):
            return None
        moments = {instant + ROLLING_SECONDS[Period(period)] for instant in self.completions for period in self.limits}
        if self.strategy == "fixed":
            moments = {fixed_window(Period(period), self.now, self.zone).end for period in self.limits}
        return next((moment for moment in sorted(moments) if moment > self.now and self.room_at(moment) > 0), None)

    # Steps

    def claim(self, slot: int, batch: int) -> None:
        if slot in self.claims:
            return
        self.restamp()
        room = self.room_at(self.now)
        found = self.world.ledger.claims.claim(slot, terms(batch=batch))
        if isinstance(found, Claim):
            assert 1 <= len(found.tasks) <= room
            self.claims[slot] = found
            self.told = None
            return
        assert found.because is IdleReason.LIMIT
        assert room <= 0
        self.check_end(found)
        self.told = found.until

    def check_end(self, idle: Idle) -> None:
        expected = self.next_room()
        if expected is None or idle.until is None:
            assert idle.until == expected
        else:
            assert expected <= idle.until <= expected + 0.002

    def send(self, slot: int) -> None:
        if slot in self.claims and slot not in self.sent:
            self.sent.add(slot)
            self.log += [(self.real, self.now)] * len(self.claims[slot].tasks)

    def again(self, slot: int) -> None:
        """A second request, a repair, say: it is sent only with room of its own."""
        if (claim := self.claims.get(slot)) is None:
            return
        self.send(slot)
        self.restamp()
        has_room = self.room_at(self.now) >= len(claim.tasks)
        assert self.world.ledger.claims.again(claim) is has_room
        if has_room:
            self.completions += [self.now] * len(claim.tasks)
            self.log += [(self.real, self.now)] * len(claim.tasks)
            self.told = None

    def finish(self, slot: int, ending: Ending) -> None:
        claim = self.claims.get(slot)
        if claim is None:
            return
        if ending is not NOT_SENT:
            self.send(slot)
        elif slot in self.sent:
            return  # nobody says so of what was sent
        self.world.finish(claim, ending, Health.UNKNOWN)
        self.forget(slot, counted=ending is not NOT_SENT)
        self.put_all_back_at_once()

    def release(self, slot: int, cause: Cause) -> None:
        if slot in self.claims:
            self.send(slot)  # it may have been, so it counts
            self.world.ledger.outcomes.release(slot, cause)
            self.forget(slot, counted=True)
            self.put_all_back_at_once()

    def forget(self, slot: int, counted: bool) -> None:
        claim = self.claims.pop(slot)
        self.sent.discard(slot)
        self.told = None  # something happened: whoever sleeps is woken
        self.restamp()
        if counted:
            self.completions += [self.now] * len(claim.tasks)

    def restamp(self) -> None:
        """What is stamped later than now happened now."""
        self.completions = [min(instant, self.now) for instant in self.completions]

    def put_all_back_at_once(self) -> None:
        """There is always more to do, in batches of any size: this is about limits alone."""
        self.world.change(
            "UPDATE tasks SET state = 'ready', due_at = NULL, batch_limit = NULL, is_suspect = 0"
            " WHERE state <> 'claimed'"
        )
        self.world.change("DELETE FROM evidence")
        self.world.change("DELETE FROM results")

    def wait(self, seconds: float) -> None:
        self.real += seconds
        self.world.clock.go(seconds)

    def wait_until_told(self) -> None:
        """Sleep as long as an idle worker was told: then there is room, and a moment before there was none."""
        if self.told is None or self.told - self.now < 0.003:
            return
        self.wait(self.told - self.now - 0.003)
        assert self.room_at(self.now) <= 0
        self.wait(self.told - self.now)
        assert self.room_at(self.now) > 0
        self.told = None

    def run(self, todo: list[tuple[str, int, object]]) -> None:
        for verb, slot, argument in todo:
            match verb:
                case "claim":
                    self.claim(slot, argument)  # type: ignore[arg-type]
                case "send":
                    self.send(slot)
                case "again":
                    self.again(slot)
                case "finish":
                    self.finish(slot, argument)  # type: ignore[arg-type]
                case "release":
                    self.release(slot, argument)  # type: ignore[arg-type]
                case "wait":
                    self.wait(argument)  # type: ignore[arg-type]
                case "wait until told":
                    self.wait_until_told()
                case "set back":
                    self.world.clock.step(-argument)  # type: ignore[operator]
                    self.told = None

    def assert_log_within_limits(self) -> None:
        for period, limit in self.limits.items():
            for real, wall in self.log:
                if self.strategy == "rolling":
                    same = sum(real - ROLLING_SECONDS[Period(period)] < other <= real for other, _ in self.log)
                else:
                    window = fixed_window(Period(period), wall, self.zone)
                    same = sum(window.holds(other) for _, other in self.log)
                assert same <= limit, f"{same} in a {period}"


@contextmanager
def a_model(place: Place, strategy: str, zone: str, start: float, limits: dict[str, int]) -> Iterator[Model]:
    with example(place, start) as world:
        set_limits(world.ledger, strategy, zone, limits)
        world.admit(*(f"t{number}" for number in range(40)))
        yield Model(world, strategy, ZoneInfo(zone), limits)


EXAMPLES = 1_000 if LONG else 30


@pytest.mark.parametrize("strategy", ["rolling", "fixed"])
def test_no_interleaving_exceeds_a_limit_and_every_wait_is_exact(prepared_place: Place, strategy: str) -> None:
    @examples(prepared_place, EXAMPLES)
    @given(todo=steps, limits=allowed, zone=st.sampled_from(ZONES), start=st.sampled_from(STARTS))
    def holds(todo: list[tuple[str, int, object]], limits: dict[str, int], zone: str, start: float) -> None:
        with a_model(prepared_place, strategy, zone, start, limits) as model:
            model.run(todo)
            model.assert_log_within_limits()

    holds()


with_steps_back = st.lists(
    st.one_of(
        st.tuples(st.just("claim"), st.sampled_from(SLOTS), st.integers(1, 6)),
        st.tuples(st.just("again"), st.sampled_from(SLOTS), st.just(0)),
        st.tuples(st.just("finish"), st.sampled_from(SLOTS), st.sampled_from(ENDINGS)),
        st.tuples(st.just("wait"), st.just(0), st.sampled_from((0.0, 1.0, 20.0, 59.9, 61.0))),
        st.tuples(st.just("set back"), st.just(0), st.sampled_from((1.5, 30.0, 3_600.0))),
    ),
    min_size=20,
    max_size=60,
)


def test_a_clock_that_is_set_back_never_makes_room_and_never_blocks_for_longer_than_a_window(
    prepared_place: Place,
) -> None:
    @examples(prepared_place, EXAMPLES)
    @given(todo=with_steps_back, limits=allowed)
    def holds(todo: list[tuple[str, int, object]], limits: dict[str, int]) -> None:
        with a_model(prepared_place, "rolling", "UTC", START, limits) as model:
            for step in todo:
                model.run([step])
                if model.told is not None:
                    assert model.told - model.now <= max(ROLLING_SECONDS[Period(period)] for period in limits) + 0.002
            model.assert_log_within_limits()

    holds()


# What two processes remember of where windows began, while the clock, the limits and the time zone are set

MEMORIES = (0, 1)
MORE_THAN_ANY = 1_000_000
CLOCK_STEPS = (0.5, 20.0, 61.0, 3_600.0, 86_400.0, 40 * 86_400.0)
with_memories = st.lists(
    st.one_of(
        st.tuples(st.just("look"), st.sampled_from(MEMORIES), st.just(0)),
        st.tuples(st.just("end"), st.sampled_from(MEMORIES), st.integers(1, 5)),
        st.tuples(st.just("end in vain"), st.sampled_from(MEMORIES), st.integers(1, 5)),
        st.tuples(st.just("set"), st.just(0), st.sampled_from(CLOCK_STEPS)),
        st.tuples(st.just("set"), st.just(0), st.sampled_from(CLOCK_STEPS).map(lambda seconds: -seconds)),
        st.tuples(
            st.just("publish"), st.sampled_from(("rolling", "fixed")), st.tuples(st.sampled_from(ZONES), allowed)
        ),
        st.tuples(st.just("prune"), st.just(0), st.just(0)),
    ),
    min_size=20,
    max_size=60,
)


@dataclass
class Memories:
    """The limits of one ledger, as two processes know them."""

    database: Database
    clock: Clock

    def __post_init__(self) -> None:
        self.limits = [Limits() for _ in MEMORIES]

    def look(self, which: int) -> None:
        with self.database.transaction() as connection:
            self._remember(connection, which)

    def end(self, which: int, tasks: int) -> None:
        with self.database.transaction() as connection:
            self._count(connection, tasks)

    def end_in_vain(self, which: int, tasks: int) -> None:
        """What it has counted, restamped and remembered is rolled back, but for what it remembers."""
        with suppress(LedgerError), self.database.transaction() as connection:
            self._count(connection, tasks)
            self._remember(connection, which)
            raise OSError

    def prune(self) -> None:
        with self.database.transaction() as connection:
            prune_completions(connection, self.clock.now)

    def promise_no_more_than_there_is(self) -> None:
        with self.database.transaction() as connection:
            uses = use_of_limits(connection, self.clock.now).values()
            room = min(use.limit - use.current for use in uses)
            for limits in self.limits:
                least = limits.room_at_least(self.clock.now, basis(connection))
                assert least is None or least <= room

    def _count(self, connection: Connection, tasks: int) -> None:
        counted = Counted(*connection.execute(f"SELECT {COUNTED}").get)
        count(connection, "text_embedding", ["t"] * tasks, self.clock.now, counted)

    def _remember(self, connection: Connection, which: int) -> None:
        self.limits[which].room(connection, self.clock.now, basis(connection), enough=MORE_THAN_ANY)


def basis(connection: Connection) -> Basis:
    return Basis(*connection.execute(f"SELECT {BASIS} FROM ledger").get)


def test_nobody_remembers_more_room_than_there_is_however_the_clock_is_set(prepared_place: Place) -> None:
    @examples(prepared_place, EXAMPLES)
    @given(todo=with_memories, limits=allowed, zone=st.sampled_from(ZONES), start=st.sampled_from(STARTS))
    def holds(todo: list[tuple[str, Any, Any]], limits: dict[str, int], zone: str, start: float) -> None:
        with a_model(prepared_place, "fixed", zone, start, limits) as model:
            memories = Memories(model.world.database, model.world.clock)
            for verb, who, argument in todo:
                match verb:
                    case "look":
                        memories.look(who)
                    case "end":
                        memories.end(who, argument)
                    case "end in vain":
                        memories.end_in_vain(who, argument)
                    case "set":
                        memories.clock.step(argument)
                    case "publish":
                        set_limits(model.world.ledger, who, *argument)
                    case "prune":
                        memories.prune()
                memories.promise_no_more_than_there_is()

    holds()
