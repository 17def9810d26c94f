"""Putting on record what a call brought: told once, however often and however long the disk has to be asked."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from aitp.ledger.claims import Claim
from aitp.ledger.evidence import Report, Settled
from aitp.ledger.ledger import prepare
from aitp.ledger.outcomes import Cause
from aitp.logs import configure
from aitp.metrics import open_metrics, prepare_directory
from aitp.process import worker as workers
from aitp.process.scoreboard import LAST_SLOT, State
from aitp.process.worker import Worker
from tests.ledger.world import WORKER, World
from tests.metrics.reading import scrape, value
from tests.process.alone import Alone
from tests.process.house import House
from tests.taskapi.desk import settings_for
from tests.waiting import wait_until


class Hands(Alone):
    """Notes what is said of this process, to the scoreboard and to relays."""

    def __init__(self, slot: int) -> None:
        super().__init__(slot)
        self.said: list[str] = []

    def idle(self) -> None:
        self.said.append("idle")

    def recording(self) -> None:
        self.said.append("recording")

    def wake_relays(self, count: int = LAST_SLOT) -> None:
        self.said.append("relays woken")


@dataclass
class Bench:
    world: World
    process: Hands
    worker: Worker


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    path = tmp_path / "ledger.db"
    prepare(path, strategy="rolling", timezone="UTC", limits={})
    prepare_directory(tmp_path / "metrics")
    world, process = World(path), Hands(WORKER)
    world.open()
    settings = settings_for("http://127.0.0.1:9", "http://127.0.0.1:9/token", tmp_path)
    worker = Worker(process, world.ledger, open_metrics(tmp_path / "metrics", WORKER), settings)
    try:
        yield Bench(world, process, worker)
    finally:
        world.close()


def test_a_disk_that_fails_at_the_end_of_a_finish_keeps_nothing_from_being_told_once(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    flush, failures = os.fdatasync, [OSError(5, "Input/output error")] * 3

    def fails(file: int) -> None:
        if failures:
            raise failures.pop()
        flush(file)

    configure("INFO", "json")
    bench.world.admit("a")
    monkeypatch.setattr(workers, "LEDGER_RETRY_SECONDS", 0.0)
    monkeypatch.setattr(os, "fdatasync", fails)

    assert isinstance(bench.worker.step(), Claim)
    assert failures == []
    assert bench.world.states() == {"a": "finished"}
    assert bench.process.said.count("relays woken") == bench.process.done == 1
    log = capfd.readouterr().out
    assert log.count("Task processing completed") == 1
    assert log.count("kept in memory") == 1


def test_from_the_answer_until_it_is_on_disk_a_worker_says_that_it_is_recording(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    monkeypatch.setattr(os, "fdatasync", lambda file: said.append(bench.process.said[-1]))
    bench.world.admit("a")
    bench.worker.step()

    assert said == ["recording"]


def test_an_answer_to_a_task_that_was_taken_away_meanwhile_is_counted(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    outcomes = bench.world.ledger.outcomes
    finish = outcomes.finish

    def taken_away(claim: Claim, report: Report) -> Settled:
        outcomes.release(WORKER, Cause.STOPPED)
        return finish(claim, report)

    monkeypatch.setattr(outcomes, "finish", taken_away)
    bench.world.admit("a")
    bench.worker.step()

    assert bench.world.states() == {"a": "finished"}
    assert value(scrape(tmp_path / "metrics"), "aitp_late_answers_total") == 1


def test_whoever_records_is_not_killed_for_the_time_that_it_takes(house: House) -> None:
    master = house.start(step_seconds=0.3, slack_seconds=0.1)
    house.order("record", "2")
    master.send_signal(signal.SIGUSR1)
    wait_until(lambda: State.RECORDING in {record.state for record in house.board().values()})
    house.await_events("recorded")

    assert "overran" not in house.log()
