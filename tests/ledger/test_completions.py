"""The memory of the limits: mirrored in calendar windows, forgotten when no window can reach it."""

from __future__ import annotations

from aitp.ledger.limits import PRUNE_ROWS, prune_completions
from aitp.policy.windows import LONGEST_WINDOW_SECONDS
from tests.ledger.conftest import Create
from tests.ledger.world import SMALL, START, World, at, names, set_limits, terms


def mirror(world: World) -> dict[str, tuple[int, str, str]]:
    found = world.rows("SELECT time_period, current_count, window_start, window_end FROM rate_limits")
    return {period: (count, start, end) for period, count, start, end in found}


def test_the_mirror_shows_the_calendar_windows_with_every_completion(world: World) -> None:
    world.clock.now = at("2025-07-30 18:26:40")
    world.admit(*names("t", 3))
    world.finish(world.claim(terms=terms(batch=2)))

    assert mirror(world) == {
        "minute": (2, "2025-07-30 18:26:00", "2025-07-30 18:27:00"),
        "hour": (2, "2025-07-30 18:00:00", "2025-07-30 19:00:00"),
        "day": (2, "2025-07-30 00:00:00", "2025-07-31 00:00:00"),
        "week": (2, "2025-07-28 00:00:00", "2025-08-04 00:00:00"),
        "month": (2, "2025-07-01 00:00:00", "2025-08-01 00:00:00"),
    }
    world.clock.now = at("2025-07-30 18:27:00")
    world.run()
    counts = {period: count for period, (count, _, _) in mirror(world).items()}
    assert counts == {"minute": 1, "hour": 3, "day": 3, "week": 3, "month": 3}


def test_the_mirror_follows_the_zone_and_a_clock_that_steps_back(world: World) -> None:
    world.clock.now = at("2025-07-31 01:00:00")
    world.admit(*names("t", 3))
    world.finish(world.claim(terms=terms(batch=1)))
    set_limits(world.ledger, "fixed", "America/Sao_Paulo", {})
    assert mirror(world)["day"] == (1, "2025-07-30 03:00:00", "2025-07-31 03:00:00")
    world.clock.step(at("2025-07-29 12:00:00") - world.clock.now)
    world.finish(world.claim(terms=terms(batch=1)))

    assert mirror(world)["day"] == (2, "2025-07-29 03:00:00", "2025-07-30 03:00:00")


def test_the_mirror_forgets_what_a_clock_that_steps_back_moved_out_of_its_window(create: Create) -> None:
    world = create(hour=100)
    world.clock.now = at("2025-07-30 18:27:10")
    world.admit(*names("t", 5))
    world.finish(world.claim(terms=terms(batch=3)))
    world.clock.step(-20.0)
    claim = world.claim(terms=terms(batch=1))
    world.clock.now = at("2025-07-30 18:27:05")
    world.finish(claim)

    assert mirror(world)["minute"] == (1, "2025-07-30 18:27:00", "2025-07-30 18:28:00")


def fill(world: World, *ages: float) -> None:
    for number, age in enumerate(ages):
        world.change(
            "INSERT INTO task_completions (completed_at, task_type, task_id, is_first) VALUES (?, ?, ?, 1)",
            world.clock.now - age,
            SMALL.type,
            str(number),
        )


def test_completions_are_pruned_only_beyond_the_longest_window(world: World) -> None:
    fill(world, LONGEST_WINDOW_SECONDS + 10, LONGEST_WINDOW_SECONDS + 1, LONGEST_WINDOW_SECONDS - 1, 5)
    world.listing()

    assert world.rows("SELECT id FROM task_completions") == [(3,), (4,)]


def test_the_newest_completion_is_kept_so_that_ids_go_on(world: World) -> None:
    fill(world, LONGEST_WINDOW_SECONDS + 10, LONGEST_WINDOW_SECONDS + 5)
    world.listing()
    world.admit("a")
    world.run()

    assert world.rows("SELECT id FROM task_completions") == [(2,), (3,)]


def test_what_a_clock_set_far_forward_left_of_a_batch_counts_when_it_is_set_back(create: Create) -> None:
    world = create(month=2)
    world.admit("a", "b", "c", "d")
    world.finish(world.claim(terms=terms(batch=2)))
    world.clock.step(40 * 86_400.0)
    world.listing("c", "d")
    world.clock.step(-40 * 86_400.0 - 10)

    claim = world.claim(terms=terms(batch=2))
    assert len(claim.tasks) == 1
    world.finish(claim)
    assert world.problems() == ()


def test_pruning_takes_the_oldest_first_and_not_all_at_once(world: World) -> None:
    age = LONGEST_WINDOW_SECONDS + 100.0
    world.change(
        "INSERT INTO task_completions (completed_at, task_type, task_id)"
        " WITH RECURSIVE numbers (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < ?2)"
        " SELECT ?1, 'text_embedding', n FROM numbers",
        START - age,
        PRUNE_ROWS + 50,
    )
    with world.database.transaction() as connection:
        prune_completions(connection, START)

    assert world.rows("SELECT MIN(id), COUNT(*) FROM task_completions") == [(PRUNE_ROWS + 1, 50)]
