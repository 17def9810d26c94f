"""Commands for the shell around: completion, and the manual page."""

from __future__ import annotations

import click
from click.shell_completion import BashComplete, FishComplete, ShellComplete, ZshComplete

from aitp.commands.cli_manual import manual_page
from aitp.commands.cli_teaching import Command

COMPLETE_VARIABLE = "_AITP_COMPLETE"  # click's own name for a program called aitp


class OurZshComplete(ZshComplete):
    """click's own script, found in zsh's path of functions, completes nothing at every shell's second Tab."""

    source_template = ZshComplete.source_template.replace(
        "$zsh_eval_context[-1] == loadautofunc", "$funcstack[1] == _aitp"
    )


class OurFishComplete(FishComplete):
    """click's own script cuts descriptions at their first comma."""

    source_template = FishComplete.source_template.replace('string split ","', 'string split --max 1 ","')


SHELLS: dict[str, type[ShellComplete]] = {"bash": BashComplete, "zsh": OurZshComplete, "fish": OurFishComplete}


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
@click.argument("shell", type=click.Choice(tuple(SHELLS)))
def completion(shell: str) -> None:
    """Print what makes your shell complete commands, options, and the ids of dead letters."""
    root = click.get_current_context().find_root().command
    click.echo(SHELLS[shell](root, {}, "aitp", COMPLETE_VARIABLE).source())


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
