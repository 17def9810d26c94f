"""The metrics process as it runs, over a world made for a test: a real process on a real port."""

from __future__ import annotations

import http.client
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import waitress  # type: ignore[import-untyped]
from waitress.wasyncore import close_all  # type: ignore[import-untyped]

from tests.ports import free_port
from tests.waiting import wait_until
from tests.web.world import World, environment_in


@contextmanager
def served(folder: Path, more: Mapping[str, str] | None = None, port: int = 0) -> Iterator[str]:
    """The address of the page of a service that lives in `folder`; `more` are environment variables."""
    port = port or free_port()
    environment = (
        dict(os.environ) | environment_in(folder) | {"METRICS_PORT": str(port), "AITP_ENV_FILE": ""} | dict(more or {})
    )
    command = [sys.executable, "-m", "aitp", "metrics"]
    with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL) as process:
        try:
            wait_until(lambda: answers(port), timeout=30)
            yield f"http://127.0.0.1:{port}/"
        finally:
            process.terminate()


@contextmanager
def served_here(world: World) -> Iterator[str]:
    """The same from a thread of this process: sooner there, for what is only looked at."""
    connections: dict[int, Any] = {}
    server = waitress.create_server(world.app, host="127.0.0.1", port=0, threads=1, map=connections)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.effective_port}/"
    finally:
        # After the last answer, and by its own thread: the descriptor that tells it of answers may be a ledger's next.
        server.task_dispatcher.shutdown()
        with server.trigger.lock:  # or a pull of before may have it run, and the descriptor be gone at ours
            server.trigger.thunks.append(lambda: close_all(connections))
            server.trigger.pull_trigger()
        thread.join()


def answers(port: int) -> bool:
    """Whether somebody answers /health there."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status in (200, 503)
    except OSError:
        return False
    finally:
        connection.close()
