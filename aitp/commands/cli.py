"""The command `aitp`: one function a command, each of which imports what it needs when it runs, and little else.

Promises: `aitp --version` and any `--help` load none of the service (a test counts imports); a usage error exits 2; how
a command that cannot do its part ends is said in `help`.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import click
from click.shell_completion import get_completion_class

from aitp import __version__
from aitp.commands.help import Command, Group, json_option, manual_page
from aitp.tasks import ExitCode

if TYPE_CHECKING:
    from aitp.settings import Settings

NO_LEDGER = "there is no ledger yet, or it cannot be used"
MISSING = f"there is none of an id that was given, or {NO_LEDGER}"
COMPLETE_VARIABLE = "_AITP_COMPLETE"  # click's own name for a program called aitp
# click's script for zsh, found in its path of functions, completes nothing at every shell's second Tab; its script for
# fish cuts descriptions at their first comma.
COMPLETION_FIXES = {
    "bash": ("", ""),
    "zsh": ("$zsh_eval_context[-1] == loadautofunc", "$funcstack[1] == _aitp"),
    "fish": ('string split ","', 'string split --max 1 ","'),
}


# See it at work


@click.command(
    cls=Command,
    short_help="the whole service at work on this machine: nothing to set up",
    examples={
        "aitp demo": "200 texts, nothing to set up, no key",
        "aitp demo --tasks 2000 --latency-ms 50 --faults": "with failing services and a worker killed by kill -9",
        "aitp demo --mode hybrid --types all": "every task type, Ollama first",
        "aitp demo --keep": "leave it running, to look at its page, metrics and logs",
        "aitp demo --servers practice": "only the servers, to practise check, run and all other commands on",
    },
    exits={0: "every task succeeded, and each text was bought once", 1: "not so: what went wrong is said"},
    needs_settings=False,
)
@click.option("--tasks", default=200, show_default=True, type=click.IntRange(1, 100_000), help="How many tasks.")
@click.option(
    "--workers", default=5, show_default=True, type=click.IntRange(1, 100), help="Provider calls at one time."
)
@click.option("--latency-ms", default=100, show_default=True, type=click.IntRange(0, 60_000), help="The provider's.")
@click.option("--port", default=0, type=click.IntRange(0, 65_535), help="Of page and metrics; 0 takes a free one.")
@click.option("--mode", default="openai", show_default=True, type=click.Choice(("openai", "ollama", "hybrid")))
@click.option("--types", default="text_embedding", show_default=True, help="Task types, with commas between, or all.")
@click.option("--faults", is_flag=True, help="403, 429, 500, dropped connections, and kill -9 of a worker.")
@click.option("--keep", is_flag=True, help="Leave it running until Ctrl-C.")
@click.option(
    "--servers",
    type=click.Path(file_okay=False),
    metavar="DIRECTORY",
    help="Start only the servers, until Ctrl-C, and write settings that point at them to DIRECTORY/aitp.env.",
)
@json_option
def demo(
    tasks: int,
    workers: int,
    latency_ms: int,
    port: int,
    mode: str,
    types: str,
    faults: bool,
    keep: bool,
    servers: str | None,
    as_json: bool,
) -> None:
    """See the whole service at work on this machine, against servers of its own.

    With OPENAI_API_KEY (or OPENAI_API_KEY_FILE) in the environment OpenAI itself is called, or the server that
    OPENAI_BASE_URL names, and is paid; unset them for a demo that costs nothing.
    """
    from aitp.demo.stopping import told_to_stop_once

    with told_to_stop_once():  # from here on, as what follows is half a second of imports
        from aitp.demo.command import Plan, real_openai
        from aitp.demo.documents import TYPES
        from aitp.demo.practice import practise
        from aitp.demo.show import show
        from aitp.validators import addresses, trouble_at

        chosen = TYPES if types == "all" else tuple(dict.fromkeys(types.split(",")))
        if unknown := set(chosen) - set(TYPES):
            raise click.BadParameter(
                f"{', '.join(sorted(unknown))}: there are {', '.join(TYPES)}", param_hint="--types"
            )
        plan = Plan(tasks, workers, latency_ms, port, faults, keep, real_openai(), mode, chosen)
        if servers is None:
            if port and (trouble := trouble_at(addresses("127.0.0.1", port))):
                raise click.BadParameter(
                    f"{port}: {os.strerror(trouble)}; choose another, or 0 for a free one", param_hint="--port"
                )
            sys.exit(show(plan, as_json=as_json))
        if faults or keep or as_json:
            raise click.UsageError(
                "--servers goes with --tasks, --workers, --latency-ms, --port, --mode and --types alone"
            )
        try:
            sys.exit(practise(plan, Path(servers)))
        except ValueError as error:
            raise click.BadParameter(str(error), param_hint="--servers") from None


@click.command(
    "eval",
    cls=Command,
    short_help="how good the answers of your provider are",
    examples={
        "aitp eval --limit 4 --types defining_topics": "a first impression, for four calls",
        "aitp eval --model gpt-6.1-sol --json": "another model, for programs",
    },
    exits={
        0: "measured",
        1: "stopped before its end, or no text was answered",
        ExitCode.MISCONFIGURED: "the provider's settings cannot be used",
    },
    needs_settings=False,
)
@click.option("--types", "types", default="all", show_default=True, help="Task types, separated by commas.")
@click.option("--limit", type=click.IntRange(min=1), help="Only so many texts, the languages in turn.")
@click.option("--model", help="The model to ask, in place of the tasks' default.")
@click.option("--texts", type=click.Path(file_okay=False), help="Directory of labelled texts, in place of ours.")
@click.option("--wikidata", is_flag=True, help="Look people and subjects up, as the service does.")
@json_option
def evaluate(
    types: str,
    limit: int | None,
    model: str | None,
    texts: str | None,
    wikidata: bool,
    as_json: bool,
) -> None:
    """Measure how good the answers of the configured provider are, on labelled texts. Its calls are paid for.

    One call a text and type (160 in all), not counted against the service's limits. Needs no task API.
    """
    from aitp.quality.evaluation import LABELS, Options, run_evaluation
    from aitp.quality.scoring import TRIALS

    chosen = tuple(TRIALS) if types == "all" else tuple(name.strip() for name in types.split(","))
    if unknown := [name for name in chosen if name not in TRIALS]:
        raise click.BadParameter(f"{unknown[0]!r} is none of all, {', '.join(TRIALS)}", param_hint="--types")
    labels = Path(texts) if texts else LABELS
    sys.exit(run_evaluation(Options(chosen, limit, model, labels, wikidata, as_json)))


# Run it


@click.command(
    cls=Command,
    short_help="the service in the foreground, under supervisord",
    examples={
        "aitp run": "in a terminal; Ctrl-C stops it",
        "AITP_ENV_FILE=/etc/aitp/aitp.env aitp run": "with the settings of that file, as a unit of systemd does",
    },
    exits={0: "stopped from outside", 1: "METRICS_PORT is taken, or a program failed for good; the log says why"},
)
def run(settings: Settings) -> None:
    """Run the service in the foreground, under supervisord: for systemd, containers and terminals.

    TERM or Ctrl-C stops it, HUP has it load its settings again, USR1 has it poll now.
    `supervisorctl -s unix://RUNTIME_DIR/supervisor.sock` steers its programs.
    """
    from aitp.process.supervisord import run_supervised

    sys.exit(run_supervised(settings))


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
def once(settings: Settings) -> None:
    """Poll, work and deliver in the foreground until nothing is left: for cron, debugging and tests."""
    from aitp.logs import configure
    from aitp.process.once import run_once

    configure(settings.log_level, settings.log_format)
    sys.exit(run_once(settings))


@click.command(
    cls=Command,
    short_help="the master with relays and workers alone",
    examples={"aitp master": "relays and workers, and their log, in a terminal"},
    exits={0: "stopped from outside", 1: "it could not start, or another master has this ledger"},
)
def master(settings: Settings) -> None:
    """Run the master with its relays and workers in the foreground, without supervisord and metrics."""
    from aitp.process.master import run_master
    from aitp.process.service import roles

    sys.exit(run_master(settings, roles(settings)))


@click.command(
    cls=Command,
    short_help="/metrics, /health, /ready and the status page alone",
    examples={"aitp metrics": "what supervisord starts; it tells of a service that is down as well"},
    exits={0: "stopped from outside", 1: "METRICS_HOST and METRICS_PORT cannot be listened on"},
)
def metrics(settings: Settings) -> None:
    """Serve /metrics, /health, /ready and the status page."""
    from aitp.web.serve import run_metrics

    sys.exit(run_metrics(settings))


@click.command(cls=Command, hidden=True, examples={}, exits={}, needs_settings=False)
def listen() -> None:
    """Be supervisord's event listener."""
    from aitp.process.listener import listen as run_listener

    sys.exit(run_listener())


