"""The real service under test: started as an operator would start it, watched from outside, and never left behind.

A `Service` has a directory of its own (settings file, ledger, runtime directory, log), a free port and, for each
start, a session of its own; the servers that it talks to are a process as well (`aitp.demo.world_process`). Every wait
is for a condition. `clear` kills whatever is left in any of its sessions: nothing survives a test.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest

from aitp.demo.world_process import WorldProcess
from aitp.ledger.engine import Place
from aitp.ledger.stats import Snapshot, snapshot
from aitp.process.scoreboard import MASTER, Record, Role, State, glance, role_of
from tests.ports import free_port
from tests.waiting import wait_until

ROOT = Path(__file__).parents[2]
START_SECONDS = 30.0
AT_WORK = frozenset({State.IDLE, State.BUSY})
LOOK_SECONDS = 0.05  # between two looks at a condition: each costs the machine what the service could use


class Service:
    """One ledger's service, through as many starts as a test likes. `module` is what is started as the command aitp,
    by the program `by` if there is one."""

    module = "aitp"
    by: tuple[str, ...] = ()

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.port = free_port()
        self.process: subprocess.Popen[bytes] | None = None
        self._sessions: list[int] = []
        self._others: list[subprocess.Popen[bytes]] = []
        self._world: WorldProcess | None = None
        self._settings: dict[str, object] = {
            "PROCESSING_MODE": "openai",
            "CONCURRENCY_LIMIT": 3,
            "POLLING_INTERVAL_SECONDS": 1,
            "RATE_LIMIT_ENABLED": "false",
            **dict.fromkeys((f"RATE_LIMIT_PER_{period}" for period in ("HOUR", "DAY", "WEEK", "MONTH")), 0),
            "RATE_LIMIT_STORAGE_PATH": directory / "data" / "ledger.db",
            "RUNTIME_DIR": directory / "run",
            "METRICS_HOST": "127.0.0.1",
            "METRICS_PORT": self.port,
            "LOG_FORMAT": "json",
        }

    # The other side, and the settings

    @property
    def world(self) -> WorldProcess:
        assert self._world is not None, "open_world comes first"
        return self._world

    def open_world(self, tasks: int = 0, **servers: Mapping[str, Any]) -> WorldProcess:
        """Start the servers: `open_world(60, openai_api={"latency_seconds": 0.2})`."""
        self._world = WorldProcess({"tasks": tasks, **servers})
        self.configure(**self._world.environment)
        return self._world

    def configure(self, **settings: object) -> None:
        """Write the settings file anew, with these on top of those before. Read at a start, and at a reload."""
        self._settings |= settings
        draft = self.env_file.with_suffix(".new")
        draft.write_text("".join(f"{name}={_quoted(value)}\n" for name, value in self._settings.items()))
        draft.rename(self.env_file)

    def setting(self, name: str) -> int:
        """One of them as a number; RELAY_PROCESSES has a default."""
        return int(str(self._settings.get(name, {"RELAY_PROCESSES": 2}.get(name))))

    # Start and stop

    def start(self, command: str = "master", *, wait: bool = True, **settings: object) -> None:
        """Start `aitp master` (or `run`), and wait until every child is at work."""
        self.configure(**settings)
        if command == "run":
            self._see_that_programs_can_start()
        self.process = self._spawn(command)
        if wait:
            self.await_crew()

    def run(self, *command: str, timeout: float = 60.0, **settings: object) -> int:
        """Run a command that ends by itself; its exit code."""
        self.configure(**settings)
        return self._spawn(*command).wait(timeout)

    def ask(self, *command: str) -> tuple[int, str]:
        """Run a command for what it prints: exit code and standard output."""
        done = subprocess.run(
            [sys.executable, "-m", "aitp", *command],
            env=self.environment(),
            cwd=self.directory,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert not done.stderr or done.returncode, done.stderr
        return done.returncode, done.stdout

    def start_metrics(self) -> None:
        """`aitp metrics` beside a master of its own; `aitp run` brings one itself."""
        self._others.append(self._spawn("metrics"))
        wait_until(lambda: self.get("/health") is not None, START_SECONDS)

    def stop(self, timeout: float = 60.0) -> int:
        """TERM, and the exit code."""
        assert self.process is not None
        self.process.terminate()
        return self.process.wait(timeout)

    def signal(self, number: signal.Signals) -> None:
        """Signal what was started: the master, or supervisord."""
        assert self.process is not None
        self.process.send_signal(number)

    def _spawn(self, *command: str) -> subprocess.Popen[bytes]:
        with self.log_path.open("ab") as log:
            process = subprocess.Popen(
                [*self.by, sys.executable, "-m", self.module, *command],
                env=self.environment(),
                cwd=self.directory,  # not the project's: it is to work from anywhere
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self._sessions.append(process.pid)
        return process

    def _see_that_programs_can_start(self) -> None:
        see_that_programs_can_start()

    def environment(self) -> dict[str, str]:
        # The programs of `aitp run` are started by bin/aitp: they are to use these packages as well.
        return {
            "PATH": os.environ["PATH"],
            # Behind it what a test of another package has there.
            "PYTHONPATH": ":".join([str(ROOT), *filter(None, os.environ.get("PYTHONPATH", "").split(":")[1:])]),
            "AITP_VENV": sys.prefix,
            "AITP_ENV_FILE": str(self.env_file),
        }

    # Watching

    @property
    def env_file(self) -> Path:
        return self.directory / "settings.env"

    @property
    def ledger_path(self) -> Path:
        return self.directory / "data" / "ledger.db"

    @property
    def runtime_dir(self) -> Path:
        return self.directory / "run"

    @property
    def log_path(self) -> Path:
        return self.directory / "log"

    def log(self) -> str:
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    def said(self, event: str, **facts: object) -> list[dict[str, Any]]:
        """Lines of the log that begin with `event` and hold these facts."""
        found = []
        for line in self.log().splitlines():
            if f'"event":"{event}' in line:
                told = json.loads(line)
                if facts.items() <= told.items():
                    found.append(told)
        return found

    def board(self) -> dict[int, Record]:
        """The scoreboard."""
        return {record.slot: record for record in glance(self.runtime_dir / "scoreboard")}

    def crew(self, role: Role | None = None) -> list[Record]:
        """The children as the scoreboard has them."""
        return [
            record
            for slot, record in self.board().items()
            if slot != MASTER and (role is None or role_of(slot) is role)
        ]

    @property
    def place(self) -> Place:
        """Where its ledger is."""
        return self.ledger_path

    def snapshot(self) -> Snapshot:
        return snapshot(self.place)

    def pids(self) -> list[int]:
        """Every living process of every session that was started here."""
        return [pid for pid, session in _sessions_of_all() if session in self._sessions]

    def get(self, path: str) -> tuple[int, str] | None:
        """What the metrics process answers; None if it does not."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=10) as response:
                return response.status, response.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()
        except OSError:
            return None

    # Waiting

    def wait(self, condition: Callable[[], Any], timeout: float = 30.0, what: str = "") -> Any:
        """`wait_until`, with the end of the log in the failure."""
        try:
            return wait_until(condition, timeout, LOOK_SECONDS)
        except AssertionError as error:
            raise AssertionError(f"{what or error}\n{self.told()}") from None

    def told(self) -> str:
        """How things stand, for a failure's message."""
        summary = self._world.summary() if self._world is not None else None
        return f"{summary}\n{self.log()[-6000:]}"

    def await_crew(self) -> None:
        """Until as many children as the settings say have taken their slots over."""

        def at_work() -> bool:
            assert self.process is not None
            assert self.process.poll() is None, f"it ended with {self.process.returncode}\n{self.log()[-6000:]}"
            master, crew = self.board().get(MASTER), self.crew()
            expected = self.setting("CONCURRENCY_LIMIT") + self.setting("RELAY_PROCESSES")
            return (
                master is not None
                and master.state is State.RUNNING
                and alive(master.pid)
                and len(crew) == expected
                and all(child.state in AT_WORK and alive(child.pid) for child in crew)
            )

        self.wait(at_work, START_SECONDS, "not all children are at work")

    def await_states(self, timeout: float = 30.0, **states: int) -> None:
        """Until the task API has exactly so many tasks in each state."""
        self.wait(lambda: self.world.states() == states, timeout, f"tasks are not {states}")

    def await_bought(self, count: int, timeout: float = 30.0) -> None:
        """Until the provider has been paid for so many different texts."""
        self.wait(lambda: self.world.summary().texts_bought >= count, timeout, f"{count} texts are not bought")

    def await_idle(self, timeout: float = 30.0) -> None:
        """Until nobody works and the ledger has nothing claimed or to deliver."""

        def idle() -> bool:
            state = self.snapshot()
            resting = all(child.state is State.IDLE for child in self.crew())
            return resting and state.claimed == state.finished == 0

        self.wait(idle, timeout, "still at work")

    # Violence

    def busy(self, role: Role) -> Record:
        """A child of this role in the middle of a call, once there is one."""

        def at_call() -> Record | None:
            found = [child for child in self.crew(role) if child.state is State.BUSY and alive(child.pid)]
            # Round by round another one: who has worked least was killed last.
            return max(found, key=lambda child: child.done, default=None)

        victim: Record = self.wait(at_call, what=f"no {role.value} is busy")
        return victim

    def kill(self, pids: Iterable[int]) -> None:
        """kill -9, all of them before any of them can answer."""
        for pid in list(pids):
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass

    def kill_everything(self) -> None:
        """kill -9 of every process at one time, and wait until they are gone."""
        while found := self.pids():
            self.kill(found)
            wait_until(lambda: not any(map(alive, found)))
        if self.process is not None:
            self.process.wait(10)

    def clear(self) -> None:
        """Leave nothing behind."""
        self.kill_everything()
        for process in self._others:
            process.wait(10)
        if self._world is not None:
            self._world.close()


def see_that_programs_can_start() -> None:
    """bin/aitp would install packages into an environment that it did not make; a test is not to do that."""
    command = ["sh", "-c", '. "$root/bin/venv.sh"; installed requirements.txt']
    environment = {"PATH": os.environ["PATH"], "AITP_VENV": sys.prefix, "root": str(ROOT)}
    installed = subprocess.run(command, env=environment, check=False)
    assert installed.returncode == 0, f"{sys.prefix} was not made by bin/aitp or bin/test: run the tests by bin/test"


def alive(pid: int) -> bool:
    """Whether there is such a process, other than as a zombie."""
    return _stat(pid)[0] not in ("Z", "X", "")


def threads(pid: int) -> int:
    """How many threads a process has."""
    return len(list(Path(f"/proc/{pid}/task").iterdir()))


def private_megabytes(pid: int) -> float:
    """What a process would give back if it ended: memory that no other process shares."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except PermissionError:
        pytest.skip("only root can look into the memory of aitp's processes (aitp/hardening.py)")
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private_")) / 1024


def _sessions_of_all() -> list[tuple[int, int]]:
    """(pid, session) of every process that is alive."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            state, session = _stat(int(entry.name))
            if state not in ("Z", "X", ""):
                found.append((int(entry.name), session))
    return found


def _stat(pid: int) -> tuple[str, int]:
    """State and session of a process (proc(5), stat); the state is empty if there is none."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return "", 0
    return fields[0], int(fields[3])


def _quoted(value: object) -> str:
    return "'" + str(value).replace("\\", "\\\\").replace("'", "\\'") + "'"
