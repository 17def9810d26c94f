"""Fixtures of the ledger's tests: a prepared ledger is made once and copied."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from aitp.ledger import LedgerConfig
from tests.ledger.world import World, make_template

Create = Callable[..., World]


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_template(tmp_path_factory.mktemp("template"))


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder in memory where there is one: most promises do not depend on the disk, and its flushes take time."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(prefix="aitp-ledger-", dir=memory if memory.is_dir() else None) as name:
        yield Path(name)


@pytest.fixture
def create(folder: Path, template: Path) -> Iterator[Create]:
    """Make a world with these rules and limits."""
    made: list[World] = []

    def make(rules: LedgerConfig | None = None, **limits: int) -> World:
        made.append(World.create(folder, template, rules, **limits))
        return made[-1]

    yield make
    for world in made:
        world.close()


@pytest.fixture
def world(create: Create) -> World:
    """A ledger without limits, with the default rules."""
    return create()
