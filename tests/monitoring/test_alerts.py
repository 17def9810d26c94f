"""The alert rules: promtool believes them, each is tested, each is explained, and none asks for what is not there."""

from __future__ import annotations

import re
import shutil
import subprocess
from typing import Any

import pytest
import yaml

from aitp.metrics import FAMILIES
from aitp.settings import PROJECT_ROOT
from aitp.tasks import Period, Service

RULES = PROJECT_ROOT / "docker/alerts.yml"
CASES = PROJECT_ROOT / "tests/monitoring/alerts_test.yml"
ALERTS: list[dict[str, Any]] = [
    rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]
]
EVERY_ALERT = pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: str(alert["alert"]))
promtool = pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool (Debian: prometheus) is not installed")

# What PromQL brings itself, and what Prometheus adds to each target, or to a histogram.
WORDS = {
    *("absent", "and", "by", "clamp_min", "delta", "deriv", "histogram_quantile", "increase", "max", "min", "on", "or"),
    *("rate", "sum", "time", "unless", "without"),
}
TARGET_LABELS = {"instance", "job", "environment", "le"}


@promtool
def test_every_alert_fires_for_what_it_is_meant_for_and_for_nothing_else() -> None:
    run = subprocess.run(["promtool", "test", "rules", CASES], capture_output=True, text=True, timeout=60, check=False)

    assert run.returncode == 0, run.stdout + run.stderr


@EVERY_ALERT
def test_every_alert_has_a_case_in_which_it_fires(alert: dict[str, Any]) -> None:
    firing = [
        check["expr"]
        for case in yaml.safe_load(CASES.read_text())["tests"]
        for check in case["promql_expr_test"]
        if check["exp_samples"]
    ]

    assert any(f'alertname="{alert["alert"]}"' in expr for expr in firing)


@EVERY_ALERT
def test_every_alert_says_what_how_bad_and_where_to_read_on(alert: dict[str, Any]) -> None:
    headings = re.findall(r"^### (\w+)$", (PROJECT_ROOT / "docs/OPERATING.md").read_text(), re.MULTILINE)

    assert alert["for"]
    assert alert["labels"]["severity"] in {"critical", "warning", "info"}
    assert alert["annotations"]["summary"]
    assert alert["annotations"]["description"].endswith(".")
    assert alert["annotations"]["runbook_url"] == f"docs/OPERATING.md#{alert['alert'].lower()}"
    assert alert["alert"] in headings


def test_no_section_is_left_of_an_alert_that_is_gone() -> None:
    headings = re.findall(r"^### (Aitp\w+)$", (PROJECT_ROOT / "docs/OPERATING.md").read_text(), re.MULTILINE)

    assert sorted(headings) == sorted(alert["alert"] for alert in ALERTS)


@EVERY_ALERT
def test_alerts_ask_for_metrics_and_labels_that_exist(alert: dict[str, Any]) -> None:
    bare = re.sub(r"\{[^}]*\}|\[[^]]*\]|\b(by|on|without) \([^)]*\)", " ", alert["expr"])
    named = {name.removesuffix("_bucket") for name in re.findall(r"[a-z_]{2,}", bare)} - WORDS - {"up"}
    labels = {
        label
        for part in re.findall(r"\{([^}]*)\}|\b(?:by|on|without) \(([^)]*)\)", alert["expr"])
        for label in re.findall(r"([a-z_]+)(?=[=!,]|$)", ",".join(part).replace(" ", ""))
    }

    assert named <= set(FAMILIES)
    assert labels <= TARGET_LABELS.union(*(FAMILIES[name].labels for name in named))


@EVERY_ALERT
def test_alerts_ask_for_values_of_labels_that_exist(alert: dict[str, Any]) -> None:
    for label, known in (("period", tuple(Period)), ("service", tuple(Service)), ("role", ("relay", "worker"))):
        for values in re.findall(rf'\b{label}=~?"([^"]+)"', alert["expr"]):
            assert set(values.split("|")) <= set(known)
