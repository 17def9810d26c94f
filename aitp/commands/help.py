"""What `aitp` tells of itself: each command's help with examples and exit codes, and the manual page made of the same.

A command that cannot do its part ends in one way: a ConfigurationError with 78, which neither supervisord nor systemd
answers with a restart, anything else that it says with 1. Each problem is a line on standard error, and with --json a
document on standard output as well: programs that read the one or the other are told. Of the service only its errors
are imported here.
"""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import click

from aitp import __version__
from aitp.errors import ConfigurationError, LedgerError
from aitp.tasks import ExitCode

USAGE = "the command line is wrong"
CONFIGURATION = "the settings cannot be used: every fault is named on standard error"
FILES = {
    ".env": "Settings, in the current directory, unless AITP_ENV_FILE names another file or is empty.",
    "data/rate_limits.db": "The ledger, unless RATE_LIMIT_STORAGE_PATH says otherwise.",
    "run/": "Token, scoreboard, metrics files and supervisord's socket, unless RUNTIME_DIR says otherwise.",
}
SIGNALS = {
    "TERM, INT": "Stop within SHUTDOWN_GRACE_SECONDS.",
    "QUIT": "Stop at once.",
    "HUP": "Load the settings again; invalid ones change nothing.",
    "USR1": "Poll now.",
}

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs; of what went wrong, too.")


class Failure(click.ClickException):
    """What kept a command from its part, one line a problem; `warnings` may say where the problems come from."""

    def __init__(self, problems: Sequence[str], warnings: Sequence[str] = (), *, as_json: bool) -> None:
        super().__init__("; ".join(problems))
        self._told = {"problems": list(problems), "warnings": list(warnings)}
        self._as_json = as_json

    def show(self, file: Any = None) -> None:
        """Say it."""
        for line in (*self._told["problems"], *self._told["warnings"]):
            click.echo(f"aitp: {line}", err=True)
        if self._as_json:
            click.echo(json.dumps({"error": self.message, **self._told, "exit_code": self.exit_code}))


class UnusableSettings(Failure):
    """The same, where it is the settings."""

    exit_code = ExitCode.MISCONFIGURED


class Command(click.Command):
    """`examples`: command lines and what they are for. `exits`: what exit codes mean, those apart that all share.

    `needs_settings`: whether its function takes `settings`, so that it ends with 78 for those that cannot be used.
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
        self.needs_settings = needs_settings
        shared: dict[int, str] = {ExitCode.USAGE: USAGE}
        if needs_settings:
            shared[ExitCode.MISCONFIGURED] = CONFIGURATION
        self.exits = dict(sorted({**shared, **exits}.items()))

    def invoke(self, ctx: click.Context) -> Any:
        """Run it; not for help or completion, which load nothing."""
        from aitp.hardening import keep_memory_private
        from aitp.settings import load_settings, prepare_environment

        keep_memory_private()
        # Before it can import numpy or the openai client.
        prepare_environment()
        as_json = bool(ctx.params.get("as_json"))
        if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:
            # From here on there may be something to put in order: see `__main__`.
            signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            if self.needs_settings:
                ctx.params["settings"] = load_settings()
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
            formatter.write_dl([(str(int(code)), meaning) for code, meaning in self.exits.items()])


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
        width = max(map(len, self.commands))
        for heading, names in self.sections.items():
            with formatter.section(heading):
                told = [(name.ljust(width), self.commands[name].get_short_help_str(70)) for name in names]
                formatter.write_dl(told)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Where there is more to learn; the outermost group says so itself."""
        if not self.sections:
            more = f"`{ctx.command_path} COMMAND --help` explains a command, with examples and exit codes."
            formatter.write_paragraph()
            formatter.write_text(more)


def manual_page(root: click.Group) -> str:
    """The manual page aitp(1) in man(7)'s language: `root` and all commands below it that are not hidden.

    Pure: no date, no path of this machine, so that it is the same wherever it is made.
    """
    context = click.Context(root, info_name=root.name, **root.context_settings)
    return "\n".join(_page(root, context)) + "\n"


def _page(root: click.Group, context: click.Context) -> Iterator[str]:
    name = str(root.name)
    summary, _, description = (root.help or "").partition("\n")
    yield f'.TH {name.upper()} 1 "" "{name} {__version__}" "User Commands"'
    yield f".SH NAME\n{name} \\- {_text(summary.rstrip('.'))}"
    yield f".SH SYNOPSIS\n.B {name}\n[\\fIOPTIONS\\fR] \\fICOMMAND\\fR [\\fIARGUMENTS\\fR]"
    yield f".SH DESCRIPTION\n{_paragraphs(description)}"
    yield f".SH OPTIONS\n{_options(root, context)}"
    yield ".SH COMMANDS"
    for command, path in _commands(root, context, name):
        yield _command(command, path, context)
    yield f".SH SIGNALS\nTo the master, or to \\fBaitp run\\fR:\n{_terms(SIGNALS)}"
    yield f".SH FILES\n{_terms(FILES)}"
    yield ".SH EXIT STATUS\nEach command says what its own exit codes mean. All of them share these:"
    yield _exits({ExitCode.FINE: "all is well", ExitCode.USAGE: USAGE, ExitCode.MISCONFIGURED: CONFIGURATION})
    yield ".SH SEE ALSO\nsupervisorctl(1), systemctl(1)"


def _commands(group: click.Group, context: click.Context, path: str) -> Iterator[tuple[Command, str]]:
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        if isinstance(command, click.Group):
            yield from _commands(command, context, f"{path} {name}")
        elif isinstance(command, Command) and not command.hidden:
            yield command, f"{path} {name}"


def _command(command: Command, path: str, parent: click.Context) -> str:
    context = click.Context(command, info_name=path, parent=parent)
    usage = " ".join(command.collect_usage_pieces(context))
    parts = (
        f".SS {_text(path)} {_text(usage)}",
        _paragraphs(command.help or ""),
        _options(command, context),
        f".PP\nExamples:\n{_terms(command.examples)}",
        f".PP\nExit codes:\n{_exits(command.exits)}",
    )
    return "\n".join(filter(None, parts))


def _options(command: click.Command, context: click.Context) -> str:
    """Those that have something to say; --help is said once, at the top."""
    parameters = [each for each in command.get_params(context) if "--help" not in each.opts or context.parent is None]
    records = [each.get_help_record(context) for each in parameters]
    return _terms({term: meaning for term, meaning in filter(None, records) if meaning})


def _terms(terms: Mapping[str, str]) -> str:
    return "\n".join(f".TP\n\\fB{_text(term)}\\fR\n{_text(meaning)}" for term, meaning in terms.items())


def _exits(codes: Mapping[int, str]) -> str:
    return _terms({str(int(code)): meaning for code, meaning in codes.items()})


def _paragraphs(text: str) -> str:
    return "\n".join(f".PP\n{_text(' '.join(each.split()))}" for each in text.strip().split("\n\n"))


def _text(text: str) -> str:
    """Plain text, with what roff would take for its own language made harmless."""
    escaped = text.replace("\\", "\\e").replace("-", "\\-").replace("`", "\\(ga").replace("'", "\\(aq")
    return f"\\&{escaped}" if escaped.startswith(".") else escaped
