"""What systemd is told by real masters and supervisords, over a real socket."""

from __future__ import annotations

import os
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from aitp.process.scoreboard import Record, State
from aitp.process.start import work_can_be_done
from tests.process.house import House, Stage
from tests.process.journal import Journal
from tests.waiting import wait_until

LATER = 100.0


@pytest.fixture
def journal() -> Iterator[Journal]:
    with tempfile.TemporaryDirectory(prefix="aitp-") as directory:  # short: a socket's path may have 107 bytes
        journal = Journal(Path(directory) / "notify")
        yield journal
        journal.close()


@pytest.mark.parametrize(
    ("children", "able"),
    [
        ([], False),
        ([Record(1, 9, State.IDLE), Record(101, 9, State.IDLE)], True),
        ([Record(1, 9, State.BUSY, deadline=LATER), Record(101, 9, State.LEAVING, deadline=LATER)], True),
        ([Record(1, 9, State.IDLE), Record(101, 9, State.STARTING, deadline=LATER)], False),
        ([Record(1, 9, State.WAITING, deadline=LATER), Record(101, 9, State.IDLE)], False),
        ([Record(1, 9, State.IDLE), Record(2, 9, State.IDLE)], False),
        ([Record(1, 9, State.IDLE), Record(101, 9, State.BUSY, deadline=1.0)], False),
        ([Record(1, 9, State.IDLE), Record(101, 9, State.BUSY, deadline=1.0), Record(102, 9, State.IDLE)], True),
    ],
)
def test_work_can_be_done_while_somebody_of_each_role_does_his(children: list[Record], able: bool) -> None:
    assert work_can_be_done(children, 50.0) is able


def test_ready_is_told_once_children_are_at_work_and_not_before(house: House, journal: Journal) -> None:
    house.surroundings = journal.environment
    house.settings(CONCURRENCY_LIMIT=1, RELAY_PROCESSES=1)
    house.order("hang")
    house.start("worker=hangs_once", ready=False, start_seconds=60)
    [hung] = house.await_events("hangs")
    wait_until(lambda: "1 of 2 processes at work" in journal.status())
    assert journal.count("READY") == 0

    os.kill(hung["pid"], signal.SIGKILL)

    journal.await_count("READY", 1)
    assert house.crew_is(State.IDLE)
    wait_until(lambda: journal.status() == "2 of 2 processes at work, 0 in a call")


def test_a_long_preparation_asks_for_time_and_tells_why(house: House, journal: Journal) -> None:
    house.surroundings = journal.environment
    house.order("slow prepare", "2")
    house.start(ready=False)

    wait_until(lambda: sum("EXTEND_TIMEOUT_USEC" in told for told in journal.told()) >= 3)
    assert (journal.count("READY"), journal.status()) == (0, "Preparing the ledger")
    journal.await_count("READY", 1)


def test_the_watchdog_is_answered_only_while_work_can_be_done(house: House, journal: Journal) -> None:
    house.surroundings = journal.environment
    house.settings(CONCURRENCY_LIMIT=1, RELAY_PROCESSES=1)
    house.start("worker=hangs_once", start_seconds=60)
    journal.await_count("WATCHDOG", 3)

    house.order("hang")
    os.kill(house.pids()[101], signal.SIGKILL)
    [hung] = house.await_events("hangs")
    answered, rounds = journal.count("WATCHDOG"), house.board()[0].since
    wait_until(lambda: house.board()[0].since > rounds + 1)  # the master itself is well

    assert journal.count("WATCHDOG") == answered
    assert journal.status() == "1 of 2 processes at work, 0 in a call"
    os.kill(hung["pid"], signal.SIGKILL)
    journal.await_count("WATCHDOG", answered + 2)


def test_a_reload_is_told_from_its_beginning_to_its_end(house: House, journal: Journal) -> None:
    house.surroundings = journal.environment
    master = house.start()
    journal.await_count("READY", 1)

    house.order("slow prepare", "0.6")
    master.send_signal(signal.SIGHUP)
    journal.await_count("RELOADING", 1)
    wait_until(lambda: len(house.events("prepare")) == 2)
    assert journal.count("READY") == 1

    journal.await_count("READY", 2)
    assert "refused" not in journal.status()


def test_a_refused_reload_is_over_at_once_and_remembered(house: House, journal: Journal) -> None:
    house.surroundings = journal.environment
    master = house.start()
    journal.await_count("READY", 1)

    house.settings(CONCURRENCY_LIMIT="many", RELAY_PROCESSES=1)
    master.send_signal(signal.SIGHUP)
    journal.await_count("READY", 2)
    wait_until(lambda: "the new settings are refused" in journal.status())

    house.settings(CONCURRENCY_LIMIT=2, RELAY_PROCESSES=1)
    master.send_signal(signal.SIGHUP)
    journal.await_count("READY", 3)
    wait_until(lambda: "at work" in journal.status() and "refused" not in journal.status())


def test_a_socket_that_nobody_reads_holds_nobody_up(house: House, journal: Journal) -> None:
    house.surroundings = journal.environment
    master = house.start(tick_seconds=0.02)
    wait_until(lambda: "systemd cannot be told how things stand" in house.log(), timeout=30)
    master.terminate()
    assert master.wait(10) == 0


def test_a_stop_of_the_service_is_told_and_one_of_the_master_is_not(stage: Stage, journal: Journal) -> None:
    stage.surroundings = journal.environment
    run = stage.run()
    journal.await_count("READY", 1)
    assert stage.control("restart", "aitp-master") == "aitp-master: stopped\naitp-master: started\n"
    journal.await_count("READY", 2)

    said = [told for told in journal.told() if {"STOPPING", "WATCHDOG_USEC", "READY"} & set(told)]
    assert [told.get("WATCHDOG_USEC") for told in said] == ["60000000", "0", "60000000"]
    run.terminate()
    assert run.wait(15) == 0
    assert journal.count("STOPPING") == 1
