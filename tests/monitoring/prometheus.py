"""A real Prometheus under test: it scrapes every other second, and its clock for alerts runs sixty times as fast.

Sixty times: the rules are a copy of docker/alerts.yml in which minutes are seconds, in `for:`, in ranges, and in spans
written as `5 * 60` or `2 * 3600` inside expressions.
"""

from __future__ import annotations

import json
import re
import subprocess
import urllib.parse
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from aitp.settings import PROJECT_ROOT
from tests.docs.text import commands
from tests.ports import free_port
from tests.waiting import wait_until

SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
PACE = 60


def hurried(rules: str) -> str:
    """The rules with every span of time a sixtieth of what it was. Raises ValueError for one that is too short."""
    rules = re.sub(r"(?<=\* )(60|3600)\b", lambda span: str(int(span[1]) // PACE), rules)
    return re.sub(r"(?<=for: )(\d+)([smhd])|(?<=\[)(\d+)([smhd])(?=\])", _hurried, rules)


def _hurried(span: re.Match[str]) -> str:
    count, unit = span[1] or span[3], span[2] or span[4]
    seconds, rest = divmod(int(count) * SECONDS[unit], PACE)
    if rest:
        raise ValueError(f"{span[0]} is not a whole number of minutes")
    return f"{seconds}s"


def watching(directory: Path, targets: Sequence[int]) -> Prometheus:
    """A Prometheus that watches these ports of loopback, all of the job aitp."""
    (directory / "alerts.yml").write_text(hurried((PROJECT_ROOT / "docker/alerts.yml").read_text()))
    (directory / "prometheus.yml").write_text(
        json.dumps(
            {
                "global": {"scrape_interval": "2s", "scrape_timeout": "2s", "evaluation_interval": "500ms"},
                "rule_files": ["alerts.yml"],
                "scrape_configs": [
                    {"job_name": "aitp", "static_configs": [{"targets": [f"127.0.0.1:{port}" for port in targets]}]}
                ],
            }
        )
    )
    return Prometheus(directory)


def documented_steps(directory: Path, *, token: Path | None = None) -> None:
    """Take the steps of docs/OPERATING.md with `directory` as Debian's /etc/prometheus; with `token`, a file, all of
    them, else those of a service without METRICS_TOKEN.
    """
    steps = [
        command.text.removeprefix("sudo ")
        for command in commands(PROJECT_ROOT / "docs/OPERATING.md")
        if "/etc/prometheus" in command.text
    ]
    assert len(steps) == 4
    for step in steps if token else steps[:2]:
        # The group comes with Debian's package; here only whoever takes the steps is to read it.
        step = step.replace("-g prometheus ", "").replace("/etc/aitp/credentials/METRICS_TOKEN", str(token))
        subprocess.run(["sh", "-c", step.replace("/etc/prometheus", str(directory))], cwd=PROJECT_ROOT, check=True)


class Prometheus:
    """Debian's `prometheus`, with the prometheus.yml in `directory`. A context manager."""

    def __init__(self, directory: Path) -> None:
        self.port = free_port()
        self._log = (directory / "prometheus.log").open("wb")
        self._process = subprocess.Popen(
            [
                "prometheus",
                f"--config.file={directory / 'prometheus.yml'}",
                f"--storage.tsdb.path={directory / 'tsdb'}",
                f"--web.listen-address=127.0.0.1:{self.port}",
            ],
            cwd=directory,
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
        )

    def __enter__(self) -> Prometheus:
        wait_until(self._is_ready, timeout=30)
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait(30)
        self._log.close()

    def query(self, expr: str) -> list[dict[str, Any]]:
        """What an instant query returns: series with their `metric` and `value`. A bad query raises HTTPError."""
        answer = self._get("/api/v1/query", query=expr)
        assert answer["data"]["resultType"] == "vector", expr
        return list(answer["data"]["result"])

    def firing(self, port: int | None = None) -> dict[str, dict[str, str]]:
        """The alerts that fire (for one target, if it is named), each with its annotations as they are sent."""
        return {
            alert["labels"]["alertname"]: alert["annotations"]
            for alert in self._get("/api/v1/alerts")["data"]["alerts"]
            if alert["state"] == "firing" and (port is None or alert["labels"].get("instance") == f"127.0.0.1:{port}")
        }

    def _is_ready(self) -> bool:
        assert self._process.poll() is None, f"Prometheus ended with {self._process.returncode}"
        try:
            return bool(self._get("/api/v1/status/runtimeinfo"))
        except OSError:
            return False

    def _get(self, path: str, **parameters: str) -> Any:
        query = urllib.parse.urlencode(parameters)
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}?{query}", timeout=10) as response:
            return json.load(response)
