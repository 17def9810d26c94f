"""Packages as pip leaves them: a module and a dist-info beside it, in a directory that goes onto PYTHONPATH."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from aitp.settings import PROJECT_ROOT, surroundings


def install(place: Path, module: str, source: str, group: str, points: Mapping[str, str]) -> None:
    """Put a package `module`, version 2.0, with these entry points there."""
    (place / f"{module}.py").write_text(source)
    info = place / f"{module}-2.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module.replace('_', '-')}\nVersion: 2.0\n")
    lines = "".join(f"{name} = {target}\n" for name, target in points.items())
    (info / "entry_points.txt").write_text(f"[{group}]\n{lines}")


def run(program: str, *places: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """A fresh Python with these directories on its path: what it prints, and how it ends."""
    path = ":".join(map(str, (PROJECT_ROOT, *places)))
    return subprocess.run(
        [sys.executable, "-m", "tests.snippet", program],
        env={**surroundings(), "PYTHONPATH": path, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