# Look at it


@click.command(
    cls=Command,
    short_help="find what is wrong, say what to do",
    examples={
        "aitp check": "everything, before the first start and whenever something is wrong",
        "aitp check --offline": "settings and this machine alone, without a request to anyone",
        "aitp check --json": "for programs: each finding with code, severity, sentence, advice",
    },
    exits={
        0: "the service can start and work; there may be warnings",
        1: "it starts, but something keeps it from its work (or --strict: there is a warning)",
        ExitCode.MISCONFIGURED: "it would not start: the settings cannot be used",
    },
    needs_settings=False,
)
@click.option("--offline", is_flag=True, help="Ask no server.")
@click.option("--strict", is_flag=True, help="Exit 1 for warnings, too.")
@json_option
def check(offline: bool, strict: bool, as_json: bool) -> None:
    """Find what is wrong with settings, machine and services; say what to do.

    Safe beside a running service: no task is claimed, nothing is bought, nothing is written. Each server is asked
    once or twice, for REQUEST_TIMEOUT or 10 seconds at most.
    """
    from aitp.commands.check import show_findings

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
def status(settings: Settings, watch: bool, interval: float, as_json: bool) -> None:
    """Show what the service is doing: its processes, the queue, limits, breakers, and what keeps it from its work."""
    if watch:
        from aitp.commands.watch import watch_status

        sys.exit(watch_status(settings, interval, as_json=as_json))
    from aitp.commands.watch import show_status

    sys.exit(show_status(settings, as_json=as_json))


