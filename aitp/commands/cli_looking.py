"""Commands that look, and change nothing."""

from __future__ import annotations

import sys

import click

from aitp.commands.cli_teaching import Command, json_option


@click.command(
    cls=Command,
    short_help="find what is wrong, say what to do",
    examples={
        "aitp check": "everything, before the first start and whenever something is wrong",
        "aitp check --offline": "settings and this machine alone, without a request to anyone",
        "aitp check --json": "for programs: every finding with what, why and what to do",
    },
    exits={
        0: "the service can start and work; there may be warnings",
        1: "it starts, but something keeps it from its work (or --strict: there is a warning)",
        78: "it would not start: the settings cannot be used",
    },
)
@click.option("--offline", is_flag=True, help="Ask no server.")
@click.option("--strict", is_flag=True, help="Exit 1 for warnings, too.")
@json_option
def check(offline: bool, strict: bool, as_json: bool) -> None:
    """Find what is wrong with settings, machine and services; say why it matters and what to do.

    Safe beside a running service: no task is claimed, nothing is bought, nothing is written. Each server is asked
    once or twice, for REQUEST_TIMEOUT or 10 seconds at most.
    """
    from aitp.commands.findings_shown import show_findings

    sys.exit(show_findings(offline=offline, strict=strict, as_json=as_json))


@click.command(
    cls=Command,
    short_help="what the service is doing now; --watch: live",
    examples={
        "aitp status": "one look",
        "aitp status --watch": "a live view; Ctrl-C ends it",
        "aitp status --watch --json --interval 10 >> status.jsonl": "one JSON document a line, for programs",
    },
    exits={
        0: "the service is running (with --watch: you ended it)",
        1: "it is not running, or not for this user to see",
    },
)
@click.option("--watch", is_flag=True, help="Look again and again. Not on a terminal: one snapshot after the other.")
@click.option(
    "--interval", default=2.0, show_default=True, type=click.FloatRange(0.1, 3600), help="Seconds between two looks."
)
@json_option
def status(watch: bool, interval: float, as_json: bool) -> None:
    """Show what the service is doing: its processes, the queue, limits, breakers, and what keeps it from its work."""
    from aitp.settings import load_settings

    settings = load_settings()
    if watch:
        from aitp.commands.watch import watch_status

        sys.exit(watch_status(settings, interval, as_json=as_json))
    from aitp.commands.status import show_status

    sys.exit(show_status(settings, as_json=as_json))


@click.command(
    cls=Command,
    short_help="the tasks that are held: state, tries, age, due",
    examples={
        "aitp tasks": "the oldest fifty",
        "aitp tasks --state waiting --type text_embedding": "those that wait for their next try",
        "aitp tasks --limit 5000 --json": "all that are held, for programs",
    },
    exits={0: "listed, if only that there are none", 1: "there is no ledger yet, or it cannot be used"},
)
@click.option(
    "--state",
    "states",
    multiple=True,
    type=click.Choice(("ready", "waiting", "claimed", "finished", "dead")),
    help="Only those; may be given more than once.",
)
@click.option("--type", "types", multiple=True, help="Only tasks of that type; may be given more than once.")
@click.option("--limit", default=50, show_default=True, type=click.IntRange(1, 1_000_000), help="How many, at most.")
@json_option
def tasks(states: tuple[str, ...], types: tuple[str, ...], limit: int, as_json: bool) -> None:
    """List the tasks that the ledger holds, oldest first: state, tries so far, age, and when they are due.

    ready: to be claimed. waiting: for a moment that has been set. claimed: being run. finished: being delivered.
    dead: refused by the task API (`aitp dead`).
    """
    from aitp.commands.tasks import list_tasks
    from aitp.settings import load_settings

    list_tasks(load_settings(), states, types, limit, as_json=as_json)


@click.command(
    cls=Command,
    short_help="rate limits and budgets; --forecast: when they are used up",
    examples={
        "aitp limits": "what is used, what is left, when room frees",
        "aitp limits --forecast": "when each limit and budget will be used up, at the last ten minutes' pace",
        "aitp limits --forecast --over 3600": "at the pace of the last hour",
    },
    exits={0: "shown", 1: "there is no ledger yet, or it cannot be used"},
)
@click.option("--forecast", is_flag=True, help="Say when each limit and budget will be used up at the present pace.")
@click.option(
    "--over",
    default=600,
    show_default=True,
    type=click.IntRange(10, 86_400),
    help="Seconds over which the pace is measured.",
)
@json_option
def limits(forecast: bool, over: int, as_json: bool) -> None:
    """Show the rate limits in force: tasks sent to providers a minute, hour, day, week and month.

    With a file of prices (PRICES) also what was spent today and this month, what calls in hand may cost, and what the
    budgets leave. With --json amounts are whole nano-units: 1,000,000,000 of them are 1 of the currency.
    """
    from aitp.commands.limits import show_limits
    from aitp.settings import load_settings

    show_limits(load_settings(), over if forecast else None, as_json=as_json)
