"""What hosts of a fleet do for and know of each other: real processes of two hosts, on a server that is killed too."""

from __future__ import annotations

import json
import select
import signal
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from pydantic import SecretStr

from aitp.errors import LedgerError
from aitp.ledger import postgresql
from aitp.ledger.engine import HOST_SLOTS, Fleet
from aitp.ledger.evidence import Settled
from aitp.ledger.hosts import Hosts
from aitp.ledger.ledger import Ledger
from aitp.ledger.locks import SlotLocks
from aitp.ledger.outbox import DeliveryOutcome, Fault
from aitp.ledger.outcomes import Cause
from aitp.tasks import Ending, Health
from tests.ledger.processes import Gate, Process
from tests.ledger.world import RELAY, WORKER, World, ids, prepared, report, terms
from tests.services.postgres import PostgreSQL, clear, postgres_server
from tests.waiting import patience, wait_until

GRACE = 1.5


class Host(World):
    """One of a fleet's, by the server's clock."""

    def open(self, locks: SlotLocks | None = None) -> Ledger:
        self.ledger = Ledger.open(self.place, self.rules, locks=locks)
        return self.ledger

    @property
    def fleet(self) -> Fleet:
        assert isinstance(self.place, Fleet)
        return self.place

    def be_child(self, slot: int) -> int:
        """This process is in that slot from now on, as a child of the service is; the number of it in the fleet."""
        self.ledger.close()
        locks = SlotLocks(self.fleet.lock_file)
        assert locks.acquire(slot, 5.0)
        self.open(locks)
        return self.ledger.owner(slot)

    def look(self) -> dict[int, Settled]:
        """What a relay does for the others now and then; what it released."""
        assert self.ledger.hosts is not None
        return self.ledger.release_ownerless(self.ledger.hosts.ours)


@pytest.fixture(scope="module")
def own_server() -> Iterator[PostgreSQL]:
    """One that may be killed."""
    with postgres_server() as server:
        yield server


@pytest.fixture(scope="module")
def places(own_server: PostgreSQL, tmp_path_factory: pytest.TempPathFactory) -> tuple[Fleet, Fleet]:
    folder = tmp_path_factory.mktemp("hosts")
    one, two = (
        prepared(Fleet(SecretStr(own_server.url), "aitp", name, GRACE, folder / name, "of the tests"))
        for name in ("one", "two")
    )
    return one, two


@pytest.fixture
def hosts(places: tuple[Fleet, Fleet]) -> Iterator[tuple[Host, Host]]:
    """Two, on an empty ledger."""
    clear(places[0])
    made = [Host(place, clock=time.time) for place in places]  # type: ignore[arg-type]
    for host in made:
        host.open()
    yield made[0], made[1]
    for host in made:
        host.close()


def holding(told: Gate, slot: int = WORKER) -> Callable[[World], Any]:
    """A worker with a call in flight."""

    def work(host: World) -> None:
        assert isinstance(host, Host)
        host.claim(host.be_child(slot))
        told.open()
        signal.pause()

    return work


def test_hosts_have_numbers_of_their_own(hosts: tuple[Host, Host]) -> None:
    one, two = hosts
    assert two.ledger.owner(WORKER) - one.ledger.owner(WORKER) == HOST_SLOTS


def test_a_killed_process_has_its_slot_free_for_its_own_host_at_once(hosts: tuple[Host, Host]) -> None:
    one, two = hosts
    one.admit("a")
    told = Gate()
    with Process(two, holding(told)) as process:
        told.wait()
        process.kill()
        killed_at = time.monotonic()
        owner = two.be_child(WORKER)
        two.ledger.outcomes.release(owner, Cause.CRASHED)
        took = time.monotonic() - killed_at

    assert one.states() == {"a": "ready"}
    assert took < patience(0.1)


def test_claims_of_a_host_that_is_gone_come_back_after_its_grace_and_not_before(hosts: tuple[Host, Host]) -> None:
    one, two = hosts
    one.admit("a", "b")
    told = Gate()
    with Process(two, holding(told)) as process:
        told.wait()
        assert one.look() == {}
        process.kill()
        # The server notices by itself that a process is gone, in a moment.
        wait_until(lambda: one.look() == {} and one.rows("SELECT 1 FROM absences"), every=0.01)
        noted_at = time.monotonic()
        released: dict[int, Settled] = {}
        while not released:
            released = one.look()
            took = time.monotonic() - noted_at
            select_for(0.02)

    assert GRACE - 0.05 <= took < patience(GRACE + 0.5)
    [settled] = released.values()
    assert [outcome.ending for outcome in settled.outcomes] == [Ending.ABANDONED] * 2
    assert one.states() == {"a": "ready", "b": "ready"}
    assert one.completions() == 2  # they may have been sent
    assert one.value("SELECT SUM(crashes) + SUM(attempts) FROM tasks") == 0


