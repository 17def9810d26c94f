"""Run as a process by test_child: a master whose heap has holes, and how many pages a child of it then takes for five
hundred small blocks, each of which is a fault (getrusage(2), ru_minflt). With `shared` it has shared its memory before.
"""

from __future__ import annotations

import ctypes
import gc
import os
import resource
import sys

from aitp.process.child import share_memory


def main() -> None:
    gc.disable()
    libc = ctypes.CDLL(None)
    libc.malloc.restype, libc.malloc.argtypes, libc.free.argtypes = (
        ctypes.c_void_p,
        [ctypes.c_size_t],
        [ctypes.c_void_p],
    )
    blocks = [libc.malloc(1000) for _ in range(4000)]
    for block in blocks[::4]:
        libc.free(block)
    libc.malloc(100_000)  # holes are sorted by whoever looks for a large one: here, and not in the child
    if sys.argv[1:] == ["shared"]:
        share_memory()
    if os.fork() == 0:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        for _ in range(500):
            ctypes.memset(libc.malloc(1000), 1, 1000)
        print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before, flush=True)
        os._exit(0)
    os.wait()


if __name__ == "__main__":
    main()
