"""`aitp demo`: the whole service at work, on this machine alone, in one command.

It starts the demo's servers (task API, authorization server, and a provider that speaks OpenAI's protocol) as one
process, the service itself exactly as an operator would (`aitp run`: supervisord, master, relays, workers, metrics),
in a directory of its own, and judges the run by what the servers saw. Whatever happens, it stops all that it started.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from aitp.demo.documents import tasks_like
from aitp.demo.envfile import write_env_file
from aitp.demo.faults import Fault, FaultKind
from aitp.demo.stopping import hear_no_more, undisturbed
from aitp.demo.verdict import Verdict, judge, lines_of
from aitp.demo.world_process import WorldProcess
from aitp.errors import printable
from aitp.hardening import PR_SET_PDEATHSIG, prctl
from aitp.process.scoreboard import Role, State, glance, role_of
from aitp.settings import PLACEHOLDER_KEY, PROJECT_ROOT, surroundings
from aitp.sources import exported
from aitp.tasks import Place

LOOK_SECONDS = 0.2
HUNT_SECONDS = 0.01
PATIENCE_SECONDS = 120.0  # without any task's progress
QUIET_SECONDS = 10.0  # of them, before its reason is told
TAIL_BYTES = 65_536
STOP_SECONDS = 60.0
LAG_SECONDS = 2.0
# Both are in the embedded Ollama's library.
OLLAMA_EMBEDDER = "nomic-embed-text"
OLLAMA_CHATTER = "qwen3:0.6b"
TOKEN_SECONDS = 20.0


def real_openai() -> dict[str, str]:
    """The settings of the environment that lead to OpenAI; none without a key that it may know."""
    given = exported("OPENAI_API_KEY", "OPENAI_API_KEY_FILE", "OPENAI_BASE_URL")
    if given.get("OPENAI_API_KEY") == PLACEHOLDER_KEY or not {"OPENAI_API_KEY", "OPENAI_API_KEY_FILE"} & given.keys():
        return {}
    return given


@dataclass(frozen=True, slots=True)
class Plan:
    """What was asked for on the command line, and `openai`: settings with a real key (see `real_openai`).

    With them real calls are made and paid for.
    """

    tasks: int = 200
    workers: int = 5
    latency_ms: int = 100
    port: int = 0
    faults: bool = False
    keep: bool = False
    openai: Mapping[str, str] = field(default_factory=dict)
    mode: str = "openai"
    types: tuple[str, ...] = ("text_embedding",)
    hosts: int = 1

    @property
    def pays(self) -> bool:
        """Whether a provider is called that is not the demo's own."""
        return bool(self.openai) and self.mode != "ollama"

    @property
    def kind(self) -> dict[str, Any] | None:
        """What its tasks are like, for `tasks_like`."""
        if self.mode != "openai":
            return {"types": self.types, "embedding_model": OLLAMA_EMBEDDER, "chat_model": OLLAMA_CHATTER}
        return None if self.types == ("text_embedding",) else {"types": self.types}


