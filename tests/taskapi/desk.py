"""What a relay has before it: the client, its token, and notes of every request that either of them made."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from aitp.demo.authorization import DEMO_CLIENT_ID, DEMO_CLIENT_SECRET
from aitp.settings import Settings, load_settings
from aitp.taskapi.client import TaskApi
from aitp.taskapi.token import Tokens
from aitp.tasks import TaskStatus
from tests.providers.scripted import Answer, reply

RESULT = [0.25, -0.5, 1.0]
TASK_ID = "65f000000000000000000001"


class Clock:
    """The wall clock, which tests may step."""

    def __init__(self) -> None:
        self.ahead_seconds = 0.0

    def __call__(self) -> float:
        return time.time() + self.ahead_seconds

    def step(self, seconds: float) -> None:
        self.ahead_seconds += seconds


@dataclass
class Desk:
    settings: Settings
    clock: Clock = field(default_factory=Clock)
    requests: list[tuple[str, str, int | None]] = field(default_factory=list)  # endpoint, method, status
    token_requests: list[bool] = field(default_factory=list)  # whether they succeeded

    def __post_init__(self) -> None:
        self.tokens = Tokens(self.settings, self.token_requests.append, self.clock)
        self.api = TaskApi(self.settings, self.tokens, lambda *facts: self.requests.append(facts[:3]))

    def list(self, limit: int = 10) -> list[Any]:
        """The pending documents, parsed."""
        page = self.api.pending(limit)
        try:
            return [orjson.loads(raw) for raw in page]
        finally:
            page.close()

    def deliver(self, task_id: str = TASK_ID, result: object = RESULT) -> None:
        self.api.deliver(task_id, TaskStatus.SUCCEEDED, orjson.dumps(result))


MakeDesk = Callable[..., Desk]


def settings_for(api_url: str, token_url: str, directory: Path, **more: str) -> Settings:
    """Settings of a service at these addresses; `more` by their environment names."""
    return load_settings(
        {
            "API_BASE_URL": api_url,
            "OAUTH2_TOKEN_URL": token_url,
            "OAUTH2_CLIENT_ID": DEMO_CLIENT_ID,
            "OAUTH2_CLIENT_SECRET": DEMO_CLIENT_SECRET,
            "PROCESSING_MODE": "openai",
            "OPENAI_API_KEY": "your_openai_api_key_here",
            "RUNTIME_DIR": str(directory),
            "REQUEST_TIMEOUT": "5",
            **more,
        }
    )


def own(status: int, message: object = "Some words", **headers: str) -> Answer:
    """An error in the task API's own form."""
    return reply(status, {"statusCode": status, "message": message, "path": "/api/ai-tasks"}, **headers)


def page(status: int, **headers: str) -> Answer:
    """What something in front of the task API says."""
    return reply(status, b"<!doctype html><title>Sign in</title><h1>Sign in</h1>", **headers)
