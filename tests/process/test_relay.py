"""A relay's steps, taken one by one in this process: a real ledger, and the demo's task API."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from aitp.counting import open_metrics, prepare_directory
from aitp.demo.authorization import AuthorizationServer
from aitp.demo.faults import Fault
from aitp.demo.task_api import TaskApi
from aitp.ledger import Claim, Ledger, Rules, prepare
from aitp.process.once import LoneHands
from aitp.process.relay import Relay
from aitp.taskapi import connect
from aitp.tasks import Ending
from tests.ledger.world import WORKER, report, terms
from tests.services import a_task
from tests.taskapi.desk import settings_for

SLOT = 1
PENDING = "/api/ai-tasks/pending"


class Office:
    """One relay and its ledger. `polls`: how often the task API was asked for what is pending."""

    def __init__(self, task_api: TaskApi, token_url: str, directory: Path) -> None:
        self.task_api = task_api
        path = directory / "ledger.db"
        prepare(path, strategy="rolling", timezone="UTC", limits={})
        self.ledger = Ledger.open(path, Rules())
        settings = settings_for(task_api.url, token_url, directory)
        prepare_directory(directory / "metrics")
        metrics = open_metrics(directory / "metrics", SLOT)
        self.relay = Relay(LoneHands(SLOT), self.ledger, connect(settings, metrics), metrics, settings)

    @property
    def polls(self) -> int:
        return sum(exchange.path.startswith(PENDING) for exchange in self.task_api.exchanges)

    def finish_all(self) -> None:
        claim = self.ledger.claims.claim(WORKER, terms())
        assert isinstance(claim, Claim)
        self.ledger.claims.finish(claim, report(claim.tasks, Ending.SUCCEEDED))


@pytest.fixture
def office(task_api: TaskApi, authorization: AuthorizationServer, tmp_path: Path) -> Iterator[Office]:
    office = Office(task_api, authorization.token_url, tmp_path)
    try:
        yield office
    finally:
        office.ledger.close()


def test_a_poll_that_is_asked_for_while_results_go_out_is_made_after_them(office: Office) -> None:
    [task_id] = office.task_api.add([a_task()])
    office.relay.step()
    office.finish_all()
    office.task_api.remove(task_id)  # a dead letter: what is delivered would call for a poll of its own

    office.relay.step(asked=True)
    assert office.polls == 1
    office.relay.step()
    assert office.polls == 2
    office.relay.step()
    assert office.polls == 2


def test_a_clock_that_is_set_back_makes_no_relay_quiet_for_longer(
    office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    office.task_api.faults.add(Fault(path=PENDING, status=429, headers={"Retry-After": "20"}, times=1))
    office.relay.step()
    now = time.time
    monkeypatch.setattr(time, "time", lambda: now() - 86_400)

    until = office.relay.step()

    assert until is not None
    assert 0 < until - time.time() <= 20
