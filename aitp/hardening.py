"""What a process keeps from others on the machine, and whom it does not outlive.

No core dump, no memory or environment to look into: called once by each command, before it does anything else; what it
forks inherits all of it. The price: only root can attach a debugger or a profiler, and /proc/PID of such a process
belongs to root. Where a kernel can't, nothing happens. Files are their user's alone. Master and metrics process end
with the supervisord that started them: `Parent`.
"""

from __future__ import annotations

import ctypes
import os
import resource
import select
import signal
from collections.abc import Collection
from pathlib import Path


def keep_memory_private() -> None:
    """No core dump, and no look into /proc/PID/mem, maps and environ or ptrace(2) by processes of the same user."""
    try:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    except (OSError, ValueError):
        pass  # the next line does it as well, on Linux
    prctl(PR_SET_DUMPABLE, 0)


def blot_out(names: Collection[str]) -> None:
    """Overwrite the values that /proc/PID/environ and `ps e` show of these variables, to root as well.

    os.environ has copies of its own and keeps them; the C library's getenv finds nothing any more.
    """
    try:
        environ = ctypes.POINTER(ctypes.c_void_p).in_dll(ctypes.CDLL(None), "environ")
    except (OSError, ValueError):
        return
    beginnings = tuple(f"{name}=".encode() for name in names)
    index = 0
    while environ and (entry := environ[index]):
        text = ctypes.string_at(entry)
        if text.startswith(beginnings):
            begin = text.index(b"=") + 1
            ctypes.memset(entry + begin, 0, len(text) - begin)
        index += 1


def is_alive(pid: int) -> bool:
    """Whether there is such a process, whosever it is. One that nobody has reaped yet is dead (proc(5), stat)."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    try:
        return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[0] not in (b"Z", b"X")
    except (OSError, IndexError):
        return True  # not for us to see


def replace_file(path: Path, content: bytes) -> None:
    """Put `content` in the place of the file (0600): a reader sees all of it or what was there. Raises OSError."""
    fresh = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600), "wb") as file:
            file.write(content)
        fresh.replace(path)
    finally:
        fresh.unlink(missing_ok=True)


PR_SET_PDEATHSIG = 1
PR_SET_DUMPABLE = 4
PR_SET_NAME = 15


def prctl(option: int, value: int | bytes) -> bool:
    """Whether it was done. Bytes are passed as a C string."""
    argument = ctypes.c_char_p(value) if isinstance(value, bytes) else ctypes.c_ulong(value)
    nothing = ctypes.c_ulong(0)
    try:
        return bool(ctypes.CDLL(None).prctl(option, argument, nothing, nothing, nothing) == 0)
    except (OSError, AttributeError):
        return False


def end_with(parent: int) -> None:
    """Have the kernel kill this process with its parent, whose pid was noted before the fork: now, if that is dead."""
    prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)


class Parent:
    """Made once, early. It may have died by then: starting takes a while, and whoever is an orphan already sees no
    change of its parent's number any more. supervisord holds the other end of its programs' standard input."""

    def __init__(self, *, supervised: bool) -> None:
        self._pid = os.getppid()
        # After the pid was noted, not before: in between it might die unnoticed.
        self._was_gone = supervised and _standard_input_hung_up()

    @property
    def is_gone(self) -> bool:
        return self._was_gone or os.getppid() != self._pid


def _standard_input_hung_up() -> bool:
    poll = select.poll()
    poll.register(0, 0)  # hang-ups are always told
    return any(events & select.POLLHUP for _, events in poll.poll(0))
