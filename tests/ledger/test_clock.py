"""Clocks that are set: what waits passes in real seconds, once for all processes, and nothing is sent twice for it."""

from __future__ import annotations

import re
from contextlib import closing
from pathlib import Path

import apsw
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aitp.ledger.breakers import Cooldown
from aitp.ledger.claims import IdleReason
from aitp.ledger.clock import FOLLOWING, STAYING, TOLERANCE_SECONDS, MachineClock
from aitp.ledger.evidence import Report
from aitp.tasks import Ending, Outcome
from tests.ledger.conftest import Create
from tests.ledger.life_hands import Hands
from tests.ledger.world import OTHER_WORKER, START, WORKER, World, examples, ids, names, terms

DAY = 86_400.0
# Columns of instants, and the one that counts minutes.
INSTANT = re.compile(r"(\w*_at|\w*until|since|starts|ends) REAL|(starts|ends) INTEGER")


def cool(world: World, seconds: float) -> None:
    world.admit("cooled")
    claim = world.claim()
    pause = Cooldown(seconds, None, "429")
    world.ledger.outcomes.finish(claim, Report([Outcome(claim.tasks[0], Ending.POSTPONED)], cooldown=pause))


def test_of_each_instant_in_the_ledger_it_is_decided_whether_it_follows(template: Path) -> None:
    query = (
        "SELECT tables.name, columns.name, columns.name || ' ' || columns.type FROM sqlite_schema AS tables,"
        " pragma_table_info(tables.name) AS columns WHERE tables.type = 'table'"
    )
    with closing(apsw.Connection(str(template), flags=apsw.SQLITE_OPEN_READONLY)) as connection:
        found = {(table, column) for table, column, what in connection.execute(query) if INSTANT.fullmatch(what)}

    decided = {(table, column) for table, columns in (FOLLOWING | STAYING).items() for column in columns}
    assert found == decided


def test_the_machine_s_clocks_agree_and_its_start_has_a_name() -> None:
    clock = MachineClock()

    assert clock.uptime() > 0
    assert clock.boot == MachineClock().boot != ""


@pytest.mark.parametrize("seconds", [DAY, -DAY])
def test_a_minute_s_pause_takes_a_minute_though_the_clock_is_set_by_a_day(world: World, seconds: float) -> None:
    cool(world, 60.0)
    world.clock.go(10.0)
    world.clock.step(seconds)
    idle = world.idle()

    assert (idle.because, idle.until) == (IdleReason.COOLDOWN, world.clock.now + 50.0)
    world.clock.go(50.0)
    assert ids(world.claim()) == ["cooled"]


@pytest.mark.parametrize("seconds", [DAY, -DAY])
def test_a_try_after_some_seconds_comes_after_as_many(world: World, seconds: float) -> None:
    world.admit("retried")
    assert world.run(Ending.RETRY).retry_at == START + 2.0
    world.clock.step(seconds)

    assert world.idle().until == world.clock.now + 2.0
    world.clock.go(2.0)
    assert ids(world.claim()) == ["retried"]


def test_two_processes_that_notice_have_the_ledger_follow_once(world: World) -> None:
    world.admit("retried")
    world.run(Ending.RETRY)
    hands = Hands(world, world.rules)
    for slot in (WORKER, OTHER_WORKER):
        hands.of(slot).claims.claim(slot, terms())
    world.clock.step(-DAY)
    for slot in (WORKER, OTHER_WORKER):
        hands.of(slot).claims.claim(slot, terms())
    hands.close()

    assert world.value("SELECT due_at FROM tasks") == START - DAY + 2.0


@pytest.mark.parametrize("named", [True, False])
@pytest.mark.parametrize("seconds", [-3_600.0, 3_600.0])
def test_a_clock_that_is_set_and_set_back_is_noticed_by_who_slept_through_it(
    world: World, seconds: float, named: bool
) -> None:
    if not named:
        world.clock.boot = ""
    world.admit("retried")
    world.run(Ending.RETRY)
    hands = Hands(world, world.rules)
    for slot in (WORKER, OTHER_WORKER):
        hands.of(slot).claims.claim(slot, terms())
    world.clock.step(seconds)
    hands.of(WORKER).claims.claim(WORKER, terms())
    world.clock.step(-seconds)
    hands.of(OTHER_WORKER).claims.claim(OTHER_WORKER, terms())  # for whom nothing has happened
    hands.close()

    assert world.value("SELECT due_at FROM tasks") == START + 2.0


