"""Commands for the shell around: completion, and the manual page."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from aitp.cli.manual import manual_page
from aitp.cli.teaching import Command

COMPLETE_VARIABLE = "_AITP_COMPLETE"  # click's own name for a program called aitp


@click.command(
    cls=Command,
    short_help="what makes your shell complete commands",
    examples={
        'eval "$(aitp completion bash)"': "for this shell alone, or in ~/.bashrc",
        "aitp completion zsh > ~/.zfunc/_aitp": "where ~/.zfunc is in fpath",
        "aitp completion fish > ~/.config/fish/completions/aitp.fish": "for all of fish's sessions",
    },
    exits={0: "printed"},
    needs_settings=False,
)
@click.argument("shell", type=click.Choice(("bash", "zsh", "fish")))
def completion(shell: str) -> None:
    """Print what makes your shell complete commands, options, and the ids of dead letters."""
    found = get_completion_class(shell)
    assert found is not None
    click.echo(found(click.get_current_context().find_root().command, {}, "aitp", COMPLETE_VARIABLE).source())


@click.command(
    cls=Command,
    short_help="the manual page",
    examples={"aitp man | man -l -": "read it", "aitp man > /usr/local/share/man/man1/aitp.1": "install it"},
    exits={0: "printed"},
    needs_settings=False,
)
def man() -> None:
    """Print the manual page, made of the help of all commands."""
    root = click.get_current_context().find_root().command
    assert isinstance(root, click.Group)
    click.echo(manual_page(root), nl=False)
