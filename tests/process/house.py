"""Running toy masters from tests, and looking at what becomes of them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from aitp.process.scoreboard import MASTER, Record, State, glance
from tests.ports import free_port
from tests.waiting import wait_until

ROOT = Path(__file__).parents[2]
QUICK = {"tick_seconds": 0.2, "slack_seconds": 0.5, "takeover_seconds": 0.2, "grace_margin_seconds": 0.1}


class House:
    """One ledger's directory, and the masters that are started on it. Nothing of it survives `clear`."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.env_file = directory / "env"
        self.masters: list[subprocess.Popen[bytes]] = []
        self.port = free_port()
        self.surroundings: dict[str, str] = {}  # more of the environment
        self.settings(CONCURRENCY_LIMIT=2, RELAY_PROCESSES=1, SHUTDOWN_GRACE_SECONDS=10)

    def settings(self, **values: object) -> None:
        """Write the settings file that masters read, now and at a reload."""
        fixed = {
            "API_BASE_URL": "http://127.0.0.1:9",
            "OAUTH2_TOKEN_URL": "http://127.0.0.1:9/token",
            "OAUTH2_CLIENT_ID": "toy",
            "OAUTH2_CLIENT_SECRET": "toy-secret",
            "OPENAI_API_KEY": "your_openai_api_key_here",
            "RATE_LIMIT_STORAGE_PATH": self.directory / "data" / "ledger.db",
            "RUNTIME_DIR": self.directory / "run",
            "METRICS_PORT": self.port,
        }
        self.env_file.write_text("".join(f"{name}={value}\n" for name, value in {**fixed, **values}.items()))

    def environment(self) -> dict[str, str]:
        ours = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "AITP_ENV_FILE": str(self.env_file)}
        return {**ours, **self.surroundings}

    def start(self, *words: str, ready: bool = True, wrapper: Iterable[str] = (), **timings: float) -> Any:
        """Start a master with toy children; `wrapper` is a command to run it by."""
        patience = [f"{name}={value}" for name, value in {**QUICK, **timings}.items()]
        command = [*wrapper, sys.executable, "-m", "tests.process.toys", str(self.directory), *words, *patience]
        with (self.directory / "log").open("ab") as log:
            master = subprocess.Popen(command, env=self.environment(), stdout=log, stderr=log, start_new_session=True)
        self.masters.append(master)
        if ready:
            wait_until(lambda: master.poll() is not None or (self.roles() and self.crew_is(State.IDLE)))
            assert master.poll() is None, self.log()
        return master

    def order(self, name: str, text: str = "") -> None:
        draft = self.directory / f"draft of {name}"
        draft.write_text(text)
        draft.rename(self.directory / name)

    def events(self, event: str) -> list[dict[str, Any]]:
        try:
            *lines, _ = (self.directory / "events").read_text().split("\n")  # the last one may not be whole yet
        except FileNotFoundError:
            return []
        return [told for line in lines if (told := json.loads(line))["event"] == event]

    def await_events(self, event: str, count: int = 1, timeout: float = 10) -> list[dict[str, Any]]:
        try:
            return wait_until(lambda: found if len(found := self.events(event)) >= count else None, timeout) or []
        except AssertionError:
            raise AssertionError(f"{len(self.events(event))} of {count} '{event}':\n{self.log()}") from None

    def log(self) -> str:
        return (self.directory / "log").read_text()

    @property
    def scoreboard(self) -> Path:
        return self.directory / "run" / "scoreboard"

    def board(self) -> dict[int, Record]:
        return {record.slot: record for record in glance(self.scoreboard)}

    def state_of(self, slot: int) -> State | None:
        """What is told of it; None while nobody tells, as between two masters."""
        return record.state if (record := self.board().get(slot)) else None

    def roles(self) -> dict[int, Record]:
        """The children, as the scoreboard has them, once the master has started all."""
        board = self.board()
        ready = MASTER in board and board[MASTER].state is State.RUNNING
        return {slot: record for slot, record in board.items() if slot != MASTER} if ready else {}

    def crew_is(self, state: State) -> bool:
        expected = dict(line.split("=", 1) for line in self.env_file.read_text().splitlines())
        count = int(expected["CONCURRENCY_LIMIT"]) + int(expected["RELAY_PROCESSES"])
        roles = self.roles()
        return len(roles) == count and all(record.state is state for record in roles.values())

    def pids(self) -> dict[int, int]:
        return {slot: record.pid for slot, record in self.roles().items()}

    def clear(self) -> None:
        for master in self.masters:
            with suppress(ProcessLookupError):
                os.killpg(master.pid, signal.SIGKILL)  # its session: it and all that it forked
            master.kill()  # one that has no session yet
            master.wait()


class Stage(House):
    """A house with a supervisord configuration: the project's, but for commands and patience."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.configuration = directory / "etc" / "supervisord.conf"
        self.configuration.parent.mkdir()
        text = (ROOT / "etc" / "supervisord.conf").read_text()
        stage = f"{sys.executable} -m tests.process.stage"
        text = text.replace('"%(here)s/../bin/aitp"', f"{stage} {directory}")
        assert "bin/aitp" not in text
        self.configuration.write_text(text)

    RUN = (sys.executable, "-m", "tests.process.stage", "run")

    def play(self, *command: str, output: Any = None) -> Any:
        with (self.directory / "log").open("ab") as log:
            out = output or log
            process = subprocess.Popen(command, env=self.environment(), stdout=out, stderr=out, start_new_session=True)
        self.masters.append(process)
        return process

    def run(self) -> Any:
        return self.play(*self.RUN, str(self.configuration))

    def control(self, *words: str, patience: float = 30) -> str:
        """What supervisorctl answers."""
        server = f"unix://{self.directory}/run/supervisor.sock"
        command = [sys.executable, "-m", "supervisor.supervisorctl", "-s", server, *words]
        done = subprocess.run(command, env=self.environment(), capture_output=True, text=True, timeout=patience)
        return done.stdout

    def starts(self, program: str) -> list[int]:
        try:
            return [int(line) for line in (self.directory / f"starts of {program}").read_text().split()]
        except FileNotFoundError:
            return []

    def await_service(self) -> None:
        wait_until(lambda: self.crew_is(State.IDLE) and self.starts("metrics"), timeout=20)

    def processes(self) -> list[int]:
        return [pid for pid in (*self.starts("master"), *self.starts("metrics"), *self.pids().values()) if alive(pid)]

    def clear(self) -> None:
        super().clear()
        for pid in self.processes():  # supervisord gives each program a process group of its own
            os.kill(pid, signal.SIGKILL)


def alive(pid: int) -> bool:
    """Whether there is such a process, other than as a zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
