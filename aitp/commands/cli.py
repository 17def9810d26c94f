"""The command `aitp`: one function a command, whose docstring is its help: what it does, examples, its own exit codes.

What all share is in `help`. What a command `runs` is imported then, and takes its options by their names, after
`settings`. Promises: `aitp --version` and any `--help` load none of the service (a test counts imports); a usage error
exits 2.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, NoReturn

import click

from aitp import release
from aitp.commands import imported
from aitp.commands.help import HELP_NAMES, Group, completion, man

SEE, RUN, LOOK, STEER, KEEP = "See it at work", "Run it", "Look at it", "Steer it", "Keep it"


def _completed(what: str) -> Callable[[click.Context, click.Parameter, str], list[str]]:
    """For the shell: those that begin as what is there so far."""
    return lambda context, parameter, begun: imported("commands.console.completed")(what, begun)


def _show_version(context: click.Context, parameter: click.Parameter, asked: bool) -> None:
    if asked and not context.resilient_parsing:
        click.echo(f"aitp {release()}")
        context.exit()


@click.group(cls=Group, name="aitp", context_settings={"help_option_names": HELP_NAMES})
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_show_version,
    help="Say which release this is.",
)
def commands() -> None:
    """Take AI tasks from a task API, run them through OpenAI or Ollama, bring the results back.

    Settings come from the environment and from the file that AITP_ENV_FILE names, or .env in the current directory. The
    ledger is data/rate_limits.db unless RATE_LIMIT_STORAGE_PATH says otherwise; token, scoreboard, metrics files and
    supervisord's socket are in run/ unless RUNTIME_DIR does.
    """


# See it at work


@commands.command(section=SEE, needs_settings=False, prints=True)
@click.option("--tasks", default=200, show_default=True, type=click.IntRange(1, 100_000), help="How many tasks.")
@click.option("--workers", default=5, show_default=True, type=click.IntRange(1, 100), help="Provider calls at a time.")
@click.option("--latency-ms", default=100, show_default=True, type=click.IntRange(0, 60_000), help="The provider's.")
@click.option("--port", default=0, type=click.IntRange(0, 65_535), help="Of page and metrics; 0 takes a free one.")
@click.option("--mode", default="openai", show_default=True, type=click.Choice(("openai", "ollama", "hybrid")))
@click.option("--types", default="text_embedding", show_default=True, help="Task types, with commas between, or all.")
@click.option("--faults", is_flag=True, help="403, 429, 500, dropped connections, and kill -9 of a worker.")
@click.option("--hosts", default=1, show_default=True, type=click.IntRange(1, 9), help="Services on one PostgreSQL.")
@click.option("--keep", is_flag=True, help="Leave it running until Ctrl-C.")
@click.option(
    "--servers",
    type=click.Path(file_okay=False),
    metavar="DIRECTORY",
    help="Start only the servers, until Ctrl-C, and write settings that point at them to DIRECTORY/aitp.env.",
)
def demo(**options: Any) -> int:
    """See the service at work on this machine: nothing to set up.

    It works against servers of its own. With OPENAI_API_KEY (or OPENAI_API_KEY_FILE) in the environment OpenAI itself
    is called, or the server that OPENAI_BASE_URL names, and is paid; unset them for a demo that costs nothing.

    Examples:
      aitp demo                              200 texts, no key
      aitp demo --mode hybrid --types all    every task type, Ollama first
      aitp demo --keep                       look at its page, metrics and logs
      aitp demo --servers practice           only the servers, to practise on
      aitp demo --hosts 3                    a fleet, one host of which is lost
      aitp demo --tasks 2000 --latency-ms 50 --faults
          with failing services and a worker killed by kill -9

    Exit codes:
      0  every task succeeded, and each text was bought once
      1  not so: what went wrong is said
    """
    from aitp.demo.stopping import told_to_stop_once

    with told_to_stop_once():  # from here on, as what follows is half a second of imports
        from aitp.demo.start import start

        return start(**options)


@commands.command("eval", section=SEE, needs_settings=False, prints=True, runs="quality.run_evaluation")
@click.option("--types", "types", default="all", show_default=True, help="Task types, separated by commas.")
@click.option("--limit", type=click.IntRange(min=1), help="Only so many texts, the languages in turn.")
@click.option("--model", help="The model to ask, in place of the tasks' default.")
@click.option("--texts", type=click.Path(file_okay=False), help="Directory of labelled texts, in place of ours.")
@click.option("--wikidata", is_flag=True, help="Look people and subjects up, as the service does.")
def evaluate() -> None:
    """Measure how good the answers of your provider are.

    On labelled texts, one call a text and type (160 in all), each of them paid for, and not counted against the
    service's limits. Needs no task API.

    Examples:
      aitp eval --limit 4 --types defining_topics    a first impression
      aitp eval --model gpt-6.1-sol --json           another model, for programs

    Exit codes:
      0  measured
      1  stopped before its end, or no text was answered
    """


# Run it


@commands.command(section=RUN, silent=True, starts=True, needs_settings=None, runs="process.supervisord.run_supervised")
def run() -> None:
    """Run the service in the foreground, under supervisord.

    For systemd, containers and terminals. TERM or Ctrl-C stops it within SHUTDOWN_GRACE_SECONDS, QUIT at once; HUP has
    it load its settings again (invalid ones change nothing), USR1 has it poll now. `supervisorctl -s
    unix://RUNTIME_DIR/supervisor.sock` steers its programs.

    Examples:
      aitp run    in a terminal; Ctrl-C stops it
      AITP_ENV_FILE=/etc/aitp/aitp.env aitp run
          with the settings of that file, as a unit of systemd does

    Exit codes:
      0  stopped from outside
      1  METRICS_PORT is taken, or a program failed for good; the log says why
    """


@commands.command(section=RUN, silent=True, runs="process.once.run_once")
def once() -> None:
    """Poll, work, deliver until nothing is left; then leave.

    In the foreground: for cron, debugging and tests.

    Examples:
      aitp once    all that is pending, then leave
      */10 * * * * AITP_ENV_FILE=/etc/aitp/aitp.env aitp once
          every ten minutes, from a crontab

    Exit codes:
      0  nothing is left
      1  something waits for longer than this run does, it may not poll, or a
         service is running already
    """


@commands.command(section=RUN, silent=True, starts=True)
def master(settings: Any) -> int:
    """Run the master with its relays and workers alone.

    In the foreground, without supervisord and metrics.

    Examples:
      aitp master    relays and workers, and their log, in a terminal

    Exit codes:
      0  stopped from outside
      1  it could not start, or another master has this ledger
    """
    from aitp.process.master import run_master
    from aitp.process.service import roles

    return run_master(settings, roles(settings))


@commands.command(section=RUN, silent=True, runs="web.app.run_metrics")
def metrics() -> None:
    """Serve /metrics, /health, /ready and the status page alone.

    Examples:
      aitp metrics    what supervisord starts; it tells of a service that is
                      down as well

    Exit codes:
      0  stopped from outside
      1  METRICS_HOST and METRICS_PORT cannot be listened on
    """


# Look at it


@commands.command(section=LOOK, needs_settings=False, runs="commands.check.show_findings")
@click.option("--offline", is_flag=True, help="Ask no server.")
@click.option("--strict", is_flag=True, help="Exit 1 for warnings, too.")
def check() -> None:
    """Find what is wrong, and say what to do.

    With settings, machine and services. Safe beside a running service: no task is claimed, nothing is bought, nothing
    is written. Each server is asked once or twice, for REQUEST_TIMEOUT or 10 seconds at most.

    Examples:
      aitp check              before the first start, and whenever all is not well
      aitp check --offline    settings and this machine, without any request
      aitp check --json       each finding with code, severity, sentence, advice

    Exit codes:
      0   the service can start and work; there may be warnings
      1   it starts, but something keeps it from its work (or --strict: there is
          a warning)
      78  it would not start: the settings cannot be used
    """


@commands.command(section=LOOK, needs_settings=None, prints=True, runs="commands.watch.show_status")
@click.option("--watch", is_flag=True, help="Look again and again. Not on a terminal: one snapshot after the other.")
@click.option(
    "--interval", default=2.0, show_default=True, type=click.FloatRange(0.1, 3600), help="Seconds between two looks."
)
def status() -> None:
    """Show what the service is doing now; with --watch, live.

    Its processes, the queue, limits, breakers, and what keeps it from its work.

    Examples:
      aitp status            one look
      aitp status --watch    a live view; Ctrl-C ends it
      aitp status --watch --json --interval 10 >> status.jsonl
          one JSON document a line, for programs

    Exit codes:
      0  the service is running (with --watch: you ended it)
      1  it is not running, or not for this user to see
    """


@commands.command(section=LOOK, runs="commands.console.list_tasks")
@click.option(
    "--state",
    "states",
    multiple=True,
    type=click.Choice(("ready", "waiting", "claimed", "finished", "dead")),
    help="Only those; may be given more than once.",
)
@click.option("--type", "types", multiple=True, help="Only tasks of that type; may be given more than once.")
@click.option("--limit", default=50, show_default=True, type=click.IntRange(1, 1_000_000), help="How many, at most.")
def tasks() -> None:
    """List the tasks that are held: state, tries, age, due.

    The oldest first. ready: to be claimed. waiting: for a moment that has been set. claimed: being run. finished: being
    delivered. dead: refused by the task API (`aitp dead`).

    Examples:
      aitp tasks                       the oldest fifty
      aitp tasks --limit 5000 --json   all that are held, for programs
      aitp tasks --state waiting --type text_embedding
          those that wait for their next try

    Exit codes:
      0  listed, if only that there are none
      1  there is no ledger yet, or it cannot be used
    """


@commands.command(section=LOOK, runs="commands.console.show_limits")
def limits() -> None:
    """Show rate limits and budgets: used, left, and when room frees.

    Tasks sent to providers a minute, hour, day, week and month. With a file of prices (PRICES) also what was spent
    today and this month, what calls in hand may cost, and what the budgets leave. With --json amounts are whole
    nano-units: 1,000,000,000 of them are 1 of the currency.

    Examples:
      aitp limits           what is used, what is left, when room frees
      aitp limits --json    for programs

    Exit codes:
      0  shown
      1  there is no ledger yet, or it cannot be used
    """


@commands.group(section=LOOK, usually="list")
def hosts() -> None:
    """List the hosts that share a ledger on PostgreSQL, or forget one.

    `aitp hosts` is `aitp hosts list`. A host is here as long as one of its processes holds its place in the ledger.
    """


@hosts.command("list", runs="commands.console.list_hosts")
def hosts_list() -> None:
    """List them, by name: here or away, since when, and what they have.

    Examples:
      aitp hosts list           who is here, and who is away
      aitp hosts list --json    for programs

    Exit codes:
      0  listed
      1  there is no ledger that hosts share, or it cannot be used
    """


@hosts.command("forget", runs="commands.console.forget_host")
@click.argument("name", shell_complete=_completed("hosts"))
def hosts_forget() -> None:
    """Forget one that is away and does not come back.

    What it had in hand is anyone's at once, and not only after HOST_GRACE_SECONDS. Where its calls were answered, they
    are made, and paid for, again. Should it come back, its service must be started anew.

    Examples:
      aitp hosts forget worker-3    which was taken out of service

    Exit codes:
      0  forgotten
      1  it is here (stop its service first), or there is none of that name, or no
         ledger that can be used
    """


# Steer it


@commands.command(section=STEER, runs="commands.console.pause")
def pause() -> None:
    """Stop polling and claiming, across restarts.

    Until `aitp resume`. Calls in flight finish and are delivered.

    Examples:
      aitp pause    before maintenance of the task API, or to save what is left
                    of a budget

    Exit codes:
      0  paused
      1  there is no ledger yet, or it cannot be used
    """


@commands.command(section=STEER, runs="commands.console.resume")
def resume() -> None:
    """Go on after `aitp pause`.

    Examples:
      aitp resume    at once, if the service is running

    Exit codes:
      0  resumed
      1  there is no ledger yet, or it cannot be used
    """


@commands.command(section=STEER, runs="commands.console.ask_for_poll")
def poll() -> None:
    """Have the running service poll the task API now.

    Examples:
      aitp poll    in place of waiting for POLLING_INTERVAL_SECONDS

    Exit codes:
      0  the service was asked
      1  it is not running, or belongs to another user
    """


@commands.group(section=STEER)
def dead() -> None:
    """List, show, retry or drop results that the task API refused.

    Such a result is kept, with the API's reason, until a person decides.
    """


_some_tasks = click.argument("task_ids", nargs=-1, shell_complete=_completed("ids"))
_all_option = click.option("--all", "of_all", is_flag=True, help="All that there are.")


@dead.command("list", runs="commands.console.list_dead_letters")
def dead_list() -> None:
    """List them, oldest first.

    Examples:
      aitp dead list           with the reason of each
      aitp dead list --json    for programs

    Exit codes:
      0  listed, if only that there are none
      1  there is no ledger yet, or it cannot be used
    """


@dead.command("show", runs="commands.console.show_dead_letter")
@click.argument("task_id", shell_complete=_completed("ids"))
def dead_show() -> None:
    """Show one, with the beginning of its result; with all of it as JSON.

    Examples:
      aitp dead show 65f0c0ffee65f0c0ffee65f0           what was refused, and why
      aitp dead show 65f0c0ffee65f0c0ffee65f0 --json    with the whole result

    Exit codes:
      0  shown
      1  there is none of that id, or no ledger that can be used
    """


@dead.command("retry", runs="commands.console.retry_dead_letters")
@_some_tasks
@_all_option
def dead_retry() -> None:
    """Deliver them once more. Nothing is bought again.

    Examples:
      aitp dead retry 65f0c0ffee65f0c0ffee65f0    at once if the service runs
      aitp dead retry --all                       when what was wrong is mended

    Exit codes:
      0  all of them are to be delivered
      1  there is none of an id that was given, or no ledger that can be used
    """


@dead.command("drop", runs="commands.console.drop_dead_letters")
@_some_tasks
@_all_option
@click.option("--yes", is_flag=True, help="Do not ask.")
def dead_drop() -> None:
    """Throw them away, with their results.

    A task that the task API still lists as pending is then run, and bought, anew: end it there first.

    Examples:
      aitp dead drop 65f0c0ffee65f0c0ffee65f0    asks first
      aitp dead drop --all --yes                 does not ask

    Exit codes:
      0  dropped
      1  there is none of an id that was given, or no ledger that can be used, or
         you said no
    """


@commands.group(section=STEER)
def models() -> None:
    """Pull Ollama's models now."""


