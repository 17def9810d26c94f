"""Completion in the real shells, found where each looks for it by itself once bin/install has linked it there."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from aitp.settings import PROJECT_ROOT, surroundings
from tests.commands.terminal import Terminal
from tests.packaging.test_command import aitp

BASH_COMPLETION = Path("/usr/share/bash-completion/bash_completion")


def needs(shell: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(shutil.which(shell) is None, reason=f"{shell} (a Debian package) is not installed")


needs_bash_completion = pytest.mark.skipif(
    not BASH_COMPLETION.exists(), reason="bash-completion (a Debian package) is not installed"
)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """With bin/aitp in it, a command that the shells find."""
    command = tmp_path / "bin/aitp"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m aitp "$@"\n')
    command.chmod(0o755)
    return tmp_path


def environment(home: Path, **more: str) -> dict[str, str]:
    path = f"{home}/bin:/usr/bin:/bin"
    return {**surroundings(), "HOME": str(home), "PATH": path, "PYTHONPATH": str(PROJECT_ROOT), **more}


def said_by(*command: str, home: Path, **more: str) -> str:
    """What a shell of a bare environment prints, without a complaint."""
    run = subprocess.run(
        ["env", "-u", "XDG_DATA_DIRS", "-u", "XDG_CONFIG_HOME", *command],
        env=environment(home, **more),
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert (run.returncode, run.stderr) == (0, "")
    return run.stdout


def install(shell: str, place: Path) -> None:
    place.parent.mkdir(parents=True)
    place.write_text(aitp("completion", shell).stdout)


def linked_by_bin_install(name: str) -> Path:
    """Where bin/install links the file of that name."""
    [place] = re.findall(rf"^ *link (/\S*/{name}) ", (PROJECT_ROOT / "bin/install").read_text(), re.MULTILINE)
    return Path(place)


def test_bash_completes_commands_through_the_script_that_we_print(home: Path) -> None:
    script = (
        'eval "$(aitp completion bash)"; COMP_WORDS=(aitp st); COMP_CWORD=1; '
        '_aitp_completion aitp; printf "%s\\n" "${COMPREPLY[@]}"'
    )

    assert said_by("bash", "-c", script, home=home).split() == ["status"]


@needs_bash_completion
def test_bash_loads_it_at_the_first_tab(home: Path) -> None:
    share = linked_by_bin_install("completions/aitp").relative_to("/usr/local")
    install("bash", home / share)
    (home / "rc").write_text(f"PS1='> '\n. {BASH_COMPLETION}\n")
    surrounded = environment(home, XDG_DATA_DIRS=str(home / "share"))

    with Terminal("--noprofile", "--rcfile", str(home / "rc"), command=["bash"], **surrounded) as terminal:
        terminal.await_text("> ")
        terminal.press(b"aitp dead re\t")
        terminal.await_text("retry ")


@needs_bash_completion
def test_bash_looks_where_bin_install_puts_it() -> None:
    assert "${XDG_DATA_DIRS:-/usr/local/share:/usr/share}" in BASH_COMPLETION.read_text()


@needs("zsh")
def test_zsh_completes_commands_at_each_tab_and_says_what_each_is_for(home: Path) -> None:
    install("zsh", home / "functions/_aitp")
    (home / ".zshrc").write_text(f"PS1='> '\nfpath=({home}/functions $fpath)\nautoload -Uz compinit\ncompinit -u -D\n")

    with Terminal("-d", "-i", command=["zsh"], **environment(home, ZDOTDIR=str(home))) as terminal:
        terminal.await_text("> ")
        terminal.press(b"aitp dead \t")
        assert "Deliver them once more." in terminal.await_text("Show one")
        terminal.press(b"re\t")
        terminal.await_text("try")


@needs("zsh")
def test_zsh_looks_where_bin_install_puts_it(home: Path) -> None:
    places = said_by("zsh", "-f", "-c", "print -l $fpath", home=home)

    assert str(linked_by_bin_install("_aitp").parent) in places.splitlines()


@needs("fish")
def test_fish_completes_commands_options_and_files_and_says_all_of_what_each_is_for(home: Path) -> None:
    install("fish", home / ".config/fish/completions/aitp.fish")

    def offered(words: str) -> dict[str, str]:
        lines = said_by("fish", "-c", f"complete --do-complete '{words}'", home=home).splitlines()
        return {name: told for name, _, told in (line.partition("\t") for line in lines)}

    assert offered("aitp st") == {"status": "Show what the service is doing now; with --watch, live."}
    assert offered("aitp tasks --state fin") == {"finished": ""}
    # With the comma in it.
    assert offered("aitp dead ")["list"] == "List them, oldest first."
    assert f"{home}/bin/" in offered(f"aitp eval --texts {home}/b")


@needs("fish")
def test_fish_looks_where_bin_install_puts_it(home: Path) -> None:
    places = said_by("fish", "-c", "string join \\n $fish_complete_path", home=home)

    assert str(linked_by_bin_install("aitp.fish").parent) in places.splitlines()
