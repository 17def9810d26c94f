"""All servers together, wired to each other, in threads of this process. See `__main__.py` for a process.

The configuration, every part of it optional:

    {"task_api": {…}, "authorization": {…}, "openai_api": {…}, "ollama_api": {…},     arguments of each server's class
     "wikidata_api": {…},
     "tasks": 200, "seed": 0,                                                         tasks pending at the start
     "kind": {"types": ["defining_topics"], …}}                                       of all tasks: see `tasks_like`
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

from aitp.demo.authorization import AuthorizationServer
from aitp.demo.documents import tasks_like
from aitp.demo.http import Flights, HttpServer
from aitp.demo.ollama_api import OllamaApi
from aitp.demo.openai_api import OpenAIApi
from aitp.demo.task_api import TaskApi
from aitp.demo.wikidata_api import WikidataApi


class World:
    """The servers, wired to each other. A context manager."""

    def __init__(self, config: Mapping[str, Any] | None = None) -> None:
        config = dict(config or {})
        self.seed = int(config.get("seed", 0))
        self.tasks_made = 0
        self._kind: Mapping[str, Any] | None = config.get("kind")
        self.authorization = AuthorizationServer(**config.get("authorization", {}))
        self.openai_api = OpenAIApi(**config.get("openai_api", {}))
        self.ollama_api = OllamaApi(**config.get("ollama_api", {}))
        # CONCURRENCY_LIMIT is over both.
        self.calls = self.openai_api.calls_in_flight = self.ollama_api.calls_in_flight = Flights()
        self.wikidata_api = WikidataApi(**config.get("wikidata_api", {}))
        pending = self.make_tasks(int(config.get("tasks", 0)))
        self.task_api = TaskApi(authorization=self.authorization, tasks=pending, **config.get("task_api", {}))

    def make_tasks(self, count: int) -> list[dict[str, Any]]:
        """So many new documents, their ids and texts unlike all made before."""
        documents = list(tasks_like(self._kind, count, seed=self.seed, start=self.tasks_made))
        self.tasks_made += count
        return documents

    @property
    def servers(self) -> dict[str, HttpServer]:
        """All by name, as orders name them."""
        return {
            "task_api": self.task_api,
            "authorization": self.authorization,
            "openai_api": self.openai_api,
            "ollama_api": self.ollama_api,
            "wikidata_api": self.wikidata_api,
        }

    def forget_ended(self, seconds: float) -> int:
        """Forget tasks that ended so long ago, and records as old; how many tasks that were."""
        before = time.monotonic() - seconds
        for server in self.servers.values():
            server.forget(before)
        return self.task_api.forget_ended(before)

    def environment(self) -> dict[str, str]:
        """The settings that point aitp here."""
        return {
            **environment(self.task_api, self.authorization, self.openai_api),
            "OLLAMA_BASE_URL": self.ollama_api.url,
            "WIKIDATA_BASE_URL": self.wikidata_api.url,
        }

    def __enter__(self) -> Self:
        for server in self.servers.values():
            server.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for server in self.servers.values():
            server.close()


def environment(task_api: TaskApi, authorization: AuthorizationServer, openai_api: OpenAIApi) -> dict[str, str]:
    """The settings that point aitp at these servers."""
    return {
        "API_BASE_URL": task_api.url,
        "OAUTH2_TOKEN_URL": authorization.token_url,
        "OAUTH2_CLIENT_ID": authorization.client_id,
        "OAUTH2_CLIENT_SECRET": authorization.client_secret,
        "OPENAI_BASE_URL": openai_api.base_url,
        "OPENAI_API_KEY": openai_api.key,
    }
