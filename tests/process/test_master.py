"""The master with toy children: real processes, signals and kills."""

from __future__ import annotations

import itertools
import os
import signal
import stat
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from aitp.process.scoreboard import State
from tests.process.house import House, alive
from tests.waiting import patience, wait_until


def test_it_fills_all_slots_and_leaves_nobody_behind(house: House) -> None:
    master = house.start()
    pids = house.pids()
    assert set(pids) == {1, 101, 102}
    names = {Path(f"/proc/{pid}/comm").read_text().strip() for pid in (master.pid, *pids.values())}
    assert names == {"aitp master", "aitp relay 1", "aitp worker 101", "aitp worker 102"}
    assert stat.S_IMODE((house.directory / "run").stat().st_mode) == 0o700
    assert stat.S_IMODE(house.scoreboard.stat().st_mode) == 0o600
    master.terminate()
    assert master.wait(10) == 0
    assert not any(map(alive, pids.values()))
    assert house.board() == {}


def test_twenty_children_killed_at_once_are_all_replaced(house: House) -> None:
    house.settings(CONCURRENCY_LIMIT=20, RELAY_PROCESSES=1)
    master = house.start(longest_hold_back_seconds=0, tick_seconds=5)
    before = house.pids()
    master.send_signal(signal.SIGSTOP)
    for slot, pid in before.items():
        if slot > 100:
            os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not any(alive(pid) for slot, pid in before.items() if slot > 100))
    master.send_signal(signal.SIGCONT)  # one SIGCHLD stands for all
    wait_until(lambda: house.crew_is(State.IDLE) and not set(before.values()) & {*house.pids().values()} - {before[1]})
    assert house.pids()[1] == before[1]


def test_children_hear_term_although_the_master_blocks_signals(house: House) -> None:
    house.start()
    pid = house.pids()[101]
    os.kill(pid, signal.SIGTERM)
    wait_until(lambda: not alive(pid))
    wait_until(lambda: house.crew_is(State.IDLE) and house.pids()[101] != pid)


def test_children_ignore_the_int_of_ctrl_c(house: House) -> None:
    master = house.start()
    pids = house.pids()
    for pid in pids.values():
        os.kill(pid, signal.SIGINT)
    house.order("call", "0 5")
    master.send_signal(signal.SIGUSR1)
    house.await_events("call done")
    assert house.pids() == pids


def test_int_stops_it_gracefully(house: House) -> None:
    master = house.start()
    house.order("call", "1 5")
    master.send_signal(signal.SIGUSR1)
    house.await_events("call begins")
    master.send_signal(signal.SIGINT)
    assert master.wait(10) == 0
    assert house.events("call done")


def test_usr1_makes_relays_poll(house: House) -> None:
    master = house.start()
    master.send_signal(signal.SIGUSR1)
    assert house.await_events("polls")[0]["slot"] == 1


def test_quit_stops_at_once_with_calls_in_hand(house: House) -> None:
    master = house.start()
    pids = house.pids()
    house.order("call", "60 60")
    master.send_signal(signal.SIGUSR1)
    house.await_events("call begins")
    started = time.monotonic()
    master.send_signal(signal.SIGQUIT)
    assert master.wait(10) == 0
    assert time.monotonic() - started < patience(2)
    assert not any(map(alive, pids.values()))


def test_workers_leave_before_relays_and_relays_know_that_it_drains(house: House) -> None:
    master = house.start()
    house.order("call", "0.5 5")
    os.kill(house.pids()[101], signal.SIGSTOP)  # so that 102 takes the order
    os.kill(house.pids()[1], signal.SIGSTOP)
    master.send_signal(signal.SIGUSR1)
    house.await_events("call begins")
    os.kill(house.pids()[101], signal.SIGCONT)
    os.kill(house.pids()[1], signal.SIGCONT)
    master.terminate()
    assert master.wait(10) == 0
    assert {event["slot"] for event in house.events("drains")} >= {1}
    assert house.events("drains")[0]["at"] < house.events("call done")[0]["at"]
    assert [event["slot"] for event in house.events("leaves")][-1] == 1


def test_a_call_that_outlasts_the_grace_is_ended_in_time_and_what_it_had_goes_back(house: House) -> None:
    house.settings(CONCURRENCY_LIMIT=2, RELAY_PROCESSES=1, SHUTDOWN_GRACE_SECONDS=1)
    master = house.start()
    house.order("call", "60 60")
    master.send_signal(signal.SIGUSR1)
    house.await_events("call begins")
    started = time.monotonic()
    master.terminate()
    assert master.wait(10) == 0
    assert 0.9 < time.monotonic() - started < patience(2)
    assert not house.events("call done")
    assert house.events("sweep")[-1]["wanted"] == []
    assert "may be bought again" in house.log()


