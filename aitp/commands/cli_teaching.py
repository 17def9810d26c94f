"""Commands that teach: besides what click prints, the help of each has examples and what its exit codes mean.

The manual page (`aitp man`) is made of the same. Of the service only its errors are imported here.

A command that cannot do its part ends in one way: a ConfigurationError with 78, which neither supervisord nor systemd
answers with a restart, anything else that it says with 1. Each problem is a line on standard error, and with --json a
document on standard output as well: programs that read the one or the other are told.
"""

from __future__ import annotations

import json
import signal
from collections.abc import Mapping, Sequence
from typing import Any

import click

from aitp.errors import ConfigurationError, LedgerError

EXIT_CONFIGURATION = 78  # EX_CONFIG of sysexits.h

USAGE = "the command line is wrong"
CONFIGURATION = "the settings cannot be used: every fault is named on standard error"

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs; of what went wrong, too.")


class Failure(click.ClickException):
    """What kept a command from its part, one line a problem; `warnings` may say where the problems come from."""

    def __init__(self, problems: Sequence[str], warnings: Sequence[str] = (), *, as_json: bool) -> None:
        super().__init__("; ".join(problems))
        self._problems = list(problems)
        self._warnings = list(warnings)
        self._as_json = as_json

    def show(self, file: Any = None) -> None:
        """Say it."""
        for line in (*self._problems, *self._warnings):
            click.echo(f"aitp: {line}", err=True)
        if self._as_json:
            told = {"error": self.message, "problems": self._problems, "warnings": self._warnings}
            click.echo(json.dumps({**told, "exit_code": self.exit_code}))


class UnusableSettings(Failure):
    """The same, where it is the settings."""

    exit_code = EXIT_CONFIGURATION


class Command(click.Command):
    """`examples`: command lines and what they are for. `exits`: what exit codes mean, those apart that all share.

    `needs_settings`: whether it ends with 78 for settings that cannot be used.
    """

    def __init__(
        self,
        *arguments: Any,
        examples: Mapping[str, str],
        exits: Mapping[int, str],
        needs_settings: bool = True,
        **attributes: Any,
    ) -> None:
        super().__init__(*arguments, **attributes)
        self.examples = dict(examples)
        shared = {2: USAGE} | ({EXIT_CONFIGURATION: CONFIGURATION} if needs_settings else {})
        self.exits = dict(sorted({**shared, **exits}.items()))

    def invoke(self, ctx: click.Context) -> Any:
        """Run it; not for help or completion, which load nothing."""
        from aitp.hardening import keep_memory_private
        from aitp.settings import prepare_environment

        keep_memory_private()
        # Before it can import numpy or the openai client.
        prepare_environment()
        as_json = bool(ctx.params.get("as_json"))
        if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:
            # From here on there may be something to put in order: see `__main__`.
            signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            return super().invoke(ctx)
        except ConfigurationError as error:
            raise UnusableSettings(error.problems, error.warnings, as_json=as_json) from error
        except LedgerError as error:
            raise Failure([str(error)], as_json=as_json) from error
        except click.UsageError:
            raise  # with the command's usage
        except click.ClickException as error:
            raise Failure([error.message], as_json=as_json) from error

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """After the options: examples, then exit codes."""
        with formatter.section("Examples"):
            formatter.write_dl(list(self.examples.items()), col_max=44)
        with formatter.section("Exit codes"):
            formatter.write_dl([(str(code), meaning) for code, meaning in self.exits.items()])


class Group(click.Group):
    """A group of such commands, and of groups of them. `sections`: names by heading, in the order of the help."""

    command_class = Command
    group_class = type

    def __init__(self, *arguments: Any, sections: Mapping[str, Sequence[str]] | None = None, **attributes: Any) -> None:
        super().__init__(*arguments, **attributes)
        self.sections = sections or {}

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Under headings, if there are any."""
        if not self.sections:
            super().format_commands(ctx, formatter)
            return
        width = max(map(len, self.commands))
        for heading, names in self.sections.items():
            with formatter.section(heading):
                told = [(name.ljust(width), self.commands[name].get_short_help_str(70)) for name in names]
                formatter.write_dl(told)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Where there is more to learn; the outermost group says so itself."""
        if not self.sections:
            formatter.write_paragraph()
            formatter.write_text(
                f"`{ctx.command_path} COMMAND --help` explains a command, with examples and exit codes."
            )
