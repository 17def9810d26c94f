"""One stranger and one prepared ledger for the whole room; what differs from world to world is cheap."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

from aitp.metrics import Metrics
from aitp.settings import Settings, load_settings
from tests.ledger.world import make_template
from tests.strangers.house import House
from tests.strangers.natures import TOPICS
from tests.strangers.server import LENGTH, Nature, Stranger

REAL_TIMEOUT_SECONDS = 0.4  # what a hang costs the test; by the house's clock it costs a minute
NO_CHANGES: Mapping[str, Any] = MappingProxyType({})  # of settings

Open = Callable[..., House]


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_template(tmp_path_factory.mktemp("template"))


@pytest.fixture(scope="session")
def stranger() -> Iterator[Stranger]:
    with Stranger() as server:
        yield server


@pytest.fixture(scope="session")
def settings(stranger: Stranger, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """The defaults, but for what makes a test of it."""
    folder = tmp_path_factory.mktemp("settings")
    return load_settings(
        {
            "API_BASE_URL": "http://127.0.0.1:1",
            "OAUTH2_TOKEN_URL": "http://127.0.0.1:1/token",
            "OAUTH2_CLIENT_ID": "id",
            "OAUTH2_CLIENT_SECRET": "secret",
            "PROCESSING_MODE": "openai",
            "OPENAI_API_KEY": "sk-strange",
            "OPENAI_BASE_URL": stranger.base_url,
            "DEFAULT_CHAT_MODEL": TOPICS.model,  # one that a setting names: a server that has it not yet fails nobody
            "OPENAI_TIMEOUT": str(REAL_TIMEOUT_SECONDS),
            "EMBEDDING_DIMENSIONS": str(LENGTH),
            "WIKIDATA_ENABLED": "false",
            "RATE_LIMIT_ENABLED": "false",
            "RESULT_REUSE_SECONDS": "0",
            "RATE_LIMIT_STORAGE_PATH": str(folder / "ledger.db"),
            "RUNTIME_DIR": str(folder / "run"),
        }
    )


@pytest.fixture(scope="session")
def open_house(stranger: Stranger, settings: Settings, template: Path) -> Open:
    """`with open_house(nature, workers=2, batch=32, minute=20) as house:` a new ledger; a stranger of that nature."""

    @contextmanager
    def opened(
        nature: Nature, workers: int = 2, batch: int = 32, changes: Mapping[str, Any] = NO_CHANGES, **limits: int
    ) -> Iterator[House]:
        memory = Path("/dev/shm")
        with tempfile.TemporaryDirectory(prefix="aitp-strange-", dir=memory if memory.is_dir() else None) as name:
            chosen = settings.model_copy(
                update={"concurrency_limit": workers, "embedding_batch_size": batch, **changes}
            )
            with House(Path(name), template, stranger, chosen, Metrics(), **limits) as house:
                stranger.become(nature)
                yield house

    return opened  # type: ignore[return-value]
