"""The newcomer's hour, from the README to a running service that is looked at, in a clone whose path is a nuisance."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from aitp.settings import PROJECT_ROOT, surroundings
from tests.docs.clone import Clone
from tests.docs.text import DOCUMENTS, commands
from tests.packaging.test_command import aitp
from tests.ports import free_port
from tests.settings.complete import COMPLETE
from tests.waiting import wait_until


@pytest.fixture
def clone() -> Iterator[Clone]:
    """Not below tmp_path, whose length would leave no room for a socket's name."""
    with tempfile.TemporaryDirectory(prefix="aitp ") as directory:
        yield Clone(Path(directory) / "a newcomer's clone", Path(directory) / "home")


def get(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=10) as answer:
        return bytes(answer.read())


# Commands that go on until they are told to end. Of these the hour begins with the first two.
SERVERS, RUN, WATCH = "bin/aitp demo --servers practice", "bin/aitp run", "bin/aitp status --watch"

# What is not run here, by how it begins, and why.
ELSEWHERE = {
    "sudo": "needs root and systemd: tests/packaging/test_install.py and test_on_systemd.py",
    "bin/test": "it is what runs this",
    "bin/aitp demo": "test_the_demo_keeps_its_promises, below",
    "bin/aitp ledger recover": "wants a service that is stopped: at the end",
}
HOUR = [
    command
    for document in ("README.md", "docs/OPERATING.md", "docs/TROUBLESHOOTING.md")
    for command in commands(PROJECT_ROOT / document)
    if command.block
]


class Hour:
    """One newcomer's terminals: what is typed there, line by line, as the documents have it."""

    def __init__(self, clone: Clone, logs: Path) -> None:
        self.clone = clone
        self.logs = logs
        self.port = free_port()
        self.exported: dict[str, str] = {}
        self.lasting: dict[str, subprocess.Popen[bytes]] = {}

    def log(self, command: str) -> str:
        return (self.logs / command.replace("/", "-")).read_text()

    def type(self, command: str) -> None:
        """A line of a document; it must succeed."""
        if command.startswith("export "):
            name, _, value = command.removeprefix("export ").partition("=")
            self.exported[name] = value
        elif command in (SERVERS, RUN):
            self._start(command)
        elif command == WATCH:
            self._watch()
        elif not command.startswith("curl ") or shutil.which("curl"):
            at = command.replace("/var/backups", str(self.logs)).replace("127.0.0.1:8001", f"127.0.0.1:{self.port}")
            done = self.clone.run("sh", "-c", at, **self.exported)
            assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
            assert "ERROR" not in done.stdout, f"{command}: {done.stdout}"  # of supervisorctl, which exits with 0
            if "supervisorctl" in command:
                wait_until(lambda: b"All is well" in self.served("/"), timeout=60, every=0.2)

    def _start(self, command: str) -> None:
        typed = f"{command} --tasks 20 --port {self.port}" if command == SERVERS else command
        log = self.logs / command.replace("/", "-")
        self.lasting[command] = self.clone.start(*typed.split(), log=log, **self.exported)
        if command == SERVERS:
            wait_until(lambda: "What they saw" in self.log(command), timeout=30)
        else:
            wait_until(lambda: b"All is well" in self.served("/"), timeout=60, every=0.2)
            wait_until(lambda: self.states() == {"succeeded": 20}, timeout=60, every=0.2)

    def _watch(self) -> None:
        view = self.clone.start(*WATCH.split(), log=self.logs / "watch", **self.exported)
        wait_until(lambda: "RUNNING" in (self.logs / "watch").read_text(), timeout=30)
        view.send_signal(signal.SIGINT)
        assert view.wait(20) == 0

    def served(self, path: str) -> bytes:
        try:
            return get(f"http://127.0.0.1:{self.port}{path}")
        except OSError:
            return b""

    def states(self) -> dict[str, int]:
        """Of the tasks, as the task API has them."""
        [summary] = re.findall(r"http\S+/control/summary", self.log(SERVERS))
        return dict(json.loads(get(summary))["states"])

    def end(self, command: str) -> int:
        """Ctrl-C; the exit code."""
        process = self.lasting.pop(command)
        process.send_signal(signal.SIGINT)
        return process.wait(60)

    def leave(self) -> None:
        for command in reversed(list(self.lasting)):
            self.end(command)


@pytest.fixture
def hour(clone: Clone, tmp_path: Path) -> Iterator[Hour]:
    hour = Hour(clone, tmp_path)
    try:
        yield hour
    finally:
        hour.leave()


