"""Every command teaches: its help has examples and exit codes, and loads none of the service."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from inspect import cleandoc, signature

import click
import pytest

from aitp.commands import imported
from aitp.commands.cli import commands
from aitp.commands.help import EXITS, Command
from aitp.settings import PROJECT_ROOT, surroundings
from tests.commands.desk import LOADED
from tests.packaging.test_command import aitp


def leaves(group: click.Group, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    for name, command in sorted(group.commands.items()):
        if isinstance(command, click.Group):
            yield from leaves(command, (*path, name))
        elif not command.hidden:
            yield (*path, name), command


ALL = list(leaves(commands))
PATHS = [" ".join(path) for path, _ in ALL]


@pytest.mark.parametrize(("path", "command"), ALL, ids=PATHS)
def test_every_command_has_examples_that_it_understands_and_exit_codes(
    path: tuple[str, ...], command: click.Command
) -> None:
    told, _, exits = cleandoc(command.help or "").partition("Exit codes:\n")
    assert "  0  " in exits
    # An example is followed by two blanks and what it is for, or by a line of that, which is indented further.
    examples = [line.strip().split("  ")[0] for line in told.splitlines() if re.match(r"  \S", line)]
    assert examples
    for line in examples:
        _, _, arguments = line.replace('eval "$(', "").replace(')"', "").partition("aitp ")
        words = arguments.split("|")[0].split(">")[0].split()
        assert tuple(words[: len(path)]) == path, line
        with click.Context(command) as context:
            command.parse_args(context, words[len(path) :])  # raises UsageError for what it does not know


@pytest.mark.parametrize("path", [path for path, _ in ALL], ids=PATHS)
def test_help_fits_a_terminal_and_loads_none_of_the_service(path: tuple[str, ...]) -> None:
    run = subprocess.run(
        [sys.executable, "-c", LOADED, *path, "--help"],
        env={**surroundings(), "PYTHONPATH": str(PROJECT_ROOT)},
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )

    assert all(len(line) <= 80 for line in run.stdout.splitlines())
    assert "Examples:" in run.stdout
    assert "Exit codes:" in run.stdout
    assert EXITS in " ".join(run.stdout.split())
    heavy = {"openai", "requests", "rich", "pydantic", "numpy", "apsw", "supervisor", "structlog", "asyncio", "pathlib"}
    heavy |= {"dataclasses", "json", "logging", "socket", "hashlib", "subprocess", "zoneinfo", "dotenv", "jinja2"}
    loaded = set(run.stderr.split())
    assert not loaded & heavy
    assert "kept" in loaded
    ours = {"aitp", "aitp.commands", "aitp.commands.cli", "aitp.commands.help", "aitp.errors"}
    assert {name for name in loaded if name.startswith("aitp")} == ours


@pytest.mark.parametrize(("path", "command"), ALL, ids=PATHS)
def test_what_a_command_runs_takes_its_options_by_their_names(path: tuple[str, ...], command: Command) -> None:
    if command.runs:
        given = {str(parameter.name) for parameter in command.params} - (set() if command.prints else {"as_json"})
        given |= {"settings"} if command.needs_settings else set()
        signature(imported(command.runs)).bind(**dict.fromkeys(given))


def test_the_overview_names_every_command_once_with_a_line_that_is_not_cut() -> None:
    overview = aitp("--help").stdout

    for name in (name for name, command in commands.commands.items() if not command.hidden):
        [line] = [line for line in overview.splitlines() if line.startswith(f"  {name} ")]
        assert line.endswith(".")
        assert not line.endswith("...")


def test_what_prints_has_json() -> None:
    silent = {"run", "once", "master", "metrics", "completion", "man"}  # logs, and what shells and man read

    without = {
        " ".join(path) for path, command in ALL if not any("--json" in parameter.opts for parameter in command.params)
    }
    assert without == silent