@models.command("pull", prints=True, runs="commands.console.pull_models")
def models_pull() -> None:
    """Pull the models of SUPPORTED_MODELS that the Ollama server lacks.

    The service does so by itself, too.

    Examples:
      aitp models pull           with a bar for each, before the first start
      aitp models pull --json    without bars, what came of it as JSON

    Exit codes:
      0  all of them are there
      1  one is missing in the end, or the service is pulling already
    """


# Keep it


@commands.group(section=KEEP)
def ledger() -> None:
    """Check, back up, recover or move the ledger.

    It is the file that RATE_LIMIT_STORAGE_PATH names, or a fleet's database (LEDGER_URL), of which backups are
    PostgreSQL's own.
    """


@ledger.command("check", runs="commands.console.check_ledger")
@click.option("--quick", is_flag=True, help="Do not compare indexes with tables.")
def ledger_check() -> None:
    """Look it over, also while the service runs.

    The file, and what its rows promise each other; of a fleet's database the latter.

    Examples:
      aitp ledger check            after a crash of the machine, or from cron
      aitp ledger check --quick    without indexes: about half the time

    Exit codes:
      0  it is sound
      1  it is damaged: every problem is named; or there is none
    """


@ledger.command("backup", runs="commands.console.back_up_ledger")
@click.argument("file", type=click.Path())
@click.option("--force", is_flag=True, help="Replace FILE if it exists.")
def ledger_backup() -> None:
    """Write a copy to FILE, and check it; also while the service runs.

    To restore it: stop the service, remove the ledger with its -wal and -shm, put FILE in its place. What was finished
    since may be bought again.

    Examples:
      aitp ledger backup /var/backups/aitp.db            one file, mode 0600
      aitp ledger backup --force /var/backups/aitp.db    in place of the last one

    Exit codes:
      0  written, and found sound
      1  the ledger is damaged, or FILE cannot be written
    """


