"""The life of tasks on a fleet's ledger: as in `test_life_model.py`, of two hosts, whose lines and server fail as well.

The server is killed and starts again, with what it has not written lost; lines are cut before or after a COMMIT; a host
is cut off, and comes back within its grace or after it, with its answers or as a new service. Each slot holds its
place in the fleet with a session of its own, as its process does.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import psycopg
import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import invariant, precondition, rule, run_state_machine_as_test
from pydantic import SecretStr

from aitp.errors import LedgerError
from aitp.ledger import postgresql
from aitp.ledger.engine import Fleet, Row
from aitp.ledger.evidence import Settled
from aitp.ledger.inbox import Poll
from aitp.ledger.ledger import Ledger
from aitp.ledger.outbox import DeliveryOutcome
from aitp.ledger.outcomes import Cause
from aitp.ledger.session import connect
from aitp.tasks import Ending
from tests.fuzz.cases import LONG
from tests.ledger.life_hands import HOSTS
from tests.ledger.life_model import NAMES, STARTS, Listed, Model
from tests.ledger.test_life_model import FINAL, RELAYS, WORKERS, Life
from tests.ledger.world import examples, prepared
from tests.services.postgres import PostgreSQL, postgres_server

T = TypeVar("T")
GRACE = 59.5  # between what any number of waits add up to
OURS, THEIRS = ((*WORKERS[:-1], *RELAYS[:-1]), (WORKERS[-1], RELAYS[-1]))

# Sessions take from here how long the server has been up, by the clock of the world.
UP = """
CREATE SCHEMA life;
CREATE TABLE life.server (up FLOAT8);
INSERT INTO life.server VALUES (0);
CREATE FUNCTION life.pg_postmaster_start_time() RETURNS timestamptz LANGUAGE sql VOLATILE AS
    'SELECT pg_catalog.clock_timestamp() - make_interval(secs => (SELECT up FROM life.server))';
CREATE FUNCTION life.everything() RETURNS text LANGUAGE plpgsql AS $$
DECLARE each RECORD; rows text; found text := ''; BEGIN
    FOR each IN SELECT tablename AS name FROM pg_tables WHERE schemaname = 'aitp' AND tablename <> 'absences' LOOP
        EXECUTE format('SELECT string_agg(t::text, '' '' ORDER BY t::text) FROM %I AS t', each.name) INTO rows;
        found := found || each.name || COALESCE(rows, '');
    END LOOP;
    RETURN md5(found);
