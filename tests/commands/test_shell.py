"""Completion as any shell asks for it, and the manual page as the real man reads it."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from aitp.commands.cli import commands
from aitp.commands.help import manual_page
from tests.commands.desk import Desk
from tests.packaging.test_command import aitp
from tests.settings.complete import COMPLETE

needs_groff = pytest.mark.skipif(shutil.which("groff") is None, reason="groff formats manual pages: not installed")


def complete(words: str, **environ: str) -> list[str]:
    """What bash is offered after `words`."""
    variables = {"COMP_WORDS": words, "COMP_CWORD": str(len(words.split(" ")) - 1), "_AITP_COMPLETE": "bash_complete"}
    return [line.partition(",")[2] for line in aitp(**variables, **environ).stdout.split()]


def test_options_are_completed() -> None:
    assert complete("aitp tasks --st") == ["--state"]
    assert complete("aitp tasks --state fin") == ["finished"]


def test_ids_of_dead_letters_are_completed(desk: Desk) -> None:
    desk.bury("65f00000000000000000000a", "75f00000000000000000000b")

    assert complete("aitp dead show 6", **desk.settings) == ["65f00000000000000000000a"]


def test_completion_says_nothing_where_settings_or_ledger_cannot_be_read(tmp_path: Path) -> None:
    assert complete("aitp dead show 6") == []
    assert complete("aitp dead show 6", **COMPLETE, RATE_LIMIT_STORAGE_PATH=str(tmp_path / "none.db")) == []


def test_the_manual_page_tells_of_every_command() -> None:
    page = aitp("man").stdout

    assert page.startswith('.TH AITP 1 ""')
    for words in ("aitp dead retry", "aitp status", "aitp models pull", "RATE_LIMIT_STORAGE_PATH", "EXIT STATUS"):
        assert words in page.replace("\\-", "-")


@needs_groff
def test_the_manual_page_is_formatted_without_a_warning() -> None:
    run = subprocess.run(
        ["groff", "-man", "-Tutf8", "-ww", "-z"],
        input=manual_page(commands),
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    assert run.stderr == ""
