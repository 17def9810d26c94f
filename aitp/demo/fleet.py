"""`aitp demo --hosts`: several services on one PostgreSQL, one of which is lost in the middle, by kill -9 of all of it.

The server is Debian's, started as an ordinary user on a socket in the demo's directory, and gone with the demo. The
hosts are services of their own in all that tells hosts apart: name, runtime directory, port.
"""

from __future__ import annotations

import os
import select
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib import import_module
from pathlib import Path

import click
from pydantic import SecretStr

from aitp.demo.command import STOP_SECONDS, Demo, Plan, end_with_parent, free_port
from aitp.demo.envfile import write_env_file
from aitp.demo.stopping import undisturbed
from aitp.errors import ConfigurationError, LedgerError
from aitp.ledger.stats import snapshot
from aitp.process.scoreboard import Role, State, glance, role_of
from aitp.tasks import Fleet

GRACE_SECONDS = 20.0  # the least that a host may be given
BATCH = 4  # texts in a call: enough calls for all, and few texts that are lost with one
SERVER_SECONDS = 60.0
SERVER = {"fsync": "off", "full_page_writes": "off", "shared_buffers": "32MB", "log_min_messages": "fatal"}


def missing() -> str | None:
    """What this machine lacks for it; None if there is all."""
    if programs() is None:
        return "there is no PostgreSQL server on this machine (Debian: apt install postgresql)"
    try:
        import_module("aitp.ledger.postgresql")
    except ConfigurationError as error:
        return error.problems[0]
    return None


class FleetDemo(Demo):
    """One run with several services, the last of which is lost."""

    def __init__(self, plan: Plan) -> None:
        super().__init__(plan)
        self._ports = [self.port, *(free_port() for _ in range(1, plan.hosts))]

    @property
    def hunting(self) -> bool:
        return self.killed_host is None

    @property
    def lost_texts(self) -> int:
        return self.plan.workers * BATCH

    @property
    def place(self) -> Fleet:
        return Fleet(self._url, "aitp", "host-1", GRACE_SECONDS, self.runtime_dir / "fleet", "of the demo")

    @property
    def came_up(self) -> bool:
        try:
            snapshot(self.place)
        except LedgerError:
            return False
        return True

    def _start_services(self) -> None:
        with undisturbed():
            self._url = SecretStr(self._begun.enter_context(_server()))
        common = {
            **self._settings(),
            "LEDGER_URL": self._url.get_secret_value(),
            "HOST_GRACE_SECONDS": str(GRACE_SECONDS),
            "EMBEDDING_BATCH_SIZE": str(BATCH),
        }
        with self.log_path.open("wb") as log:
            for number, port in enumerate(self._ports, 1):
                env_file = self.env_file if number == 1 else self.folder / f"host-{number}.env"
                own = {"HOST_NAME": f"host-{number}", "METRICS_PORT": str(port), "RUNTIME_DIR": str(self._run(number))}
                write_env_file(env_file, common | own)
                with undisturbed():
                    self._services.append(self._begin(env_file, log))
                    if number == 1:
                        self._begun.callback(self.stop)

    def _run(self, number: int) -> Path:
        return self.runtime_dir if number == 1 else self.folder / f"run-{number}"

    def hunt(self, done: int) -> None:
        """kill -9 of all that the last host runs, with a third of the work done: within a call, if it can be."""
        board = self._run(self.plan.hosts) / "scoreboard"
        if done < self.plan.tasks / 3 or not board.exists():
            return
        is_late = done > self.plan.tasks * 2 / 3
        if is_late or any(
            record.slot and role_of(record.slot) is Role.WORKER and record.state is State.BUSY
            for record in glance(board)
        ):
            self.killed_host = f"host-{self.plan.hosts}"
            service = self._services.pop()
            _kill_all(service.pid)
            service.wait()


def _kill_all(pid: int) -> None:
    """A process and all that it has started, none of which gets to know of the others."""
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGSTOP)  # nothing is begun any more
        for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            _kill_all(int(child))
        os.kill(pid, signal.SIGKILL)


def programs() -> Path | None:
    """Where Debian has the newest server's programs; None where it has none."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    return found[-1].parent if found else None


@contextmanager
def _server() -> Iterator[str]:
    """A PostgreSQL of the demo's own; its address. Nothing of it is to survive, so that nothing waits for a disk."""
    found = programs()
    assert found is not None
    is_root = os.geteuid() == 0  # as which neither program runs, and whose own TMPDIR others may not enter
    with tempfile.TemporaryDirectory(prefix="aitp-demo-pg-", dir="/tmp" if is_root else None) as name:
        folder, as_user = Path(name), list[str]()
        if is_root:
            as_user = ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups", "--pdeathsig=INT", "--"]
            shutil.chown(folder, "nobody")
        data = str(folder / "data")
        _done([*as_user, f"{found}/initdb", "-N", "-A", "trust", "-U", "aitp", "-E", "UTF8", "-D", data])
        settings = [f"-c{name}={value}" for name, value in SERVER.items()]
        server = subprocess.Popen(
            [*as_user, f"{found}/postgres", "-D", data, "-k", name, "-clisten_addresses=", *settings],
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            preexec_fn=end_with_parent,
        )
        try:
            until = time.monotonic() + SERVER_SECONDS
            while subprocess.call([f"{found}/pg_isready", "-q", "-h", name], stderr=subprocess.DEVNULL):
                if server.poll() is not None or time.monotonic() > until:
                    raise click.ClickException("--hosts: PostgreSQL does not start on this machine")
                select.select([], [], [], 0.1)
            yield f"postgresql://aitp@/postgres?host={name}"
        finally:
            server.send_signal(signal.SIGINT)
            try:
                server.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                server.kill()
                server.wait()


def _done(command: Sequence[str]) -> None:
    done = subprocess.run(command, cwd="/", stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode:
        raise click.ClickException(f"--hosts: PostgreSQL cannot be set up: {done.stderr.strip()}")
