"""Commands that run the service, or a part of it, in the foreground."""

from __future__ import annotations

import sys

import click

from aitp.commands.cli_teaching import Command


@click.command(
    cls=Command,
    short_help="the service in the foreground, under supervisord",
    examples={
        "aitp run": "in a terminal; Ctrl-C stops it",
        "AITP_ENV_FILE=/etc/aitp/aitp.env aitp run": "with the settings of that file, as a unit of systemd does",
    },
    exits={0: "stopped from outside", 1: "METRICS_PORT is taken, or a program failed for good; the log says why"},
)
def run() -> None:
    """Run the service in the foreground, under supervisord: for systemd, containers and terminals.

    TERM or Ctrl-C stops it, HUP has it load its settings again, USR1 has it poll now.
    `supervisorctl -s unix://RUNTIME_DIR/supervisor.sock` steers its programs.
    """
    from aitp.process.supervisord import run_supervised
    from aitp.settings import load_settings

    sys.exit(run_supervised(load_settings()))


@click.command(
    cls=Command,
    short_help="the master with relays and workers alone",
    examples={"aitp master": "relays and workers, and their log, in a terminal"},
    exits={0: "stopped from outside", 1: "it could not start, or another master has this ledger"},
)
def master() -> None:
    """Run the master with its relays and workers in the foreground, without supervisord and metrics."""
    from aitp.process.master import run_master
    from aitp.process.service import roles
    from aitp.settings import load_settings

    settings = load_settings()
    sys.exit(run_master(settings, roles(settings)))


@click.command(
    cls=Command,
    short_help="/metrics, /health, /ready and the status page alone",
    examples={"aitp metrics": "what supervisord starts; it tells of a service that is down as well"},
    exits={0: "stopped from outside", 1: "METRICS_HOST and METRICS_PORT cannot be listened on"},
)
def metrics() -> None:
    """Serve /metrics, /health, /ready and the status page."""
    from aitp.settings import load_settings
    from aitp.web.serve import run_metrics

    sys.exit(run_metrics(load_settings()))


@click.command(cls=Command, hidden=True, examples={}, exits={}, needs_settings=False)
def listen() -> None:
    """Be supervisord's event listener."""
    from aitp.process.listener import listen as run_listener

    sys.exit(run_listener())


@click.command(
    cls=Command,
    short_help="poll, work, deliver until nothing is left; then leave",
    examples={
        "aitp once": "all that is pending, then leave",
        "*/10 * * * * AITP_ENV_FILE=/etc/aitp/aitp.env aitp once": "every ten minutes, from a crontab",
    },
    exits={
        0: "nothing is left",
        1: "something waits for longer than this run does, it may not poll, or a service is running already",
    },
)
def once() -> None:
    """Poll, work and deliver in the foreground until nothing is left: for cron, debugging and tests."""
    from aitp.logs import configure
    from aitp.process.once import run_once
    from aitp.settings import load_settings

    settings = load_settings()
    configure(settings.log_level, settings.log_format)
    sys.exit(run_once(settings))
