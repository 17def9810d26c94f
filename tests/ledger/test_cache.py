"""The cache: what it keeps, for how long, how much; and that a ledger without it is given one with its data intact."""

from __future__ import annotations

from contextlib import closing

import pytest

from aitp.ledger.cache import MOST_BYTES, Cache
from aitp.ledger.ledger import Ledger
from tests.ledger.processes import Process
from tests.ledger.world import Clock, World

DAY = 86_400.0


@pytest.fixture
def clock(world: World) -> Clock:
    return world.clock


@pytest.fixture
def cache(world: World) -> Cache:
    return Cache(world.database, most_rows=10)


def test_what_is_put_is_found_until_it_expires(cache: Cache, clock: Clock) -> None:
    cache.put({"a": b"1", "b": b"null"}, DAY)
    clock.go(DAY - 1)
    assert cache.get(["a", "b", "c"]) == {"a": b"1", "b": b"null"}
    clock.go(1)
    assert cache.get(["a", "b", "c"]) == {}


def test_a_newer_value_takes_the_place_of_an_older_one(cache: Cache, clock: Clock) -> None:
    cache.put({"a": b"1"}, 10)
    clock.go(9)
    cache.put({"a": b"2"}, 10)
    clock.go(9)
    assert cache.get(["a"]) == {"a": b"2"}


def test_a_clock_set_back_makes_nothing_last_longer(cache: Cache, clock: Clock) -> None:
    cache.put({"a": b"1"}, 60)
    clock.step(-3600)
    cache.put({"b": b"2"}, 60)
    assert cache.get(["a", "b"]) == {"a": b"1", "b": b"2"}
    clock.go(60)
    assert cache.get(["a", "b"]) == {}


def test_a_clock_set_forward_and_back_again_harms_nothing(cache: Cache, clock: Clock) -> None:
    cache.put({"a": b"1"}, 60)
    clock.step(1e9)
    cache.put({"b": b"2"}, 60)
    clock.step(-1e9)
    cache.put({"c": b"3"}, 60)
    assert cache.get(["a", "b", "c"]) == {"a": b"1", "b": b"2", "c": b"3"}


def test_no_more_rows_are_kept_than_allowed_and_the_oldest_go_first(cache: Cache, world: World) -> None:
    for number in range(25):
        cache.put({f"key {number}": b"1"}, DAY)
    cache.put({"key 15": b"again"}, DAY)
    cache.put({"key 25": b"1", "key 26": b"1"}, DAY)
    kept = cache.get([f"key {number}" for number in range(30)])
    assert world.value("SELECT COUNT(*) FROM cache") <= 10
    assert {"key 15", "key 25", "key 26"} < set(kept) < {f"key {number}" for number in range(15, 27)}


def test_more_values_at_once_than_there_is_room_for_leave_the_last(cache: Cache) -> None:
    cache.put({f"key {number}": b"1" for number in range(50)}, DAY)
    assert set(cache.get([f"key {number}" for number in range(50)])) == {f"key {number}" for number in range(40, 50)}


def test_a_value_too_large_is_not_kept_and_keeps_no_other_out(cache: Cache) -> None:
    cache.put({"large": b"x" * (MOST_BYTES + 1), "small": b"1"}, DAY)
    assert cache.get(["large", "small"]) == {"small": b"1"}


def test_other_processes_find_it(world: World) -> None:
    Process(world, lambda world: world.ledger.cache.put({"a": b"1"}, DAY)).result()

    assert world.ledger.cache.get(["a"]) == {"a": b"1"}


def test_reading_waits_for_no_writer(world: World, cache: Cache) -> None:
    cache.put({"a": b"1"}, DAY)
    another = Ledger.open(world.place, world.rules, clock=world.clock)
    with closing(another), world.database.transaction() as connection:
        connection.execute("DELETE FROM cache")
        assert another.cache.get(["a"]) == {"a": b"1"}
