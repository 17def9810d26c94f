"""The settings of a demo as a file, so that the commands of aitp can be tried beside it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path


def write_env_file(path: Path, settings: Mapping[str, str]) -> None:
    """Make `path` (0600: there are secrets in it) with one setting a line. Raises FileExistsError if it is there."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with open(descriptor, "w", encoding="utf-8") as file:
        file.writelines(f"{name}={_quoted(value)}\n" for name, value in settings.items())


def _quoted(value: str) -> str:
    """In single quotes, within which dotenv knows two escapes."""
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"
