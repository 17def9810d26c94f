"""What the ledger bears: tasks claimed and finished a second, and how long a claim waits among many.

It runs on the disk that this repository is on (a temporary folder beside this file, removed afterwards), with
1,000,000 completions in the table and limits on all five periods, so that every claim counts them. With `--both` each
figure is taken of a ledger on PostgreSQL as well, on a server of its own beside it: what a fleet of one machine bears.

    PYTHONPATH=. python bench/ledger.py [--completions 1000000] [--seconds 8] [--only throughput|paced] [--both]

On a virtual machine the host may take the processors away for a while, and with them whoever is at the head of the
queue: each figure says how much of the time that was.
"""

from __future__ import annotations

import argparse
import gc
import multiprocessing
import os
import random
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from multiprocessing.connection import Connection
from pathlib import Path

from pydantic import SecretStr

from aitp.ledger.claims import Claim, ClaimOptions, Idle
from aitp.ledger.evidence import Report
from aitp.ledger.inbox import Poll, PollOptions
from aitp.ledger.ledger import Ledger, prepare
from aitp.ledger.queue import LedgerConfig
from aitp.policy.routing import Route
from aitp.policy.windows import LONGEST_WINDOW_SECONDS
from aitp.tasks import Ending, Fleet, NewTask, Outcome, Place, QueueKey
from tests.services.postgres import PostgreSQL

KIND = QueueKey("text_embedding", "text-embedding-3-small")
RULES = LedgerConfig(inbox_limit=10**9)
LIMITS = dict.fromkeys(("minute", "hour", "day", "week", "month"), 10**9)
CONTENT = b'{"text": "' + b"Um texto de tamanho comum. " * 40 + b'", "model": "text-embedding-3-small"}'
SMALL = b"[0.1, 0.2, 0.3]"
VECTOR = b"[" + b",".join(b"%.9f" % random.uniform(-0.1, 0.1) for _ in range(1024)) + b"]"
WARM_UP_SECONDS = 1.0
FIRST_WORKER = 101
RELAY = 1

# A process's own figures, as it sends them to the parent.
Figures = dict[str, list[float]]


@contextmanager
def a_ledger(engine: str, completions: int) -> Iterator[Place]:
    """A ledger on the repository's disk with that much history."""
    with tempfile.TemporaryDirectory(dir=Path(__file__).parent, prefix=".ledger-") as name, ExitStack() as stack:
        folder = Path(name)
        place: Place = folder / "ledger.db"
        if engine == "postgresql":
            folder.chmod(0o755)
            (folder / "server").mkdir()
            settings = {"fsync": "on", "full_page_writes": "on", "shared_buffers": "256MB", "max_connections": "300"}
            server = stack.enter_context(PostgreSQL(folder / "server", settings))
            place = Fleet(SecretStr(server.url), "aitp", "one", 60.0, folder / "fleet", "PostgreSQL")
        prepare(place, strategy="rolling", timezone="America/Sao_Paulo", limits=LIMITS)
        ledger = Ledger.open(place, RULES)
        now, span = time.time(), LONGEST_WINDOW_SECONDS / completions
        with ledger._database.transaction() as connection:
            connection.execute(
                "INSERT INTO task_completions (id, completed_at, task_type, task_id, is_first)"
                " WITH RECURSIVE numbers (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < ?1)"
                " SELECT n, CAST(?2 AS DOUBLE PRECISION) - CAST(?3 AS DOUBLE PRECISION) * (?1 - n), CAST(?4 AS TEXT),"
                " CAST(n AS TEXT), 1 FROM numbers",
                (completions, now, span, KIND.type),
            )
        ledger.close()
        yield place


def admit(path: Place, count: int) -> None:
    """Put `count` tasks into the ledger, as a poll does."""
    ledger = Ledger.open(path, RULES)
    poll = ledger.inbox.begin_poll(RELAY, PollOptions(30.0, 1, 1), asked=True)
    assert isinstance(poll, Poll)
    for start in range(0, count, 1_000):
        part = [NewTask(f"{poll.began_sequence:08x}{n:016x}", KIND, CONTENT) for n in range(start, start + 1_000)]
        ledger.inbox.admit(poll, part)
    ledger.inbox.end_poll(poll, complete=False, more_there=False, regular_at=time.time() + 30)
    ledger.close()


def in_processes(count: int, work: Callable[[int], Figures]) -> list[Figures]:
    """What `work(number)` returns in each of `count` processes, which all begin together."""
    context = multiprocessing.get_context("fork")
    start = context.Event()
    gc.collect()
    gc.freeze()  # as the master does before it forks

    def run(number: int, answer: Connection) -> None:
        start.wait()
        answer.send(work(number))

    pipes = [context.Pipe(duplex=False) for _ in range(count)]
    processes = [context.Process(target=run, args=(number, pipes[number][1])) for number in range(count)]
    for process in processes:
        process.start()
    start.set()
    figures: list[Figures] = [receiver.recv() for receiver, _ in pipes]
    for process in processes:
        process.join()
    return figures


def report_on(claim: Claim, result: bytes) -> Report:
    return Report([Outcome(task, Ending.SUCCEEDED, result) for task in claim.tasks])


def drain(path: Place, number: int, batch: int, workers: int, result: bytes) -> Figures:
    """Claim and finish until nothing is ready."""
    ledger = Ledger.open(path, RULES)
    terms = ClaimOptions(workers, lambda queue: (Route("openai", queue.model),), lambda queue: batch)
    began, tasks = time.monotonic(), 0
    while not isinstance(claim := ledger.claims.claim(FIRST_WORKER + number, terms), Idle):
        ledger.outcomes.finish(claim, report_on(claim, result))
        tasks += len(claim.tasks)
    ended, cpu = time.monotonic(), time.process_time()
    ledger.close()
    return {"tasks": [tasks], "began": [began], "ended": [ended], "cpu": [cpu]}


