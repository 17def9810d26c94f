"""The stage: the service under test with its controls, its world and a disk of its own, and every way to do it harm."""

from __future__ import annotations

import io
import os
import random
import resource
import shutil
import signal
import subprocess
import time
from collections.abc import Iterable
from pathlib import Path

from aitp.demo.faults import Fault
from aitp.demo.http import HttpServer
from aitp.demo.wire import Request, Response
from aitp.process.scoreboard import MASTER, Record, Role
from tests.chaos.controls import Controls
from tests.chaos.powercut import cut_power
from tests.end_to_end.running import Service, alive
from tests.waiting import wait_until

DISK_MEGABYTES = 160  # above the reserve that the ledger keeps free


class Elsewhere(HttpServer):
    """Where redirects lead to: a host that must never see a token or a key."""

    def answer(self, request: Request, fault: Fault | None) -> Response:
        return Response(200, b"[]")

    def error(self, status: int, request: Request) -> Response:
        return Response(status)


class Stage(Service):
    """A service whose processes have fault points. `deaths`: (pid, monotonic) of all that were killed here."""

    module = "tests.chaos.stack"

    def __init__(self, directory: Path, *, small_disk: bool = False, clock_only: bool = False) -> None:
        """`small_disk`: ledger and runtime directory on a file system of their own. `clock_only`: without points and
        journal, at full speed."""
        super().__init__(directory)
        self._clock_only = clock_only
        self.step_seconds = 60.0  # that a step other than a call may take
        self.controls = Controls(directory / "controls")
        self.elsewhere = Elsewhere()
        self.elsewhere.start()
        self.deaths: list[tuple[int, float]] = []
        self.power_cuts: list[float] = []
        self.troubles: list[tuple[float, float]] = []
        self.frames_lost = 0
        self.disk: Path | None = None
        if small_disk:
            self._mount(directory / "disk")

    def _mount(self, place: Path) -> None:
        place.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", f"size={DISK_MEGABYTES}m", "tmpfs", str(place)]
        if subprocess.run(command, capture_output=True, check=False).returncode == 0:
            self.disk = place
            self.configure(RATE_LIMIT_STORAGE_PATH=self.ledger_path, RUNTIME_DIR=self.runtime_dir)

    @property
    def ledger_path(self) -> Path:
        return (self.disk or self.directory) / "data" / "ledger.db"

    @property
    def runtime_dir(self) -> Path:
        return (self.disk or self.directory) / "run"

    def environment(self) -> dict[str, str]:
        clock_only = {"CHAOS_CLOCK_ONLY": "1"} if self._clock_only else {}
        patience = {"CHAOS_STEP_SECONDS": str(self.step_seconds)}
        return {**super().environment(), "CHAOS_CONTROLS": str(self.controls.directory), **clock_only, **patience}

    def _see_that_programs_can_start(self) -> None:
        """They are started by this very Python, not by bin/aitp."""

    # Processes

    def note_deaths(self, pids: Iterable[int]) -> None:
        now = time.monotonic()
        self.deaths += [(pid, now) for pid in pids]

    def kill(self, pids: Iterable[int]) -> None:
        """kill -9, and remember it."""
        pids = list(pids)
        super().kill(pids)
        self.note_deaths(pids)

    def one_of(self, role: Role, chance: random.Random) -> Record | None:
        """A living child of this role, one in a call if there is any."""
        living = [child for child in self.crew(role) if alive(child.pid)]
        busy = [child for child in living if child.task_id]
        return chance.choice(busy or living) if living else None

    def master_pid(self) -> int | None:
        record = self.board().get(MASTER)
        return record.pid if record is not None and alive(record.pid) else None

    def programs(self, command: str) -> list[int]:
        """Processes of ours started as `COMMAND`."""
        found = []
        for pid in self.pids():
            try:
                words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            except (FileNotFoundError, ProcessLookupError):
                continue
            if command.encode() in words:
                found.append(pid)
        return found

    def restart(self) -> None:
        """Start it again, whatever is left of the one before."""
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self.start("run", wait=False)

    def cut_power(self, chance: random.Random) -> None:
        """Everything stops at once, and the disk keeps what it had for certain, and a part of the rest."""
        pids = self.pids()
        for pid in pids:
            _signal(pid, signal.SIGSTOP)  # all at one moment
        self.kill_everything()
        self.power_cuts.append(time.monotonic())
        self.frames_lost += cut_power(self.ledger_path, self.controls.journal(), chance)
        for path in self._unsynced():
            if chance.random() < 0.3:
                path.write_bytes(path.read_bytes()[: chance.choice((0, path.stat().st_size // 2))])

    def _unsynced(self) -> list[Path]:
        """Files of the runtime directory: nobody waits for the disk with them."""
        return [path for path in self.runtime_dir.rglob("*") if path.is_file()] if self.runtime_dir.exists() else []

    # The machine

    def fill_disk(self, filled: bool) -> bool:
        """Take all room, or give it back; False if this is not a disk of our own."""
        if self.disk is None:
            return False
        ballast = self.disk / "ballast"
        ballast.unlink(missing_ok=True)
        if filled:
            with ballast.open("wb", buffering=0) as file:
                for piece in (bytes(1 << 20), bytes(4096)):
                    _write_until_full(file, piece)
        return True

    def restrict(self, pids: Iterable[int], limit: int, value: int | None) -> None:
        """Bind living processes to a resource limit (None: set them free again)."""
        for pid in pids:
            try:
                _, hard = resource.prlimit(pid, limit)
                resource.prlimit(pid, limit, (hard if value is None else value, hard))
            except (ProcessLookupError, PermissionError):
                continue

    def open_files(self, pid: int) -> int:
        try:
            return len(list(Path(f"/proc/{pid}/fd").iterdir()))
        except (FileNotFoundError, ProcessLookupError):
            return 0

    def address_space(self, pid: int) -> int:
        """Bytes that a process has mapped."""
        try:
            return int(Path(f"/proc/{pid}/statm").read_text().split()[0]) * resource.getpagesize()
        except (FileNotFoundError, ProcessLookupError):
            return 0

    def clear(self) -> None:
        """Leave nothing behind."""
        self.controls.hide_names(False)
        for pid in self.pids():
            _signal(pid, signal.SIGCONT)
        super().clear()
        self.elsewhere.close()
        if self.disk is not None:
            for name in ("data", "run"):  # for whoever looks into a failure
                if (self.disk / name).exists():
                    sockets = shutil.ignore_patterns("*.sock*")
                    shutil.copytree(self.disk / name, self.directory / name, ignore=sockets, dirs_exist_ok=True)
            wait_until(
                lambda: subprocess.run(["umount", str(self.disk)], check=False, capture_output=True).returncode == 0
            )
            self.disk = None


def _write_until_full(file: io.FileIO, piece: bytes) -> None:
    try:
        while True:
            file.write(piece)
    except OSError:
        pass


def _signal(pid: int, number: signal.Signals) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass
