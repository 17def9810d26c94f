"""A real Prometheus beside the real service: the dashboard has data, alerts fire for real faults and only then."""

from __future__ import annotations

import json
import math
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from aitp.demo.faults import Fault
from aitp.metrics import FAMILIES, Source
from aitp.settings import PLACEHOLDER_KEY, PROJECT_ROOT, surroundings
from tests.end_to_end.running import Service, see_that_programs_can_start
from tests.monitoring.prometheus import Prometheus, documented_steps, hurried, watching
from tests.ports import free_port
from tests.waiting import wait_until

DASHBOARD = json.loads((PROJECT_ROOT / "docker/grafana/dashboards/aitp.json").read_text())

# Work of every kind; Ollama first, and OpenAI where Ollama fails. A call takes longer than it is from one scrape to the
# next: what happens but once must not be over before Prometheus has seen that it had not happened yet.
PLAN = ("--tasks", "50", "--mode", "hybrid", "--types", "all", "--latency-ms", "2500", "--faults")

# Rightly without data while all is well.
EMPTY_IS_GOOD = {"Alerts firing"}

real = pytest.mark.skipif(shutil.which("prometheus") is None, reason="prometheus (a Debian package) is not installed")


def queries() -> Iterator[tuple[str, str]]:
    """(panel, expression) of the dashboard, its variables filled in as Grafana would for All."""
    for panel in DASHBOARD["panels"]:
        for target in panel.get("targets", ()):
            expr = target["expr"].replace("$__rate_interval", "30s").replace("$job", ".+").replace("$instance", ".+")
            assert "$" not in expr, expr
            yield panel["title"], expr


def test_what_hosts_of_a_fleet_all_read_from_one_ledger_is_not_added_up() -> None:
    summed = {name for _, expr in queries() for name in re.findall(r"sum(?: by \([^)]*\) )?\((\w+)\{", expr)}
    shown = {name for _, expr in queries() for name in re.findall(r"\w+(?=\{)", expr)}

    assert summed
    assert {name for name in summed if FAMILIES[name].source is Source.LEDGER} == set()
    assert {"aitp_queue_tasks", "ai_tasks_in_flight"} <= shown


@pytest.fixture
def services(tmp_path: Path) -> Iterator[list[Service]]:
    """Two, not started yet."""
    services = []
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        services.append(Service(tmp_path / name))
    try:
        yield services
    finally:
        for service in services:
            service.clear()


@contextmanager
def demo(port: int) -> Iterator[None]:
    """`aitp demo --keep`, with its metrics on `port`."""
    see_that_programs_can_start()
    process = subprocess.Popen(
        [sys.executable, "-m", "aitp", "demo", "--keep", "--port", str(port), *PLAN],
        env=surroundings() | {"AITP_VENV": sys.prefix},
        cwd=PROJECT_ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.STDOUT,
    )
    try:
        yield
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(60)


@real
def test_every_query_of_the_dashboard_has_data_and_what_was_mended_alerts_nobody(tmp_path: Path) -> None:
    port = free_port()
    # Prometheus first: of what lasts for a moment it must have seen the beginning.
    with watching(tmp_path, [port]) as prometheus, demo(port):
        wanted = {pair for pair in queries() if pair[0] not in EMPTY_IS_GOOD}
        missing = set(wanted)

        def all_have_data() -> bool:
            missing.difference_update([pair for pair in missing if _numbers(prometheus.query(pair[1]))])
            return not missing

        try:
            wait_until(all_have_data, timeout=75, every=0.5)
        finally:
            print("without data:", sorted(missing))
        # The faults are over, the work is done; only what the last hour cost may still be told.
        wait_until(lambda: set(prometheus.firing()) <= {"AitpFallbackInUse"}, timeout=20, every=0.5)


