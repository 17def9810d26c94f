"""`python -m tests.snippet PROGRAM ARGUMENTS`: as `python -c`, but that it may be forked (tests/forkserver.py)."""

from __future__ import annotations

import sys

if __name__ == "__main__":
    program = sys.argv[1]
    sys.argv[:] = ["-c", *sys.argv[2:]]
    exec(compile(program, "<string>", "exec"), {"__name__": "__main__"})
