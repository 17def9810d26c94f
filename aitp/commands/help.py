"""What all commands of `aitp` have in common: how they end, how their help is laid out, what is made of it (the manual
page) and of them (completion).

A command that cannot do its part ends in one way: a ConfigurationError with 78, which neither supervisord nor systemd
answers with a restart, anything else that it says with 1. Each problem is a line on standard error, and with --json a
document on standard output as well: programs that read the one or the other are told. Of the service only its errors
are imported here.
"""

from __future__ import annotations

import re
import signal
from collections.abc import Iterator, Sequence
from inspect import cleandoc
from typing import Any, NoReturn

import click

from aitp import __version__
from aitp.commands import imported
from aitp.errors import ConfigurationError, LedgerError

EXITS = (
    "All commands exit with 2 if the command line is wrong, and with 78 if the settings cannot be used: every fault is "
    "then named on standard error."
)
JSON = click.Option(["--json", "as_json"], is_flag=True, help="Print JSON, for programs; of what went wrong, too.")
PAGE_WIDTH = 80
HELP_NAMES = ["-h", "--help"]
AROUND = "Around it"
COMPLETE_VARIABLE = "_AITP_COMPLETE"  # click's own name for a program called aitp
# click's script for zsh, found in its path of functions, completes nothing at every shell's second Tab; its script for
# fish cuts descriptions at their first comma.
COMPLETION_FIXES = {
    "bash": ("", ""),
    "zsh": ("$zsh_eval_context[-1] == loadautofunc", "$funcstack[1] == _aitp"),
    "fish": ('string split ","', 'string split --max 1 ","'),
}


