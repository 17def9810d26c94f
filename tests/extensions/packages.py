"""Packages as pip leaves them: a module and a dist-info beside it, in a directory that goes onto PYTHONPATH."""

from __future__ import annotations

import configparser
import subprocess
import sys
import sysconfig
import venv
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


def declare(place: Path, project: Path) -> None:
    """The dist-info of a project whose modules lie elsewhere, by its setup.cfg."""
    setup = configparser.ConfigParser(delimiters="=")
    setup.optionxform = str  # type: ignore[assignment,method-assign]
    setup.read(project / "setup.cfg")
    name, version = setup["metadata"]["name"], setup["metadata"]["version"]
    info = place / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    groups = (f"[{group}]\n{points.strip()}\n" for group, points in setup["options.entry_points"].items())
    (info / "entry_points.txt").write_text("\n".join(groups))


def environment(place: Path) -> Path:
    """An environment as bin/venv.sh leaves it, made of links to the tests' own; its Python."""
    venv.create(place, symlinks=True)
    (packages,) = place.glob("lib/python*/site-packages")
    (packages / "tests.pth").write_text(sysconfig.get_path("purelib"))
    register = 'root=$0 packages=$1; . "$root/bin/venv.sh"; register_ourselves'
    subprocess.run(["sh", "-euc", register, PROJECT_ROOT, packages], check=True)
    return place / "bin" / "python"


def pip_install(python: Path, *what: str | Path) -> subprocess.CompletedProcess[str]:
    """As the documents say. Builds in the place that is named."""
    command = [python, "-m", "pip", "install", "--no-index", "--no-build-isolation", *what]
    return subprocess.run(command, env={"PATH": "/usr/bin:/bin"}, capture_output=True, text=True, timeout=60)


def install_extensions(python: Path, folder: Path) -> subprocess.CompletedProcess[str]:
    """What bin/install and the Dockerfile do with the extensions.txt of `folder`, here without any index."""
    script = 'root=$0 AITP_VENV=$1; . "$root/bin/venv.sh"; install_extensions "$2"'
    return subprocess.run(
        ["sh", "-euc", script, PROJECT_ROOT, python.parents[1], folder],
        env={"PATH": "/usr/bin:/bin", "PIP_NO_INDEX": "1"},
        capture_output=True,
        text=True,
        timeout=60,
    )


def run(program: str, *places: Path, timeout: float = 60, **environment: str) -> subprocess.CompletedProcess[str]:
    """A fresh Python with these directories on its path: what it prints, and how it ends."""
    path = ":".join(map(str, (PROJECT_ROOT, *places)))
    return subprocess.run(
        [sys.executable, "-m", "tests.snippet", program],
        env={**surroundings(), "PYTHONPATH": path, **environment},
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
