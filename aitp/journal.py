"""systemd's journal, where it collects what a process writes: each line begins with its priority, `<4>` for a warning.

So `journalctl -p warning` shows ours (sd-daemon(3)). A stream is the journal's if $JOURNAL_STREAM says so, device and
inode (systemd.exec(5)); programs of supervisord inherit copies of it. Whatever else a stream leads to gets no marks.
Called by the log, which knows levels, and by the command line: what goes to standard error is an error, line by line.
"""

from __future__ import annotations

import io
import os
import sys
from typing import TextIO

PRIORITIES = {"critical": "<2>", "error": "<3>", "warning": "<4>", "info": "<6>", "debug": "<7>"}


def collects(stream: TextIO) -> bool:
    """Whether what is written there goes to the journal."""
    told = os.environ.get("JOURNAL_STREAM")
    try:
        file = os.fstat(stream.fileno()) if told else None
    except (OSError, ValueError):
        return False
    return file is not None and told == f"{file.st_dev}:{file.st_ino}"


def mark_errors() -> None:
    """From now on lines of this process's standard error are errors to the journal: tracebacks whole, too."""
    if sys.stderr is not None and collects(sys.stderr):
        sys.stderr = _Errors(sys.stderr.buffer, sys.stderr.encoding, sys.stderr.errors, line_buffering=True)


class _Errors(io.TextIOWrapper):
    _goes_on = False  # the line of what was written last

    def write(self, text: str) -> int:
        if text == "":
            return 0
        whole, mark = text.endswith("\n"), PRIORITIES["error"]
        marked = text[: -1 if whole else None].replace("\n", f"\n{mark}")
        super().write(("" if self._goes_on else mark) + marked + ("\n" if whole else ""))
        self._goes_on = not whole
        return len(text)
