"""Throughput, CPU and latency of the whole service, side by side with a bare loop over the same servers.

The bare loop is what one writes in an afternoon: N threads, the `openai` client and `requests`, one text a call,
nothing remembered. Both run as processes of their own against the demo's servers in another process; what counts is
what those servers saw, and the CPU time of all processes of the side that is measured, between two points under load.

    PYTHONPATH=. python bench/throughput.py [--quick] [calls] [batched] [idle] [latency] [memory] [start]

calls     EMBEDDING_BATCH_SIZE=1: calls a second as a share of N/L, for L = 0.5 and 2 s, N = 5 and 20 (goal: 95%)
batched   L = 0.5 s, N = 5: tasks a second over N/L (goal: 20), CPU of a task (goal: 1.5 ms)
idle      5 workers and nothing to do: share of a core (goal: 0.2%)
latency   a new task for an idle service that polls every second (goal: 1.2 s + L)
memory    of 5 and of 20 workers that have work, and of all around them (by root: they let nobody else look)
start     until work can be done, over what it takes to import openai and requests (goal: 2)
"""

from __future__ import annotations

import argparse
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import openai
import requests

from aitp.demo.command import free_port
from aitp.demo.sentences import text_of
from aitp.demo.world_process import WorldProcess
from aitp.ledger.stats import snapshot
from aitp.process.start import await_start
from aitp.settings import PROJECT_ROOT, surroundings

PERIODS = ("MINUTE", "HOUR", "DAY", "WEEK", "MONTH")
LOOK_SECONDS = 0.05


# The bare loop


def bare_loop(threads: int) -> None:
    """All pending tasks once, in so many threads. Runs as a process of its own."""
    environ = os.environ
    answer = requests.post(
        environ["OAUTH2_TOKEN_URL"],
        data={"grant_type": "client_credentials", "scope": "read write"},
        auth=(_form(environ["OAUTH2_CLIENT_ID"]), _form(environ["OAUTH2_CLIENT_SECRET"])),
        timeout=30,
    )
    bearer = {"Authorization": f"Bearer {answer.json()['access_token']}"}
    api = environ["API_BASE_URL"] + "/api/ai-tasks"
    client = openai.OpenAI(api_key=environ["OPENAI_API_KEY"], base_url=environ["OPENAI_BASE_URL"])
    sessions = requests.Session()
    adapter = requests.adapters.HTTPAdapter(pool_maxsize=threads)
    sessions.mount("http://", adapter)

    def embed(task: dict[str, object]) -> None:
        made = client.embeddings.create(model="text-embedding-3-small", input=text_of(task), dimensions=1024)
        body = {"state": "succeeded", "result": made.data[0].embedding}
        sessions.patch(f"{api}/{task['_id']}", json=body, headers=bearer, timeout=30).raise_for_status()

    pending = sessions.get(f"{api}/pending", params={"limit": 100_000}, headers=bearer, timeout=30).json()
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(embed, pending))


def _form(text: str) -> str:
    return requests.compat.quote_plus(text)


# Sides: something that works the world's tasks off, as processes of one session


@dataclass(frozen=True, slots=True)
class Side:
    """Processes to be measured. `ledger` is None for the bare loop."""

    session: int
    folder: Path
    ledger: Path | None = None

    def pids(self) -> list[int]:
        """All living processes of the session."""
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    fields = (entry / "stat").read_text().rpartition(")")[2].split()
                except (FileNotFoundError, ProcessLookupError):
                    continue
                if int(fields[3]) == self.session and fields[0] not in "ZX":
                    found.append(int(entry.name))
        return found

    def cpu(self) -> dict[int, float]:
        """CPU seconds of each process so far, all of its threads (proc(5): utime + stime, but in nanoseconds)."""
        seconds = {}
        for pid in self.pids():
            try:
                stats = [(task / "schedstat").read_text() for task in Path(f"/proc/{pid}/task").iterdir()]
            except (FileNotFoundError, ProcessLookupError):
                continue
            seconds[pid] = sum(int(stat.split()[0]) for stat in stats) / 1e9
        return seconds


@contextmanager
def service(world: WorldProcess, workers: int, command: str = "run", **settings: object) -> Iterator[Side]:
    """The real service, with limits that are counted and never reached."""
    with tempfile.TemporaryDirectory(prefix="aitp-bench-") as name:
        folder = Path(name)
        environment = {
            **surroundings(),
            **world.environment,
            "AITP_VENV": sys.prefix,
            "AITP_ENV_FILE": "",
            "PYTHONPATH": str(PROJECT_ROOT),
            "PROCESSING_MODE": "openai",
            "CONCURRENCY_LIMIT": str(workers),
            "RATE_LIMIT_STORAGE_PATH": str(folder / "data" / "ledger.db"),
            "RUNTIME_DIR": str(folder / "run"),
            "METRICS_HOST": "127.0.0.1",
            "METRICS_PORT": str(free_port()),
            "LOG_FORMAT": "json",
            **{f"RATE_LIMIT_PER_{period}": "10000000" for period in PERIODS},
            **{name: str(value) for name, value in settings.items()},
        }
        with running([sys.executable, "-m", "aitp", command], environment, folder) as session:
            yield Side(session, folder, folder / "data" / "ledger.db")


