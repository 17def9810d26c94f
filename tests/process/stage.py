"""What supervisord starts in tests in the place of bin/aitp, and `run` itself: `python -m tests.process.stage …`."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

# Imports are made where they are needed: supervisord starts this many times, and mostly for a toy that needs none.


def main() -> int:
    match sys.argv[1:]:
        case ["run", configuration]:
            from aitp.errors import ConfigurationError
            from aitp.process.supervisord import run_supervised

            try:
                return run_supervised(Path(configuration))
            except ConfigurationError as error:
                print(*error.problems, sep="\n", file=sys.stderr)
                return 78
        case [directory, "metrics"]:
            with (Path(directory) / "starts of metrics").open("a") as starts:
                starts.write(f"{os.getpid()}\n")
            signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
            sys.stdin.read()  # supervisord's death is its end of file
            return 0
        case [directory, "master"]:
            with (Path(directory) / "starts of master").open("a") as starts:
                starts.write(f"{os.getpid()}\n")
            exits = Path(directory) / "master exits"
            if exits.exists():
                return int(exits.read_text())
            words = "tick_seconds=0.2 slack_seconds=0.5 takeover_seconds=5"
            os.execv(sys.executable, [sys.executable, "-m", "tests.process.toys", directory, *words.split()])
    return 2


if __name__ == "__main__":
    sys.exit(main())
