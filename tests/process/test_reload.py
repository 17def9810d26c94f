"""HUP: settings are judged first, and children replaced at leisure."""

from __future__ import annotations

import os
import signal

from aitp.process.scoreboard import State
from tests.process.house import House, alive
from tests.waiting import wait_until


def test_invalid_settings_change_nothing_and_the_log_says_why(house: House) -> None:
    master = house.start()
    before = house.pids()
    house.settings(CONCURRENCY_LIMIT="many", RELAY_PROCESSES=1)
    master.send_signal(signal.SIGHUP)
    wait_until(lambda: "the running ones stay" in house.log())
    assert "CONCURRENCY_LIMIT=many" in house.log()
    house.settings(CONCURRENCY_LIMIT=2, RELAY_PROCESSES=1)
    assert house.pids() == before
    master.send_signal(signal.SIGHUP)  # once more, and good: nothing of the bad ones was begun
    house.await_events("started", 6)
    assert len(house.events("prepare")) == 2


def test_settings_that_the_preparation_refuses_change_nothing(house: House) -> None:
    master = house.start()
    before = house.pids()
    house.order("misconfigured", "RATE_LIMIT_PER_MINUTE=1: refused")
    house.settings(CONCURRENCY_LIMIT=3, RELAY_PROCESSES=1)
    master.send_signal(signal.SIGHUP)
    wait_until(lambda: "the running ones stay" in house.log())
    assert house.pids() == before


def test_a_reload_cannot_move_the_ledger(house: House) -> None:
    master = house.start()
    house.settings(CONCURRENCY_LIMIT=2, RELAY_PROCESSES=1, RATE_LIMIT_STORAGE_PATH=house.directory / "other.db")
    master.send_signal(signal.SIGHUP)
    wait_until(lambda: "restart the service" in house.log())
    assert len(house.events("prepare")) == 1


def test_children_come_back_with_the_new_settings(house: House) -> None:
    master = house.start()
    before = house.pids()
    house.settings(CONCURRENCY_LIMIT=4, RELAY_PROCESSES=2)
    master.send_signal(signal.SIGHUP)
    wait_until(lambda: house.crew_is(State.IDLE) and not set(house.pids().values()) & set(before.values()))
    after = house.pids()
    assert set(after) == {1, 2, 101, 102, 103, 104}
    assert not set(after.values()) & set(before.values())
    assert all(event["limit"] == 4 for event in house.events("started")[3:])
    assert "held_back" not in house.log()


def test_fewer_workers_are_left_and_what_they_owned_is_swept(house: House) -> None:
    house.settings(CONCURRENCY_LIMIT=4, RELAY_PROCESSES=1)
    master = house.start()
    house.settings(CONCURRENCY_LIMIT=1, RELAY_PROCESSES=1)
    master.send_signal(signal.SIGHUP)
    wait_until(lambda: set(house.pids()) == {1, 101} and house.crew_is(State.IDLE))
    wait_until(lambda: [event["wanted"] for event in house.events("sweep")[1:]][-1:] == [[1, 101]])


def test_a_call_in_hand_ends_at_leisure_and_the_grace_does_not_bind_it(house: House) -> None:
    house.settings(CONCURRENCY_LIMIT=2, RELAY_PROCESSES=1, SHUTDOWN_GRACE_SECONDS=0.2)
    master = house.start()
    house.order("call", "1.5 10")
    master.send_signal(signal.SIGUSR1)
    busy = house.await_events("call begins")[0]
    before = house.pids()
    master.send_signal(signal.SIGHUP)
    house.await_events("started", 5)  # all others were replaced meanwhile
    assert not house.events("call done")
    assert alive(busy["pid"])
    house.await_events("call done")
    wait_until(lambda: house.crew_is(State.IDLE) and not set(house.pids().values()) & set(before.values()))


def test_a_stop_binds_those_who_were_leaving_at_leisure(house: House) -> None:
    house.settings(CONCURRENCY_LIMIT=2, RELAY_PROCESSES=1, SHUTDOWN_GRACE_SECONDS=1)
    master = house.start()
    house.order("call", "60 60")
    master.send_signal(signal.SIGUSR1)
    house.await_events("call begins")
    master.send_signal(signal.SIGHUP)
    house.await_events("started", 5)
    master.terminate()
    assert master.wait(5) == 0
    assert not house.events("call done")
    assert "may be bought again" in house.log()


def test_a_reload_asked_for_while_the_master_still_prepares_is_not_lost(house: House) -> None:
    house.order("slow prepare", "1")
    master = house.start(ready=False)
    house.await_events("prepare")
    house.settings(CONCURRENCY_LIMIT=3, RELAY_PROCESSES=1)
    os.kill(master.pid, signal.SIGHUP)
    wait_until(lambda: house.crew_is(State.IDLE))
