"""The command `aitp`: one function a command, each of which imports what it needs when it runs, and little else.

Promises: `aitp --version` and `--help` load none of the service (a test counts imports); a usage error exits 2; a
ConfigurationError, wherever it comes from, is printed to standard error line by line and exits 78, which neither
supervisord nor systemd answers with a restart.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from typing import NoReturn

import click

from aitp import __version__
from aitp.errors import ConfigurationError

EXIT_CONFIGURATION = 78  # EX_CONFIG of sysexits.h

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")


def main() -> NoReturn:
    """Run the command line of this process."""
    try:
        commands(prog_name="aitp")
    except ConfigurationError as error:
        for problem in error.problems:
            print(f"aitp: {problem}", file=sys.stderr)
        sys.exit(EXIT_CONFIGURATION)
    sys.exit(0)


@click.group(name="aitp", context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="aitp", message="%(prog)s %(version)s")
def commands() -> None:
    """Take AI tasks from a task API, run them through OpenAI or Ollama, bring the results back.

    Settings come from the environment and from AITP_ENV_FILE, or .env in the current directory.
    """
    from aitp.settings import prepare_environment

    # Before any command can import numpy or the openai client.
    prepare_environment()


@commands.command()
@json_option
def check(as_json: bool) -> None:
    """Check the settings: exit 0 if the service can start with them, 78 with a list of all that is wrong."""
    from aitp.processors.inventory import inventory
    from aitp.settings import load_settings

    try:
        settings = load_settings()
        found = inventory(settings)
    except ConfigurationError as error:
        if not as_json:
            raise
        print(json.dumps({"ok": False, "problems": error.problems}, indent=2))
        sys.exit(EXIT_CONFIGURATION)
    if as_json:
        report = {"ok": True, "problems": [], "warnings": settings.warnings, "mock": settings.mock}
        report |= dataclasses.asdict(found)
        print(json.dumps({**report, "env_file": settings.env_file and str(settings.env_file)}, indent=2))
        return
    for warning in settings.warnings:
        print(f"warning: {warning}")
    if settings.mock:
        print("MOCK MODE: OPENAI_API_KEY is the placeholder; results are invented, no calls are made")
    for entry in found.task_types:
        prompt = f", prompt {entry.prompt}" if entry.prompt else ""
        print(f"{entry.name}: {entry.processor} of {entry.module}{prompt}")
    for name, models in found.providers.items():
        print(f"provider {name}: {', '.join(models)}")
    print(f"Settings are fine ({f'environment and {settings.env_file}' if settings.env_file else 'environment'})")


@commands.command()
def run() -> None:
    """Run the service in the foreground, under supervisord: for systemd, containers and terminals.

    TERM or Ctrl-C stops it; `supervisorctl -s unix://RUNTIME_DIR/supervisor.sock` steers it.
    """
    from aitp.process.supervise import run_supervised
    from aitp.settings import load_settings

    sys.exit(run_supervised(load_settings()))


@commands.command()
def master() -> None:
    """Run the master with its relays and workers in the foreground, without supervisord and metrics."""
    from aitp.process.service import crew
    from aitp.process.start import run_master
    from aitp.settings import load_settings

    settings = load_settings()
    sys.exit(run_master(settings, crew(settings)))


@commands.command()
def metrics() -> None:
    """Serve /metrics, /health, /ready and the status page."""
    from aitp.settings import load_settings
    from aitp.web.serve import run_metrics

    sys.exit(run_metrics(load_settings()))


@commands.command(hidden=True)
def listen() -> None:
    """Be supervisord's event listener."""
    from aitp.process.listener import listen as run_listener

    sys.exit(run_listener())


@commands.command()
def once() -> None:
    """Poll, work and deliver in the foreground until nothing is left: for cron, debugging and tests.

    Exit 0 if nothing is left, 1 if something waits for longer than this run does.
    """
    from aitp.errors import LedgerError
    from aitp.logs import configure
    from aitp.process.once import run_once
    from aitp.settings import load_settings

    settings = load_settings()
    configure(settings.log_level, settings.log_format)
    try:
        sys.exit(run_once(settings))
    except LedgerError as error:
        raise click.ClickException(str(error)) from error