@click.command(
    cls=Command,
    short_help="the tasks that are held: state, tries, age, due",
    examples={
        "aitp tasks": "the oldest fifty",
        "aitp tasks --state waiting --type text_embedding": "those that wait for their next try",
        "aitp tasks --limit 5000 --json": "all that are held, for programs",
    },
    exits={0: "listed, if only that there are none", 1: NO_LEDGER},
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
def tasks(settings: Settings, states: tuple[str, ...], types: tuple[str, ...], limit: int, as_json: bool) -> None:
    """List the tasks that the ledger holds, oldest first: state, tries so far, age, and when they are due.

    ready: to be claimed. waiting: for a moment that has been set. claimed: being run. finished: being delivered.
    dead: refused by the task API (`aitp dead`).
    """
    from aitp.commands.console import list_tasks

    list_tasks(settings, states, types, limit, as_json=as_json)


@click.command(
    cls=Command,
    short_help="rate limits and budgets: used, left, and when room frees",
    examples={"aitp limits": "what is used, what is left, when room frees", "aitp limits --json": "for programs"},
    exits={0: "shown", 1: NO_LEDGER},
)
@json_option
def limits(settings: Settings, as_json: bool) -> None:
    """Show the rate limits in force: tasks sent to providers a minute, hour, day, week and month.

    With a file of prices (PRICES) also what was spent today and this month, what calls in hand may cost, and what the
    budgets leave. With --json amounts are whole nano-units: 1,000,000,000 of them are 1 of the currency.
    """
    from aitp.commands.console import show_limits

    show_limits(settings, as_json=as_json)


# Steer it


@click.command(
    cls=Command,
    short_help="stop polling and claiming, across restarts",
    examples={"aitp pause": "before maintenance of the task API, or to save what is left of a budget"},
    exits={0: "paused", 1: NO_LEDGER},
)
@json_option
def pause(settings: Settings, as_json: bool) -> None:
    """Stop polling and claiming, across restarts, until `aitp resume`. Calls in flight finish and are delivered."""
    from aitp.commands.console import pause as pause_service

    pause_service(settings, paused=True, as_json=as_json)


@click.command(
    cls=Command,
    short_help="go on",
    examples={"aitp resume": "at once, if the service is running"},
    exits={0: "resumed", 1: NO_LEDGER},
)
@json_option
def resume(settings: Settings, as_json: bool) -> None:
    """Go on after `aitp pause`."""
    from aitp.commands.console import pause as pause_service

    pause_service(settings, paused=False, as_json=as_json)


@click.command(
    cls=Command,
    short_help="poll the task API now",
    examples={"aitp poll": "in place of waiting for POLLING_INTERVAL_SECONDS"},
    exits={0: "the service was asked", 1: "it is not running, or belongs to another user"},
)
@json_option
def poll(settings: Settings, as_json: bool) -> None:
    """Have the running service poll the task API now."""
    from aitp.commands.console import ask_for_poll

    ask_for_poll(settings, as_json=as_json)


@click.group(cls=Group, short_help="results that the task API refused: list, show, retry, drop")
def dead() -> None:
    """Results that the task API refused for good: list, show, retry or drop them.

    Such a result is kept, with the API's reason, until a person decides.
    """


def _complete_dead_letters(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    """Ids of dead letters, for the shell."""
    from aitp.commands.console import ids_beginning

    return ids_beginning(incomplete)


_some_tasks = click.argument("task_ids", nargs=-1, shell_complete=_complete_dead_letters)
_all_option = click.option("--all", "of_all", is_flag=True, help="All that there are.")


@dead.command(
    "list",
    examples={"aitp dead list": "with the reason of each", "aitp dead list --json": "for programs"},
    exits={0: "listed, if only that there are none", 1: NO_LEDGER},
)
@json_option
def dead_list(settings: Settings, as_json: bool) -> None:
    """List them, oldest first."""
    from aitp.commands.console import list_dead_letters

    list_dead_letters(settings, as_json=as_json)


@dead.command(
    "show",
    examples={
        "aitp dead show 65f0c0ffee65f0c0ffee65f0": "what was refused, and why",
        "aitp dead show 65f0c0ffee65f0c0ffee65f0 --json": "with the whole result",
    },
    exits={0: "shown", 1: MISSING},
)
@click.argument("task_id", shell_complete=_complete_dead_letters)
@json_option
def dead_show(settings: Settings, task_id: str, as_json: bool) -> None:
    """Show one, with the beginning of its result; with all of it as JSON."""
    from aitp.commands.console import show_dead_letter

    show_dead_letter(settings, task_id, as_json=as_json)


@dead.command(
    "retry",
    examples={
        "aitp dead retry 65f0c0ffee65f0c0ffee65f0": "one, at once if the service is running",
        "aitp dead retry --all": "when what made the API refuse them is mended",
    },
    exits={0: "all of them are to be delivered", 1: MISSING},
)
@_some_tasks
@_all_option
@json_option
def dead_retry(settings: Settings, task_ids: tuple[str, ...], of_all: bool, as_json: bool) -> None:
    """Deliver them once more. Nothing is bought again."""
    from aitp.commands.console import retry_dead_letters

    sys.exit(retry_dead_letters(settings, _ids(task_ids, of_all), as_json=as_json))


@dead.command(
    "drop",
    examples={
        "aitp dead drop 65f0c0ffee65f0c0ffee65f0": "asks first",
        "aitp dead drop --all --yes": "does not ask",
    },
    exits={0: "dropped", 1: MISSING + ", or you said no"},
)
@_some_tasks
@_all_option
@click.option("--yes", is_flag=True, help="Do not ask.")
@json_option
def dead_drop(settings: Settings, task_ids: tuple[str, ...], of_all: bool, yes: bool, as_json: bool) -> None:
    """Throw them away, with their results.

    A task that the task API still lists as pending is then run, and bought, anew: end it there first.
    """
    from aitp.commands.console import drop_dead_letters

    chosen = _ids(task_ids, of_all)
    if not (yes or _agreed("Their results are lost, and tasks that the task API still lists are bought anew. Go on?")):
        raise click.ClickException("nothing is dropped: you did not say yes; with --yes nobody is asked")
    sys.exit(drop_dead_letters(settings, chosen, as_json=as_json))


def _ids(task_ids: tuple[str, ...], of_all: bool) -> tuple[str, ...] | None:
    if bool(task_ids) == of_all:
        raise click.UsageError("Give ids of tasks, or --all")
    return None if of_all else task_ids


def _agreed(question: str) -> bool:
    """Whether a person says yes. Nobody there to ask is a no."""
    try:
        return click.confirm(question, err=True)
    except click.Abort:
        click.echo(err=True)
        return False


@click.group(cls=Group, short_help="Ollama's models: pull them now")
def models() -> None:
    """Ollama's models."""


@models.command(
    "pull",
    examples={
        "aitp models pull": "with a bar for each, before the service is started for the first time",
        "aitp models pull --json": "without bars, what came of it as JSON",
    },
    exits={0: "all of them are there", 1: "one is missing in the end, or the service is pulling already"},
)
@json_option
def models_pull(settings: Settings, as_json: bool) -> None:
    """Pull the models of SUPPORTED_MODELS that the Ollama server lacks. The service does so by itself, too."""
    from aitp.commands.console import pull_models

    sys.exit(pull_models(settings, as_json=as_json))


# Keep it


@click.group(cls=Group, short_help="the ledger file: check it, back it up, recover it")
def ledger() -> None:
    """The ledger file (RATE_LIMIT_STORAGE_PATH): check it, back it up, recover what can be read of a damaged one."""


@ledger.command(
    "check",
    short_help="look it over, also while the service runs",
    examples={
        "aitp ledger check": "after a crash of the machine, or from cron",
        "aitp ledger check --quick": "does not compare indexes with tables: about half the time",
    },
    exits={0: "it is sound", 1: "it is damaged: every problem is named; or there is none"},
)
@click.option("--quick", is_flag=True, help="Do not compare indexes with tables.")
@json_option
def ledger_check(settings: Settings, quick: bool, as_json: bool) -> None:
    """Check the file, and what its rows promise each other; also while the service runs."""
    from aitp.commands.console import check_ledger

    sys.exit(check_ledger(settings, quick=quick, as_json=as_json))


@ledger.command(
    "backup",
    short_help="write a copy to FILE, also while the service runs",
    examples={
        "aitp ledger backup /var/backups/aitp.db": "one file, mode 0600",
        "aitp ledger backup --force /var/backups/aitp.db": "in place of the last one",
    },
    exits={0: "written, and found sound", 1: "the ledger is damaged, or FILE cannot be written"},
)
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--force", is_flag=True, help="Replace FILE if it exists.")
@json_option
def ledger_backup(settings: Settings, file: Path, force: bool, as_json: bool) -> None:
    """Write one consistent state of the ledger to FILE, and check what was written; also while the service runs.

    To restore it: stop the service, remove the ledger with its -wal and -shm, put FILE in its place. What was finished
    since may be bought again.
    """
    from aitp.commands.console import back_up_ledger

    back_up_ledger(settings, file, overwrite=force, as_json=as_json)


@ledger.command(
    "recover",
    short_help="set a damaged one aside, save what can be read",
    examples={"aitp ledger recover": "when the service exits with 78 because its ledger is damaged"},
    exits={0: "recovered as far as can be, or it was sound", 1: "it is in use, there is none, or the disk is full"},
)
@json_option
def ledger_recover(settings: Settings, as_json: bool) -> None:
    """Set a damaged ledger aside under a dated name, and save what can be read of it in a new one.

    The service must be stopped. A sound ledger stays as it is; nothing of a damaged one is changed or removed.
    """
    from aitp.commands.console import recover_ledger

    recover_ledger(settings, as_json=as_json)


# Around it


@click.command(
    cls=Command,
    short_help="what makes your shell complete commands",
    examples={
        'eval "$(aitp completion bash)"': "for this shell alone, or in ~/.bashrc",
        "aitp completion zsh > ~/.zfunc/_aitp": "where ~/.zfunc is in fpath",
        "aitp completion fish > ~/.config/fish/completions/aitp.fish": "for all of fish's sessions",
    },
    exits={0: "printed"},
    needs_settings=False,
)
@click.argument("shell", type=click.Choice(tuple(COMPLETION_FIXES)))
def completion(shell: str) -> None:
    """Print what makes your shell complete commands, options, and the ids of dead letters."""
    script = get_completion_class(shell)
    assert script is not None
    click.echo(script(commands, {}, "aitp", COMPLETE_VARIABLE).source().replace(*COMPLETION_FIXES[shell]))


@click.command(
    cls=Command,
    short_help="the manual page",
    examples={"aitp man | man -l -": "read it", "aitp man > /usr/local/share/man/man1/aitp.1": "install it"},
    exits={0: "printed"},
    needs_settings=False,
)
def man() -> None:
    """Print the manual page, made of the help of all commands."""
    click.echo(manual_page(commands), nl=False)


SECTIONS = {
    "See it at work": (demo, evaluate),
    "Run it": (run, once, master, metrics),
    "Look at it": (check, status, tasks, limits),
    "Steer it": (pause, resume, poll, dead, models),
    "Keep it": (ledger,),
    "Around it": (completion, man),
}


@click.group(
    cls=Group,
    name="aitp",
    context_settings={"help_option_names": ["-h", "--help"]},
    sections={heading: [str(command.name) for command in group] for heading, group in SECTIONS.items()},
)
@click.version_option(__version__, prog_name="aitp", message="%(prog)s %(version)s")
def commands() -> None:
    """Take AI tasks from a task API, run them through OpenAI or Ollama, bring the results back.

    Settings come from the environment and from the file that AITP_ENV_FILE names, or .env in the current directory.
    `aitp COMMAND --help` explains a command, with examples and its exit codes.
    """


for _command in (*(command for group in SECTIONS.values() for command in group), listen):
    commands.add_command(_command)


def main() -> NoReturn:
    """Run the command line of this process."""
    commands(prog_name="aitp")
    sys.exit(0)
