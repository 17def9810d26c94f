"""What the suite and the processes under test share: one directory, outside the ledger's and with room of its own.

clock           16 bytes: seconds by which the service's clock is ahead of the machine's, and its uptime
armed/POINT     what is to happen when a process next comes to that fault point: kill, stop, memory, descriptors
struck/POINT    it has happened: `at` (monotonic), pid
nameless        while it is there, no name resolves
journal         one line of JSON a step: what each process did, in its own words
"""

from __future__ import annotations

import json
import mmap
import os
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

CLOCK = struct.Struct("=dd")


class Controls:
    """The suite's side."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        for name in ("armed", "struck"):
            (directory / name).mkdir(parents=True, exist_ok=True)
        (directory / "clock").write_bytes(CLOCK.pack(0.0, 0.0))
        (directory / "journal").touch()
        self.steps: list[tuple[float, float]] = [(time.monotonic(), 0.0)]  # (monotonic, offset from then on)
        self._passed = 0.0

    @property
    def offset(self) -> float:
        return self.steps[-1][1]

    def step_clock(self, seconds: float) -> None:
        """Set the service's clock forward, or back if negative."""
        offset = self.offset + seconds
        with (self.directory / "clock").open("r+b") as file:
            file.write(CLOCK.pack(offset, self._passed))
        self.steps.append((time.monotonic(), offset))

    def pass_time(self, seconds: float) -> None:
        """Have so much time go by for the service, as if the machine had been suspended."""
        self._passed += seconds
        self.step_clock(seconds)

    def set_clock(self, instant: float) -> None:
        """Have the service's clock show this time, UTC seconds, from now on."""
        self.step_clock(instant - time.time() - self.offset)

    def arm(self, point: str, action: str = "kill") -> None:
        """The next process that comes to `point` meets its fate."""
        draft = self.directory / "draft"
        draft.write_text(action)
        draft.rename(self.directory / "armed" / point)

    def disarm(self) -> list[str]:
        """Take back what nobody came to; the points."""
        left = []
        for path in list((self.directory / "armed").iterdir()):
            path.unlink(missing_ok=True)
            left.append(path.name)
        return left

    def struck(self) -> dict[str, int]:
        """Points that were come to, and the pid that did, the latest of each."""
        found = {}
        for path in sorted((self.directory / "struck").iterdir(), key=lambda path: path.stat().st_mtime_ns):
            point, pid, _ = path.name.rsplit(",", 2)
            found[point] = int(pid)
        return found

    def hide_names(self, hidden: bool) -> None:
        """No name resolves while they are hidden."""
        path = self.directory / "nameless"
        if hidden:
            path.touch()
        else:
            path.unlink(missing_ok=True)

    def journal(self) -> list[dict[str, Any]]:
        """All lines so far, by when they happened. One that a kill cut short is left out."""
        lines = list(_lines((self.directory / "journal").read_bytes()))
        return sorted(lines, key=lambda line: float(line["at"]))


def _lines(raw: bytes) -> Iterator[dict[str, Any]]:
    for line in raw.split(b"\n"):
        try:
            yield json.loads(line)
        except ValueError:
            continue


class Probe:
    """The side of a process under test. Opened before fork, and shared: appends are whole lines."""

    def __init__(self, directory: Path) -> None:
        self._armed = str(directory / "armed")
        self._struck = str(directory / "struck")
        self._nameless = str(directory / "nameless")
        with (directory / "clock").open("rb") as file:
            self._clock = mmap.mmap(file.fileno(), CLOCK.size, prot=mmap.PROT_READ)
        self._journal = os.open(directory / "journal", os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)

    @property
    def offset(self) -> float:
        seconds: float = CLOCK.unpack_from(self._clock)[0]
        return seconds

    @property
    def passed(self) -> float:
        """Seconds that have gone by for the service alone."""
        seconds: float = CLOCK.unpack_from(self._clock)[1]
        return seconds

    @property
    def nameless(self) -> bool:
        return os.path.exists(self._nameless)

    def ordered(self, point: str) -> str | None:
        """What is to happen here, once: of all processes that come here, one is told."""
        struck = f"{self._struck}/{point},{os.getpid()},{time.monotonic_ns()}"
        try:
            os.rename(f"{self._armed}/{point}", struck)
        except FileNotFoundError:
            return None
        with open(struck) as file:
            return file.read()

    def note(self, step: str, *, at: float | None = None, **facts: Any) -> None:
        """One line of the journal. `at`: if it was not just now."""
        line = {"at": time.monotonic() if at is None else at, "pid": os.getpid(), "step": step, **facts}
        os.write(self._journal, json.dumps(line).encode() + b"\n")