class Demo:
    """One run: `start` it, and `close` it however far that got."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.port = plan.port or free_port()
        self.killed_worker: int | None = None
        self.killed_host: str | None = None
        self._started = self._moved = time.monotonic()
        self._keep_log = False
        self._begun = ExitStack()
        self._services: list[subprocess.Popen[bytes]] = []

    def start(self) -> None:
        """The servers with their tasks, then the service."""
        with undisturbed():
            self.folder = Path(tempfile.mkdtemp(prefix="aitp-demo-"))
            self._begun.callback(self._clear_folder)
            self.world = self._begun.enter_context(WorldProcess(self._servers()))
        self.documents = list(tasks_like(self.plan.kind, self.plan.tasks))
        self.world.add_documents(self.documents)
        if self.plan.faults:
            self._order_faults()
        self._start_services()

    def _start_services(self) -> None:
        write_env_file(self.env_file, self._settings())
        with undisturbed(), self.log_path.open("wb") as log:
            self._services.append(self._begin(self.env_file, log))
            self._begun.callback(self.stop)

    def _begin(self, env_file: Path, log: IO[bytes]) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-m", "aitp", "run"],
            env={**surroundings(), "AITP_ENV_FILE": str(env_file)},
            cwd=PROJECT_ROOT,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            # A group of its own: Ctrl-C reaches the demo, which stops the service in order.
            start_new_session=True,
            # A demo that is killed can stop nothing any more.
            preexec_fn=end_with_parent,
        )

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def log_path(self) -> Path:
        return self.folder / "aitp.log"

    @property
    def env_file(self) -> Path:
        """Its settings, for commands beside it."""
        return self.folder / "aitp.env"

    @property
    def ledger_path(self) -> Path:
        return self.folder / "data" / "rate_limits.db"

    @property
    def runtime_dir(self) -> Path:
        return self.folder / "run"

    def _servers(self) -> Mapping[str, Any]:
        latency = {"latency_seconds": self.plan.latency_ms / 1000}
        return {
            "openai_api": latency,
            "ollama_api": latency,
            "task_api": {"lag_seconds": LAG_SECONDS},
            "authorization": {"lifetime_seconds": TOKEN_SECONDS},
        }

    def _settings(self) -> Mapping[str, str]:
        settings = {
            **self.world.environment,
            "PROCESSING_MODE": self.plan.mode,
            "SUPPORTED_MODELS": json.dumps([OLLAMA_EMBEDDER, OLLAMA_CHATTER]),
            "CONCURRENCY_LIMIT": str(self.plan.workers),
            "POLLING_INTERVAL_SECONDS": "1",
            "RATE_LIMIT_STORAGE_PATH": str(self.ledger_path),
            "RUNTIME_DIR": str(self.runtime_dir),
            "METRICS_HOST": "127.0.0.1",
            "METRICS_PORT": str(self.port),
            "LOG_FORMAT": "json",
            "CIRCUIT_BREAKER_RECOVERY_SECONDS": "2",
            # High enough to be out of the way, so that they can be seen at work without slowing the demo.
            **{f"RATE_LIMIT_PER_{period}": str(100 * self.plan.tasks) for period in ("MINUTE", "HOUR", "DAY")},
            **{f"RATE_LIMIT_PER_{period}": str(1000 * self.plan.tasks) for period in ("WEEK", "MONTH")},
        }
        if self.plan.openai:
            ours = {name for name in settings if name.startswith("OPENAI_")}
            theirs = dict(self.plan.openai)
            if file := theirs.get("OPENAI_API_KEY_FILE"):
                theirs["OPENAI_API_KEY_FILE"] = os.path.abspath(file)  # the service runs elsewhere
            return {name: value for name, value in settings.items() if name not in ours} | theirs
        # What it would cost: the prices are examples, and so is the bill.
        return settings | {"PRICES": str(PROJECT_ROOT / "etc/prices.example.toml"), "BUDGET_PER_DAY": "100"}

    def _order_faults(self) -> None:
        """Some of everything, early enough to strike in a short run as well."""
        few = max(2, self.plan.tasks // 100)
        # By chance rather than in a row, so that the breakers judge as they would judge a service that stumbles.
        faults = {
            "ollama_api": [
                Fault(path="/api/embed", status=500, probability=0.2, times=3),
                Fault(path="/api/chat", kind=FaultKind.DROP, probability=0.1, times=2),
            ],
            "task_api": [
                Fault(method="PATCH", status=403, skip=5, times=1),
                Fault(method="PATCH", status=429, headers={"Retry-After": "1"}, skip=40, times=1),
                Fault(method="PATCH", status=500, probability=0.05, times=few),
                Fault(method="PATCH", kind=FaultKind.LOSE, probability=0.02, times=few),
                Fault(method="PATCH", kind=FaultKind.DROP, probability=0.02, times=few),
                Fault(method="GET", kind=FaultKind.CUT, skip=1, times=1),
            ],
            "openai_api": [
                Fault(status=429, headers={"Retry-After": "1"}, skip=4, times=1),
                Fault(status=500, probability=0.2, times=3),
                Fault(kind=FaultKind.DROP, probability=0.1, times=2),
                Fault(kind=FaultKind.WRONG_COUNT, skip=9, times=1),
                Fault(kind=FaultKind.GARBAGE, skip=12, times=1),
            ],
            "authorization": [Fault(status=503, skip=1, times=1)],
        }
        for server, ordered in faults.items():
            for fault in ordered:
                self.world.add_fault(server, fault)

    def progress(self) -> Iterator[int]:
        """Tasks that have a result, now and then, until all have one, nothing moves any more, or the service fails."""
        done, self._moved = 0, time.monotonic()
        while done < self.plan.tasks:
            states = self.world.states()
            now_done = states.get("succeeded", 0) + states.get("failed", 0)
            if now_done != done:
                done, self._moved = now_done, time.monotonic()
            yield done
            if time.monotonic() - self._moved > PATIENCE_SECONDS:
                return
            if hunting := self.hunting:
                self.hunt(done)
            try:
                self._services[0].wait(HUNT_SECONDS if hunting else LOOK_SECONDS)
                return
            except subprocess.TimeoutExpired:
                continue

    def obstacle(self) -> str | None:
        """Why nothing has moved for `QUIET_SECONDS`: the last reason in the service's log. None if all is well."""
        if time.monotonic() - self._moved < QUIET_SECONDS:
            return None
        with self.log_path.open("rb") as log:
            log.seek(max(0, log.seek(0, os.SEEK_END) - TAIL_BYTES))
            lines = list(lines_of(log.read()))
        for line in reversed(lines):
            if line.get("level") in ("warning", "error") and "reason" in line:
                return printable(f"{line['event']}: {line['reason']}")
        return None

    @property
    def hunting(self) -> bool:
        """Whether something is to be killed still."""
        return self.plan.faults and self.killed_worker is None

    def hunt(self, done: int) -> None:
        """kill -9 of a worker in the middle of a call, once the work has begun; at the next look if none is in one."""
        records = glance(self.runtime_dir / "scoreboard")
        if not any(record.done for record in records):
            return
        for record in records:
            if record.slot and role_of(record.slot) is Role.WORKER and record.state is State.BUSY:
                self.killed_worker = record.slot
                signal.pidfd_send_signal(_pidfd(record.pid), signal.SIGKILL)
                return

    def verdict(self) -> Verdict:
        """What the servers and the service's own log say of the run. Before the servers are stopped."""
        seconds = time.monotonic() - self._started
        seen_all = not self.plan.pays
        return judge(self.world, self.log_path, self.place, self.documents, seconds, seen_all, self.lost_texts)

    @property
    def place(self) -> Place:
        """Where the ledger is."""
        return self.ledger_path

    @property
    def lost_texts(self) -> int:
        """How many may have been in calls whose process was killed, if that is all that is done to it."""
        return 0

    @property
    def came_up(self) -> bool:
        """Whether the service got as far as its ledger, without which there is nothing to judge."""
        return self.ledger_path.exists()

    def troubles(self) -> list[str]:
        """The last lines of the service's log, whether they are JSON or not."""
        return self.log_path.read_text(errors="replace").splitlines()[-5:]

    @property
    def running(self) -> bool:
        return self._services[0].poll() is None

    def wait(self) -> int:
        """Until the service ends, or Ctrl-C."""
        return self._services[0].wait()

    def stop(self) -> int:
        """Stop the service in order; its exit code, the first that is not 0 if there are several."""
        for service in self._services:
            if service.poll() is None:
                service.terminate()
        return next(filter(None, [self._ended(service) for service in self._services]), 0)

    def _ended(self, service: subprocess.Popen[bytes]) -> int:
        try:
            return service.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            service.kill()
            return service.wait()

    def close(self, *, keep_log: bool) -> None:
        """Stop everything, and leave nothing behind, but for the log if that is wanted."""
        hear_no_more()
        self._keep_log = keep_log
        self._begun.close()

    def _clear_folder(self) -> None:
        if not self._keep_log:
            shutil.rmtree(self.folder, ignore_errors=True)
            return
        for path in self.folder.iterdir():
            if path.suffix == ".env":
                path.unlink()
            elif path.is_dir():
                shutil.rmtree(path, ignore_errors=True)


def end_with_parent() -> None:
    """What a demo that is killed has started is not to go on."""
    prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def _pidfd(pid: int) -> int:
    return os.pidfd_open(pid)


def free_port() -> int:
    """A port of loopback that nobody uses at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
