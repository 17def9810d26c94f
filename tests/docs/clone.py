"""A newcomer's clone of the project, in a directory of its own: its commands, as somebody would type them there."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from aitp.demo.command import end_with_parent
from aitp.settings import PROJECT_ROOT, surroundings

LEFT_OUT = shutil.ignore_patterns(".*", "tests", "bench", "data", "run")


class Clone:
    """A copy at `root` with a virtual environment that bin/aitp takes for its own work: that is tested elsewhere."""

    def __init__(self, root: Path, home: Path) -> None:
        self.root = root
        self.home = home
        shutil.copytree(PROJECT_ROOT, root, ignore=LEFT_OUT)
        shutil.copy(PROJECT_ROOT / ".env.example", root)
        home.mkdir(exist_ok=True)
        self._make_environment()

    def _make_environment(self) -> None:
        venv = self.root / ".venv"
        subprocess.run([sys.executable, "-I", "-m", "venv", "--without-pip", venv], check=True)
        [packages] = venv.glob("lib/*/site-packages")
        (packages / "aitp.pth").write_text(f"{self.root}\n{sysconfig.get_path('purelib')}\n")
        stamp = '. bin/venv.sh; stamp_of requirements.txt > "$venv/requirements.txt.stamp"'
        subprocess.run(["sh", "-c", stamp], cwd=self.root, env={**os.environ, "root": str(self.root)}, check=True)

    def environment(self, **more: str) -> dict[str, str]:
        """What a login shell has: nothing of ours."""
        return {**surroundings(), "HOME": str(self.home), **more}

    def run(self, *command: str, **more: str) -> subprocess.CompletedProcess[str]:
        """A command in the clone, to its end."""
        return subprocess.run(
            command, cwd=self.root, env=self.environment(**more), capture_output=True, text=True, timeout=120
        )

    def start(self, *command: str, log: Path, **more: str) -> subprocess.Popen[bytes]:
        """A command in the clone that goes on, but not when whoever tests is killed; what it says is in `log`."""
        with log.open("wb") as out:
            return subprocess.Popen(
                command,
                cwd=self.root,
                env=self.environment(**more),
                stdout=out,
                stderr=out,
                start_new_session=True,
                preexec_fn=end_with_parent,
            )
