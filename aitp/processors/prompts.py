"""Prompts: one file a task type, with a version in its first line, replaceable by the operator's own (PROMPTS_DIR).

    <!-- prompt: defining_topics, version: 3 -->
    Name the topics … in the language $language …

`$language` and `$country` stand for the settings; `$$` is a dollar sign. Files are read once, when a context is made.
A file that is missing or cannot be used is a ConfigurationError that names it: a worker with half a prompt would sell
nonsense as results. Task content is never put into a prompt (`aitp.processors.structured` keeps it apart).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from string import Template

from aitp.errors import ConfigurationError

HEADER = re.compile(r"<!--\s*prompt:\s*(?P<name>[\w.-]+),\s*version:\s*(?P<version>[\w.-]+)\s*-->\s*\n")
VARIABLES = {"language", "country"}

MOST_CHARACTERS = 65_536


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt as it was read. `source`: its file, for messages."""

    name: str
    version: str
    source: Path
    body: str

    def filled(self, variables: Mapping[str, str]) -> str:
        """The words for the model."""
        return Template(self.body).substitute(variables)


def load_prompts(places: Mapping[str, Path], instead: Path | None) -> dict[str, Prompt]:
    """The prompts named in `places`, each from its file there, or all of them from the directory `instead`.

    Raises ConfigurationError with a line for each that cannot be used.
    """
    prompts, problems = {}, []
    for name, place in places.items():
        path = place if instead is None else instead / f"{name}.md"
        try:
            prompts[name] = read_prompt(name, path)
        except ValueError as error:
            problems.append(f"{'prompt' if instead is None else 'PROMPTS_DIR'}: {path} {error}")
    if problems:
        raise ConfigurationError(problems)
    return prompts


def read_prompt(name: str, path: Path) -> Prompt:
    """The prompt `name` in `path`. ValueError says what is wrong with the file."""
    try:
        text = path.read_text("utf-8")
    except OSError as error:
        raise ValueError(f"cannot be read ({error.strerror}); copy the built-in one there and change it") from error
    if len(text) > MOST_CHARACTERS:
        raise ValueError(f"has more than {MOST_CHARACTERS:,} characters, which would go with each call")
    header = HEADER.match(text)
    if header is None or header["name"] != name:
        raise ValueError(f"must begin with the line <!-- prompt: {name}, version: 1 -->")
    body = text[header.end() :].strip()
    if not body:
        raise ValueError("holds nothing below its first line")
    template = Template(body)
    if not template.is_valid():
        raise ValueError("has a $ that stands for nothing; write $$ for a dollar sign")
    if unknown := sorted(set(template.get_identifiers()) - VARIABLES):
        raise ValueError(f"names ${unknown[0]}, which is none of ${', $'.join(sorted(VARIABLES))}")
    return Prompt(name, header["version"], path, body)