def select_for(seconds: float) -> None:
    """Time is to go by: the server's, which nobody sets."""
    until = time.monotonic() + seconds
    wait_until(lambda: time.monotonic() > until, every=seconds)


def test_a_living_host_keeps_its_claims_however_long_they_take(hosts: tuple[Host, Host]) -> None:
    one, two = hosts
    one.admit("a")
    told = Gate()
    with Process(two, holding(told)):
        told.wait()
        for _ in range(4):
            select_for(GRACE / 2)
            assert one.look() == {}
        assert one.states() == {"a": "claimed"}
        assert one.rows("SELECT * FROM absences") == []


UP_SECONDS = "SELECT CAST(EXTRACT(EPOCH FROM clock_timestamp() - pg_postmaster_start_time()) AS DOUBLE PRECISION)"


@pytest.mark.parametrize("is_noted", [False, True], ids=["not noted before", "noted before"])
def test_nobody_is_gone_before_the_server_was_up_for_the_grace(
    hosts: tuple[Host, Host], own_server: PostgreSQL, monkeypatch: pytest.MonkeyPatch, is_noted: bool
) -> None:
    one, two = hosts
    monkeypatch.setattr(postgresql, "REGAIN_SECONDS", (0.0, 0.01))
    one.admit("a")
    told = Gate()
    # It does not know that its line is gone: it waits for its answer. Nobody can tell it from one that died just now.
    with Process(two, holding(told)) as process:
        told.wait()
        if is_noted:
            process.kill()
            wait_until(lambda: one.look() == {} and one.rows("SELECT 1 FROM absences"), every=0.01)
            select_for(GRACE)
        own_server.restart()
        with pytest.raises(LedgerError):
            one.look()
        looks = 0
        while not one.look():
            looks += 1
            select_for(0.02)

    assert looks
    assert one.value(UP_SECONDS) >= GRACE
    assert one.states() == {"a": "ready"}


def test_a_host_that_comes_back_within_the_grace_keeps_its_claims_and_its_answers(hosts: tuple[Host, Host]) -> None:
    one, two = hosts
    one.admit("a")
    told, cut = Gate(), Gate()

    def work(host: World) -> tuple[list[str], bool]:
        assert isinstance(host, Host)
        claim = host.claim(host.be_child(WORKER))
        host.ledger._database._connection.close()  # type: ignore[attr-defined]
        told.open()
        cut.wait()
        settled = host.finish(claim)
        return [outcome.task.id for outcome in settled.outcomes], not host.rows("SELECT 1 FROM absences")

    with Process(two, work) as process:
        told.wait()
        wait_until(lambda: one.look() == {} and one.rows("SELECT 1 FROM absences"), every=0.01)
        cut.open()
        assert process.result() == (["a"], True)
    assert one.states() == {"a": "finished"}
    assert one.completions() == 1


def test_an_answer_that_comes_late_is_taken_while_its_task_waits_still(hosts: tuple[Host, Host]) -> None:
    one, two = hosts
    one.admit("a", "b")
    told, go_on = Gate(), Gate()

    def work(host: World) -> tuple[list[str], int]:
        assert isinstance(host, Host)
        claim = host.claim(host.be_child(WORKER))
        host.ledger._database._connection.close()  # type: ignore[attr-defined]
        told.open()
        go_on.wait()
        settled = host.finish(claim)
        return [outcome.task.id for outcome in settled.outcomes], settled.late

    with Process(two, work) as process:
        told.wait()
        wait_until(lambda: bool(one.look()))
        assert one.states() == {"a": "ready", "b": "ready"}
        mine = one.claim(one.be_child(WORKER), terms(batch=1))
        go_on.open()
        [other] = {"a", "b"} - set(ids(mine))
        assert process.result() == ([other], 1)

    assert one.states() == {other: "finished", ids(mine)[0]: "claimed"}
    assert one.ledger.outcomes.finish(mine, report(mine.tasks, Ending.SUCCEEDED)).late == 0
    assert set(one.states().values()) == {"finished"}
    assert one.completions() == 3  # both were sent once, and one of them again


