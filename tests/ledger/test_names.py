"""What the tables may say is what `aitp.tasks` names, no more and no less."""

from __future__ import annotations

import re

import pybreaker
import pytest

from aitp.ledger.schema import SCHEMA
from aitp.tasks import BreakerState, Period, Strategy, TaskState, TaskStatus
from tests.ledger.world import World

NAMES = [
    ("ledger", "strategy", set(Strategy)),
    ("tasks", "state", set(TaskState)),
    ("results", "status", set(TaskStatus)),
    ("breakers", "state", set(BreakerState)),
    ("budgets", "period", {Period.DAY, Period.MONTH}),
]


@pytest.mark.sqlite  # whose definitions are both engines'
@pytest.mark.parametrize(("table", "column", "names"), NAMES, ids=[f"{row[0]}.{row[1]}" for row in NAMES])
def test_a_column_takes_the_names_of_its_enum(world: World, table: str, column: str, names: set[str]) -> None:
    definition = str(world.value("SELECT sql FROM sqlite_master WHERE name = ?", table))
    [listed] = re.findall(rf"\b{column} TEXT[^,]*?CHECK \({column} IN \(([^)]*)\)", definition)

    assert {name.strip(" '") for name in listed.split(",")} == {str(name) for name in names}


def test_no_list_of_names_in_the_schema_is_left_out() -> None:
    listed = re.findall(r"(\w+) TEXT[^,]*?CHECK \(\1 IN \('", SCHEMA)

    assert sorted(listed) == sorted(column for _, column, _ in NAMES)


def test_breakers_have_the_names_that_pybreaker_gives_their_states() -> None:
    assert set(BreakerState) == {pybreaker.STATE_CLOSED, pybreaker.STATE_OPEN, pybreaker.STATE_HALF_OPEN}
