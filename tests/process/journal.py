"""A stand-in for systemd: the socket that sd_notify(3) writes to, and all that was written."""

from __future__ import annotations

import socket
from pathlib import Path

from tests.waiting import wait_until


class Journal:
    """Put `environment` into that of a service; `told` says what has come so far, oldest first."""

    def __init__(self, path: Path, watchdog_seconds: float = 60) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        self._socket.bind(str(path))
        self._told: list[dict[str, str]] = []
        self.environment = {"NOTIFY_SOCKET": str(path), "WATCHDOG_USEC": f"{watchdog_seconds * 1_000_000:.0f}"}

    def told(self) -> list[dict[str, str]]:
        """Each datagram's assignments."""
        while True:
            try:
                datagram = self._socket.recv(4096)
            except BlockingIOError:
                return self._told
            self._told.append(dict(line.split("=", 1) for line in datagram.decode().splitlines()))

    def count(self, name: str, value: str = "1") -> int:
        """How often NAME=value was told."""
        return sum(told.get(name) == value for told in self.told())

    def status(self) -> str:
        """The last one."""
        return next((told["STATUS"] for told in reversed(self.told()) if "STATUS" in told), "")

    def await_count(self, name: str, count: int, value: str = "1", timeout: float = 20) -> None:
        wait_until(lambda: self.count(name, value) >= count, timeout)

    def close(self) -> None:
        self._socket.close()
