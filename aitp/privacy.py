"""What keeps this process's secrets from others on the machine: no core dump, no memory or environment to look into.

Called once by each command, before it does anything else; what it forks inherits all of it. The price: only root can
attach a debugger or a profiler, and /proc/PID of such a process belongs to root. Where a kernel can't, nothing happens.
"""

from __future__ import annotations

import ctypes
import resource
from collections.abc import Collection

from aitp.prctl import PR_SET_DUMPABLE, prctl


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
