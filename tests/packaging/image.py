"""The image of the Dockerfile without a container engine: its steps are carried out, and its command is run confined.

Each stage is this machine's own root as an overlay in a mount namespace of its own, so that nothing outside is touched
and nothing is left. What differs from the real thing: the base image is this machine, Python included. Needs root.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import sysconfig
from collections.abc import Mapping, Sequence
from pathlib import Path

from aitp.settings import PROJECT_ROOT
from tests.waiting import wait_until

STAGES = """
mount -t tmpfs -o mode=0755 stages {place}
for stage in build final; do
    cd {place} && mkdir $stage $stage.upper $stage.work
    mount -t overlay -o lowerdir=/,upperdir=$stage.upper,workdir=$stage.work $stage $stage
    mount --rbind /dev $stage/dev
    mount -t tmpfs -o mode=1777 tmp $stage/tmp
    # Which may have hidden the packages that are borrowed.
    mkdir -p $stage{prefix} && mount --bind {prefix} $stage{prefix}
done
echo ready
exec cat >/dev/null
"""
# Read-only but for the volume and what docker-compose.yml mounts; then the user of the image, without any capability.
CONFINED = """
mount -t tmpfs -o mode=0700,uid=10001,gid=10001 data {root}/app/data
mount -t tmpfs -o mode=0700,uid=10001,gid=10001 run {root}/app/run
mount -o remount,ro,bind {root}
mount -t proc proc {root}/proc
exec chroot {root} setpriv --reuid 10001 --regid 10001 --clear-groups --inh-caps=-all --bounding-set=-all \\
    --no-new-privs env --chdir=/app "$@"
