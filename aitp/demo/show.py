"""What `aitp demo` prints: a progress bar, then the figures, and where to look."""

from __future__ import annotations

import dataclasses
import json
import shlex
import sys

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from aitp.demo.command import Demo, Plan
from aitp.demo.fleet import FleetDemo
from aitp.demo.stopping import EXIT_INTERRUPTED
from aitp.demo.verdict import Verdict

BOUGHT_AGAIN = (
    "Bought again: a text whose answer was lost, spoilt, or died with its process before it was recorded, so that it "
    "had to be asked for once more."
)


def show(plan: Plan, *, as_json: bool = False) -> int:
    """Run the demo; 0 only if it kept all promises. `as_json`: the figures on standard output, all else beside it."""
    console = Console(stderr=as_json)
    demo = FleetDemo(plan) if plan.hosts > 1 else Demo(plan)
    keep_log, verdict = False, None
    try:
        demo.start()
        console.print(_introduction(plan, demo), soft_wrap=True)
        verdict = _run(demo, console)
        if verdict is None:
            keep_log = True
            console.print(_why_not_up(demo), soft_wrap=True)
            return 1
        console.print(_figures(verdict, demo))
        if verdict.bought_again and not plan.pays:
            console.print(BOUGHT_AGAIN)
        for wrong in verdict.wrong:
            console.print(f"[bold red]WRONG[/]: {wrong}")
        if not verdict.wrong:
            console.print(
                f"[bold green]{verdict.succeeded} of {verdict.tasks} succeeded{_how_bought(plan, verdict)}[/]"
            )
        keep_log = bool(verdict.wrong)
        console.print(_places(demo, keep_log), soft_wrap=True)
        if as_json:
            places = {"url": demo.url, "log": str(demo.log_path) if keep_log or plan.keep else None}
            print(json.dumps(dataclasses.asdict(verdict) | places, indent=2), flush=True)
        if plan.keep and demo.running:
            console.print("Running until Ctrl-C")
            demo.wait()
        code = demo.stop()
        if code != 0:
            keep_log = True
            console.print(f"[bold red]WRONG[/]: the service ended with exit code {code}; its log: {demo.log_path}")
        return 0 if code == 0 and not verdict.wrong else 1
    except KeyboardInterrupt:
        console.print("Stopping")
        if plan.keep and verdict is not None:
            return 1 if verdict.wrong else 0  # that is how a demo which is kept ends
        return EXIT_INTERRUPTED
    finally:
        demo.close(keep_log=keep_log)


def _why_not_up(demo: Demo) -> str:
    told = "".join(f"\n  {escape(line)}" for line in demo.troubles())
    return f"[bold red]WRONG[/]: the service did not start. Its log ends so:{told}\nLog: {demo.log_path}"


def _run(demo: Demo, console: Console) -> Verdict | None:
    """The verdict; none if the service did not even start."""
    columns = (TextColumn("{task.description}"), BarColumn(None), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as progress:
        bar = progress.add_task("starting", total=demo.plan.tasks)
        told = False
        for done in demo.progress():
            progress.update(bar, completed=done, description="tasks" if done else "starting")
            if not told and (obstacle := demo.obstacle()):
                told = True
                print(f"Nothing moves. The service's log says: {obstacle}", file=sys.stderr)
        if not demo.came_up:
            return None
        verdict = demo.verdict()
        progress.update(bar, completed=verdict.succeeded + verdict.failed)
    return verdict


def _introduction(plan: Plan, demo: Demo) -> str:
    provider = {
        "openai": "OpenAI's protocol, embedded (no key is set)",
        "ollama": "Ollama's protocol, embedded",
        "hybrid": "Ollama's protocol, embedded, and OpenAI's as its fallback",
    }[plan.mode]
    if plan.pays:
        whose = "the server of OPENAI_BASE_URL" if "OPENAI_BASE_URL" in plan.openai else "OpenAI"
        provider = f"{whose}, with your key: these calls are paid for"
    where = "" if plan.hosts == 1 else f" on each of {plan.hosts} hosts, with one PostgreSQL"
    return (
        f"{plan.tasks} tasks, {plan.workers} workers{where}. Provider: {provider}.\n"
        f"Page: {demo.url}/   Metrics: {demo.url}/metrics   Log: {demo.log_path}"
    )


def _how_bought(plan: Plan, verdict: Verdict) -> str:
    if plan.pays:
        return ""  # counted by whom it was paid to
    return ", none bought again once its answer was recorded" if verdict.bought_again else ", each text bought once"


def _figures(verdict: Verdict, demo: Demo) -> Table:
    killed, host = demo.killed_worker, demo.killed_host
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold")
    rows = {
        "Tasks": f"{verdict.succeeded} succeeded, {verdict.failed} failed, of {verdict.tasks}",
        "Time": f"{verdict.seconds:.1f} s from start to last result",
        "Throughput": f"{verdict.succeeded / verdict.seconds:.1f} tasks/s",
        "Provider calls": f"{verdict.calls}, at most {verdict.most_calls_at_once} at once",
        "Tokens": f"{verdict.tokens}",
        "Texts bought": f"{verdict.texts_bought}, {verdict.bought_again} of them again, "
        f"{verdict.bought_after_record} after their answer was recorded",
        "Retries": f"{verdict.put_back} tasks put back, {verdict.deliveries_retried} deliveries made again, "
        f"{verdict.delivered_again} acknowledged twice",
        "Faults": f"{verdict.faults_struck} struck"
        + ("" if killed is None else f", worker {killed} killed with kill -9")
        + ("" if host is None else f", {host} lost: all of its processes killed with kill -9"),
        "Limits": ", ".join(
            f"{used}/{limit} {'an' if name == 'hour' else 'a'} {name}" for name, (used, limit) in verdict.limits.items()
        ),
    }
    if demo.plan.pays:
        # The demo's own providers, which count these, were not asked.
        del rows["Provider calls"], rows["Texts bought"]
    for name, value in rows.items():
        table.add_row(name, value)
    return table


def _places(demo: Demo, keep_log: bool) -> str:
    if demo.plan.keep:
        return (
            f"Page: {demo.url}/   Metrics: {demo.url}/metrics   Log: {demo.log_path}\n"
            f"Commands beside it, in another terminal: AITP_ENV_FILE={shlex.quote(str(demo.env_file))} bin/aitp status"
        )
    if keep_log:
        return f"Log: {demo.log_path}"
    return "With --keep the service stays, to look at its page, metrics and log"