def test_what_comes_to_nothing_is_noticed_again(world: World) -> None:
    world.admit("retried")
    world.run(Ending.RETRY)
    world.clock.step(DAY)
    with pytest.raises(ZeroDivisionError), world.database.transaction():
        raise ZeroDivisionError

    assert world.idle().until == world.clock.now + 2.0


def test_a_clock_that_was_set_back_while_the_machine_was_off_is_known_by_what_has_happened(world: World) -> None:
    world.admit("retried")
    world.run(Ending.RETRY)
    world.close()
    world.clock.boot, world.clock.stepped = "the second", START - 7.0
    world.clock.step(-3_600.0)
    world.open()

    assert world.idle().until == START - 3_600.0 + 2.0


@pytest.mark.parametrize("seconds", [DAY, -DAY])
def test_where_starts_of_the_machine_have_no_name_whoever_lived_before_the_step_knows_it(
    world: World, seconds: float
) -> None:
    world.clock.boot = ""
    world.admit("retried")
    world.run(Ending.RETRY)
    world.clock.step(seconds)
    assert world.idle().until == world.clock.now + 2.0
    world.close()
    world.clock.stepped = START - 7.0  # the machine was started anew
    world.clock.go(1.0)
    world.open()

    assert world.idle().until == world.clock.now + 1.0


def test_a_service_that_may_not_see_the_name_of_the_machine_s_start_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aitp.ledger.clock.BOOT", Path("/nowhere/boot_id"))

    assert MachineClock().boot == ""


def test_time_goes_by_while_the_machine_is_off(world: World) -> None:
    world.admit("retried")
    world.run(Ending.RETRY)
    world.close()
    world.clock.go(2.0)
    world.clock.boot, world.clock.stepped = "the second", START - 7.0
    world.open()

    assert ids(world.claim()) == ["retried"]


def test_a_step_makes_no_room_and_is_told_of_in_the_windows_of_the_new_time(create: Create) -> None:
    world = create(hour=2)
    world.admit(*names("t", 5))
    world.run()
    assert world.idle().exceeded
    assert world.idle().exceeded == {}
    world.clock.step(-DAY)
    idle = world.idle()

    assert idle.exceeded
    assert idle.until == pytest.approx(world.clock.now + 3_600.0, abs=0.002)


moves = st.lists(
    st.tuples(st.sampled_from(("go", "step")), st.floats(-DAY, DAY) | st.sampled_from((0.4, -0.4, 30.0, -30.0))),
    max_size=12,
)


def test_what_is_due_after_so_many_real_seconds_is_due_then_however_the_clock_is_set(world: World) -> None:
    clock = world.clock

    @examples(world.place, 60)
    @given(todo=moves, seconds=st.floats(1.0, 3_000.0))
    def holds(todo: list[tuple[str, float]], seconds: float) -> None:
        for table in ("contents", "tasks"):
            world.change(f"DELETE FROM {table}")
        name = f"waits from {clock.uptime()!r} to {clock.now!r}"
        world.admit(name)
        due = clock.uptime() + seconds
        world.change("UPDATE tasks SET due_at = ?", clock() + seconds)
        # An instant may be written, and read, with as much that nobody takes note of.
        too_early, late = due - 2 * TOLERANCE_SECONDS - 0.01, due + 2 * TOLERANCE_SECONDS + 0.01
        for verb, amount in todo:
            if verb == "step":
                clock.step(amount)
            else:
                clock.go(min(abs(amount) / 100.0, max(0.0, too_early - clock.uptime())))
            if clock.uptime() <= too_early:
                assert world.idle().because is IdleReason.NOTHING_READY
        clock.go(max(0.0, late - clock.uptime()))

        assert ids(world.claim()) == [name]

    holds()
