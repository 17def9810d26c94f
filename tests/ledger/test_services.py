"""Calls beside a claim: the breaker is heard and told, a pause is kept, and exactly one process makes the probe."""

from __future__ import annotations

import os

import pytest

from aitp.errors import AitpError, CooldownRequired, CredentialsRefused, ServiceFault
from aitp.ledger.breakers import BreakerChange
from aitp.ledger.ledger import Ledger
from aitp.ledger.outcomes import Cause
from aitp.ledger.queue import LedgerConfig
from aitp.ledger.stats import snapshot
from tests.ledger.conftest import Create
from tests.ledger.world import Clock, World

RULES = LedgerConfig(breaker_threshold=3, breaker_recovery=60.0)


class Desk:
    """A ledger, and calls to Wikidata that go as they are told to."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.clock = world.clock
        self.ledger = world.ledger
        self.changes: list[BreakerChange] = []
        self.made = 0

    def call(self, failure: BaseException | None = None, slot: int = 101) -> None:
        with self.ledger.services.call("wikidata", slot, self.changes.append):
            self.made += 1
            if failure is not None:
                raise failure

    def fail(self, times: int) -> None:
        for _ in range(times):
            with pytest.raises(ServiceFault):
                self.call(ServiceFault("wikidata", "down"))

    @property
    def state(self) -> str:
        return snapshot(self.world.place, now=self.clock.now).breakers["wikidata"].state


@pytest.fixture
def desk(create: Create) -> Desk:
    return Desk(create(RULES))


def test_enough_failures_in_a_row_open_the_breaker_and_nobody_calls(desk: Desk) -> None:
    desk.fail(3)
    assert (desk.state, [change.state for change in desk.changes]) == ("open", ["open"])
    with pytest.raises(ServiceFault, match="another 60 s"):
        desk.call()
    assert desk.made == 3
    assert not desk.ledger.services.is_well("wikidata")


def test_a_success_in_between_forgives_the_failures(desk: Desk) -> None:
    desk.fail(2)
    desk.call()
    desk.fail(2)
    assert desk.state == "closed"


def test_a_success_forgives_what_has_failed_since_its_call_began(desk: Desk) -> None:
    calls = [desk.ledger.services.call("wikidata", 102, desk.changes.append) for _ in range(3)]
    for call in calls:
        call.__enter__()
    for call in calls:
        desk.fail(1)
        call.__exit__(None, None, None)
    assert (desk.state, desk.changes) == ("closed", [])


def test_refused_credentials_open_it_at_once(desk: Desk) -> None:
    with pytest.raises(CredentialsRefused):
        desk.call(CredentialsRefused("wikidata", "403"))
    assert desk.state == "open"


def test_a_probe_that_succeeds_closes_it(desk: Desk) -> None:
    desk.fail(3)
    desk.clock.now += 60
    desk.call()
    assert desk.state == "closed"
    assert desk.ledger.services.is_well("wikidata")


def test_a_probe_that_fails_opens_it_anew(desk: Desk) -> None:
    desk.fail(3)
    desk.clock.now += 60
    desk.fail(1)
    assert desk.state == "open"
    with pytest.raises(ServiceFault, match="another 60 s"):
        desk.call()


def test_nobody_else_calls_while_a_probe_is_under_way(desk: Desk) -> None:
    desk.fail(3)
    desk.clock.now += 60
    probe = desk.ledger.services.call("wikidata", 101, desk.changes.append)
    with probe, pytest.raises(ServiceFault, match="until its probe ends"):
        desk.call(slot=102)
    desk.call(slot=102)


def test_a_slot_that_a_claim_let_probe_makes_that_probe(desk: Desk) -> None:
    desk.fail(3)
    desk.world.change("UPDATE breakers SET state = 'half-open', probe_slot = 103")
    desk.call(slot=103)
    assert desk.state == "closed"


def test_a_probe_that_the_services_stop_cut_short_says_nothing(desk: Desk) -> None:
    desk.fail(3)
    desk.clock.now += 60
    with pytest.raises(KeyboardInterrupt):
        desk.call(KeyboardInterrupt("stopped"))
    assert desk.state == "open"
    desk.clock.now += 6
    desk.call()
    assert desk.state == "closed"


def test_a_dead_probers_slot_frees_the_probe(desk: Desk) -> None:
    desk.fail(3)
    desk.clock.now += 60
    desk.world.change("UPDATE breakers SET state = 'half-open', probe_slot = 103")
    desk.ledger.outcomes.release(103, Cause.CRASHED)
    desk.call(slot=104)
    assert desk.state == "closed"


def test_a_pause_that_was_asked_for_is_kept_by_all_and_is_no_failure(desk: Desk) -> None:
    for _ in range(5):
        with pytest.raises(CooldownRequired):
            desk.call(CooldownRequired("wikidata", "429", seconds=30, model=None))
        with pytest.raises(CooldownRequired) as refused:
            desk.call(slot=102)
        assert 0 < refused.value.seconds <= 30
        desk.clock.now += 31
    assert (desk.made, desk.state) == (5, "closed")
    desk.call()


def test_a_well_service_is_called_without_a_transaction(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(desk.world.database, "transaction", None)  # it would fail at once
    desk.call()
    assert desk.made == 1


def test_of_many_processes_exactly_one_probes(desk: Desk) -> None:
    desk.fail(3)
    told, telling = os.pipe()
    released, releasing = os.pipe()
    pids = []
    for slot in range(110, 122):
        pid = os.fork()
        if pid == 0:
            os._exit(_probe(desk, slot, telling, released))
        pids.append(pid)
    answers = b"".join(os.read(told, 1) for _ in pids)
    os.write(releasing, b".")  # the probe may end
    codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]
    assert sorted(answers) == sorted(b"p" + b"w" * 11)
    assert codes == [0] * 12
    assert desk.state == "closed"


def _probe(desk: Desk, slot: int, telling: int, released: int) -> int:
    clock = Clock()
    clock.now += 61
    ledger = Ledger.open(desk.world.place, RULES, clock=clock)
    try:
        with ledger.services.call("wikidata", slot, lambda change: None):
            os.write(telling, b"p")
            os.read(released, 1)
    except ServiceFault:
        os.write(telling, b"w")
    except AitpError:
        return 1
    return 0
