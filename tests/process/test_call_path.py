"""One call path, and a flat one: what lies between a worker's step and the client of its provider."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import pytest

from aitp.http import NoAnswer, Wire
from aitp.ledger.claims import Claim
from aitp.ledger.ledger import prepare
from aitp.metrics import Metrics
from aitp.process.worker import Worker
from aitp.tasks import QueueKey
from tests.ledger.world import WORKER, World
from tests.process.alone import Alone
from tests.taskapi.desk import settings_for

OPENAI = {"PROCESSING_MODE": "openai", "OPENAI_API_KEY": "sk-a-key"}
OLLAMA = {"PROCESSING_MODE": "ollama", "SUPPORTED_MODELS": "nomic-embed-text,o3-mini"}
MOST_FRAMES = 7  # `step` and the HTTP client's own function included


@pytest.mark.parametrize(
    ("settings", "queue", "content"),
    [
        (
            OPENAI,
            QueueKey("text_embedding", "text-embedding-3-small"),
            b'{"text":"a","model":"text-embedding-3-small"}',
        ),
        (OPENAI, QueueKey("identifying_data", "o3-mini"), b'{"text":"a","model":"o3-mini"}'),
        (OPENAI, QueueKey("defining_severity", "o3-mini"), b'{"text":"a","model":"o3-mini"}'),
        (OLLAMA, QueueKey("text_embedding", "nomic-embed-text"), b'{"text":"a","model":"nomic-embed-text"}'),
        (OLLAMA, QueueKey("identifying_data", "o3-mini"), b'{"text":"a","model":"o3-mini"}'),
    ],
    ids=lambda value: value.type if isinstance(value, QueueKey) else None,
)
def test_from_step_to_the_clients_call_it_takes_seven_frames_at_most(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: dict[str, str], queue: QueueKey, content: bytes
) -> None:
    path: list[str] = []

    def send(*_: Any, **__: Any) -> None:
        for frame in inspect.stack():
            path.append(frame.frame.f_code.co_qualname)
            if frame.frame.f_code is Worker.step.__code__:
                break
        raise NoAnswer("has been seen enough of")

    monkeypatch.setattr(Wire, "send", send)
    prepare(tmp_path / "ledger.db", strategy="rolling", timezone="UTC", limits={})
    world = World(tmp_path / "ledger.db")
    world.open()
    try:
        read = settings_for(
            "http://127.0.0.1:9", "http://127.0.0.1:9/token", tmp_path, WIKIDATA_ENABLED="false", **settings
        )
        worker = Worker(Alone(WORKER), world.ledger, Metrics(), read)
        world.admit("a", queue=queue, content=content)
        assert isinstance(worker.step(), Claim)
    finally:
        world.close()

    assert path[-1] == "Worker.step"
    assert len(path) <= MOST_FRAMES, " ← ".join(path)