"""

# What ensure_venv leaves, of links: an environment, aitp in it as a package, and the stamp that says what is in it.
BORROWED = """
mkdir .venv
ln -s {prefix}/bin {prefix}/pyvenv.cfg .venv
mkdir -p .venv/$(realpath --relative-to={prefix} {packages})
cd .venv/$(realpath --relative-to={prefix} {packages})
ln -s {packages}/* .
rm aitp.pth
packages=$PWD
cd /app && root=/app && . bin/venv.sh
register_ourselves
stamp_of requirements.txt >.venv/requirements.txt.stamp
"""


class Image:
    """Built when made. A context manager: afterwards nothing is left of it.

    `context`: the directory that it is built from. `install=False` leaves the packages out that the Dockerfile
    installs, and takes those of the tests instead.
    """

    def __init__(self, place: Path, *, install: bool, context: Path = PROJECT_ROOT) -> None:
        self._place, self._install, self._context = place, install, context
        self.environment = {"PATH": f"{sys.base_prefix}/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root"}
        self.command: list[str] = []
        self.health_check: list[str] = []
        self.user = "root"
        self._running: list[subprocess.Popen[bytes]] = []
        # Holds the namespace open until its standard input is closed.
        self._holder = subprocess.Popen(
            [
                "unshare",
                "--mount",
                "--propagation",
                "private",
                "sh",
                "-ec",
                STAGES.format(place=place, prefix=sys.prefix),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self._holder.stdout is not None
        try:
            if self._holder.stdout.readline() != b"ready\n":
                raise OSError("no overlay in a mount namespace of its own")
            self._build()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Image:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def start(self, settings: Mapping[str, str]) -> subprocess.Popen[bytes]:
        """Its command, confined, as process 1 of its own; `stop` ends it."""
        # Killed with this: whatever is left when the test is over.
        process = subprocess.Popen(
            self._confined(self.command, settings, "unshare", "--pid", "--fork", "--kill-child"),
            stdin=subprocess.DEVNULL,
            stdout=(self._place.parent / "log").open("wb"),
            stderr=subprocess.STDOUT,
        )
        self._running.append(process)
        return process

    def run(self, command: Sequence[str], settings: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
        """Another command, confined likewise."""
        whole = self._confined(command, settings, "unshare", "--pid", "--fork", "--kill-child", "--mount")
        return subprocess.run(whole, capture_output=True, text=True, timeout=60, check=False)

    def stop(self, process: subprocess.Popen[bytes]) -> int:
        """TERM to its process 1, as `docker stop` would; the exit code."""
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        (first,) = wait_until(lambda: children.read_text().split())
        os.kill(int(first), signal.SIGTERM)
        return process.wait(50)

    def close(self) -> None:
        """End whatever runs, and let go of all that was built."""
        for process in self._running:
            if process.poll() is None:
                process.kill()
                process.wait()
        assert self._holder.stdin is not None
        self._holder.stdin.close()
        self._holder.wait(30)

    @property
    def log(self) -> str:
        """What its command has printed so far."""
        return (self._place.parent / "log").read_text(errors="replace")

    def megabytes(self, path: str) -> float:
        """What a folder of the image takes."""
        return int(self._sh(f"du -sk {self._place}/final{path}").split()[0]) / 1024

    def _confined(self, command: Sequence[str], settings: Mapping[str, str], *isolate: str) -> list[str]:
        assert self.user == "aitp"
        variables = [f"{name}={value}" for name, value in {**self.environment, **settings}.items()]
        script = CONFINED.format(root=self._place / "final")
        inside = ["nsenter", "--target", str(self._holder.pid), "--mount", *isolate]
        return [*inside, "sh", "-ec", script, "sh", "-i", *variables, *command]

    def _build(self) -> None:
        text = (PROJECT_ROOT / "Dockerfile").read_text()
        lines = re.sub(r"\\\n", "", re.sub(r"^#.*\n", "", text, flags=re.MULTILINE))
        stages = iter(("build", "final"))
        stage = ""
        for line in filter(str.strip, lines.splitlines()):
            word, rest = line.split(maxsplit=1)
            if word == "FROM":
                stage = next(stages)
                # The home of this machine's Python may be closed to others.
                self._sh(f"chmod a+x {self._place}/{stage}/root; mkdir -p {self._place}/{stage}/app")
            elif word == "COPY":
                self._copy(stage, rest.split())
            elif word == "RUN":
                self._run(stage, rest)
            elif word == "ENV":
                for name, value in (part.split("=", 1) for part in rest.split()):
                    self.environment[name] = value.replace("$PATH", self.environment["PATH"])
            elif word == "USER":
                self.user = rest
            elif word == "CMD":
                self.command = json.loads(rest)
            elif word == "HEALTHCHECK":
                self.health_check = json.loads(rest[rest.index("[") :])
            else:
                assert word in {"ARG", "WORKDIR", "VOLUME", "EXPOSE", "STOPSIGNAL"}, line

    def _copy(self, stage: str, parts: list[str]) -> None:
        root = self._place / stage
        if parts[0] == "--from=build":
            self._sh(f"cp -a {self._place}/build{parts[1]}/. {root}/app/{parts[2]}")
            return
        *names, target = parts
        sources = [str(path.relative_to(self._context)) for name in names for path in self._context.glob(name)]
        for source in sources:
            place = (
                root
                / "app"
                / (Path(target) / source if target.endswith("/") and (self._context / source).is_file() else target)
            )
            # As .dockerignore has it.
            self._sh(
                f"mkdir -p {place.parent}; cp -rT {self._context / source} {place}; "
                f"find {place} -name __pycache__ -prune -exec rm -r {{}} +"
            )

    def _run(self, stage: str, command: str) -> None:
        if "pip uninstall" in command and not self._install:
            return  # they are the tests' own
        if "ensure_venv" in command and not self._install:
            command = BORROWED.format(prefix=sys.prefix, packages=sysconfig.get_path("purelib"))
        variables = " ".join(f"{name}={shlex.quote(value)}" for name, value in self.environment.items())
        self._sh(f"chroot {self._place}/{stage} env -i --chdir=/app {variables} sh -ec {shlex.quote(command)}")

    def _sh(self, script: str) -> str:
        command = ["nsenter", "--target", str(self._holder.pid), "--mount", "sh", "-ec", script]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{script}\n{done.stdout}{done.stderr}"
        return done.stdout