def test_a_deaf_child_is_killed_at_the_graces_end_and_swept(house: House) -> None:
    house.settings(CONCURRENCY_LIMIT=1, RELAY_PROCESSES=1, SHUTDOWN_GRACE_SECONDS=1)
    master = house.start("worker=is_deaf", ready=False)
    house.await_events("started", 2)
    wait_until(lambda: house.pids().get(101))
    pid = house.pids()[101]
    started = time.monotonic()
    master.terminate()
    assert master.wait(10) == 0
    assert 0.9 < time.monotonic() - started < patience(2.5)
    assert not alive(pid)
    assert house.events("sweep")[-1]["wanted"] == []
    assert house.events("sweep")[-1]["causes"]["101"] == "stopped"
    assert "may be bought again" in house.log()


@pytest.mark.parametrize(
    ("end", "cause"),
    [
        ("segmentation fault", "crashed"),
        ("exit", "crashed"),
        ("bug", "crashed"),
        ("ledger", "stopped"),
        ("quit", "stopped"),
    ],
)
def test_the_cause_of_death_is_handed_to_the_successor(house: House, end: str, cause: str) -> None:
    house.settings(CONCURRENCY_LIMIT=1, RELAY_PROCESSES=1)
    master = house.start(longest_hold_back_seconds=0.1)
    house.order("crash", end)
    master.send_signal(signal.SIGUSR1)
    first = {event["slot"]: event["cause"] for event in house.await_events("started", 2)}
    assert first == {1: "stopped", 101: "stopped"}
    assert house.await_events("started", 3)[2]["cause"] == cause


def test_the_cause_survives_a_successor_that_never_took_over(house: House) -> None:
    house.settings(CONCURRENCY_LIMIT=1, RELAY_PROCESSES=1)
    house.start("worker=hangs_once", longest_hold_back_seconds=0.1)
    house.order("hang")
    os.kill(house.pids()[101], signal.SIGKILL)
    hanging = house.await_events("hangs")[0]["pid"]
    os.kill(hanging, signal.SIGTERM)  # it leaves its endless step only by force
    os.kill(hanging, signal.SIGKILL)
    assert house.await_events("started", 3)[2]["cause"] == "crashed"


def test_a_hanging_start_up_is_killed_and_replaced(house: House) -> None:
    house.settings(CONCURRENCY_LIMIT=1, RELAY_PROCESSES=1)
    house.start(start_seconds=0.5, longest_hold_back_seconds=0.1)
    house.order("hang at fork")
    os.kill(house.pids()[101], signal.SIGKILL)
    house.await_events("hangs")
    assert house.await_events("started", 3)[2]["slot"] == 101
    assert "overran its deadline" in house.log()


def test_a_stopped_child_is_killed_after_its_deadline_and_replaced(house: House) -> None:
    house.settings(CONCURRENCY_LIMIT=1, RELAY_PROCESSES=1)
    master = house.start(longest_hold_back_seconds=0)
    house.order("call", "60 1")
    os.kill(house.pids()[1], signal.SIGSTOP)
    master.send_signal(signal.SIGUSR1)
    begins = house.await_events("call begins")[0]
    os.kill(begins["pid"], signal.SIGSTOP)
    os.kill(house.pids()[1], signal.SIGCONT)
    successor = house.await_events("started", 3)[2]
    assert successor["cause"] == "deadline"
    assert 1.5 <= successor["at"] - begins["at"] < 3  # deadline and slack, not before


def test_a_call_ends_in_time_whatever_the_other_side_does(house: House) -> None:
    house.settings(CONCURRENCY_LIMIT=1, RELAY_PROCESSES=1)
    master = house.start(longest_hold_back_seconds=0)
    os.kill(house.pids()[1], signal.SIGSTOP)  # so that the worker takes the order
    house.order("trickle", "1")
    master.send_signal(signal.SIGUSR1)
    begins = house.await_events("call begins")[0]
    os.kill(house.pids()[1], signal.SIGCONT)
    successor = house.await_events("started", 3)[2]
    assert successor["cause"] == "deadline"
    assert 1.5 <= successor["at"] - begins["at"] < 3  # deadline and slack, not before


def test_a_master_that_was_asleep_gives_its_children_time_before_it_judges_them(house: House) -> None:
    master = house.start()
    house.order("call", "2 1")
    master.send_signal(signal.SIGUSR1)
    child = house.await_events("call begins")[0]["pid"]
    for pid in (child, master.pid):
        os.kill(pid, signal.SIGSTOP)  # as on a laptop whose lid was closed
    after_seconds(2.5, lambda: 0)
    for pid in (master.pid, child):
        os.kill(pid, signal.SIGCONT)
    house.await_events("call done")
    assert "overran" not in house.log()
    assert house.pids()[house.events("call begins")[0]["slot"]] == child


def test_those_who_die_young_are_held_back_more_and_more(house: House) -> None:
    house.settings(CONCURRENCY_LIMIT=1, RELAY_PROCESSES=1)
    house.start("worker=dies_young", ready=False)
    times = [event["at"] for event in house.await_events("started", 4) if event["slot"] == 101]
    gaps = [later - earlier for earlier, later in itertools.pairwise(times)]
    assert 1 <= gaps[0] < 2
    assert 2 <= gaps[1] < 3


def test_those_who_leave_after_work_are_replaced_at_once(house: House) -> None:
    house.settings(CONCURRENCY_LIMIT=1, RELAY_PROCESSES=1)
    house.start("worker=returns_at_once", ready=False)
    house.await_events("started", 20, timeout=5)


