"""Page, /metrics and `aitp status` say what the master has in force, and where the service is in its life."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from aitp import revision
from aitp.process.scoreboard import MASTER
from aitp.settings import PLACEHOLDER_KEY
from tests.end_to_end.running import ROOT, Service
from tests.waiting import wait_until

LOOK_SECONDS = 0.2  # between two commands, each of which costs half as much CPU


def supervisorctl(service: Service, *command: str) -> subprocess.CompletedProcess[str]:
    """As the documents say, beside a service that was started with these settings."""
    environment = {
        **service.environment(),
        "AITP_VENV": os.environ.get("AITP_VENV", service.environment()["AITP_VENV"]),
    }
    return subprocess.run(
        [ROOT / "bin/supervisorctl", *command], env=environment, capture_output=True, text=True, timeout=60, check=False
    )


def told(service: Service) -> Mapping[str, Any]:
    """What `aitp status --json` says."""
    _, said = service.ask("status", "--json")
    document: Mapping[str, Any] = json.loads(said)
    return document


def gauge(service: Service, name: str) -> float:
    answer = service.get("/metrics")
    assert answer is not None
    return float(next(line.split()[-1] for line in answer[1].splitlines() if line.startswith(name)))


def test_a_reload_reaches_page_and_metrics_and_does_not_slide_into_mock_mode(service: Service) -> None:
    service.open_world(4)
    service.start(POLLING_INTERVAL_SECONDS=7)
    service.start_metrics()
    assert gauge(service, "aitp_polling_interval_seconds") == 7
    service.configure(POLLING_INTERVAL_SECONDS=9)
    assert gauge(service, "aitp_polling_interval_seconds") == 7, "nobody has taken these settings over"

    service.signal(signal.SIGHUP)
    service.wait(lambda: gauge(service, "aitp_polling_interval_seconds") == 9, what="the metrics are of before")
    page = service.get("/")
    assert page is not None
    assert "invented" not in page[1]
    assert gauge(service, "aitp_build_info") == 1
    assert f'revision="{revision()}"' in service.get("/metrics")[1]  # type: ignore[index]

    service.await_states(succeeded=4)
    key = service.world.environment["OPENAI_API_KEY"]
    service.configure(OPENAI_API_KEY=PLACEHOLDER_KEY)
    service.signal(signal.SIGHUP)
    service.wait(lambda: service.said("New settings are not valid"))
    assert "a reload does not turn mock mode on" in service.log()

    assert gauge(service, "aitp_mock") == 0
    assert told(service)["mock"] is False
    service.world.add_tasks(4)
    service.await_states(succeeded=8)
    assert service.world.summary().texts_bought == 8, "results are not invented"
    before = len(service.said("New settings are in force"))
    service.configure(OPENAI_API_KEY=key)
    service.signal(signal.SIGHUP)
    service.wait(lambda: len(service.said("New settings are in force")) > before)


def test_what_status_prints_follows_its_schema_and_says_why_a_start_failed(service: Service, tmp_path: Path) -> None:
    service.open_world(20, openai_api={"latency_seconds": 1.0})
    service.start()
    service.wait(lambda: service.snapshot().claimed)
    _, running = service.ask("status", "--json")
    service.stop()
    _, stopped = service.ask("status", "--json")

    for name, printed in (("running", running), ("stopped", stopped)):
        (tmp_path / name).write_text(printed)
    command = [sys.executable, "-m", "check_jsonschema", "--schemafile", str(ROOT / "docs/status.schema.json")]
    command += [str(tmp_path / "running"), str(tmp_path / "stopped")]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stdout + found.stderr
    document = json.loads(running)
    assert document["mode"] == "openai"
    assert {"master", "relay", "worker"} == {process["role"] for process in document["processes"]}
    deadlines = [process["deadline"] for process in document["processes"] if process["deadline"] is not None]
    assert deadlines
    assert all(abs(deadline - document["at"]) < 600 for deadline in deadlines)

    assert service.run("run", timeout=60.0, CONCURRENCY_LIMIT="many") == 78
    service.configure(CONCURRENCY_LIMIT=3)

    (problem,) = (each for each in told(service)["problems"] if each["code"] == "failed-start")
    assert "CONCURRENCY_LIMIT=many" in problem["sentence"]
    service.start()
    assert not [each for each in told(service)["problems"] if each["code"] == "failed-start"]


def test_a_start_a_restart_and_a_stop_are_told_from_a_death(service: Service) -> None:
    service.open_world()
    phases: list[str] = []
    service.start("run", wait=False)
    service.wait(lambda: (service.runtime_dir / "supervision.json").exists())
    while not phases or phases[-1] != "running":
        phases.append(told(service)["phase"])
        assert phases[-1] in ("starting", "running"), phases
        time.sleep(LOOK_SECONDS)
    assert phases[0] == "starting"
    service.await_crew()

    master = service.board()[MASTER].pid
    os.kill(master, signal.SIGKILL)
    found = wait_until(lambda: (now := told(service)) and now["phase"] == "starting" and now, 30.0, LOOK_SECONDS)
    assert {each["severity"] for each in found["problems"] if each["code"] == "starting"} == {"pending"}
    service.await_crew()
    wait_until(lambda: told(service)["phase"] == "running", 30.0, LOOK_SECONDS)

    assert supervisorctl(service, "stop", "aitp-master").returncode == 0
    assert told(service)["phase"] == "stopped"
    code, _ = service.ask("poll", "--json")
    health = service.get("/health")
    assert code == 1
    assert health is not None
    assert health[0] == 503
    assert "supervisorctl start aitp-master" in health[1]
    assert supervisorctl(service, "start", "aitp-master").returncode == 0
    assert told(service)["phase"] == "running", "it comes back when work can be done"

    service.kill_everything()
    assert told(service)["phase"] == "down"
