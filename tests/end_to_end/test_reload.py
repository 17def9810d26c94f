"""HUP under load: new settings take effect without a failed task; invalid ones change nothing and are told."""

from __future__ import annotations

import re
import signal

import pytest

from aitp.process.scoreboard import Role
from tests.end_to_end.running import Service


@pytest.mark.parametrize("command", ["master", pytest.param("run", marks=pytest.mark.slow)])
def test_more_workers_and_other_limits_take_effect_and_no_task_fails(service: Service, command: str) -> None:
    world = service.open_world(75, openai_api={"latency_seconds": 0.3})
    service.start(command, CONCURRENCY_LIMIT=2, EMBEDDING_BATCH_SIZE=3)
    before = {child.pid for child in service.crew()}
    service.await_bought(6)

    service.configure(CONCURRENCY_LIMIT=6, RATE_LIMIT_ENABLED="true", RATE_LIMIT_PER_MINUTE=60)
    service.signal(signal.SIGHUP)

    service.wait(lambda: len(service.crew(Role.WORKER)) == 6, what="not six workers")
    service.await_states(succeeded=60, pending=15)
    assert service.snapshot().limits["minute"].limit == 60
    assert {child.pid for child in service.crew()}.isdisjoint(before)

    service.configure(CONCURRENCY_LIMIT=1, RATE_LIMIT_PER_MINUTE=0)
    service.signal(signal.SIGHUP)

    service.await_states(succeeded=75)
    service.wait(lambda: len(service.crew(Role.WORKER)) == 1, what="not one worker")
    assert "minute" not in service.snapshot().limits
    summary = world.summary()
    assert (summary.bought_again, summary.delivered_again, summary.wrong_results) == (0, 0, 0)
    assert summary.most_calls_at_once > 2  # of the six, on a busy machine not all at one moment
    assert service.said("Child died") == []


def test_invalid_settings_change_nothing_and_are_told(service: Service) -> None:
    world = service.open_world(20, openai_api={"latency_seconds": 0.2})
    service.start(CONCURRENCY_LIMIT=2, EMBEDDING_BATCH_SIZE=2)
    before = {child.pid for child in service.crew()}

    service.configure(CONCURRENCY_LIMIT="many", API_BASE_URL="", API_BASEURL="http://nestjs-api:3000")
    service.signal(signal.SIGHUP)

    [told] = service.wait(lambda: service.said("New settings are not valid, the running ones stay"), what="not told")
    assert [re.split("[:=]", problem)[0] for problem in told["problems"]] == ["API_BASE_URL", "CONCURRENCY_LIMIT"]
    assert told["warnings"] == ["API_BASEURL is not a setting and is ignored; did you mean API_BASE_URL?"]
    service.await_states(succeeded=20)
    assert {child.pid for child in service.crew()} == before
    assert world.summary().most_calls_at_once == 2
