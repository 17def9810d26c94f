"""The command `aitp`: one function a command, each of which imports what it needs when it runs, and little else.

Promises: `aitp --version` and `--help` load none of the service (a test counts imports); a usage error exits 2; a
ConfigurationError, wherever it comes from, is printed to standard error line by line and exits 78, which neither
supervisord nor systemd answers with a restart.
"""

from __future__ import annotations

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
    from aitp.settings import load_settings

    try:
        settings = load_settings()
    except ConfigurationError as error:
        if not as_json:
            raise
        print(json.dumps({"ok": False, "problems": error.problems}, indent=2))
        sys.exit(EXIT_CONFIGURATION)
    if as_json:
        report = {"ok": True, "problems": [], "warnings": settings.warnings, "mock": settings.mock}
        print(json.dumps({**report, "env_file": settings.env_file and str(settings.env_file)}, indent=2))
        return
    for warning in settings.warnings:
        print(f"warning: {warning}")
    if settings.mock:
        print("MOCK MODE: OPENAI_API_KEY is the placeholder; results are invented, no calls are made")
    print(f"Settings are fine ({f'environment and {settings.env_file}' if settings.env_file else 'environment'})")