@ledger.command("recover", runs="commands.console.recover_ledger")
def ledger_recover() -> None:
    """Set a damaged one aside, save what can be read in a new one.

    The service must be stopped. A sound ledger stays as it is; nothing of a damaged one is changed or removed.

    Examples:
      aitp ledger recover    when the service exits with 78 because its ledger
                             is damaged

    Exit codes:
      0  recovered as far as can be, or it was sound
      1  it is in use, there is none, or the disk is full
    """


@ledger.command("move", runs="commands.console.move_ledger")
@click.option("--to", type=click.Choice(("fleet", "file")), required=True, help="LEDGER_URL's, or the file's place.")
def ledger_move() -> None:
    """Copy it to a fleet's database, or back into a file.

    All of it or nothing, compared in the end. The service must be stopped on every host, LEDGER_URL must be set in both
    cases, and where it is copied to there must be no ledger yet. What it is copied from stays as it is: start no
    service on it again.

    Examples:
      aitp ledger move --to fleet    when one host is not enough: then start the
                                     service with LEDGER_URL on every host
      aitp ledger move --to file     when one is: then take LEDGER_URL out of
                                     the settings

    Exit codes:
      0  moved
      1  either is in use, there is something already, or one cannot be used
    """


# Around it

commands.add_command(completion)
commands.add_command(man)


def main() -> NoReturn:
    """Run the command line of this process."""
    sys.exit(commands(prog_name="aitp"))