@commands.command("eval")
@click.option("--types", "types", default="all", show_default=True, help="Task types, separated by commas.")
@click.option("--limit", type=click.IntRange(min=1), help="Only so many texts, the languages in turn.")
@click.option("--model", help="The model to ask, in place of the tasks' default.")
@click.option("--texts", type=click.Path(file_okay=False), help="Directory of labelled texts, in place of ours.")
@click.option("--recorded", type=click.Path(file_okay=False), help="Play replies back from there: no key, no calls.")
@click.option("--wikidata", is_flag=True, help="Look people and subjects up, as the service does.")
@json_option
def evaluate(
    types: str,
    limit: int | None,
    model: str | None,
    texts: str | None,
    recorded: str | None,
    wikidata: bool,
    as_json: bool,
) -> None:
    """Measure how good the answers of the configured provider are, on labelled texts. Its calls are paid for.

    One call a text and type (160 in all), not counted against the service's limits. Needs no task API.
    """
    from pathlib import Path

    from aitp.quality.command import LABELS, Options, run_evaluation
    from aitp.quality.trials import TRIALS

    chosen = tuple(TRIALS) if types == "all" else tuple(name.strip() for name in types.split(","))
    if unknown := [name for name in chosen if name not in TRIALS]:
        raise click.BadParameter(f"{unknown[0]!r} is none of all, {', '.join(TRIALS)}", param_hint="--types")
    places = Path(texts) if texts else LABELS, Path(recorded) if recorded else None
    sys.exit(run_evaluation(Options(chosen, limit, model, *places, wikidata, as_json)))


@commands.command()
@json_option
def status(as_json: bool) -> None:
    """Show what the service is doing: its processes, the queue, limits, breakers. Exit 1 if it is not running."""
    from aitp import console
    from aitp.settings import load_settings

    sys.exit(console.show_status(load_settings(), as_json=as_json))


@commands.group()
def dead() -> None:
    """Results that the task API refused for good: list, show, retry or drop them."""


@dead.command("list")
@json_option
def dead_list(as_json: bool) -> None:
    """List them, oldest first."""
    from aitp import console
    from aitp.settings import load_settings

    console.list_dead_letters(load_settings(), as_json=as_json)


@dead.command("show")
@click.argument("task_id")
def dead_show(task_id: str) -> None:
    """Print one as JSON, its result included."""
    from aitp import console
    from aitp.settings import load_settings

    console.show_dead_letter(load_settings(), task_id)


@dead.command("retry")
@click.argument("task_ids", nargs=-1, required=True)
def dead_retry(task_ids: tuple[str, ...]) -> None:
    """Deliver them once more."""
    from aitp import console
    from aitp.settings import load_settings

    console.retry_dead_letters(load_settings(), task_ids)


@dead.command("drop")
@click.argument("task_ids", nargs=-1, required=True)
@click.confirmation_option(prompt="Their results are lost. Go on?")
def dead_drop(task_ids: tuple[str, ...]) -> None:
    """Throw them away."""
    from aitp import console
    from aitp.settings import load_settings

    console.drop_dead_letters(load_settings(), task_ids)


@commands.command()
def pause() -> None:
    """Stop polling and claiming, across restarts, until `aitp resume`. Calls in flight finish and are delivered."""
    from aitp import console
    from aitp.settings import load_settings

    console.pause(load_settings(), paused=True)


@commands.command()
def resume() -> None:
    """Go on after `aitp pause`."""
    from aitp import console
    from aitp.settings import load_settings

    console.pause(load_settings(), paused=False)


@commands.command()
def poll() -> None:
    """Have the running service poll the task API now."""
    from aitp import console
    from aitp.settings import load_settings

    console.ask_for_poll(load_settings())


@commands.group()
def models() -> None:
    """Ollama's models."""


@models.command("pull")
@json_option
def models_pull(as_json: bool) -> None:
    """Pull the models of SUPPORTED_MODELS that the Ollama server lacks. Exit 1 if one is missing in the end."""
    from aitp import console
    from aitp.settings import load_settings

    sys.exit(console.pull_models(load_settings(), as_json=as_json))


@commands.command()
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
def demo(tasks: int, workers: int, latency_ms: int, port: int, mode: str, types: str, faults: bool, keep: bool) -> None:
    """See the whole service at work on this machine, against servers of its own.

    Exit 0 only if every task succeeded and each text was bought once.
    """
    from aitp.demo.command import Plan
    from aitp.demo.documents import TYPES
    from aitp.demo.show import show
    from aitp.settings import real_openai_key

    chosen = TYPES if types == "all" else tuple(dict.fromkeys(types.split(",")))
    if unknown := set(chosen) - set(TYPES):
        raise click.BadParameter(f"{', '.join(sorted(unknown))}: there are {', '.join(TYPES)}", param_hint="--types")
    sys.exit(show(Plan(tasks, workers, latency_ms, port, faults, keep, real_openai_key(), mode, chosen)))
