"""A relay's steps, taken one by one in this process: a real ledger, and the demo's task API."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from aitp.demo.authorization import AuthorizationServer
from aitp.demo.faults import Fault, FaultKind
from aitp.demo.task_api import TaskApi
from aitp.ledger.claims import Claim
from aitp.ledger.ledger import Ledger, prepare
from aitp.ledger.outbox import Outbox
from aitp.ledger.queue import LedgerConfig
from aitp.metrics import open_metrics, prepare_directory
from aitp.process.relay import CHUNK, Relay
from aitp.taskapi.client import TaskApi as Client
from aitp.taskapi.token import Tokens
from aitp.tasks import Ending
from tests.ledger.world import WORKER, Clock, file_of, report, terms
from tests.process.alone import Alone
from tests.services import a_task
from tests.taskapi.desk import settings_for
from tests.waiting import wait_until

SLOT, OTHER_SLOT = 1, 2
PENDING = "/api/ai-tasks/pending"


class Office:
    """One relay and its ledger. `polls`: how often the task API was asked for what is pending."""

    def __init__(self, task_api: TaskApi, token_url: str, directory: Path) -> None:
        self.task_api = task_api
        path = directory / "ledger.db"
        prepare(path, strategy="rolling", timezone="UTC", limits={})
        self.ledger = Ledger.open(path, LedgerConfig())
        settings = settings_for(task_api.url, token_url, directory)
        prepare_directory(directory / "metrics")
        metrics = open_metrics(directory / "metrics", SLOT)
        api = Client(settings, Tokens(settings, metrics.auth), metrics.api_request)
        self.relay = Relay(Alone(SLOT), self.ledger, api, metrics, settings)
        self.other = Relay(Alone(OTHER_SLOT), self.ledger, api, metrics, settings)

    @property
    def polls(self) -> int:
        return sum(exchange.path.startswith(PENDING) for exchange in self.task_api.exchanges)

    def delivered(self) -> list[str]:
        """What the task API itself was brought."""
        return [delivery.task_id for delivery in list(self.task_api.deliveries) if delivery.state]

    def breaker(self) -> tuple[str, int]:
        found: tuple[str, int] = (
            file_of(self.ledger).connection.execute("SELECT state, failures FROM breakers WHERE service = 'api'").get
        )
        return found

    def finish_all(self) -> None:
        claim = self.ledger.claims.claim(WORKER, terms())
        assert isinstance(claim, Claim)
        self.ledger.outcomes.finish(claim, report(claim.tasks, Ending.SUCCEEDED))


@pytest.fixture
def office(task_api: TaskApi, authorization: AuthorizationServer, tmp_path: Path) -> Iterator[Office]:
    office = Office(task_api, authorization.token_url, tmp_path)
    try:
        yield office
    finally:
        office.ledger.close()


def settled(office: Office, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many were settled at a time."""
    numbers: list[int] = []
    settle = Outbox.settle

    def counted(*arguments: Any) -> Any:
        numbers.append(1 + len(arguments[5]) if len(arguments) > 5 else 1)
        return settle(*arguments)

    monkeypatch.setattr(Outbox, "settle", counted)
    return numbers


def test_what_is_brought_within_a_second_is_settled_together(office: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = office.task_api.add([a_task(f"Text {number}") for number in range(CHUNK)])
    office.relay.step()
    office.finish_all()
    numbers = settled(office, monkeypatch)
    office.relay.step()

    assert numbers == [CHUNK]
    assert sorted(office.delivered()) == sorted(ids)


def test_a_slow_api_is_settled_with_in_between(office: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    office.task_api.add([a_task(f"Text {number}") for number in range(4)])
    office.relay.step()
    office.finish_all()
    numbers = settled(office, monkeypatch)
    monkeypatch.setattr("aitp.process.relay.TOGETHER_SECONDS", 0.0)
    office.relay.step()

    assert numbers == [1, 1, 1, 1]


def test_a_fault_settles_what_went_before_and_gives_back_the_rest(
    office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    office.task_api.add([a_task(f"Text {number}") for number in range(5)])
    office.relay.step()
    office.finish_all()
    office.task_api.faults.add(Fault(method="PATCH", status=503, skip=2, times=1))
    numbers = settled(office, monkeypatch)
    office.relay.step()

    assert numbers == [3, 1, 1]
    assert len(office.delivered()) == 2


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


@pytest.mark.parametrize("path", [PENDING, "/api/ai-tasks/65"])
def test_a_relay_that_is_asked_to_be_quiet_keeps_the_others_quiet_too(office: Office, path: str) -> None:
    office.task_api.add([a_task(_id="65f000000000000000000001")])
    office.relay.step()
    office.finish_all()
    throttle = office.task_api.faults.add(Fault(path=path, status=429, headers={"Retry-After": "20"}))
    office.relay.step()
    office.relay.step(asked=True)
    asked = len(office.task_api.exchanges)
    assert office.task_api.faults.times_struck(throttle) == 1

    until = office.other.step(asked=True)
    assert until is not None
    assert 0 < until - time.time() <= 20
    office.other.empty_outbox()
    assert len(office.task_api.exchanges) == asked


def test_a_conflict_is_tried_three_times_and_other_refusals_once(
    office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock(time.time())
    monkeypatch.setattr(office.ledger._database, "clock", clock)
    ids = office.task_api.add([a_task("one"), a_task("two"), a_task("three")])
    office.relay.step()
    office.finish_all()
    for task_id, status in zip(ids, (409, 400, 501), strict=True):
        office.task_api.faults.add(Fault(path=f"/api/ai-tasks/{task_id}", status=status))
    for _ in range(5):
        office.relay.empty_outbox()
        clock.go(3_600.0)

    assert [len(office.task_api.deliveries_of(task_id)) for task_id in ids] == [3, 1, 1]
    assert {letter.id for letter in office.ledger.dead.list()} == set(ids)
    assert office.breaker() == ("closed", 0)


@pytest.mark.parametrize("status", [200, 302, 403, 404, 501, 502])
def test_what_is_in_front_of_the_api_acknowledges_and_refuses_nothing(
    office: Office, monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    clock = Clock(time.time())
    monkeypatch.setattr(office.ledger._database, "clock", clock)
    ids = office.task_api.add(a_task(f"Text {number}") for number in range(12))
    office.relay.step()
    office.finish_all()
    gateway = office.task_api.faults.add(Fault(kind=FaultKind.PAGE, status=status))
    for _ in range(20):
        office.relay.step()
        office.other.step()
        clock.go(1.0)
    assert office.breaker()[0] == "open"
    assert office.task_api.faults.times_struck(gateway) <= 5 + (status == 403)  # one fresh token
    office.task_api.faults.remove(gateway)
    while office.task_api.states() != {"succeeded": 12}:
        office.relay.step()
        clock.go(1.0)

    wait_until(lambda: len(office.delivered()) == 12)
    assert sorted(office.delivered()) == sorted(ids)
    assert office.ledger.dead.list() == []
