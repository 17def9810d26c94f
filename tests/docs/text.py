"""The documents as the tests read them: fenced blocks, inline commands, links, anchors."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from aitp.settings import PROJECT_ROOT

DOCUMENTS = (
    *sorted(PROJECT_ROOT.glob("*.md")),
    *sorted((PROJECT_ROOT / "docs").glob("*.md")),
    *sorted((PROJECT_ROOT / "bench").rglob("README.md")),
)

FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"`([^`\n]+)`")
COMMENT = re.compile(r"(^|\s)#\s.*$")
# Not those of images, which begin with an exclamation mark, alone: both kinds must lead somewhere.
LINK = re.compile(r"\]\(([^)\s]+)\)|<img src=\"([^\"]+)\"")
# What stands for a value of the reader's.
PLACEHOLDERS = {"ID": "65f0c0ffee65f0c0ffee65f0", "FILE": "copy.db", "DIRECTORY": "practice"}


@dataclass(frozen=True, slots=True)
class Command:
    """A command line of a document. `block`: of a fenced block, to be typed as it is; else mentioned in a sentence."""

    document: str
    text: str
    block: bool

    @property
    def words(self) -> list[str]:
        """As a shell would part them, placeholders filled in."""
        return [PLACEHOLDERS.get(word, word) for word in shlex.split(self.text)]

    def __str__(self) -> str:
        return f"{self.document}: {self.text}"


def name_of(path: Path) -> str:
    return str(path.relative_to(PROJECT_ROOT))


def commands(path: Path) -> Iterator[Command]:
    """All lines of its sh blocks, without comments, and each inline code that begins as a command of aitp's."""
    text = path.read_text()
    for _, language, block in FENCE.findall(text):
        if language == "sh":
            for line in block.splitlines():
                if command := COMMENT.sub("", line).strip():
                    yield Command(name_of(path), command, True)
    for code in INLINE.findall(FENCE.sub("", text)):
        if re.match(r"(sudo )?(bin/)?aitp( |$)|(sudo )?(/opt/aitp/)?bin/\w|curl |supervisorctl ", code):
            yield Command(name_of(path), code, False)


def settings_named(path: Path) -> set[str]:
    """Inline code that looks like a variable of the environment, with or without a value."""
    return {
        match[1]
        for code in INLINE.findall(path.read_text())
        if (match := re.match(r"([A-Z][A-Z0-9]*(?:_[A-Z0-9]+)+)(=|$)", code))
    }


def anchors(path: Path) -> set[str]:
    """The anchors that GitHub gives to a document's headings."""
    found: set[str] = set()
    for heading in re.findall(r"^#+ (.+)$", FENCE.sub("", path.read_text()), re.MULTILINE):
        plain = re.sub(r"[^\w\- ]", "", re.sub(r"[`*]|\[([^]]*)\]\([^)]*\)", r"\1", heading).lower()).replace(" ", "-")
        found.add(next(name for name in (plain, *(f"{plain}-{n}" for n in range(1, 9))) if name not in found))
    return found
