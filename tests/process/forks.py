"""Running a function in a forked process: for what owns its process's signals and timers."""

from __future__ import annotations

import json
import os
import signal
import traceback
from collections.abc import Callable
from typing import Any


def in_child(function: Callable[[], Any], during: Callable[[int], None] = lambda pid: None) -> Any:
    """What `function` returns (JSON) in a process of its own; `during` gets its pid meanwhile. Fails if it fails."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        signal.setitimer(signal.ITIMER_REAL, 0)
        try:
            told = {"result": function()}
        except BaseException:  # noqa: BLE001 (the parent is told)
            told = {"error": traceback.format_exc()}
        os.write(write, json.dumps(told).encode())
        os._exit(0)
    os.close(write)
    try:
        during(pid)
        with open(read, "rb") as answer:
            told = json.loads(answer.read() or '{"error": "it died"}')
    finally:
        try:
            os.kill(pid, signal.SIGKILL)
        finally:
            os.waitpid(pid, 0)
    assert "error" not in told, told["error"]
    return told["result"]
