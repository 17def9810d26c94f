"""What the C library keeps of freed memory: little while there is work, next to nothing at rest.

An answer for a batch takes a megabyte for a moment. glibc keeps up to twice its largest block so far, and one small
block at the end of its heap holds all that is free below: a worker's memory of its own would be a tenth larger. With
another C library nothing happens.
"""

from __future__ import annotations

import ctypes

M_TRIM_THRESHOLD = -1  # mallopt(3)
KEPT_BYTES = 65_536

_libc = ctypes.CDLL(None)


def keep_little() -> None:
    """Once, before forking: children have the setting from their master."""
    if hasattr(_libc, "mallopt"):
        _libc.mallopt(M_TRIM_THRESHOLD, KEPT_BYTES)


def give_back() -> None:
    """Before a rest, after some work. Takes a few tenths of a millisecond."""
    if hasattr(_libc, "malloc_trim"):
        _libc.malloc_trim(0)