def test_whoever_sweeps_loses_a_place_with_its_line(hosts: tuple[Host, Host]) -> None:
    """The owner may have it again: what is released then is no more than what it has claimed since."""
    one, two = hosts
    database = one.ledger._database
    owner = two.ledger.owner(WORKER)
    wait_until(lambda: database.obtain(owner))
    database._connection.close()  # type: ignore[attr-defined]
    with pytest.raises(LedgerError):
        one.ledger.outcomes.release(owner, Cause.STOPPED)
    assert two.be_child(WORKER) == owner


def test_each_host_notes_that_it_is_there_and_when_to_look_again(hosts: tuple[Host, Host]) -> None:
    one, two = hosts
    assert one.ledger.hosts is not None
    assert two.ledger.hosts is not None
    two.ledger.hosts.note("2.1.0", workers=3, relays=2, page="10.0.0.2:8001")
    [(name, version, seen_at, facts)] = one.rows("SELECT name, version, seen_at, facts FROM hosts WHERE version <> ''")
    assert (name, version, json.loads(facts)["workers"]) == ("two", "2.1.0", 3)
    assert abs(seen_at - time.time()) < patience(2.0)
    assert one.ledger.hosts.name_of(two.ledger.owner(WORKER)) == "two"

    one.admit("a")
    told = Gate()
    with Process(two, holding(told)) as process:
        told.wait()
        assert one.ledger.hosts.look_again_in(one.ledger.owners()) == 15.0
        process.kill()
        wait_until(lambda: one.look() == {} and one.rows("SELECT 1 FROM absences"), every=0.01)
        assert 1.0 <= one.ledger.hosts.look_again_in(one.ledger.owners()) <= GRACE


def is_readable(line: int | None, seconds: float) -> bool:
    assert line is not None
    return bool(select.select([line], [], [], seconds)[0])


def test_what_one_host_announces_the_others_hear_and_it_does_not(
    hosts: tuple[Host, Host], own_server: PostgreSQL, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgresql, "REGAIN_SECONDS", (0.0, 0.01))
    heard: list[list[str]] = [[], []]
    for host, mine in zip(hosts, heard, strict=True):
        assert host.ledger.hosts is not None
        host.ledger.hosts.database.listen(mine.append)
        assert mine.pop() == "all"  # what was before nobody heard
    one, two = (host.ledger.hosts for host in hosts)
    assert one is not None
    assert two is not None

    hosts[0].admit("a", "b")
    assert is_readable(two.database.line, patience(1.0))
    two.database.hear()
    one.database.hear()
    assert heard == [[], ["workers 2"]]
    assert not is_readable(two.database.line, 0.0)
    hosts[0].ledger.pause(True)
    wait_until(lambda: hosts[1].rows("SELECT 1") and heard[1][1:] == ["all"])  # whoever is at work hears it there
    hosts[0].ledger.pause(False)
    prepared(hosts[0].fleet)
    wait_until(lambda: hosts[1].rows("SELECT 1") and heard[1][2:] == ["all", "all"])

    own_server.restart()
    assert is_readable(two.database.line, patience(1.0))
    wait_until(lambda: not hears(two))  # not before the end: of what led to it the server tells first
    assert two.database.line is None  # nobody waits at it in vain, or in a circle
    wait_until(lambda: hears(two))
    assert heard[1][4:] == ["all"]
    assert not is_readable(two.database.line, 0.0)


def hears(hosts: Hosts) -> bool:
    try:
        hosts.database.hear()
    except LedgerError:
        return False
    return True


def test_a_breaker_that_moves_and_a_dead_letter_that_is_tried_again_are_announced(hosts: tuple[Host, Host]) -> None:
    one, two = hosts
    heard: list[str] = []
    assert two.ledger.hosts is not None
    two.ledger.hosts.database.listen(heard.append)

    def told(whom: str) -> bool:
        return hears(two.ledger.hosts) and heard[-1:] == [whom]  # type: ignore[arg-type]

    one.fail_until_open()
    wait_until(lambda: told("workers"))
    one.change("UPDATE breakers SET state = 'closed', failures = 0, opened_at = NULL")
    one.change("UPDATE tasks SET due_at = NULL, is_suspect = 0")
    one.run(slot=one.be_child(WORKER))
    [delivery] = one.take(most=1)
    one.ledger.outbox.settle(delivery, DeliveryOutcome.REFUSED, "no such task")
    assert one.ledger.dead.retry(delivery.id)
    wait_until(lambda: told("relays"))
    heard.clear()
    assert one.ledger.outbox.judge(RELAY, Fault("oauth", Health.REFUSED, "said the test"))
    wait_until(lambda: told("relays"))