class Stolen:
    """Share of the processors' time that a host took away since this was made (steal of proc_stat(5))."""

    def __init__(self) -> None:
        self._steal, self._all = self._ticks()

    def __str__(self) -> str:
        steal, total = self._ticks()
        return f"{(steal - self._steal) / max(1, total - self._all):.1%} stolen"

    @staticmethod
    def _ticks() -> tuple[int, int]:
        # user, nice, system, idle, iowait, irq, softirq, steal; guest time is in user.
        times = [int(time) for time in Path("/proc/stat").read_text().split(maxsplit=9)[1:9]]
        return times[7], sum(times)


def throughput(engine: str, completions: int, processes: int, batch: int, result: bytes, tasks: int) -> None:
    with a_ledger(engine, completions) as path:
        admit(path, tasks)
        stolen = Stolen()
        figures = in_processes(processes, lambda number: drain(path, number, batch, processes, result))
        share = str(stolen)
        seconds = max(f["ended"][0] for f in figures) - min(f["began"][0] for f in figures)
        done = sum(f["tasks"][0] for f in figures)
        cpu = sum(f["cpu"][0] for f in figures)
    assert done == tasks
    print(
        f"{engine}: {processes} process(es), batches of {batch}, results of {len(result):>6,} B:"
        f" {done / seconds:>7,.0f} tasks/s,"
        f" {cpu / done * 1e6:4.0f} us of CPU a task, {done / batch / seconds:6,.0f} finishes/s, each on disk; {share}"
    )


def pace(path: Place, number: int, processes: int, rate: float, seconds: float) -> Figures:
    """Claim and finish one task at a time, `rate` times a second over all processes together.

    Before that as long as WARM_UP_SECONDS, without being measured: all processes prepare their statements at once then.
    """
    ledger = Ledger.open(path, RULES)
    terms = ClaimOptions(processes, lambda queue: (Route("openai", queue.model),), lambda queue: 1)
    interval = processes / rate
    claims: list[float] = []
    finishes: list[float] = []
    due = time.monotonic() + random.uniform(0, interval)
    began = due + WARM_UP_SECONDS
    while due < began + seconds:
        time.sleep(max(0.0, due - time.monotonic()))
        is_measured = due >= began
        due += interval
        started = time.perf_counter()
        claim = ledger.claims.claim(FIRST_WORKER + number, terms)
        claimed = time.perf_counter()
        if not is_measured and isinstance(claim, Idle):
            continue  # one goes first, until something was served
        assert isinstance(claim, Claim)
        ledger.outcomes.finish(claim, report_on(claim, SMALL))
        if is_measured:
            claims.append(claimed - started)
            finishes.append(time.perf_counter() - claimed)
    ledger.close()
    return {"claims": claims, "finishes": finishes}


def paced(engine: str, completions: int, processes: int, rate: float, seconds: float) -> None:
    with a_ledger(engine, completions) as path:
        admit(path, round(rate * (seconds + WARM_UP_SECONDS) * 1.1 / 1_000 + 1) * 1_000)
        stolen = Stolen()
        figures = in_processes(processes, lambda number: pace(path, number, processes, rate, seconds))
        share = str(stolen)
    shares = [len(f["claims"]) for f in figures]
    print(
        f"{engine}: {processes} processes, {sum(shares) / seconds:,.0f} claims/s (paced {rate:,.0f}), one task each;"
        f" {share}:"
    )
    for what in ("claims", "finishes"):
        waits = sorted(wait for f in figures for wait in f[what])
        median, p99, longest = (waits[min(len(waits) - 1, int(len(waits) * part))] for part in (0.5, 0.99, 1.0))
        print(f"    {what:<9} median {median * 1e3:6.2f} ms  p99 {p99 * 1e3:6.2f} ms  longest {longest * 1e3:6.1f} ms")
    print(f"    claims of a process: {min(shares)} to {max(shares)}, {sum(shares) / len(shares):.0f} on average")


def main() -> None:
    parser = argparse.ArgumentParser(description="The ledger's speed and fairness.")
    parser.add_argument("--completions", type=int, default=1_000_000)
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--both", action="store_true", help="of PostgreSQL as well")
    parser.add_argument("--only", choices=("throughput", "paced"))
    options = parser.parse_args()
    load = " ".join(f"{part:.1f}" for part in os.getloadavg())
    print(f"{options.completions:,} completions; {os.cpu_count()} cores, load before the start {load}")
    engines = ("sqlite", "postgresql") if options.both else ("sqlite",)
    if options.only != "paced":
        for processes, result, tasks in (
            (1, SMALL, 64_000),
            (4, SMALL, 64_000),
            (1, VECTOR, 32_000),
            (4, VECTOR, 32_000),
        ):
            for engine in engines:
                throughput(engine, options.completions, processes, 32, result, tasks)
        if options.both:
            for processes in (4, 64):  # most of a fleet's processes stand in the queue
                throughput("postgresql", options.completions, processes, 32, SMALL, 64_000)
    if options.only != "throughput":
        paced("sqlite", options.completions, 16, 1_000.0, options.seconds)
        if options.both:
            for engine in engines:
                paced(engine, options.completions, 16, 100.0, options.seconds)


if __name__ == "__main__":
    main()
