"""A root directory to install into: this machine's files, with everything that is written kept apart, and a toy Python.

An overlay (overlayfs) in a mount namespace of its own, entered by chroot. That needs root and the kernel's leave; where
there is either not, the tests that use it are skipped. The toy Python is the one of machine.py: nothing is downloaded.
"""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from aitp.settings import PROJECT_ROOT
from tests.packaging.machine import PYTHON

MEMORY = Path("/dev/shm")  # an overlay cannot keep its changes in the file system that it lies over
CONTENTS = ("aitp", "bin", "etc", "docs", "systemd")
MOUNT = """
mount -t overlay overlay -o lowerdir=/,upperdir="$0/upper",workdir="$0/work" "$0/merged" &&
mount --bind /proc "$0/merged/proc" && mount --bind /dev "$0/merged/dev" && exec chroot "$0/merged" "$@"
"""


def copy_source(clone: Path, target: Path) -> None:
    """What bin/install takes of a clone."""
    target.mkdir(parents=True)
    for name in CONTENTS:
        shutil.copytree(clone / name, target / name, ignore=shutil.ignore_patterns("__pycache__"))
    for path in [*clone.glob("*.md"), *clone.glob("requirements*.txt"), clone / ".env.example"]:
        shutil.copy(path, target)


class Chroot:
    """`run` enters it; what was written stays from one `run` to the next. `source` is the clone to install from."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.files = place / "upper"
        for name in ("upper", "work", "merged"):
            (place / name).mkdir()
        self.source = self.files / "srv" / "aitp"
        copy_source(PROJECT_ROOT, self.source)
        python = self.files / "usr" / "local" / "sbin" / "python3"  # first in the installer's PATH
        python.parent.mkdir(parents=True)
        python.write_text(PYTHON)
        for directory in (self.files, self.source, *python.parents[:3]):
            directory.chmod(0o755)
        python.chmod(0o755)

    def run(self, *command: str, **environ: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["unshare", "--mount", "sh", "-c", MOUNT, str(self.place), *command],
            env={"PATH": os.environ["PATH"], "CALLS": "/calls", **environ},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def install(self, *options: str, **environ: str) -> subprocess.CompletedProcess[str]:
        return self.run("/srv/aitp/bin/install", "--image", *options, **environ)

    def uninstall(self, *options: str) -> subprocess.CompletedProcess[str]:
        return self.run("/srv/aitp/bin/uninstall", *options)

    def is_there(self, path: str) -> bool:
        """A link that leads nowhere as well."""
        return self.run("test", "-e", path, "-o", "-L", path).returncode == 0

    def release(self, prefix: str = "opt/aitp") -> str:
        """The one in use."""
        return os.readlink(self.files / prefix / "current")


@functools.cache
def reason_against() -> str:
    """Why there can be no such root directory here; "" if there can."""
    if os.geteuid() != 0:
        return "needs root"
    if shutil.which("systemctl") is None or shutil.which("useradd") is None:
        return "needs systemctl and useradd"
    if not MEMORY.is_dir():
        return f"needs {MEMORY}"
    with tempfile.TemporaryDirectory(prefix="aitp-overlay-", dir=MEMORY) as place:
        for name in ("upper", "work", "merged"):
            (Path(place) / name).mkdir()
        done = subprocess.run(
            ["unshare", "--mount", "sh", "-c", MOUNT, place, "true"], capture_output=True, check=False
        )
    return "" if done.returncode == 0 else f"no overlay can be mounted: {done.stderr.decode().strip()}"