END $$
"""
LONG_BEFORE = min(STARTS) - GRACE


@dataclass
class Remembered:
    """The ledger at one moment, and what was to be known of it then. `stepped`: by how much the clock had been set."""

    everything: str
    model: Model
    listing: tuple[Poll, Listed] | None
    stepped: float


class LifeOfFleet(Life):
    """Two hosts. `remembered`: what the ledger was since somebody last relied on it, the latest last."""

    def __init__(self, place: Fleet, server: PostgreSQL) -> None:
        super().__init__(place)
        self.server = server
        self.up_since = LONG_BEFORE
        self.remembered: list[Remembered] = []

    # What must be remembered

    def attempt(self, slot: int, act: Callable[[Ledger], T]) -> T:
        self.remember()
        return super().attempt(slot, act)

    def acknowledged(self) -> None:
        self.remembered.clear()

    @invariant()
    def remember(self) -> None:
        present = {slot for slot in self.model.absent if self.hands.has_line(slot)}
        self.model.absent = {slot: since for slot, since in self.model.absent.items() if slot not in present}
        everything = self.world.value("SELECT life.everything()")
        model = copy.deepcopy(self.model, {id(self.world.clock): self.world.clock})
        listing = copy.deepcopy(self.listing)
        self.remembered.append(Remembered(everything, model, listing, self.world.clock.stepped))

    @rule()
    def server_restarts(self) -> None:
        """It is killed: of what it has not written it knows nothing, and it has written what somebody relies on."""
        self.server.restart()
        self.up_since = self.world.clock.uptime()
        with pytest.raises(LedgerError):
            self.world.rows("SELECT 1")
        for slot in (*OURS, *THEIRS):
            self.hands.find_lost(slot)
        everything = self.world.value("SELECT life.everything()")
        found = [each for each in self.remembered if each.everything == everything]
        assert found, "it has forgotten what was acknowledged"
        self.model, self.listing, self._sequence = found[-1].model, found[-1].listing, 0
        self.model.absent = dict(self.world.rows("SELECT slot, since FROM absences"))
        self.relays_begin_anew((*OURS, *THEIRS))
        self.acknowledged()
        if forgotten := self.world.clock.stepped - found[-1].stepped:
            self.remember()
            self.remembered[-1].stepped = found[-1].stepped  # it may be forgotten once more
            self.follow_clock(forgotten)

    # Lines

    def relays_begin_anew(self, slots: tuple[int, ...]) -> None:
        """Those that have lost their lines. What they were at is theirs, by the ledger, until they begin something."""
        for slot in slots:
            self.chunks.pop(slot, None)
            self.given_up |= slot == self.polling_slot

    @rule(slot=st.sampled_from((*OURS, *THEIRS)))
    def line_is_lost(self, slot: int) -> None:
        if self.hands.has_line(slot):
            self.hands.lose_line(slot)
            self.relays_begin_anew((slot,))

    @rule(committed=st.booleans())
    def line_is_lost_at_commit(self, committed: bool) -> None:
        """Of whoever is next."""
        self.hands.cut = committed

    @invariant()
    def whoever_has_a_line_holds_its_place(self) -> None:
        assert {slot for slot in (*OURS, *THEIRS) if self.hands.has_line(slot)} == self.hands.holders()

    # Hosts

    @precondition(lambda self: not self.away)
    @rule(dies=st.booleans())
    def host_goes(self, dies: bool) -> None:
        """Its line is cut; or all of it is gone."""
        self.away = set(THEIRS)
        for slot in THEIRS:
            self.hands.lose_line(slot)
            if dies:
                self.hands.hang_up(slot)
                self.claims.pop(slot, None)
        self.relays_begin_anew(THEIRS)

    @precondition(lambda self: self.away)
    @rule()
    def host_returns(self) -> None:
        """It does what it was at; or its service starts anew."""
        died = [slot for slot in self.away if not self.hands.is_known(slot)]
        self.away = set()
        for slot in THEIRS:
            if slot in died:
                self.succeed(slot, Cause.STOPPED)
            else:
                self.hands.of(slot).hosts.name_of(slot)  # type: ignore[union-attr]

    @rule()
    def look(self) -> None:
        """What a relay of the other host does now and then."""
        assert self.world.ledger.hosts is not None
        self.tell_up()
        self.has_looked(self.world.ledger.release_ownerless(self.world.ledger.hosts.ours))

    def tell_up(self) -> None:
        self.world.change("UPDATE life.server SET up = ?", self.world.clock.uptime() - self.up_since)

    def has_looked(self, released: dict[int, Settled]) -> None:
        """Whoever was away for the grace, with the server up for as long, owns nothing any more; nobody else."""
        now = self.model.now
        for slot in THEIRS:
            if self.hands.has_line(slot) or (not self.model.owns(slot) and slot != self.polling_slot):
                continue
            away_for = now - self.model.absent.setdefault(slot, now)
            if min(away_for, self.world.clock.uptime() - self.up_since) >= GRACE:
                self.has_released(slot, released.pop(slot))
        assert released == {}

    @rule()
    def everything_dies(self) -> None:
        self.tell_up()
        self.has_looked(self.all_die(OURS))

    @rule()
    def grace_passes(self) -> None:
        self.look()
        self.world.clock.go(60.0)
        self.look()

    @rule(batch=st.integers(1, 4), taken=st.integers(0, 4), ending=FINAL)
    def answer_comes_late(self, batch: int, taken: int, ending: Ending) -> None:
        """After the grace of its host; others may be at its tasks by then, or have finished them."""
        theirs, ours = THEIRS[0], OURS[0]
        self.claim(theirs, batch)
        if theirs not in self.claims or self.away:
            return
        self.host_goes(dies=False)
        self.grace_passes()
        if taken:
            self.claim(ours, taken)
        self.host_returns()
        self.end(theirs, ending, partly=False)

    @invariant()
    def absences_are_noted(self) -> None:
        noted = dict(self.world.rows("SELECT slot, since FROM absences"))
        assert noted == {slot: since for slot, since in self.model.absent.items() if not self.hands.has_line(slot)}


@pytest.fixture(scope="module")
def own_server() -> Iterator[PostgreSQL]:
    # It writes what it is made to, and nothing by itself.
    with postgres_server(wal_writer_delay="10s", autovacuum="off") as server:
        yield server


@pytest.fixture
def place(own_server: PostgreSQL, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fleet:
    """The first host's."""

    def connect_at_its_time(place: Fleet) -> psycopg.Connection[Row]:
        line = connect(place)
        line.execute(b"SET search_path = aitp, life, pg_catalog")
        return line

    monkeypatch.setattr(postgresql, "REGAIN_SECONDS", (0.0, 0.0))
    monkeypatch.setattr(postgresql, "connect", connect_at_its_time)
    with psycopg.connect(own_server.url) as line:
        line.execute("DROP SCHEMA IF EXISTS life CASCADE")
        line.execute(UP.encode())
    url = SecretStr(own_server.url)
    made = [prepared(Fleet(url, "aitp", name, GRACE, tmp_path / name, "of the tests")) for name in HOSTS]
    return made[0]


