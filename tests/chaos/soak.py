"""`python -m tests.chaos.soak --minutes M`: full speed with faults, and whatever could grow is watched.

`bin/test --soak` is this. The service's clock goes a day in a quarter second, so that what is kept for a month (the
memory of the limits), a day (the cache, reusable results) or an hour comes and goes many times over: sizes have to
settle. Workers and relays are killed all the time, but for the first of each, whose memory and descriptors tell of
leaks. Exit code 1 if anything grows or is lost.
"""

from __future__ import annotations

import argparse
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aitp.demo.faults import Fault, FaultKind
from aitp.process.scoreboard import MASTER, Role, slots_of
from tests.chaos.flatness import Bound, Finding, judge
from tests.chaos.stage import Stage

WORKERS, RELAYS = 4, 2
SETTINGS: dict[str, Any] = {
    "CONCURRENCY_LIMIT": WORKERS,
    "RELAY_PROCESSES": RELAYS,
    "POLLING_INTERVAL_SECONDS": 0.5,
    "REQUEST_TIMEOUT": 2,
    "OPENAI_TIMEOUT": 2,
    "RETRY_BACKOFF_FACTOR": 1,
    "MAX_RETRIES": 100,
    "MAX_TASK_CRASHES": 100,
    "CIRCUIT_BREAKER_RECOVERY_SECONDS": 0.5,
    "LOG_LEVEL": "ERROR",
}
BACKLOG, PART = 500, 250
SAMPLE_SECONDS = 0.25
A_DAY = 86_400.0
KILL_SECONDS = 1.5
SCRAPE_SECONDS = 5.0
FORGET_SECONDS = 5.0

# A machine that has much else to do needs longer until the ledger has come to its size.
LEAST_TASKS, LONGEST = 14_000, 5.0
# Of the ledger most are results that are kept for duplicates: by shorter ones it comes to its size within seconds.
SHORT_TASKS, SHORT = 3_000, {"EMBEDDING_DIMENSIONS": 64}

MEGABYTE = float(1 << 20)
BOUNDS: Mapping[str, Bound] = {
    "memory of": Bound(growth=3.0, most=120.0),  # MB
    "descriptors of": Bound(growth=1.0, most=60.0),
    "ledger, MB": Bound(growth=4.0),
    "log of the ledger, MB": Bound(growth=4.0, most=40.0),
    "runtime directory, kB": Bound(growth=64.0),
    "files in the runtime directory": Bound(growth=0.5, most=80.0),
}

