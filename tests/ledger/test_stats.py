"""What there is to see: one consistent, read-only look at everything."""

from __future__ import annotations

from pathlib import Path

import pytest

from aitp.errors import LedgerError
from aitp.ledger.breakers import Cooldown
from aitp.ledger.evidence import Failure, Report
from aitp.ledger.limits import LimitUse
from aitp.ledger.outbox import DeliveryOutcome
from aitp.ledger.sqlite import version_of
from aitp.ledger.stats import (
    BreakerView,
    CooldownView,
    ProfileView,
    QuarantineView,
    Snapshot,
    reading,
    snapshot,
)
from aitp.tasks import Culprit, Ending, Outcome
from tests.ledger.conftest import Create
from tests.ledger.world import LARGE, SMALL, START, World, terms


def look(world: World) -> Snapshot:
    return snapshot(world.place, now=world.clock.now)


def test_an_empty_ledger(world: World) -> None:
    seen = look(world)

    assert (seen.ready, seen.waiting, seen.claimed, seen.finished, seen.dead, seen.unreadable) == (0,) * 6
    assert (seen.oldest_ready_age, seen.oldest_finished_age) == (0.0, 0.0)
    assert (seen.strategy, seen.limits_enabled, seen.limits, seen.paused) == ("rolling", False, {}, False)
    assert seen.breakers == {
        name: BreakerView("closed", 0, None, None) for name in ("api", "oauth", "ollama", "openai", "wikidata")
    }
    assert (seen.last_poll_at, seen.last_poll_problem, seen.cooldowns) == (None, None, ())
    assert seen.disk_free > 0


def test_every_state_is_counted_and_the_oldest_told(world: World) -> None:
    world.admit("dead", "finished", "later", "claimed", "ready")
    one = terms(batch=1)
    world.finish(world.claim(terms=one))
    world.ledger.outbox.settle(world.take()[0], DeliveryOutcome.REFUSED, refusal="400")
    world.clock.go(10.0)
    world.finish(world.claim(terms=one))
    world.finish(world.claim(terms=one), Ending.RETRY)
    world.claim(terms=one)
    world.clock.go(1.0)
    seen = look(world)

    assert (seen.ready, seen.waiting, seen.claimed, seen.finished, seen.dead) == (1, 1, 1, 1, 1)
    assert (seen.oldest_ready_age, seen.oldest_finished_age) == (11.0, 1.0)
    assert seen.held == 4


def test_limits_in_use_shortest_first(create: Create) -> None:
    world = create(month=100, minute=2)
    world.admit("a", "b", "c")
    world.finish(world.claim(terms=terms(batch=2)))
    world.clock.go(5.0)
    seen = look(world)

    assert list(seen.limits) == ["minute", "month"]
    assert seen.limits["month"] == LimitUse(2, 100, 98, None)
    assert seen.limits["minute"].remaining == 0
    assert seen.limits["minute"].frees_at == pytest.approx(START + 60.001)


def test_breakers_and_cooldowns_in_force(world: World) -> None:
    world.admit("a")
    claim = world.claim()
    pause = Cooldown(30.0, None, "quota")
    refused = Failure(Culprit.ACCOUNT, "401", named=True)
    world.ledger.outcomes.finish(claim, Report([Outcome(claim.tasks[0], Ending.RETRY)], refused, pause))
    world.clock.go(10.0)
    seen = look(world)

    assert seen.breakers["openai"] == BreakerView("open", 0, START, START + 60.0, "401")
    assert seen.cooldowns == (CooldownView("openai", "", START + 30.0, "quota"),)
    world.clock.go(20.0)
    assert look(world).cooldowns == ()


def test_models_whose_tasks_wait_and_what_requests_do_without(world: World) -> None:
    for kind, failure in (
        (SMALL, Failure(Culprit.MODEL, "404: no such model", named=True)),
        (LARGE, Failure(Culprit.INPUT, "400: no dimensions, please", named=True, parameter="dimensions")),
    ):
        world.admit(kind.model, queue=kind)
        claim = world.claim()
        outcome = Outcome(claim.tasks[0], Ending.RETRY, reason=failure.reason, culprit=failure.culprit)
        world.ledger.outcomes.finish(claim, Report([outcome], failure, optional=["dimensions"]))
    seen = look(world)

    assert seen.quarantines == (
        QuarantineView("openai", SMALL.model, SMALL.type, "model", "404: no such model", START + 60.0),
    )
    assert seen.profiles == (ProfileView("openai", LARGE.model, ("dimensions",), "400: no dimensions, please", START),)
    world.clock.go(86_400.0)
    assert (look(world).quarantines, look(world).profiles) == ((), ())


def test_pauses_and_ages_are_shown_as_long_as_they_are_when_the_clock_is_set_back(world: World) -> None:
    world.admit("a")
    claim = world.claim()
    pause = Cooldown(30.0, None, "quota")
    world.ledger.outcomes.finish(claim, Report([Outcome(claim.tasks[0], Ending.POSTPONED)], cooldown=pause))
    for number in range(5):
        world.admit(f"t{number}")
    world.clock.step(-60.0)
    world.clock.go(10.0)
    world.idle()

    assert [pause.until for pause in look(world).cooldowns] == [world.clock.now + 20.0]
    assert look(world).oldest_ready_age == 10.0


def test_it_can_be_read_when_nobody_has_it_open(world: World) -> None:
    world.admit("a")
    world.close()

    assert look(world).ready == 1
    assert look(world).ready == 1
    world.open()
    assert world.states() == {"a": "ready"}


def test_it_does_not_wait_for_a_writer_nor_see_what_is_not_committed(world: World) -> None:
    world.admit("a")
    with world.database.transaction() as connection:
        connection.execute("DELETE FROM tasks")
        assert look(world).ready == 1

    assert look(world).ready == 0


def test_no_ledger_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(LedgerError, match="made when the service first starts"):
        snapshot(tmp_path / "none.db")
    assert list(tmp_path.iterdir()) == []


def test_an_empty_file_is_said_to_be_empty_and_is_a_ledger_yet_to_be_made(folder: Path) -> None:
    (folder / "ledger.db").touch()

    with pytest.raises(LedgerError, match="is empty: no service has used it yet, or something has emptied it"):
        snapshot(folder / "ledger.db")
    assert version_of(folder / "ledger.db") == 0


@pytest.mark.parametrize("version", [1, 99])
def test_another_version_is_not_read(world: World, version: int) -> None:
    world.change("UPDATE ledger SET version = ?", version)

    with pytest.raises(LedgerError, match=f"version {version}"):
        look(world)


@pytest.mark.sqlite
@pytest.mark.parametrize(
    "damage",
    [
        "DELETE FROM polls",
        "DELETE FROM ledger",
        "UPDATE ledger SET timezone = 'Nowhere/At/All'",
        "UPDATE breakers SET reason = CAST(x'ff' AS TEXT)",
    ],
)
def test_what_no_service_writes_is_damage_and_not_a_bug(world: World, damage: str) -> None:
    world.change(damage)

    with pytest.raises(LedgerError, match=r"is damaged .*aitp ledger check"):
        snapshot(world.place)


@pytest.mark.parametrize("bug", [TypeError("ours"), KeyError("ours"), ValueError("ours"), OverflowError("ours")])
def test_a_bug_of_ours_while_a_sound_ledger_is_read_is_that_bug(world: World, bug: Exception) -> None:
    def with_a_bug() -> None:
        with reading(world.place):
            raise bug

    with pytest.raises(type(bug), match="ours"):
        with_a_bug()


@pytest.mark.sqlite
def test_what_a_damaged_row_makes_us_raise_is_damage(world: World) -> None:
    world.admit("a")
    world.change("PRAGMA ignore_check_constraints = ON")
    world.change("UPDATE tasks SET state = 'nonsense'")

    def looked_up() -> None:
        with reading(world.place) as (connection, _):
            {"ready": 1}[connection.execute("SELECT state FROM tasks").get]

    with pytest.raises(LedgerError, match="is damaged"):
        looked_up()
