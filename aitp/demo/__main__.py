"""`python -m aitp.demo --config JSON`: the demo's servers as a process of their own.

It prints one line of JSON with its addresses when it is ready, and takes orders on a fourth port (`control.py`);
`world_process.py` starts it and speaks to it. With `--until-stdin-closes` it ends with whoever started it, however
that died, and leaves Ctrl-C to its parent. The configuration is that of `world.py`, plus `"control": {"port": N}`.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from types import FrameType

import orjson

from aitp.demo.control import Control
from aitp.demo.world import World


def main(arguments: list[str] | None = None) -> int:
    """Run the world until told to end."""
    parser = argparse.ArgumentParser(prog="python -m aitp.demo", description="The demo's servers as a process.")
    parser.add_argument("--config", default="{}", help="JSON, or @FILE that holds it")
    parser.add_argument("--until-stdin-closes", action="store_true", help="end when the standard input ends")
    options = parser.parse_args(arguments)
    given = options.config
    if given.startswith("@"):
        with open(given[1:], "rb") as file:
            given = file.read()
    config = orjson.loads(given)
    signal.signal(signal.SIGTERM, _leave)
    signal.signal(signal.SIGINT, signal.SIG_IGN if options.until_stdin_closes else _leave)
    with World(config) as world, Control(world, **config.get("control", {})) as control:
        ready = {"control": control.url, "environment": world.environment(), "pid": os.getpid()}
        sys.stdout.buffer.write(orjson.dumps(ready) + b"\n")
        sys.stdout.buffer.flush()
        while not options.until_stdin_closes:
            signal.pause()
        while os.read(0, 4096):
            pass
    return 0


def _leave(number: int, frame: FrameType | None) -> None:
    raise SystemExit(0)


if __name__ == "__main__":
    sys.exit(main())
