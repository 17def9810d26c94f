"""Commands that show what it is worth: the demo, and the evaluation of answers."""

from __future__ import annotations

import os
import sys

import click

from aitp.commands.cli_teaching import Command, json_option


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
        from pathlib import Path

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
    exits={0: "measured", 1: "stopped before its end, or no text was answered"},
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
    from pathlib import Path

    from aitp.quality.report import LABELS, Options, run_evaluation
    from aitp.quality.scoring import TRIALS

    chosen = tuple(TRIALS) if types == "all" else tuple(name.strip() for name in types.split(","))
    if unknown := [name for name in chosen if name not in TRIALS]:
        raise click.BadParameter(f"{unknown[0]!r} is none of all, {', '.join(TRIALS)}", param_hint="--types")
    labels = Path(texts) if texts else LABELS
    sys.exit(run_evaluation(Options(chosen, limit, model, labels, wikidata, as_json)))