@contextmanager
def bare(world: WorldProcess, threads: int) -> Iterator[Side]:
    """The bare loop."""
    environment = {**surroundings(), **world.environment, "PYTHONPATH": str(PROJECT_ROOT)}
    with tempfile.TemporaryDirectory(prefix="aitp-bench-") as name:
        command = [sys.executable, __file__, "--bare", str(threads)]
        with running(command, environment, Path(name)) as session:
            yield Side(session, Path(name))


@contextmanager
def running(command: Sequence[str], environment: dict[str, str], folder: Path) -> Iterator[int]:
    """A command in a session of its own, whose number it gives; killed if it does not stop."""
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
        )
    try:
        yield process.pid
    finally:
        process.terminate()
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
        for pid in Side(process.pid, folder).pids():
            os.kill(pid, signal.SIGKILL)


def until(condition: Callable[[], bool], timeout: float = 600.0) -> None:
    """Wait for a condition."""
    give_up = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > give_up:
            raise SystemExit("the measurement does not get on")
        time.sleep(LOOK_SECONDS)


# Measurements


def share_of_ideal(world: WorldProcess, calls: int, workers: int, latency: float) -> float:
    """Calls a second over N/L, from the end of the second round of calls to the end of the last but one."""
    until(lambda: world.states().get("succeeded", 0) == calls)
    ended = sorted({purchase.call: purchase.ended_monotonic for purchase in world.purchases()}.values())
    first, last = 2 * workers - 1, len(ended) - workers - 1
    rate = (last - first) / (ended[last] - ended[first])
    return rate / (workers / latency)


def measure_calls(quick: bool) -> None:
    """One text a call."""
    print("One text a call: share of N/L calls a second\n")
    print("| L (s) | N | N/L | aitp | bare loop |\n|---|---|---|---|---|")
    for latency in (0.5, 2.0):
        for workers in (5, 20):
            calls = workers * (10 if quick else 40 if latency < 1 else 16)
            with world_of(calls, latency) as world, service(world, workers, EMBEDDING_BATCH_SIZE=1):
                ours = share_of_ideal(world, calls, workers, latency)
            with world_of(calls, latency) as world, bare(world, workers):
                theirs = share_of_ideal(world, calls, workers, latency)
            print(f"| {latency:g} | {workers} | {workers / latency:g} | {ours:.1%} | {theirs:.1%} |", flush=True)