def test_what_the_documents_have_typed_works_from_the_first_line_to_the_last(hour: Hour) -> None:
    typed = []
    for command in HOUR:
        if command.text in (SERVERS, RUN) or not command.text.startswith(tuple(ELSEWHERE)):
            hour.type(command.text)
            typed.append(command.text)

    assert {SERVERS, RUN, WATCH, "bin/aitp check", "bin/aitp pause", "bin/supervisorctl restart aitp-master"} <= set(
        typed
    )
    counted = hour.served("/metrics").decode()
    assert re.search(r'^ai_tasks_processed_total\{.*"succeeded".*"text_embedding".*\} 20\.0$', counted, re.MULTILINE)
    assert stat.S_IMODE((hour.clone.root / "practice/aitp.env").stat().st_mode) == 0o600
    again = hour.clone.run("bin/aitp", "run", **hour.exported)
    assert again.returncode == 1
    assert "A service runs in this RUNTIME_DIR already" in again.stdout

    assert hour.end(RUN) == 0
    hour.type("bin/aitp ledger recover")
    assert hour.end(SERVERS) == 0


@pytest.mark.parametrize("start", ELSEWHERE)
def test_nothing_is_excused_that_no_document_has(start: str) -> None:
    assert any(command.text.startswith(start) for path in DOCUMENTS for command in commands(path) if command.block)


DEMOS = [command.text for command in HOUR if command.text.startswith("bin/aitp demo") and command.text != SERVERS]


@pytest.mark.slow
@pytest.mark.parametrize("typed", DEMOS)
def test_the_demo_keeps_its_promises(typed: str, clone: Clone, tmp_path: Path) -> None:
    demo = clone.start(*typed.split(), "--tasks", "100", log=tmp_path / "log", TMPDIR=str(clone.home))
    if "--keep" in typed:
        wait_until(lambda: "Running until Ctrl-C" in (tmp_path / "log").read_text(), timeout=90)
        [beside] = re.findall(r"in another terminal: (.*)", (tmp_path / "log").read_text())
        assert clone.run("sh", "-c", beside).stdout.startswith("RUNNING")
        demo.send_signal(signal.SIGINT)

    assert demo.wait(120) == 0, (tmp_path / "log").read_text()
    assert "100 of 100 succeeded" in (tmp_path / "log").read_text()
    assert not list(clone.home.rglob("aitp.env"))


def test_a_directory_with_settings_of_earlier_servers_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "aitp.env").write_text("precious")

    run = aitp("demo", "--servers", str(tmp_path))

    assert run.returncode == 2
    assert f"{tmp_path}/aitp.env is there already" in run.stderr
    assert (tmp_path / "aitp.env").read_text() == "precious"


def test_a_demo_whose_service_cannot_start_ends_and_shows_the_logs_last_lines(tmp_path: Path) -> None:
    deep = tmp_path / ("deep" * 30)  # too deep for supervisord's socket
    deep.mkdir()
    run = subprocess.run(
        [sys.executable, "-m", "aitp", "demo", "--tasks", "1"],
        env={**surroundings(), "TMPDIR": str(deep)},
        cwd=PROJECT_ROOT,
        capture_output=True,
        text=True,
        timeout=90,
    )

    assert (run.returncode, run.stderr) == (1, "")
    assert "WRONG: the service did not start" in run.stdout
    [log] = re.findall(r"^Log: (\S+)$", run.stdout, re.MULTILINE)
    assert "no socket can be made in it" in Path(log).read_text()


@pytest.mark.parametrize("command", ["run", "once"])
@pytest.mark.parametrize("setting", ["RUNTIME_DIR", "RATE_LIMIT_STORAGE_PATH"])
def test_a_place_that_cannot_be_written_to_is_named_in_one_line(command: str, setting: str, tmp_path: Path) -> None:
    if (command, setting) == ("run", "RATE_LIMIT_STORAGE_PATH"):
        command = "master"  # which `run` starts, and whose code it returns
    places = {"RUNTIME_DIR": f"{tmp_path}/run", "RATE_LIMIT_STORAGE_PATH": f"{tmp_path}/data/ledger.db"}

    run = aitp(command, **COMPLETE, **places | {setting: "/proc/nowhere/place"})

    assert run.returncode == 78
    told = run.stderr + run.stdout
    assert f"{setting}=/proc/nowhere/place: this user must be able to write there" in told
    assert "Traceback" not in told


def test_the_command_works_through_a_link_and_from_anywhere(clone: Clone, tmp_path: Path) -> None:
    (tmp_path / "aitp").symlink_to(clone.root / "bin/aitp")

    run = subprocess.run([tmp_path / "aitp", "--version"], cwd="/", env=os.environ, capture_output=True, text=True)

    assert run.stdout.startswith("aitp ")
