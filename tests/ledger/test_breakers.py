"""Breakers: what opens and closes them, and that a probe ends."""

from __future__ import annotations

import pytest

from aitp.ledger.breakers import BreakerChange, Breakers
from aitp.ledger.outcomes import Cause
from aitp.ledger.queue import LedgerConfig
from aitp.tasks import Health
from tests.ledger.world import START, WORKER, World

OPEN, HALF_OPEN, CLOSED = "open", "half-open", "closed"


@pytest.fixture
def breakers() -> Breakers:
    return Breakers(threshold=3, recovery=60.0)


def tell(world: World, breakers: Breakers, *healths: Health, slot: int = WORKER) -> BreakerChange | None:
    change = None
    for health in healths:
        with world.database.transaction() as connection:
            change = breakers.tell(connection, "openai", health, slot, world.clock.now, "503")
    return change


def probe(world: World, breakers: Breakers, slot: int = WORKER) -> bool:
    """Pass the gate as the probe, if it is open for one."""
    with world.database.transaction() as connection:
        gate = breakers.gate(connection, ("openai",), world.clock.now)
        if gate.passes and gate.probe:
            breakers.begin_probe(connection, ("openai",), slot)
        return gate.passes and gate.probe


def state(world: World) -> tuple[str, int]:
    found = world.rows("SELECT state, failures FROM breakers WHERE service = 'openai'")
    return found[0][0], found[0][1]


FAULTY, HEALTHY, REFUSED, UNKNOWN = Health.FAULTY, Health.HEALTHY, Health.REFUSED, Health.UNKNOWN


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        ([FAULTY], (CLOSED, 1)),
        ([FAULTY, FAULTY], (CLOSED, 2)),
        ([FAULTY, FAULTY, FAULTY], (OPEN, 3)),
        ([FAULTY, FAULTY, HEALTHY, FAULTY, FAULTY], (CLOSED, 2)),  # in a row
        ([FAULTY, FAULTY, UNKNOWN, FAULTY], (OPEN, 3)),  # nothing said is nothing said
        ([UNKNOWN] * 9, (CLOSED, 0)),
        ([HEALTHY], (CLOSED, 0)),
        ([REFUSED], (OPEN, 0)),  # credentials: at once
        ([FAULTY, FAULTY, FAULTY, HEALTHY, HEALTHY], (OPEN, 3)),  # calls that were under way when it opened
        ([FAULTY, FAULTY, FAULTY, REFUSED], (OPEN, 3)),
    ],
)
def test_what_opens_a_breaker(world: World, breakers: Breakers, told: list[Health], expected: tuple[str, int]) -> None:
    tell(world, breakers, *told)

    assert state(world) == expected


def test_the_change_is_told_once_with_its_reason(world: World, breakers: Breakers) -> None:
    assert tell(world, breakers, FAULTY, FAULTY) is None
    assert tell(world, breakers, FAULTY) == BreakerChange("openai", OPEN, "503")
    assert tell(world, breakers, FAULTY) is None
    assert world.value("SELECT reason FROM breakers WHERE service = 'openai'") == "503"


@pytest.mark.parametrize(
    ("health", "expected", "probe_at"),
    [
        (HEALTHY, (CLOSED, 0), None),
        (FAULTY, (OPEN, 4), 120.0),
        (REFUSED, (OPEN, 3), 120.0),
        (UNKNOWN, (OPEN, 3), 65.0),
    ],
)
def test_how_a_probe_ends(
    world: World, breakers: Breakers, health: Health, expected: tuple[str, int], probe_at: float | None
) -> None:
    tell(world, breakers, FAULTY, FAULTY, FAULTY)
    world.clock.go(60.0)
    assert probe(world, breakers)
    assert state(world)[0] == HALF_OPEN
    tell(world, breakers, health)

    assert state(world) == expected
    assert world.value("SELECT probe_slot FROM breakers WHERE service = 'openai'") is None
    with world.database.transaction() as connection:
        gate = breakers.gate(connection, ("openai",), world.clock.now)
    assert gate.until == (None if probe_at is None else START + probe_at)


def test_only_the_prober_s_outcome_counts_while_half_open(world: World, breakers: Breakers) -> None:
    tell(world, breakers, FAULTY, FAULTY, FAULTY)
    world.clock.go(60.0)
    probe(world, breakers, slot=WORKER)
    tell(world, breakers, HEALTHY, FAULTY, REFUSED, UNKNOWN, slot=WORKER + 1)

    assert state(world)[0] == HALF_OPEN
    tell(world, breakers, HEALTHY, slot=WORKER)
    assert state(world) == (CLOSED, 0)


def test_there_is_one_probe_at_a_time_and_its_slot_s_death_ends_it(world: World, breakers: Breakers) -> None:
    tell(world, breakers, FAULTY, FAULTY, FAULTY)
    world.clock.go(60.0)

    assert [probe(world, breakers, slot=slot) for slot in (101, 102, 103)] == [True, False, False]
    world.ledger.outcomes.release(101, Cause.CRASHED)
    assert [probe(world, breakers, slot=slot) for slot in (102, 103)] == [True, False]


def test_after_closing_it_takes_as_many_failures_as_before_to_open(world: World, breakers: Breakers) -> None:
    tell(world, breakers, FAULTY, FAULTY, FAULTY)
    world.clock.go(60.0)
    probe(world, breakers)
    tell(world, breakers, HEALTHY, FAULTY, FAULTY)

    assert state(world) == (CLOSED, 2)


def test_failures_add_up_over_processes(world: World) -> None:
    """Each builds its own breaker anew for each outcome: what counts is in the ledger."""
    for _ in range(3):
        tell(world, Breakers(threshold=3, recovery=60.0), FAULTY)

    assert state(world) == (OPEN, 3)


def test_every_service_has_a_breaker_of_its_own(world: World) -> None:
    services = world.rows("SELECT service, state FROM breakers ORDER BY service")

    assert services == [(name, CLOSED) for name in ("api", "oauth", "ollama", "openai", "wikidata")]
    assert LedgerConfig().breaker_threshold == 5
