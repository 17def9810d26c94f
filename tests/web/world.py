"""A service to look at, made of real parts without its processes: settings, a ledger, a scoreboard, metrics files."""

from __future__ import annotations

import json
import os
import tempfile
import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from aitp.ledger.claims import Claim, ClaimOptions
from aitp.ledger.engine import migrate
from aitp.ledger.inbox import Poll, PollOptions
from aitp.ledger.ledger import Ledger, prepare
from aitp.ledger.queue import LedgerConfig
from aitp.metrics import prepare_directory
from aitp.policy.routing import Route
from aitp.process.scoreboard import Record, Scoreboard, State
from aitp.settings import Settings, load_settings
from aitp.tasks import NewTask, QueueKey
from aitp.web.app import Application

RELAY, WORKER = 1, 101
KIND = QueueKey("text_embedding", "text-embedding-3-small")
TERMS = ClaimOptions(workers=1, routes=lambda queue: (Route("openai", queue.model),), batch_size=lambda queue: 1)


@cache
def _empty_ledger() -> bytes:
    """The file of one that was just made: to make it is most of what a world costs."""
    with tempfile.TemporaryDirectory() as folder:
        migrate(path := Path(folder) / "ledger.db")
        return path.read_bytes()


def settings_in(folder: Path, **more: str) -> Settings:
    """Settings of a service that lives in `folder`; `more` are environment variables."""
    return load_settings(environment_in(folder) | more)


def environment_in(folder: Path) -> dict[str, str]:
    return {
        "API_BASE_URL": "http://127.0.0.1:1",
        "OAUTH2_TOKEN_URL": "http://127.0.0.1:1/oauth2/token",
        "OAUTH2_CLIENT_ID": "client",
        "OAUTH2_CLIENT_SECRET": "the-client-secret",
        "OPENAI_API_KEY": "the-provider-key",
        "PROCESSING_MODE": "openai",
        "METRICS_HOST": "127.0.0.1",
        "RATE_LIMIT_STORAGE_PATH": str(folder / "data" / "ledger.db"),
        "RUNTIME_DIR": str(folder / "run"),
    }


@dataclass
class World:
    """A service in good health; each test spoils what it is about."""

    settings: Settings
    scoreboard: Scoreboard

    @classmethod
    def create(cls, folder: Path, **more: str) -> World:
        settings = settings_in(folder, **more)
        settings.runtime_dir.mkdir(mode=0o700)
        prepare_directory(settings.runtime_dir / "metrics")
        (settings.runtime_dir / "token").write_text("{}")
        world = cls(settings, Scoreboard.create(settings.runtime_dir / "scoreboard"))
        settings.rate_limit_storage_path.parent.mkdir(mode=0o700)
        settings.rate_limit_storage_path.write_bytes(_empty_ledger())
        prepare(settings.rate_limit_storage_path, strategy="rolling", timezone="UTC", limits=settings.rate_limits)
        world.master(State.RUNNING)
        world.child(RELAY, State.IDLE)
        world.child(WORKER, State.IDLE)
        ledger = world.ledger()
        ledger.inbox.end_poll(world.poll(ledger), complete=True, more_there=False, regular_at=time.time() + 30)
        ledger.close()
        return world

    def master(self, state: State, ticks: bool = True) -> None:
        now = time.monotonic()
        self.scoreboard.write(Record(0, os.getpid(), state, time.time(), time.time(), now + 60 if ticks else now - 60))

    def child(self, slot: int, state: State, task_id: str = "", deadline: float = 0.0) -> None:
        now = time.time()
        self.scoreboard.write(Record(slot, 4242, state, now - 100, now - 42, deadline, 7, task_id))

    def ledger(self) -> Ledger:
        return Ledger.open(self.settings.rate_limit_storage_path, LedgerConfig.of(self.settings))

    def poll(self, ledger: Ledger) -> Poll:
        poll = ledger.inbox.begin_poll(RELAY, PollOptions(interval=30, concurrency=1, batch_size=1), asked=True)
        assert isinstance(poll, Poll)
        return poll

    def admit(self, *ids: str) -> None:
        """Put tasks into the ledger, as a poll does."""
        ledger = self.ledger()
        poll = self.poll(ledger)
        ledger.inbox.admit(poll, [NewTask(name, KIND, b'{"text": "a text that nobody may see"}') for name in ids])
        ledger.inbox.end_poll(poll, complete=True, more_there=False, regular_at=time.time() + 30)
        ledger.close()

    def claim(self, ledger: Ledger, slot: int = WORKER) -> Claim:
        claim = ledger.claims.claim(slot, TERMS)
        assert isinstance(claim, Claim)
        return claim

    @property
    def app(self) -> Application:
        return Application(self.settings)


@dataclass(frozen=True)
class Response:
    """An answer of the application."""

    status: int
    headers: dict[str, str]
    body: bytes
    challenges: tuple[str, ...] = ()

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def ask(app: Application, path: str, method: str = "GET", authorization: str | None = None) -> Response:
    """One request, straight into the application."""
    told: list[tuple[str, list[tuple[str, str]]]] = []
    sent = {"REQUEST_METHOD": method, "PATH_INFO": path}
    if authorization is not None:
        sent["HTTP_AUTHORIZATION"] = authorization
    body = b"".join(app(sent, lambda *answer: told.append(answer)))
    ((status, headers),) = told
    challenges = tuple(value for name, value in headers if name == "WWW-Authenticate")
    assert len({name for name, _ in headers}) == len(headers) - max(0, len(challenges) - 1)
    return Response(int(status.split()[0]), dict(headers), body, challenges)