# Few enough for full speed, for as long as it lasts.
FAULTS: Mapping[str, tuple[Fault, ...]] = {
    "openai_api": (
        Fault(status=500, probability=0.01),
        Fault(status=429, headers={"Retry-After": "1"}, probability=0.002),
        Fault(kind=FaultKind.RESET_IN_BODY, probability=0.005),
        Fault(kind=FaultKind.HANG, probability=0.002),
        Fault(kind=FaultKind.WRONG_COUNT, probability=0.01),
        Fault(kind=FaultKind.GARBAGE, probability=0.005),
    ),
    "task_api": (
        Fault(method="PATCH", status=500, probability=0.005),
        Fault(method="PATCH", kind=FaultKind.LOSE, probability=0.002),
        Fault(kind=FaultKind.RESET, probability=0.002),
        Fault(kind=FaultKind.CUT, method="GET", probability=0.05),
        Fault(kind=FaultKind.TOO_LONG, probability=0.002),
    ),
    "authorization": (Fault(status=503, probability=0.1),),
}


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a soak went."""

    findings: list[Finding]
    tasks: int
    seconds: float
    days: float
    kills: int
    lost: str  # empty: nothing was

    @property
    def good(self) -> bool:
        return not self.lost and all(finding.flat for finding in self.findings)

    def __str__(self) -> str:
        rows = [f"{'':44}{'first':>10}{'last':>10}{'most':>10}{'growth':>10}{'allowed':>10}"]
        for each in self.findings:
            figures = "".join(f"{n:10.2f}" for n in (each.first, each.last, each.peak, each.growth, each.bound.growth))
            rows.append(f"{each.name:44}{figures}{'' if each.flat else '  GROWS'}")
        speed = self.tasks / self.seconds
        rows.append(
            f"{self.tasks} tasks in {self.seconds:.0f} s ({speed:.0f} a second), {self.days:.0f} days on its clock,"
            f" {self.kills} kills"
        )
        rows.append(self.lost or "nothing was lost")
        return "\n".join(rows)


def soak(seconds: float, folder: Path, seed: int = 1, *, short: bool = False) -> Outcome:
    """Keep the service busy for so long; a short one has short results."""
    stage = Stage(folder, clock_only=True)
    chance = random.Random(seed)
    try:
        stage.open_world(
            BACKLOG,
            openai_api={"latency_seconds": 0.02},
            task_api={"keep_results": False, "honour_limit": True},
            authorization={"lifetime_seconds": 3600.0},
        )
        for server, faults in FAULTS.items():
            for fault in faults:
                stage.world.add_fault(server, fault)
        stage.start("run", **SETTINGS | (SHORT if short else {}))
        return _Soak(stage, chance).keep_on(seconds, SHORT_TASKS if short else LEAST_TASKS)
    finally:
        stage.clear()


class _Soak:
    """One soak: what was begun, and what was seen so far."""

    def __init__(self, stage: Stage, chance: random.Random) -> None:
        self._stage = stage
        self._chance = chance
        self._added = BACKLOG
        self._kills = 0
        self._forgotten = 0
        self._samples: list[tuple[float, dict[str, float]]] = []

    def keep_on(self, seconds: float, least: int) -> Outcome:
        began = time.monotonic()
        due = dict.fromkeys(("kill", "scrape", "forget"), 0.0)
        every = {"kill": KILL_SECONDS, "scrape": SCRAPE_SECONDS, "forget": FORGET_SECONDS}
        while (now := time.monotonic() - began) < seconds or (self._added < least and now < LONGEST * seconds):
            self._feed()
            self._samples.append((now, self._look()))
            self._stage.controls.pass_time(A_DAY)
            for deed, moment in due.items():
                if now >= moment:
                    due[deed] = now + every[deed]
                    getattr(self, f"_{deed}")()
            time.sleep(max(0.0, SAMPLE_SECONDS - (time.monotonic() - began - now)))
        lost = self._come_to_an_end()
        findings = judge(self._samples, BOUNDS)
        days = self._stage.controls.offset / A_DAY
        return Outcome(findings, self._added, time.monotonic() - began, days, self._kills, lost)

    def _feed(self) -> None:
        while self._stage.world.states().get("pending", 0) < BACKLOG:
            self._stage.world.add_tasks(PART)
            self._added += PART

    def _kill(self) -> None:
        role = self._chance.choice((Role.WORKER, Role.RELAY))
        veteran = slots_of(role, 1)[0]
        victims = [child.pid for child in self._stage.crew(role) if child.slot != veteran]
        if victims:
            self._stage.kill([self._chance.choice(victims)])
            self._kills += 1

    def _scrape(self) -> None:
        for path in ("/metrics", "/", "/health", "/ready"):
            self._stage.get(path)

    def _forget(self) -> None:
        """The other side keeps no history either."""
        self._forgotten += self._stage.world.forget_ended()

    def _look(self) -> dict[str, float]:
        figures: dict[str, float] = {}
        for name, pid in self._veterans().items():
            try:
                figures[f"memory of {name}, MB"] = _anonymous_megabytes(pid)
                figures[f"descriptors of {name}"] = float(len(list(Path(f"/proc/{pid}/fd").iterdir())))
            except OSError:
                continue  # it is not there at the moment
        ledger = self._stage.ledger_path
        figures["ledger, MB"] = _size(ledger) / MEGABYTE
        figures["log of the ledger, MB"] = _size(ledger.with_name(ledger.name + "-wal")) / MEGABYTE
        files = [path for path in self._stage.runtime_dir.rglob("*") if path.is_file()]
        figures["files in the runtime directory"] = float(len(files))
        figures["runtime directory, kB"] = sum(map(_size, files)) / 1024
        return figures

    def _veterans(self) -> dict[str, int]:
        """Who lives as long as the soak, by name: pids."""
        assert self._stage.process is not None
        board = self._stage.board()
        slots = {"the master": MASTER, "a relay": slots_of(Role.RELAY, 1)[0], "a worker": slots_of(Role.WORKER, 1)[0]}
        found = {name: board[slot].pid for name, slot in slots.items() if slot in board}
        found["supervisord"] = self._stage.process.pid
        if programs := self._stage.programs("metrics"):
            found["the metrics process"] = programs[0]
        return found

    def _come_to_an_end(self) -> str:
        """Let it finish, and see that nothing was lost; what was."""
        stage = self._stage
        stage.world.clear_faults()
        try:
            stage.wait(lambda: set(stage.world.states()) <= {"succeeded"}, 120, "tasks are left")
            stage.wait(lambda: stage.snapshot().held == 0, 30, "the ledger still holds tasks")
        except AssertionError as error:
            return str(error)[:2000]
        done = self._forgotten + stage.world.states().get("succeeded", 0)
        summary = stage.world.summary()
        code = stage.stop()
        if done != self._added:
            return f"{self._added - done} of {self._added} tasks are lost"
        if summary.most_calls_at_once > WORKERS:
            return f"{summary.most_calls_at_once} calls at one time"
        return f"exit code {code}" if code else ""


def _anonymous_megabytes(pid: int) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) / 1024
    return 0.0


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="bin/test --soak", description="Full speed with faults: all must stay flat.")
    parser.add_argument("--minutes", type=float, default=5.0, help="how long")
    parser.add_argument("--seed", type=int, default=1, help="of who is killed when")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="aitp-soak-"))
    outcome = soak(options.minutes * 60, folder, options.seed)
    print(outcome)
    if outcome.good:
        shutil.rmtree(folder, ignore_errors=True)
    else:
        print(f"its files: {folder}")
    return 0 if outcome.good else 1


if __name__ == "__main__":
    sys.exit(main())
