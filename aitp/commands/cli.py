"""The command `aitp`: one function a command, each of which imports what it needs when it runs, and little else.

Promises: `aitp --version` and any `--help` load none of the service (a test counts imports); a usage error exits 2; how
a command that cannot do its part ends is said in `teaching`.
"""

from __future__ import annotations

import sys
from typing import NoReturn

import click

from aitp import __version__
from aitp.commands import cli_keeping as keeping
from aitp.commands import cli_looking as looking
from aitp.commands import cli_service as service
from aitp.commands import cli_shell as shell
from aitp.commands import cli_steering as steering
from aitp.commands import cli_trying as trying
from aitp.commands.cli_teaching import Group

SECTIONS = {
    "See it at work": (trying.demo, trying.evaluate),
    "Run it": (service.run, service.once, service.master, service.metrics),
    "Look at it": (looking.check, looking.status, looking.tasks, looking.limits),
    "Steer it": (steering.pause, steering.resume, steering.poll, steering.dead, steering.models),
    "Keep it": (keeping.ledger,),
    "Around it": (shell.completion, shell.man),
}


def main() -> NoReturn:
    """Run the command line of this process."""
    commands(prog_name="aitp")
    sys.exit(0)


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


for _command in (*(command for group in SECTIONS.values() for command in group), service.listen):
    commands.add_command(_command)
