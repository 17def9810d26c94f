"""A terminal of its own for a command: what it shows, its size, and the keys that are pressed."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import struct
import subprocess
import sys
import termios
from collections.abc import Sequence
from types import TracebackType
from typing import Self

from aitp.settings import PROJECT_ROOT, surroundings
from tests.forkserver import take_terminal
from tests.waiting import wait_until

AITP = (sys.executable, "-m", "aitp")
INTO_THE_ALTERNATE_SCREEN, OUT_OF_IT = "\x1b[?1049h", "\x1b[?1049l"


class Terminal:
    """`aitp ARGUMENTS` (or another command) on a terminal of 80 columns and 24 lines, as the foreground of a session of
    its own.
    """

    def __init__(self, *arguments: str, command: Sequence[str] = AITP, **environ: str) -> None:
        self._ours, theirs = pty.openpty()
        self.resize(80, 24)
        self.shown = ""
        self.process = subprocess.Popen(
            [*command, *arguments],
            env={**surroundings(), "PYTHONPATH": str(PROJECT_ROOT), "TERM": "xterm-256color", **environ},
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
            preexec_fn=take_terminal,
        )
        os.close(theirs)

    def resize(self, columns: int, lines: int) -> None:
        fcntl.ioctl(self._ours, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    def press(self, keys: bytes) -> None:
        os.write(self._ours, keys)

    def await_text(self, text: str) -> str:
        """All that was shown since the last wait, up to now, once `text` is in it."""
        wait_until(lambda: text in self._read())
        shown, self.shown = self.shown, ""
        return shown

    def wait(self) -> int:
        """Its exit code."""
        wait_until(lambda: (self._read(), self.process.poll() is not None)[1])
        return self.process.wait()

    def _read(self) -> str:
        while select.select([self._ours], [], [], 0)[0]:
            try:
                self.shown += os.read(self._ours, 65_536).decode(errors="replace")
            except OSError:  # the other end is closed
                break
        return self.shown

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._ours)
