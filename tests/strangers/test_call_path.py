"""The way from a worker to its provider's client is short enough to be read."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import pytest
from urllib3 import HTTPConnectionPool

from aitp.tasks import QueueKey
from tests.strangers.house import House
from tests.strangers.natures import EMBEDDINGS, TOPICS
from tests.strangers.server import Nature, Stranger

MOST_FRAMES = 7  # from `Worker.step` to the client's call, both ends within aitp
OLLAMA = QueueKey("text_embedding", "bge-m3")


@pytest.mark.parametrize("queue", [EMBEDDINGS, TOPICS, OLLAMA], ids=["vectors", "a chat", "vectors of Ollama"])
def test_a_call_is_at_most_seven_frames_below_the_step(
    open_house: Callable[..., House],
    stranger: Stranger,
    queue: QueueKey,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    paths: list[list[str]] = []
    urlopen = HTTPConnectionPool.urlopen

    def recorded(self: Any, *arguments: Any, **named: Any) -> Any:
        names = [frame.frame.f_code.co_qualname for frame in inspect.stack()[1:]]
        paths.append(names[: names.index("Worker.step") + 1])
        return urlopen(self, *arguments, **named)

    monkeypatch.setattr(HTTPConnectionPool, "urlopen", recorded)
    changes = {"processing_mode": "hybrid", "ollama_base_url": stranger.url, "supported_models": (OLLAMA.model,)}
    with open_house(Nature(), workers=1, changes=changes) as house:
        house.admit(["Rivers flow to the sea"], queue)
        house.run(60.0, house.done)

    (path,) = paths
    assert len(path) <= MOST_FRAMES, path