OUR_WORKER, THEIR_WORKER = OURS[0], THEIRS[0]


def a_server_dies_with_claims_and_answers(life: LifeOfFleet) -> Iterator[None]:
    for _ in range(2):
        life.claim(OUR_WORKER, 2)
        yield
        life.server_restarts()
        yield
        life.claim(THEIR_WORKER, 1)
        life.end(OUR_WORKER, Ending.SUCCEEDED, partly=False)
        yield
        life.server_restarts()
        yield
        life.take(RELAYS[0], 2)
        life.server_restarts()
        yield
        life.see_through(THEIR_WORKER, RELAYS[0], Ending.FAILED, delivered=True)
        yield


def lines_are_lost_before_and_after_commits(life: LifeOfFleet) -> Iterator[None]:
    acts: list[Callable[[], None]] = [
        lambda: life.claim(OUR_WORKER, 3),
        lambda: life.end(OUR_WORKER, Ending.SUCCEEDED, partly=True),
        lambda: life.end(OUR_WORKER, Ending.RETRY, partly=False),
        lambda: life.take(RELAYS[0], 2),
        lambda: life.hand_over(RELAYS[0], DeliveryOutcome.DELIVERED),
        lambda: life.begin_poll(RELAYS[0]),
        lambda: life.admit(NAMES),
        lambda: life.list_pending(RELAYS[0], NAMES, complete=True),
    ]
    for committed in (False, True):
        for act in acts:
            life.line_is_lost_at_commit(committed)
            act()
            yield


def a_host_is_away_for_its_grace_with_the_server_up_for_as_long(life: LifeOfFleet) -> Iterator[None]:
    for dies in (False, True):
        life.claim(THEIR_WORKER, 2)
        yield
        life.host_goes(dies)
        for seconds in (31.0, 0.0, 31.0, 31.0):
            life.look()
            yield
            life.wait(seconds)
            if not seconds:
                life.pause(False)  # that it is away is on disk now
                yield
                life.server_restarts()
                yield
        life.look()
        yield
        life.host_returns()
        yield
        life.see_through(THEIR_WORKER, RELAYS[0], Ending.SUCCEEDED, delivered=False)
        yield


def answers_come_late(life: LifeOfFleet) -> Iterator[None]:
    for taken, ending in ((0, Ending.SUCCEEDED), (1, Ending.SUCCEEDED), (4, Ending.SUCCEEDED), (0, Ending.FAILED)):
        life.list_pending(RELAYS[0], NAMES, complete=False)
        life.answer_comes_late(2, taken, ending)
        yield
        life.see_through(OUR_WORKER, RELAYS[0], Ending.SUCCEEDED, delivered=taken > 1)
        yield


@pytest.mark.parametrize(
    "story",
    [
        a_server_dies_with_claims_and_answers,
        lines_are_lost_before_and_after_commits,
        a_host_is_away_for_its_grace_with_the_server_up_for_as_long,
        answers_come_late,
    ],
)
def test_what_befalls_a_fleet_is_as_the_model_says(
    place: Fleet, own_server: PostgreSQL, story: Callable[[LifeOfFleet], Iterator[None]]
) -> None:
    """Each once, whatever is drawn below."""
    life = LifeOfFleet(place, own_server)
    try:
        life.begin(STARTS[0], "rolling", "UTC", {"day": 30})
        life.list_pending(RELAYS[0], NAMES, complete=False)
        for _ in story(life):
            for each in life.invariants:
                each.function(life)
    finally:
        life.teardown()


@pytest.mark.parametrize("count", [pytest.param(4, id="few"), pytest.param(15, id="many", marks=pytest.mark.slow)])
@pytest.mark.timeout(1_800)
def test_the_life_of_tasks_on_a_fleet(place: Fleet, own_server: PostgreSQL, count: int) -> None:
    # What is found is not made smaller: each try would cost starts of the server. And each life is drawn by itself,
    # after the shortest one: what a server forgets is not the same twice, and lives that begin alike are compared.
    bounds = settings(examples(place, 20), stateful_step_count=50, phases=[Phase.generate])
    for _ in range(150 if LONG else count):
        run_state_machine_as_test(lambda: LifeOfFleet(place, own_server), settings=bounds)  # type: ignore[arg-type]
