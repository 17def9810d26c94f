"""A made-up machine for bin/aitp: a clone with bin/ and the requirements, and a PATH that leads to nothing else.

Its Python is a shell script that answers what bin/venv.sh asks of one and writes each call down, so that the tests take
milliseconds; that the real thing installs is seen by every run of bin/test.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from pathlib import Path

from aitp.settings import PROJECT_ROOT

# What Debian has on every machine (coreutils, util-linux).
TOOLS = (
    "cat",
    "cksum",
    "cp",
    "dirname",
    "flock",
    "ls",
    "mkdir",
    "readlink",
    "rm",
    "sed",
    "seq",
    "setsid",
    "sh",
    "sleep",
)

PYTHON = """#!/bin/sh
echo "$@" >>"$CALLS"
for last; do :; done
case "$*" in
*version_info*) [ -z "${TOO_OLD:-}" ] ;;
*ensurepip*) [ -z "${NO_VENV:-}" ] ;;
*-V) echo Python 3.11.2 ;;
*"-m venv"*)
    mkdir -p "$last/bin" && cp "$0" "$last/bin/python" && : >"$last/pyvenv.cfg"
    if [ -n "${SLOW:-}" ]; then
        : >"${TMPDIR:-/tmp}/unpacked"
        # Like ensurepip: a process of the process, which goes on when only its parent is killed.
        (for _ in $(seq 1000); do mkdir -p "$last/lib"; : >"$last/lib/more"; sleep 0.01; done) &
        sleep 15
    fi ;;
*"-r extensions.txt"*) [ -z "${NO_NETWORK:-}" ] && sed -n 's/^# parts: //p' extensions.txt >"$(dirname "$0")/parts" ;;
*entry_points*) cat "$(dirname "$0")/parts" 2>/dev/null ;;
*purelib*) echo "$(dirname "$0")" ;;
*"-m pip"*)
    for name in ${COLLECTED:-}; do echo "Collecting $name" >>"$TMPDIR/pip.log"; done
    [ -z "${COLLECTED:-}" ] || sleep 2
    [ -z "${NO_NETWORK:-}" ] || { echo "ERROR: no network" >&2; exit 1; } ;;
*"-m aitp"*) echo "pid $$ runs $*" ;;
esac
"""


class Machine:
    def __init__(self, place: Path) -> None:
        self.root = place / "a clone"
        self.tools = place / "tools"
        self.calls_file = place / "calls"
        self.venv = self.root / ".venv"
        self.root.mkdir()
        self.tools.mkdir()
        shutil.copytree(PROJECT_ROOT / "bin", self.root / "bin")
        for requirements in PROJECT_ROOT.glob("requirements*.txt"):
            shutil.copy(requirements, self.root)
        (self.root / "aitp").mkdir()
        shutil.copy(PROJECT_ROOT / "aitp/__init__.py", self.root / "aitp")
        for tool in TOOLS:
            found = shutil.which(tool)
            assert found is not None, tool
            (self.tools / tool).symlink_to(found)

    def add_python(self, name: str = "python3") -> None:
        path = self.tools / name
        path.write_text(PYTHON)
        path.chmod(0o755)

    def start(self, *arguments: str, program: Path | None = None, **environ: str) -> subprocess.Popen[str]:
        """Start bin/aitp in an environment of its own."""
        return subprocess.Popen(
            [program or self.root / "bin/aitp", *arguments],
            env={"PATH": str(self.tools), "CALLS": str(self.calls_file), **environ},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=self.root.parent,
            preexec_fn=_hear_signals,
        )

    def run(self, *arguments: str, program: Path | None = None, **environ: str) -> subprocess.CompletedProcess[str]:
        process = self.start(*arguments, program=program, **environ)
        output, errors = process.communicate(timeout=30)
        return subprocess.CompletedProcess(arguments, process.returncode, output, errors)

    def calls(self, about: str) -> list[str]:
        """The calls of Python so far that have `about` in them."""
        written = self.calls_file.read_text() if self.calls_file.exists() else ""
        return [call for call in written.splitlines() if about in call]

    def installed(self) -> list[str]:
        return [os.path.basename(call.split()[-1]) for call in self.calls("-m pip --disable-pip-version-check")]


def _hear_signals() -> None:
    """Whoever runs the tests in the background has them ignored, which a shell can never undo."""
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT):
        signal.signal(number, signal.SIG_DFL)
