"""A worker's view of Wikidata: a ledger of its own, the demo's server, and bounds that are noted."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from aitp.demo.wikidata_api import WikidataApi
from aitp.knowledge.wikidata import Wikidata
from aitp.ledger.breakers import BreakerChange
from aitp.ledger.ledger import Ledger, prepare
from aitp.ledger.queue import LedgerConfig
from aitp.ledger.stats import Snapshot, snapshot
from aitp.settings import Settings, load_settings
from tests.ledger.world import file_of

COMPLETE = {
    "API_BASE_URL": "http://127.0.0.1:3000",
    "OAUTH2_TOKEN_URL": "http://127.0.0.1:4444/oauth2/token",
    "OAUTH2_CLIENT_ID": "aitp",
    "OAUTH2_CLIENT_SECRET": "secret",
    "OPENAI_API_KEY": "sk-real-looking-key",
    "WIKIDATA_CONTACT": "https://example.org/aitp; aitp@example.org",
    "REQUEST_TIMEOUT": "2",
    # So few that no test waits for its turn, but the one about turns.
    "CONCURRENCY_LIMIT": "1",
}


def settings_for(url: str, **more: str) -> Settings:
    return load_settings({**COMPLETE, "WIKIDATA_BASE_URL": url, **more})


class Clock:
    """The machine's clock, on which tests may have time go by."""

    def __init__(self) -> None:
        self.ahead_seconds = 0.0
        self.boot = "this one"

    def __call__(self) -> float:
        return time.time() + self.ahead_seconds

    def uptime(self) -> float:
        return time.monotonic() + self.ahead_seconds

    def go(self, seconds: float) -> None:
        self.ahead_seconds += seconds


@dataclass
class Desk:
    server: WikidataApi
    path: Path
    rules: LedgerConfig = field(default_factory=lambda: LedgerConfig(breaker_threshold=3, breaker_recovery=60.0))
    more: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.path.exists():
            prepare(self.path, strategy="rolling", timezone="UTC", limits={})
        self.clock = Clock()
        self.changes: list[BreakerChange] = []
        self.bounds: list[float] = []
        self.inside = False
        self.ledger = Ledger.open(self.path, self.rules, clock=self.clock)
        self.wikidata = self.opened()

    def opened(self, slot: int = 101) -> Wikidata:
        settings = settings_for(self.server.url, **self.more)
        return Wikidata(settings, self.ledger, slot, self.bound, self.changes.append)

    @contextmanager
    def bound(self, seconds: float) -> Iterator[None]:
        """What a worker bounds a request with, but for the timer: nothing in it may write to the ledger."""
        assert not self.inside, "bounds are not nested"
        self.bounds.append(seconds)
        self.inside = True
        before = file_of(self.ledger).connection.total_changes()
        try:
            yield
        finally:
            self.inside = False
            assert file_of(self.ledger).connection.total_changes() == before

    def seen(self) -> Snapshot:
        return snapshot(self.path, now=self.clock())

    @property
    def breaker(self) -> str:
        return self.seen().breakers["wikidata"].state

    def close(self) -> None:
        self.wikidata.close()
        self.ledger.close()