def test_a_master_whose_parent_is_gone_stops(house: House) -> None:
    shell = house.start(wrapper=["/bin/sh", "-c", '"$@" & wait', "sh"])
    master = house.board()[0].pid
    assert master != shell.pid
    shell.kill()
    wait_until(lambda: not alive(master))
    assert "parent process is gone" in house.log()
    assert len(house.events("leaves")) == 3


def test_a_second_master_gives_up_after_grace_and_leaves_the_first_alone(house: House) -> None:
    house.settings(CONCURRENCY_LIMIT=1, RELAY_PROCESSES=1, SHUTDOWN_GRACE_SECONDS=0.5)
    house.start()
    pids = house.pids()
    started = time.monotonic()
    second = house.start(ready=False)
    assert second.wait(10) == 1
    assert time.monotonic() - started >= 0.7
    assert "Another master is still running" in house.log()
    assert house.pids() == pids


def test_a_waiting_second_master_takes_over_when_the_first_leaves(house: House) -> None:
    first = house.start()
    second = house.start(ready=False)
    wait_until(lambda: "waiting for it to leave" in house.log())
    first.terminate()
    assert first.wait(10) == 0
    wait_until(lambda: house.crew_is(State.IDLE))
    second.terminate()
    assert second.wait(10) == 0


def test_bad_configuration_found_while_preparing_ends_with_78_before_any_child(house: House) -> None:
    house.order("misconfigured", "RATE_LIMIT_STORAGE_PATH=/x: must be elsewhere")
    master = house.start(ready=False)
    assert master.wait(10) == 78
    assert "must be elsewhere" in house.log()
    assert not house.events("started")


def test_any_other_failure_of_the_preparation_ends_with_1(house: House) -> None:
    house.order("broken")
    assert house.start(ready=False).wait(10) == 1


def test_a_runtime_directory_that_cannot_be_is_a_configuration_error(house: House, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    house.settings(RUNTIME_DIR=tmp_path / "file" / "run")
    assert house.start(ready=False).wait(10) == 78
    assert "RUNTIME_DIR" in house.log()


def test_a_ledger_that_cannot_be_written_is_a_configuration_error(house: House, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    house.settings(RATE_LIMIT_STORAGE_PATH=tmp_path / "file" / "ledger.db")
    assert house.start(ready=False).wait(10) == 78
    assert "RATE_LIMIT_STORAGE_PATH" in house.log()


def test_an_open_runtime_directory_is_closed_to_others(house: House) -> None:
    (house.directory / "run").mkdir(mode=0o755)
    house.start()
    assert stat.S_IMODE((house.directory / "run").stat().st_mode) == 0o700


def test_a_directory_that_is_used_by_others_too_stays_open_to_them(house: House) -> None:
    (house.directory / "run").mkdir(mode=0o755)
    (house.directory / "run" / "sshd.pid").write_text("1")
    house.start()
    assert stat.S_IMODE((house.directory / "run").stat().st_mode) == 0o755
    assert "open to others" in house.log()


def test_a_stop_does_not_wait_for_a_preparation_that_hangs(house: House) -> None:
    house.settings(CONCURRENCY_LIMIT=2, RELAY_PROCESSES=1, SHUTDOWN_GRACE_SECONDS=0)
    house.order("slow prepare", "3600")
    master = house.start(ready=False)
    house.await_events("prepare")
    hanging = house.events("prepare")[0]["pid"]
    os.kill(hanging, signal.SIGSTOP)
    master.terminate()
    assert master.wait(5) == 0
    assert not alive(hanging)


def test_claims_that_a_former_owner_still_holds_are_swept_again(house: House) -> None:
    house.order("sweep again")
    house.start(sweep_again_seconds=0.3)
    first, second = house.await_events("sweep", 2)[:2]
    assert second["at"] - first["at"] >= 0.3
    assert first["wanted"] == [1, 101, 102]


def test_a_hundred_restarts_leak_no_descriptor(house: House) -> None:
    house.settings(CONCURRENCY_LIMIT=8, RELAY_PROCESSES=1)
    master = house.start("worker=returns_at_once", ready=False)
    descriptors = Path(f"/proc/{master.pid}/fd")
    house.await_events("started", 20)
    before = len(list(descriptors.iterdir()))
    house.await_events("started", 150, timeout=60)
    assert len(list(descriptors.iterdir())) == before


def test_an_idle_master_sleeps(house: House) -> None:
    master = house.start(tick_seconds=5.0)

    def notifier() -> int:
        status = Path(f"/proc/{master.pid}/status").read_text()
        return int(status.partition("\nvoluntary_ctxt_switches:")[2].split()[0])

    house.await_events("sweep")
    wait_until(lambda: notifier() == after_seconds(0.3, notifier))
    asleep = notifier()
    assert after_seconds(2, notifier) - asleep <= 1  # one tick may fall in


def after_seconds(seconds: float, look: Callable[[], int]) -> int:
    moment = time.monotonic() + seconds
    wait_until(lambda: time.monotonic() > moment, timeout=seconds + 10)
    return look()
