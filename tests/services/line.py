"""A line that tests cut and mend: a listening socket, and who is behind it."""

from __future__ import annotations

import select
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path


class Line:
    """What comes to `listener` is handed on to who is dialled for it, until the line is cut, and again when mended."""

    def __init__(self, listener: socket.socket, dial: Callable[[], socket.socket]) -> None:
        self._listener, self._dial = listener, dial
        self.port = int(listener.getsockname()[1])
        self._whole = threading.Event()
        self._whole.set()
        self._open = True
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        """Nothing comes through any more, and nobody is told."""
        self._whole.clear()

    def mend(self) -> None:
        self._whole.set()

    def close(self) -> None:
        self._open = False
        self._whole.set()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        while self._open:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._carry, args=(client,), daemon=True).start()

    def _carry(self, client: socket.socket) -> None:
        self._whole.wait()
        with client, suppress(OSError), self._dial() as server:
            while self._open:
                ready, _, _ = select.select([client, server], [], [], 0.5)
                self._whole.wait()
                for end in ready:
                    data = end.recv(65_536)
                    if not data:
                        return
                    (server if end is client else client).sendall(data)


def dial_unix(path: Path) -> socket.socket:
    """Whoever listens at this path."""
    dialled = socket.socket(socket.AF_UNIX)
    try:
        dialled.connect(str(path))
    except OSError:
        dialled.close()
        raise
    return dialled