@real
def test_alerts_fire_for_real_faults(services: list[Service], tmp_path: Path) -> None:
    refused, spent = services
    nobody = free_port()
    with watching(tmp_path, [refused.port, spent.port, nobody]) as prometheus:
        _refuse_results(refused)
        _spend_the_day(spent)

        def fired(port: int, *alerts: str) -> None:
            try:
                wait_until(lambda: set(alerts) <= set(prometheus.firing(port)), timeout=60, every=0.5)
            except AssertionError:
                raise AssertionError(f"of {alerts} only {sorted(prometheus.firing(port))} fire") from None

        fired(nobody, "AitpScrapeDown")
        fired(spent.port, "AitpMockMode", "AitpLimitNearlyUsedUp", "AitpLimitExhaustedEarly")
        fired(refused.port, "AitpDeadLetters", "AitpBreakerOpen", "AitpOutboxGrowing", "AitpNotReady")
        assert not {"AitpScrapeDown", "AitpMockMode", "AitpNoWorker"} & set(prometheus.firing(refused.port))

        assert spent.process is not None
        spent.kill([spent.process.pid])
        fired(spent.port, "AitpMasterDown", "AitpNoWorker", "AitpNoRelay")

        for alert, annotations in prometheus.firing().items():
            for text in annotations.values():
                assert not re.search(r"<error|<no value>|%!", text), (alert, text)
        (panel,) = (panel for panel in DASHBOARD["panels"] if panel["title"] in EMPTY_IS_GOOD)
        shown = prometheus.query(panel["targets"][0]["expr"])
        assert {series["metric"]["alertname"] for series in shown} >= {"AitpMasterDown", "AitpDeadLetters"}


def _refuse_results(service: Service) -> None:
    """Two results are refused for good, then the task API is out; the workers go on with what is here."""
    world = service.open_world(120, openai_api={"latency_seconds": 0.4})
    world.add_fault("task_api", Fault(method="PATCH", status=422, times=2))
    service.start(CONCURRENCY_LIMIT=1, EMBEDDING_BATCH_SIZE=1, CIRCUIT_BREAKER_RECOVERY_SECONDS=5)
    service.wait(lambda: service.snapshot().dead == 2 and world.states().get("succeeded", 0) > 2)
    world.add_fault("task_api", Fault(status=503))
    service.start_metrics()


def _spend_the_day(service: Service) -> None:
    service.open_world(20)
    service.start(OPENAI_API_KEY=PLACEHOLDER_KEY, RATE_LIMIT_ENABLED="true", RATE_LIMIT_PER_DAY=10)
    service.start_metrics()


@real
def test_the_steps_for_debians_prometheus_make_a_configuration_that_it_takes(tmp_path: Path) -> None:
    documented_steps(tmp_path)

    checked = subprocess.run(
        ["promtool", "check", "config", tmp_path / "prometheus.yml"], capture_output=True, text=True, check=False
    )

    assert checked.returncode == 0, checked.stderr
    assert 'targets: ["localhost:8001"]' in (tmp_path / "prometheus.yml").read_text()


@real
def test_with_the_documented_steps_prometheus_is_let_in_by_its_token_and_by_that_alone(
    services: list[Service], tmp_path: Path
) -> None:
    service, _ = services
    token = tmp_path / "METRICS_TOKEN"
    token.write_text("a-token-for-whoever-scrapes\n")
    service.open_world()
    service.configure(METRICS_TOKEN_FILE=token)
    service.start_metrics()
    documented_steps(tmp_path, token=token)
    configuration = tmp_path / "prometheus.yml"
    here = configuration.read_text().replace("localhost:8001", f"127.0.0.1:{service.port}").replace("15s", "500ms")
    configuration.write_text(here)

    def up(prometheus: Prometheus) -> list[float]:
        return _numbers(prometheus.query('up{job="aitp", environment="production"}'))

    with Prometheus(tmp_path) as prometheus:
        wait_until(lambda: up(prometheus) == [1], timeout=20, every=0.2)
        assert _numbers(prometheus.query("aitp_ready")) == [0]  # there is no master

        (tmp_path / "metrics_token").write_text("the-token-of-another-service\n")
        wait_until(lambda: up(prometheus) == [0], timeout=20, every=0.2)


def test_the_hurried_copy_of_the_rules_differs_in_time_alone() -> None:
    assert hurried("for: 5m") == "for: 5s"
    assert hurried("x[1h] > 2 * 3600 + 5 * 60 and y > 512 * 1024") == "x[60s] > 2 * 60 + 5 * 1 and y > 512 * 1024"
    with pytest.raises(ValueError, match="90s is not"):
        hurried("for: 90s")


def _numbers(series: list[dict[str, Any]]) -> list[float]:
    return [value for one in series if math.isfinite(value := float(one["value"][1]))]
