"""From the options of `aitp demo` to a demo, or to its servers alone."""

from __future__ import annotations

import os
from pathlib import Path

import click

from aitp.demo.command import Plan, real_openai
from aitp.demo.documents import TYPES
from aitp.demo.fleet import missing
from aitp.demo.practice import practise
from aitp.demo.show import show
from aitp.validators import addresses, trouble_at


def start(
    *,
    tasks: int,
    workers: int,
    latency_ms: int,
    port: int,
    mode: str,
    types: str,
    faults: bool,
    keep: bool,
    servers: str | None,
    hosts: int,
    as_json: bool,
) -> int:
    """Run it; the exit code."""
    chosen = TYPES if types == "all" else tuple(dict.fromkeys(types.split(",")))
    if unknown := set(chosen) - set(TYPES):
        raise click.BadParameter(f"{', '.join(sorted(unknown))}: there are {', '.join(TYPES)}", param_hint="--types")
    plan = Plan(tasks, workers, latency_ms, port, faults, keep, real_openai(), mode, chosen, hosts)
    if servers is None:
        if hosts > 1 and (lack := missing()):
            raise click.ClickException(f"--hosts: {lack}")
        if port and (trouble := trouble_at(addresses("127.0.0.1", port))):
            raise click.BadParameter(
                f"{port}: {os.strerror(trouble)}; choose another, or 0 for a free one", param_hint="--port"
            )
        return show(plan, as_json=as_json)
    if faults or keep or as_json or hosts > 1:
        raise click.UsageError("--servers goes with --tasks, --workers, --latency-ms, --port, --mode and --types alone")
    try:
        return practise(plan, Path(servers))
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--servers") from None
