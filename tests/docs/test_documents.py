"""What the documents say is so: commands and options exist, settings and files are there, links lead somewhere."""

from __future__ import annotations

import os
import re
from itertools import product
from pathlib import Path

import click
import pytest

from aitp.commands.cli import commands as cli
from aitp.settings import FIELDS, PROJECT_ROOT, known_names
from aitp.sources import NAMES_OF_OTHERS
from tests.docs.reference import documents as generated
from tests.docs.text import DOCUMENTS, LINK, Command, anchors, commands, name_of, settings_named

ALL = sorted({command for path in DOCUMENTS for command in commands(path)}, key=str)
OURS = [command for command in ALL if re.match(r"(sudo )?(bin/)?aitp( |$)", command.text)]
PROGRAMS = [command for command in ALL if re.match(r"(sudo )?(/opt/aitp/)?bin/(?!aitp)", command.text)]

# In capitals and with an underscore, but no settings of aitp: other programs', or values.
NO_SETTINGS = NAMES_OF_OTHERS | {"HTTPS_PROXY", "NO_PROXY", "PYTHON_IMAGE"}
NAMED = [(name_of(path), name) for path in DOCUMENTS for name in sorted(settings_named(path))]

FIVE = ["Rate Limits Exceeded", "Circuit Breaker Open", "OAuth2 Token Failures", "Ollama Model Not Found"]
FIVE += ["Tasks Not Processing"]


def readings(command: Command) -> list[list[str]]:
    """The words after `aitp`, of each alternative if some are given (`retry|drop`), up to a pipe."""
    words = command.words[2:] if command.words[0] == "sudo" else command.words[1:]
    words = words[: words.index("|")] if "|" in words else words
    return [list(choice) for choice in product(*(word.split("|") for word in words))]


@pytest.mark.parametrize("command", OURS, ids=str)
def test_every_command_of_aitp_is_one_that_it_understands(command: Command) -> None:
    for words in readings(command):
        found: click.Command = cli
        while isinstance(found, click.Group) and words:
            assert words[0] in found.commands, f"there is no `aitp {words[0]}`"
            found = found.commands[words.pop(0)]
        if isinstance(found, click.Group):
            assert not command.block
            continue
        with click.Context(found) as context:
            try:
                found.parse_args(context, words)
            except click.MissingParameter:
                assert not command.block  # a sentence may name a command without its arguments


@pytest.mark.parametrize("command", PROGRAMS, ids=str)
def test_every_program_is_there_and_can_be_run(command: Command) -> None:
    program = re.sub(r"^(sudo )?(/opt/aitp/)?", "", command.text).split()[0]
    if program != "bin/venv.sh":  # which is read, not run
        assert os.access(PROJECT_ROOT / program, os.X_OK)


@pytest.mark.parametrize(("document", "name"), NAMED)
def test_every_setting_exists(document: str, name: str) -> None:
    words = {*known_names(), *NO_SETTINGS}
    if name.endswith("_"):  # RATE_LIMIT_PER_…
        assert any(known.startswith(name) for known in FIELDS)
    assert name in words or name.startswith("RATE_LIMIT_PER"), f"{document} names {name}, which is no setting"


@pytest.mark.parametrize("path", DOCUMENTS, ids=name_of)
def test_every_link_leads_somewhere(path: Path) -> None:
    for link, picture in LINK.findall(path.read_text()):
        place, _, anchor = (link or picture).partition("#")
        if place.startswith(("http://", "https://")):
            continue
        target = (path.parent / place).resolve() if place else path
        assert target.exists(), f"{link} leads nowhere"
        assert not anchor or anchor in anchors(target), f"{target.name} has no heading for #{anchor}"


@pytest.mark.parametrize("path", [path for path in DOCUMENTS if path not in generated()], ids=name_of)
def test_every_file_that_is_named_exists(path: Path) -> None:
    text = path.read_text()
    # Not those of an installed system, which begin with a slash, and not what lies in a package of the reader's.
    named = re.findall(r"(?<![/\w.-])(?:aitp|etc|bin|systemd|bench|tests|docs|docker|examples)/[\w./-]*\w", text)
    assert not [name for name in named if not any((folder / name).exists() for folder in (PROJECT_ROOT, path.parent))]


def test_troubleshooting_has_the_five_common_issues_by_their_titles() -> None:
    headings = re.findall(r"^### \d\. (.+)$", (PROJECT_ROOT / "docs/TROUBLESHOOTING.md").read_text(), re.MULTILINE)
    assert headings == FIVE


def test_troubleshooting_quotes_what_the_program_says() -> None:
    """Each event of its table is in the source, word for word."""
    text = (PROJECT_ROOT / "docs/TROUBLESHOOTING.md").read_text()
    source = "\n".join(path.read_text() for path in (PROJECT_ROOT / "aitp").rglob("*.py"))
    source += (PROJECT_ROOT / "bin/venv.sh").read_text()
    quoted = [
        words for line in re.findall(r"^\| (.*?) \|", text, re.MULTILINE) for words in re.findall(r'"([^"]+)"', line)
    ]
    assert len(quoted) > 20
    pieces = [piece.strip() for words in quoted for piece in re.split(r"…|NAME", words) if piece.strip()]
    assert not [piece for piece in pieces if piece not in source]