class Command(click.Command):
    """Its function, or in its place the one that it `runs`, returns what it tells (`console.Told`).

    `section`: the heading that it is listed under. `needs_settings`: its function takes `settings`, so that it ends
    with 78 for those that cannot be used; None: they are not even imported, and it loads them by itself where it has
    to. `prints`: it takes `as_json`, prints by itself, and returns an exit code; so does, without --json, what is
    `silent`. `starts`: it is the service, whose failed start is told where people look.
    """

    def __init__(
        self,
        *arguments: Any,
        section: str = "Commands",
        runs: str = "",
        needs_settings: bool | None = True,
        prints: bool = False,
        silent: bool = False,
        starts: bool = False,
        **more: Any,
    ) -> None:
        super().__init__(*arguments, **more)
        self.short_help = self.get_short_help_str(PAGE_WIDTH)  # its first sentence whole, for shells as well
        self.section, self.runs = section, runs
        self.needs_settings, self.prints, self.starts = needs_settings, prints or silent, starts
        if not silent:
            self.params.append(JSON)

    def invoke(self, ctx: click.Context) -> Any:
        """Run it; not for help or completion, which load nothing."""
        from aitp.hardening import keep_memory_private
        from aitp.tasks import ExitCode

        keep_memory_private()
        as_json = ctx.params.get("as_json", False) if self.prints else ctx.params.pop("as_json")
        try:
            if self.needs_settings is not None:
                from aitp.settings import load_settings, prepare_environment

                # Before it can import numpy.
                prepare_environment()
                if self.needs_settings:
                    ctx.params["settings"] = load_settings()
            if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:
                # From here on there may be something to put in order: see `__main__`.
                signal.signal(signal.SIGINT, signal.default_int_handler)
            if self.runs:
                self.callback = imported(self.runs)
            told = super().invoke(ctx)
            ctx.exit((told if self.prints else told.print(as_json=as_json)) or ExitCode.FINE)
        except ConfigurationError as error:
            if self.starts:
                from aitp.process.start import tell_of_failed_start
                from aitp.sources import runtime_dir

                tell_of_failed_start(runtime_dir(), error.problems)
            _fail(ctx, as_json, error.problems, error.warnings, ExitCode.MISCONFIGURED)
        except click.UsageError:
            raise  # with the command's usage
        except (LedgerError, click.ClickException) as error:
            _fail(ctx, as_json, [str(error)])

    def format_help_text(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Examples and exit codes stand as they are written, by click's sign for that."""
        self.help = re.sub(r"\n\n(?=Examples:|Exit codes:)", "\n\n\b\n", cleandoc(self.help or ""))
        super().format_help_text(ctx, formatter)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """What all share."""
        formatter.write_paragraph()
        formatter.write_text(EXITS)


def _fail(
    ctx: click.Context, as_json: bool, problems: Sequence[str], warnings: Sequence[str] = (), code: int = 1
) -> NoReturn:
    """Say what kept it from its part, one line a problem; `warnings` may say where the problems come from."""
    for line in (*problems, *warnings):
        click.echo(f"aitp: {line}", err=True)
    if as_json:
        import json

        told = {"error": "; ".join(problems), "problems": problems, "warnings": warnings, "exit_code": code}
        click.echo(json.dumps(told))
    ctx.exit(code)


class Group(click.Group):
    """A group of such commands, and of groups of them, listed in the order in which they were declared."""

    command_class = Command
    group_class = type

    def __init__(self, *arguments: Any, section: str = "", usually: str = "", **more: Any) -> None:
        """`usually`: the command that is meant where none is named."""
        super().__init__(*arguments, **more)
        self.short_help = self.get_short_help_str(PAGE_WIDTH)
        self.section, self._usually = section, usually

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if self._usually and not ctx.resilient_parsing and (not args or args[0] in JSON.opts):
            args = [self._usually, *args]
        return super().parse_args(ctx, args)

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Under their headings."""
        width = max(map(len, self.commands))
        sections: dict[str, list[tuple[str, str]]] = {}
        for name, command in self.commands.items():
            if isinstance(command, Command | Group):
                told = (name.ljust(width), command.get_short_help_str())
                sections.setdefault(command.section, []).append(told)
        for heading, rows in sections.items():
            with formatter.section(heading):
                formatter.write_dl(rows)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Where there is more to learn."""
        formatter.write_paragraph()
        formatter.write_text(f"`{ctx.command_path} COMMAND --help` explains a command, with examples and exit codes.")


@click.command(cls=Command, section=AROUND, needs_settings=None, silent=True)
@click.argument("shell", type=click.Choice(tuple(COMPLETION_FIXES)))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print what makes your shell complete commands.

    And their options, and the ids of dead letters.

    Examples:
      eval "$(aitp completion bash)"           this shell alone, or in ~/.bashrc
      aitp completion zsh > ~/.zfunc/_aitp     where ~/.zfunc is in fpath
      aitp completion fish > ~/.config/fish/completions/aitp.fish
          for all of fish's sessions

    Exit codes:
      0  printed
    """
    from click.shell_completion import get_completion_class

    script = get_completion_class(shell)
    assert script is not None
    made = script(context.find_root().command, {}, "aitp", COMPLETE_VARIABLE)
    click.echo(made.source().replace(*COMPLETION_FIXES[shell]))


@click.command(cls=Command, section=AROUND, needs_settings=None, silent=True)
@click.pass_context
def man(context: click.Context) -> None:
    """Print the manual page, made of the help of all commands.

    Examples:
      aitp man | man -l -                              read it
      aitp man > /usr/local/share/man/man1/aitp.1      install it

    Exit codes:
      0  printed
    """
    root = context.find_root().command
    assert isinstance(root, click.Group)
    click.echo(manual_page(root), nl=False)


def manual_page(root: click.Group) -> str:
    """The manual page aitp(1) in man(7)'s language: the help of `root` and of all commands below it, as it stands.

    Pure: no date, no path of this machine, so that it is the same wherever it is made.
    """
    name = str(root.name)
    lines = [f'.TH {name.upper()} 1 "" "{name} {__version__}" "User Commands"']
    lines += [".SH NAME", f"{name} \\- AI Task Processor", ".SH DESCRIPTION", _help(root, name), ".SH COMMANDS"]
    for command, path in _commands(root, name):
        lines += [f".SS {_text(path)}", _help(command, path)]
    lines += [".SH EXIT STATUS", _text(EXITS), ".SH SEE ALSO", "supervisorctl(1), systemctl(1)"]
    return "\n".join(lines) + "\n"


def _commands(group: click.Group, path: str) -> Iterator[tuple[click.Command, str]]:
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from _commands(command, f"{path} {name}")
        else:
            yield command, f"{path} {name}"


def _help(command: click.Command, path: str) -> str:
    context = click.Context(command, info_name=path, terminal_width=PAGE_WIDTH, help_option_names=HELP_NAMES)
    return f".nf\n{_text(command.get_help(context))}\n.fi"


def _text(text: str) -> str:
    """Plain text, with what roff would take for its own language made harmless."""
    escaped = text.replace("\\", "\\e").replace("-", "\\-").replace("`", "\\(ga").replace("'", "\\(aq")
    return "\n".join(f"\\&{line}" if line.startswith(".") else line for line in escaped.splitlines())
