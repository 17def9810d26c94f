"""Commands that change what the service does: its pace, its dead letters, its models."""

from __future__ import annotations

import sys

import click

from aitp.commands.cli_teaching import Command, Group, json_option

NO_LEDGER = "there is no ledger yet, or it cannot be used"


@click.command(
    cls=Command,
    short_help="stop polling and claiming, across restarts",
    examples={"aitp pause": "before maintenance of the task API, or to save what is left of a budget"},
    exits={0: "paused", 1: NO_LEDGER},
)
@json_option
def pause(as_json: bool) -> None:
    """Stop polling and claiming, across restarts, until `aitp resume`. Calls in flight finish and are delivered."""
    from aitp.commands.steering import pause as pause_service
    from aitp.settings import load_settings

    pause_service(load_settings(), paused=True, as_json=as_json)


@click.command(
    cls=Command,
    short_help="go on",
    examples={"aitp resume": "at once, if the service is running"},
    exits={0: "resumed", 1: NO_LEDGER},
)
@json_option
def resume(as_json: bool) -> None:
    """Go on after `aitp pause`."""
    from aitp.commands.steering import pause as pause_service
    from aitp.settings import load_settings

    pause_service(load_settings(), paused=False, as_json=as_json)


@click.command(
    cls=Command,
    short_help="poll the task API now",
    examples={"aitp poll": "in place of waiting for POLLING_INTERVAL_SECONDS"},
    exits={0: "the service was asked", 1: "it is not running, or belongs to another user"},
)
@json_option
def poll(as_json: bool) -> None:
    """Have the running service poll the task API now."""
    from aitp.commands.steering import ask_for_poll
    from aitp.settings import load_settings

    ask_for_poll(load_settings(), as_json=as_json)


@click.group(cls=Group, short_help="results that the task API refused: list, show, retry, drop")
def dead() -> None:
    """Results that the task API refused for good: list, show, retry or drop them.

    Such a result is kept, with the API's reason, until a person decides.
    """


def complete_dead_letters(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    """Ids of dead letters, for the shell."""
    from aitp.commands.dead import ids_beginning

    return ids_beginning(incomplete)


one_task = click.argument("task_id", shell_complete=complete_dead_letters)
some_tasks = click.argument("task_ids", nargs=-1, shell_complete=complete_dead_letters)
all_option = click.option("--all", "of_all", is_flag=True, help="All that there are.")
MISSING = "there is none of an id that was given, or " + NO_LEDGER


@dead.command(
    "list",
    examples={"aitp dead list": "with the reason of each", "aitp dead list --json": "for programs"},
    exits={0: "listed, if only that there are none", 1: NO_LEDGER},
)
@json_option
def dead_list(as_json: bool) -> None:
    """List them, oldest first."""
    from aitp.commands.dead import list_dead_letters
    from aitp.settings import load_settings

    list_dead_letters(load_settings(), as_json=as_json)


@dead.command(
    "show",
    examples={
        "aitp dead show 65f0c0ffee65f0c0ffee65f0": "what was refused, and why",
        "aitp dead show 65f0c0ffee65f0c0ffee65f0 --json": "with the whole result",
    },
    exits={0: "shown", 1: MISSING},
)
@one_task
@json_option
def dead_show(task_id: str, as_json: bool) -> None:
    """Show one, with the beginning of its result; with all of it as JSON."""
    from aitp.commands.dead import show_dead_letter
    from aitp.settings import load_settings

    show_dead_letter(load_settings(), task_id, as_json=as_json)


@dead.command(
    "retry",
    examples={
        "aitp dead retry 65f0c0ffee65f0c0ffee65f0": "one, at once if the service is running",
        "aitp dead retry --all": "when what made the API refuse them is mended",
    },
    exits={0: "all of them are to be delivered", 1: MISSING},
)
@some_tasks
@all_option
@json_option
def dead_retry(task_ids: tuple[str, ...], of_all: bool, as_json: bool) -> None:
    """Deliver them once more. Nothing is bought again."""
    from aitp.commands.dead import retry_dead_letters
    from aitp.settings import load_settings

    _ids_or_all(task_ids, of_all)
    sys.exit(retry_dead_letters(load_settings(), None if of_all else task_ids, as_json=as_json))


@dead.command(
    "drop",
    examples={
        "aitp dead drop 65f0c0ffee65f0c0ffee65f0": "asks first",
        "aitp dead drop --all --yes": "does not ask",
    },
    exits={0: "dropped", 1: MISSING + ", or you said no"},
)
@some_tasks
@all_option
@click.option("--yes", is_flag=True, help="Do not ask.")
@json_option
def dead_drop(task_ids: tuple[str, ...], of_all: bool, yes: bool, as_json: bool) -> None:
    """Throw them away, with their results.

    A task that the task API still lists as pending is then run, and bought, anew: end it there first.
    """
    from aitp.commands.dead import drop_dead_letters
    from aitp.settings import load_settings

    _ids_or_all(task_ids, of_all)
    settings = load_settings()
    if not (yes or _agreed("Their results are lost, and tasks that the task API still lists are bought anew. Go on?")):
        raise click.ClickException("nothing is dropped: you did not say yes; with --yes nobody is asked")
    sys.exit(drop_dead_letters(settings, None if of_all else task_ids, as_json=as_json))


def _agreed(question: str) -> bool:
    """Whether a person says yes. Nobody there to ask is a no."""
    try:
        return click.confirm(question, err=True)
    except click.Abort:
        click.echo(err=True)
        return False


def _ids_or_all(task_ids: tuple[str, ...], of_all: bool) -> None:
    if bool(task_ids) == of_all:
        raise click.UsageError("Give ids of tasks, or --all")


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
def models_pull(as_json: bool) -> None:
    """Pull the models of SUPPORTED_MODELS that the Ollama server lacks. The service does so by itself, too."""
    from aitp.commands.models import pull_models
    from aitp.settings import load_settings

    sys.exit(pull_models(load_settings(), as_json=as_json))
