"""The manual page aitp(1), in man(7)'s language, made of the tree of commands: what --help says, in one place.

Pure: no date, no path of this machine, so that it is the same wherever it is made.
"""

from __future__ import annotations

from collections.abc import Iterator

import click

from aitp import __version__
from aitp.commands.cli_teaching import CONFIGURATION, EXIT_CONFIGURATION, USAGE, Command

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


def manual_page(root: click.Group) -> str:
    """The page for `root` and all commands below it that are not hidden."""
    context = click.Context(root, info_name=root.name, **root.context_settings)
    return "\n".join(_page(root, context)) + "\n"


def _page(root: click.Group, context: click.Context) -> Iterator[str]:
    name = str(root.name)
    summary, _, description = (root.help or "").partition("\n")
    yield f'.TH {name.upper()} 1 "" "{name} {__version__}" "User Commands"'
    yield ".SH NAME"
    yield f"{name} \\- {_text(summary.rstrip('.'))}"
    yield ".SH SYNOPSIS"
    yield f".B {name}\n[\\fIOPTIONS\\fR] \\fICOMMAND\\fR [\\fIARGUMENTS\\fR]"
    yield ".SH DESCRIPTION"
    yield from _paragraphs(description)
    yield ".SH OPTIONS"
    yield from _options(root, context)
    yield ".SH COMMANDS"
    for command, path in _commands(root, context, name):
        yield from _command(command, path, context)
    yield ".SH SIGNALS"
    yield "To the master, or to \\fBaitp run\\fR:"
    yield from _terms(SIGNALS)
    yield ".SH FILES"
    yield from _terms(FILES)
    yield ".SH EXIT STATUS"
    yield "Each command says what its own exit codes mean. All of them share these:"
    yield from _terms({"0": "all is well", "2": USAGE, str(EXIT_CONFIGURATION): CONFIGURATION})
    yield ".SH SEE ALSO"
    yield "supervisorctl(1), systemctl(1)"


def _commands(group: click.Group, context: click.Context, path: str) -> Iterator[tuple[Command, str]]:
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        if command is None or command.hidden:
            continue
        if isinstance(command, click.Group):
            yield from _commands(command, context, f"{path} {name}")
        elif isinstance(command, Command):
            yield command, f"{path} {name}"


def _command(command: Command, path: str, parent: click.Context) -> Iterator[str]:
    context = click.Context(command, info_name=path, parent=parent)
    usage = " ".join(command.collect_usage_pieces(context))
    yield f".SS {_text(path)} {_text(usage)}"
    yield from _paragraphs(command.help or "")
    yield from _options(command, context)
    yield ".PP\nExamples:"
    yield from _terms(command.examples)
    yield ".PP\nExit codes:"
    yield from _terms({str(code): meaning for code, meaning in command.exits.items()})


def _options(command: click.Command, context: click.Context) -> Iterator[str]:
    """Those that have something to say; --help is said once, at the top."""
    parameters = [each for each in command.get_params(context) if "--help" not in each.opts or context.parent is None]
    records = [each.get_help_record(context) for each in parameters]
    yield from _terms({term: meaning for term, meaning in filter(None, records) if meaning})


def _terms(terms: dict[str, str]) -> Iterator[str]:
    for term, meaning in terms.items():
        yield f".TP\n\\fB{_text(term)}\\fR\n{_text(meaning)}"


def _paragraphs(text: str) -> Iterator[str]:
    for paragraph in text.strip().split("\n\n"):
        yield f".PP\n{_text(' '.join(paragraph.split()))}"


def _text(text: str) -> str:
    """Plain text, with what roff would take for its own language made harmless."""
    escaped = text.replace("\\", "\\e").replace("-", "\\-").replace("`", "\\(ga").replace("'", "\\(aq")
    return f"\\&{escaped}" if escaped.startswith(".") else escaped
