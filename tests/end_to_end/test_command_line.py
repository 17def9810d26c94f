"""The command line beside a running service: it looks without disturbing, and steers."""

from __future__ import annotations

import json
from typing import Any

from tests.end_to_end.running import Service
from tests.waiting import wait_until


def ask(service: Service, *command: str) -> tuple[int, Any]:
    code, output = service.ask(*command, "--json")
    return code, json.loads(output)


def test_check_and_status_know_the_service_that_runs(service: Service) -> None:
    world = service.open_world(20)
    service.start("run", WIKIDATA_ENABLED="false")
    wait_until(lambda: world.states() == {"succeeded": 20}, 30)

    code, report = ask(service, "check", "--strict")
    status_code, status = ask(service, "status")

    found = {finding["code"]: (finding["severity"], finding["sentence"]) for finding in report["findings"]}
    assert code == 0, report
    assert found["service"][1].startswith("running and ready")
    assert "served by the running service" in found["port"][1]
    assert found["task API"] == ("ok", f"{world.environment['API_BASE_URL']} lists 0 pending tasks")
    assert (status_code, status["running"], status["problems"]) == (0, True, [])
    summary = world.summary()
    assert (summary.texts_bought, summary.bought_again, summary.delivered_again) == (20, 0, 0)


def test_limits_that_were_changed_and_not_loaded_are_found(service: Service) -> None:
    service.open_world()
    service.start(RATE_LIMIT_ENABLED="true", RATE_LIMIT_PER_MINUTE=10, RATE_LIMIT_PER_HOUR=100)
    service.configure(RATE_LIMIT_PER_MINUTE=20)

    _, report = ask(service, "check", "--offline")

    [what] = [finding["sentence"] for finding in report["findings"] if finding["severity"] == "warning"]
    assert what == "it has other rate limits in force than these settings say"


def test_a_pause_outlives_a_restart_and_poll_asks_at_once(service: Service) -> None:
    world = service.open_world()
    service.start(POLLING_INTERVAL_SECONDS=3600)
    assert ask(service, "pause") == (0, {"paused": True})
    service.stop()
    service.start()
    world.add_tasks(3)
    assert ask(service, "poll") == (0, {"asked": True, "paused": True})
    assert ask(service, "tasks")[1]["total"] == 0

    assert ask(service, "resume") == (0, {"paused": False})
    wait_until(lambda: world.states() == {"succeeded": 3}, 20)

    world.add_tasks(2)
    assert ask(service, "poll") == (0, {"asked": True, "paused": False})
    wait_until(lambda: world.states() == {"succeeded": 5}, 20)
