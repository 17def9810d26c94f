"""What is held, task by task."""

from __future__ import annotations

from pathlib import Path

import pytest

from aitp.errors import LedgerError
from aitp.ledger.stats import held_tasks
from aitp.tasks import Ending, Health
from tests.ledger.world import LARGE, TOPICS, World, terms


def states(world: World, *chosen: str, types: tuple[str, ...] = ()) -> dict[str, str]:
    return {task.id: task.state for task in held_tasks(world.place, chosen, types, 100).tasks}


def fill(world: World) -> None:
    """One task in each state but dead."""
    world.admit("finished")
    world.run()
    world.admit("waiting")
    world.run(Ending.RETRY, Health.HEALTHY)
    world.admit("claimed", queue=LARGE)
    world.claim(terms=terms(batch=1))
    world.admit("ready", queue=TOPICS)


def test_every_task_has_its_state(world: World) -> None:
    fill(world)

    assert states(world) == {"finished": "finished", "waiting": "waiting", "claimed": "claimed", "ready": "ready"}


def test_states_and_types_filter(world: World) -> None:
    fill(world)

    assert set(states(world, "ready", "waiting")) == {"ready", "waiting"}
    assert set(states(world, types=("defining_topics",))) == {"ready"}
    assert states(world, "claimed", types=("defining_topics",)) == {}


def test_the_oldest_come_first_and_the_rest_is_counted(world: World) -> None:
    world.admit(*(f"{number:02}" for number in range(30)))

    found = held_tasks(world.place, (), (), 10)

    assert [task.id for task in found.tasks] == [f"{number:02}" for number in range(10)]
    assert found.total == 30


def test_tries_and_due_times_are_told(world: World) -> None:
    world.admit("one")
    world.run(Ending.RETRY, Health.HEALTHY)

    [task] = held_tasks(world.place, (), (), 10).tasks

    assert (task.attempts, task.crashes, task.slot) == (1, 0, None)
    assert task.due_at == world.clock() + 2.0


def test_a_ledger_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    with pytest.raises(LedgerError, match="there is no ledger"):
        held_tasks(tmp_path / "none.db", (), (), 10)
    assert list(tmp_path.iterdir()) == []
