"""A world in a process of its own, and the handle to it: for tests that fork, kill or measure, and for the demo.

    with WorldProcess({"tasks": 200, "openai_api": {"latency_seconds": 0.5}}) as world:
        environment = {**os.environ, **world.environment}
        world.add_fault("openai_api", Fault(status=500, times=3))
        world.summary().states

It ends with this process, however this one dies: it holds the other end of its standard input.
"""

from __future__ import annotations

import dataclasses
import http.client
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

import orjson

from aitp.demo.authorization import Issue
from aitp.demo.control import Summary
from aitp.demo.faults import Fault
from aitp.demo.http import Exchange
from aitp.demo.openai_api import Purchase
from aitp.demo.task_api import Delivery

PROJECT = Path(__file__).resolve().parents[2]


class WorldProcess:
    """Start it with a configuration (see `world.py`); `environment` holds the settings that point aitp there."""

    def __init__(self, config: Mapping[str, Any] | None = None) -> None:
        command = [sys.executable, "-m", "aitp.demo", "--until-stdin-closes"]
        self._process = subprocess.Popen(
            [*command, "--config", orjson.dumps(dict(config or {})).decode()],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=PROJECT,
            start_new_session=True,  # Ctrl-C is for the parent to answer
        )
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the demo's servers did not start: exit code {self._process.wait()}")
        ready = orjson.loads(line)
        self.environment: dict[str, str] = ready["environment"]
        self.pid: int = ready["pid"]
        self.control: str = ready["control"]  # where it takes orders
        self._netloc = urlsplit(self.control).netloc

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def wait(self) -> None:
        """Until it ends: by itself it does not."""
        self._process.wait()

    def close(self) -> None:
        """End it and wait."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()

    def summary(self) -> Summary:
        """How things stand."""
        return Summary(**self._order("GET", "/control/summary"))

    def states(self) -> dict[str, int]:
        """How many tasks are in each state: cheap, for a progress bar or a wait."""
        return dict(self._order("GET", "/control/states"))

    def states_by_id(self) -> dict[str, str]:
        """The state of each task that the task API knows."""
        return dict(self._order("GET", "/control/tasks"))

    def wrong_results(self) -> list[str]:
        """Ids of tasks whose stored vector is not their text's."""
        return list(self._order("GET", "/control/wrong"))

    def purchases(self, since: int = 0, server: str = "openai_api") -> list[Purchase]:
        """A provider's bill ("openai_api", "ollama_api") from entry `since` on."""
        return [Purchase(**entry) for entry in self._log(server, "purchases", since)]

    def deliveries(self, since: int = 0) -> list[Delivery]:
        """Every PATCH from entry `since` on."""
        return [Delivery(**entry) for entry in self._log("task_api", "deliveries", since)]

    def issues(self, since: int = 0) -> list[Issue]:
        """Every token handed out from entry `since` on."""
        return [Issue(**entry) for entry in self._log("authorization", "issues", since)]

    def exchanges(self, server: str, since: int = 0) -> list[Exchange]:
        """Every request to `server` ("task_api", "authorization", "openai_api", "ollama_api") from entry `since` on."""
        return [Exchange(**entry) for entry in self._log(server, "exchanges", since)]

    def add_fault(self, server: str, fault: Fault) -> None:
        """Order a fault of one server."""
        self._order("POST", "/control/faults", {"server": server, **dataclasses.asdict(fault)})

    def clear_faults(self) -> None:
        """Take all faults of all servers back."""
        self._order("DELETE", "/control/faults")

    def add_tasks(self, count: int) -> list[str]:
        """So many new tasks; their ids."""
        return list(self._order("POST", "/control/tasks", {"count": count}))

    def add_documents(self, documents: Sequence[Mapping[str, Any]]) -> list[str]:
        """These tasks; their ids."""
        return list(self._order("POST", "/control/tasks", {"documents": documents}))

    def remove_task(self, task_id: str) -> None:
        """The task API does not know it any more."""
        self._order("DELETE", "/control/tasks", {"id": task_id})

    def forget_ended(self, seconds: float = 60.0) -> int:
        """Forget tasks that ended so long ago, and records as old: for runs without end. How many tasks that were."""
        return int(self._order("POST", "/control/forget", {"seconds": seconds}))

    def set(self, server: str, **switches: Any) -> None:
        """Change switches of one server, such as `latency_seconds=2`."""
        self._order("POST", "/control/set", {"server": server, **switches})

    def down(self, server: str, seconds: float) -> None:
        """Connections to one server are refused for so long."""
        self._order("POST", "/control/down", {"server": server, "seconds": seconds})

    def revoke_tokens(self) -> None:
        """No token handed out so far is active from now on."""
        self._order("POST", "/control/revoke", {})

    def _log(self, server: str, part: str, since: int) -> list[dict[str, Any]]:
        return list(self._order("GET", f"/control/log?server={server}&part={part}&since={since}"))

    def _order(self, method: str, path: str, details: object = None) -> Any:
        connection = http.client.HTTPConnection(self._netloc, timeout=60)
        try:
            connection.request(method, path, None if details is None else orjson.dumps(details))
            response = connection.getresponse()
            answer = orjson.loads(response.read())
        finally:
            connection.close()
        if response.status != 200:
            raise ValueError(answer["error"])
        return answer
