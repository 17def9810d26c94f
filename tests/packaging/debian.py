"""A whole Debian with systemd, booted for the tests that ask systemd itself.

debootstrap fetches it, systemd-nspawn boots it in namespaces of its own, with this machine's network: servers on
loopback are there as well. Nothing of it outlives the test. Where that cannot be (no root, no such tools, no leave of
the kernel) the tests are skipped and say why.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from pathlib import Path

from aitp.settings import PROJECT_ROOT
from tests.packaging.chroot import copy_source
from tests.waiting import wait_until

PACKAGES = "systemd,systemd-sysv,dbus,python3,python3-venv,ca-certificates,procps"
RELEASE = "bookworm"
# How this machine reaches a package index.
NETWORK_FILES = ("/etc/resolv.conf", "/etc/pip.conf", "/etc/ssl/certs/ca-certificates.crt")
BOOT_SECONDS = 60.0


def reason_against() -> str:
    """Why no Debian can be booted here, as far as one can tell without trying; "" if it may."""
    if os.geteuid() != 0:
        return "needs root"
    missing = [tool for tool in ("debootstrap", "systemd-nspawn", "nsenter") if shutil.which(tool) is None]
    return f"needs {', '.join(missing)} (apt install debootstrap systemd-container)" if missing else ""


class Debian:
    """`files` is its root directory; `run` runs a command in it."""

    def __init__(self, place: Path) -> None:
        self.files = place / "debian"
        make = ["debootstrap", "--variant=minbase", f"--include={PACKAGES}", RELEASE, str(self.files)]
        subprocess.run(make, check=True, stdout=subprocess.DEVNULL)
        for name in filter(os.path.exists, NETWORK_FILES):
            shutil.copy(name, self.files / name[1:])
        self.source = self.files / "srv" / "aitp"
        copy_source(PROJECT_ROOT, self.source)
        self._log = (place / "boot.log").open("wb")
        self._nspawn = subprocess.Popen(
            ["systemd-nspawn", "--register=no", "--keep-unit", "--console=pipe", "--boot", "-D", str(self.files)],
            env={**os.environ, "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1"},
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
            start_new_session=True,
        )
        wait_until(self._booted, BOOT_SECONDS, every=0.2)

    def _booted(self) -> bool:
        assert self._nspawn.poll() is None, (self.files.parent / "boot.log").read_text(errors="replace")
        return bool(self._leader()) and self.run("systemctl", "is-system-running").stdout.strip() in (
            "running",
            "degraded",
        )

    def _leader(self) -> str:
        """The process that is its init."""
        return Path(f"/proc/{self._nspawn.pid}/task/{self._nspawn.pid}/children").read_text().partition(" ")[0]

    def run(self, *command: str, patience: float = 300) -> subprocess.CompletedProcess[str]:
        enter = ["nsenter", f"--target={self._leader()}", "--all", "--root", "--wd", "env", "-i"]
        pip = [f"{name}={value}" for name, value in os.environ.items() if name in ("PIP_CERT", "PIP_INDEX_URL")]
        path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        return subprocess.run(
            [*enter, path, "HOME=/root", "LANG=C.UTF-8", *pip, *command],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=patience,
            check=False,
        )

    def facts(self, unit: str = "aitp.service") -> dict[str, str]:
        """What systemd knows of a unit."""
        shown = self.run("systemctl", "show", unit).stdout
        return dict(line.split("=", 1) for line in shown.splitlines() if "=" in line)

    def close(self) -> None:
        if self._nspawn.poll() is None:
            os.kill(self._nspawn.pid, signal.SIGTERM)
            try:
                self._nspawn.wait(60)
            except subprocess.TimeoutExpired:
                os.killpg(self._nspawn.pid, signal.SIGKILL)
                self._nspawn.wait()
        self._log.close()
        shutil.rmtree(self.files, ignore_errors=True)
