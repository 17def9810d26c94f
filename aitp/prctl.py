"""prctl(2): what Linux lets a process say about itself. Elsewhere nothing happens, and False says so."""

from __future__ import annotations

import ctypes

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
