"""What the master's death leaves: children that end their call and go, and a successor that waits for them."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from aitp.process.master import Helper
from aitp.process.scoreboard import State
from tests.process.house import House, alive
from tests.waiting import wait_until


def test_idle_children_leave_when_the_master_is_killed(house: House) -> None:
    master = house.start()
    pids = house.pids()
    master.kill()
    wait_until(lambda: not any(map(alive, pids.values())), timeout=3)
    assert len(house.events("leaves")) == 3


def test_an_orphan_ends_its_call_first(house: House) -> None:
    master = house.start()
    house.order("call", "1 5")
    master.send_signal(signal.SIGUSR1)
    pid = house.await_events("call begins")[0]["pid"]
    master.kill()
    house.await_events("call done")
    wait_until(lambda: not alive(pid))


def test_a_new_master_starts_at_once_and_its_child_waits_for_the_orphans_slot(house: House) -> None:
    first = house.start()
    house.order("call", "2 5")
    first.send_signal(signal.SIGUSR1)
    orphan = house.await_events("call begins")[0]
    first.kill()
    house.start(ready=False)
    others = wait_until(lambda: [e for e in house.events("started")[3:] if e["slot"] != orphan["slot"]][1:])
    assert others, "the slots that nobody holds are filled"
    assert not house.events("call done")
    assert wait_until(lambda: house.state_of(orphan["slot"]) is State.WAITING)
    wait_until(lambda: house.crew_is(State.IDLE))
    done = house.events("call done")[0]
    successor = [event for event in house.events("started") if event["slot"] == orphan["slot"]][1]
    assert successor["at"] > done["at"]
    assert successor["cause"] == "stopped"
    assert "still held by its former process" in house.log()


def test_a_child_that_waits_for_its_slot_outlives_the_start_deadline(house: House) -> None:
    first = house.start()
    house.order("call", "3 5")
    first.send_signal(signal.SIGUSR1)
    orphan = house.await_events("call begins")[0]
    first.kill()
    house.start(start_seconds=1.2, slack_seconds=0.1)
    assert house.events("call done")
    assert len([event for event in house.events("started") if event["slot"] == orphan["slot"]]) == 2
    assert "overran" not in house.log()


def test_a_child_that_waits_for_its_slot_hears_term(house: House) -> None:
    first = house.start()
    house.order("call", "5 9")
    first.send_signal(signal.SIGUSR1)
    orphan = house.await_events("call begins")[0]
    first.kill()
    second = house.start(ready=False)
    wait_until(lambda: house.state_of(orphan["slot"]) is State.WAITING)
    second.terminate()
    assert second.wait(3) == 0
    os.kill(orphan["pid"], signal.SIGKILL)


def test_an_orphan_that_is_stuck_is_killed_in_the_end(house: House) -> None:
    house.settings(CONCURRENCY_LIMIT=2, RELAY_PROCESSES=1, OPENAI_TIMEOUT=1, OLLAMA_TIMEOUT=1, REQUEST_TIMEOUT=1)
    first = house.start()
    stuck = house.pids()[101]
    os.kill(stuck, signal.SIGSTOP)
    first.kill()
    house.start(ready=False, orphan_seconds=1)
    wait_until(lambda: "still held by its former process" in house.log())
    assert alive(stuck)
    wait_until(lambda: house.crew_is(State.IDLE))
    wait_until(lambda: not alive(stuck))
    assert "is stuck and is killed" in house.log()


def test_an_orphan_s_call_ends_soon_after_its_deadline_although_nobody_is_left_to_kill_it(house: House) -> None:
    """Or a page that trickles would keep the poll of the next master waiting for a quarter of an hour."""
    first = house.start(slack_seconds=0.2, tick_seconds=0.3)
    house.order("call", "600 0.5")
    first.send_signal(signal.SIGUSR1)
    orphan = house.await_events("call begins")[0]
    first.kill()
    wait_until(lambda: not alive(orphan["pid"]))
    assert not house.events("call done")


def test_an_orphan_in_a_call_has_the_time_that_calls_may_take(house: House) -> None:
    house.settings(CONCURRENCY_LIMIT=1, RELAY_PROCESSES=1, OPENAI_TIMEOUT=1, OLLAMA_TIMEOUT=60, REQUEST_TIMEOUT=1)
    first = house.start()
    house.order("call", "4 60")
    first.send_signal(signal.SIGUSR1)
    house.await_events("call begins")
    first.kill()
    house.start(orphan_seconds=0.1)
    assert house.events("call done")
    assert "is killed" not in house.log()


def test_kill_9_of_everything_is_no_crash_of_a_task(house: House) -> None:
    first = house.start()
    pids = house.pids()
    first.send_signal(signal.SIGSTOP)
    for pid in (*pids.values(), first.pid):
        os.kill(pid, signal.SIGKILL)
    first.wait()
    house.start()
    assert {event["cause"] for event in house.events("started")} == {"stopped"}


def test_a_helper_that_hangs_does_not_outlive_its_master(tmp_path: Path) -> None:
    told = tmp_path / "helper"

    def hang() -> None:
        told.write_text(str(os.getpid()))
        signal.pause()

    if (master := os.fork()) == 0:
        nothing: Any = SimpleNamespace(after_fork=lambda: None)
        helper = Helper("hang", nothing, 60.0, hang, lambda code: None)
        helper.due = 0.0
        helper.send_if_due()
        signal.pause()
        os._exit(1)
    wait_until(lambda: told.exists() and told.read_text())
    os.kill(master, signal.SIGKILL)
    os.waitpid(master, 0)
    wait_until(lambda: not alive(int(told.read_text())))