def measure_batched(quick: bool) -> None:
    """Full batches, and the CPU of a task."""
    latency, workers = 0.5, 5
    ideal = workers / latency
    print("\nBatched, L = 0.5 s, N = 5: tasks a second over N/L, CPU of a task\n")
    print("| | tasks/s | over N/L | CPU ms a task | of which |\n|---|---|---|---|---|")
    for _ in range(1 if quick else 3):
        tasks = 2_000 if quick else 6_000
        with world_of(tasks, latency) as world, service(world, workers) as side:
            rate, cpu, parts = under_load(world, side, tasks // 5, tasks * 4 // 5)
            print(f"| aitp | {rate:.0f} | {rate / ideal:.1f} | {cpu:.2f} | {parts} |", flush=True)
        tasks = 100 if quick else 300
        with world_of(tasks, latency) as world, bare(world, workers) as side:
            rate, cpu, _ = under_load(world, side, tasks // 5, tasks * 4 // 5)
            print(f"| bare loop | {rate:.0f} | {rate / ideal:.1f} | {cpu:.2f} | |", flush=True)


def under_load(world: WorldProcess, side: Side, first: int, last: int) -> tuple[float, float, str]:
    """Tasks a second and CPU milliseconds a task between two counts of delivered tasks."""

    def delivered() -> int:
        return world.states().get("succeeded", 0)

    until(lambda: delivered() >= first)
    began, before, at_first = time.monotonic(), side.cpu(), delivered()
    until(lambda: delivered() >= last)
    ended, after, at_last = time.monotonic(), side.cpu(), delivered()
    count = at_last - at_first
    used = {pid: after[pid] - before.get(pid, 0.0) for pid in after}
    parts: dict[str, float] = {}
    for pid, seconds in used.items():
        role = role_of_process(pid, side)
        parts[role] = parts.get(role, 0.0) + seconds
    told = ", ".join(f"{role} {seconds / count * 1000:.2f}" for role, seconds in sorted(parts.items()))
    return count / (ended - began), sum(used.values()) / count * 1000, told


def role_of_process(pid: int, side: Side) -> str:
    """What a process of the service is for: by the scoreboard, else by its command line."""
    from aitp.process.scoreboard import MASTER, glance, role_of

    for record in glance(side.folder / "run" / "scoreboard"):
        if record.pid == pid:
            return "master" if record.slot == MASTER else f"{role_of(record.slot).value}s"
    words = Path(f"/proc/{pid}/cmdline").read_text().split("\0")
    return words[-2] if side.ledger is not None else "loop"


def measure_idle(quick: bool) -> None:
    """Nothing to do, default polling interval."""
    seconds = 60 if quick else 240
    with world_of(5, 0.1) as world, service(world, 5) as side:
        until(lambda: world.states().get("succeeded", 0) == 5)
        time.sleep(10)
        before, began = side.cpu(), time.monotonic()
        time.sleep(seconds)
        after, took = side.cpu(), time.monotonic() - began
        parts: dict[str, float] = {}
        for pid in after:
            role = role_of_process(pid, side)
            parts[role] = parts.get(role, 0.0) + (after[pid] - before[pid]) / took
        print(f"\nIdle with 5 workers for {seconds} s: {sum(parts.values()):.3%} of a core")
        print(", ".join(f"{role} {share:.3%}" for role, share in sorted(parts.items())), flush=True)


def measure_latency(quick: bool) -> None:
    """From a task's creation to the arrival of its result."""
    latency = 0.1
    waits = []
    with world_of(5, latency) as world, service(world, 5, POLLING_INTERVAL_SECONDS=1) as side:
        ledger = side.ledger
        assert ledger is not None
        for count in range(5, 10 if quick else 35):
            until(lambda: world.states().get("succeeded", 0) == count)  # noqa: B023
            until(lambda: snapshot(ledger).held == 0)
            added = time.monotonic()
            [task_id] = world.add_tasks(1)
            until(lambda: world.states().get("succeeded", 0) == count + 1)  # noqa: B023
            [delivery] = [d for d in world.deliveries() if d.task_id == task_id]
            waits.append(delivery.received_monotonic - added)
    print(f"\nA new task for an idle service, polling every second, L = {latency} s, {len(waits)} times")
    print(f"median {statistics.median(waits):.2f} s, longest {max(waits):.2f} s (goal {1.2 + latency:.1f})")


def measure_memory(quick: bool) -> None:
    """What all processes have together, each page shared out among those that have it (PSS, proc(5))."""
    for workers in (5, 20):
        calls = workers * (20 if quick else 60)
        with world_of(calls, 0.1) as world, service(world, workers, EMBEDDING_BATCH_SIZE=1) as side:
            until(lambda: world.states().get("succeeded", 0) >= calls * 9 // 10)  # noqa: B023
            parts: dict[str, float] = {}
            for pid in side.pids():
                rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
                role, [kilobytes] = role_of_process(pid, side), re.findall(r"^Pss: +(\d+)", rollup, re.MULTILINE)
                parts[role] = parts.get(role, 0.0) + int(kilobytes) / 1024
        print(f"\n{workers} workers: {sum(parts.values()):.0f} MB")
        print(", ".join(f"{role} {megabytes:.0f}" for role, megabytes in sorted(parts.items())), flush=True)


def measure_start(quick: bool) -> None:
    """From the command to children of both roles that can work."""
    ours, theirs = [], []
    for _ in range(3 if quick else 7):
        began = time.monotonic()
        subprocess.run([sys.executable, "-c", "import openai, requests"], check=True)
        theirs.append(time.monotonic() - began)
        with world_of(5, 0.1) as world:
            began = time.monotonic()
            with service(world, 5) as side:
                until((side.folder / "run" / "scoreboard").exists)
                if trouble := await_start(side.folder / "run"):
                    raise SystemExit(trouble)
                ours.append(time.monotonic() - began)
    service_seconds, import_seconds = statistics.median(ours), statistics.median(theirs)
    print(f"\nReady after {service_seconds:.2f} s, import openai and requests {import_seconds:.2f} s", end=": ")
    print(f"{service_seconds / import_seconds:.2f} times", flush=True)


@contextmanager
def world_of(tasks: int, latency: float) -> Iterator[WorldProcess]:
    """The servers, with so many tasks pending."""
    with WorldProcess({"tasks": tasks, "openai_api": {"latency_seconds": latency}}) as world:
        yield world


MEASUREMENTS = {
    "calls": measure_calls,
    "batched": measure_batched,
    "idle": measure_idle,
    "latency": measure_latency,
    "memory": measure_memory,
    "start": measure_start,
}


def main() -> None:
    parser = argparse.ArgumentParser(description="Throughput of aitp beside a bare loop.")
    parser.add_argument("what", nargs="*", choices=[[], *MEASUREMENTS], default=[])
    parser.add_argument("--quick", action="store_true", help="shorter and less exact")
    parser.add_argument("--bare", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.bare:
        bare_loop(options.bare)
        return
    for name in options.what or MEASUREMENTS:
        MEASUREMENTS[name](options.quick)


if __name__ == "__main__":
    main()
