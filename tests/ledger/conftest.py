"""Fixtures of the ledger's tests: a prepared ledger is made once and copied."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pydantic import SecretStr

from aitp.ledger.engine import Fleet, Place
from aitp.ledger.queue import LedgerConfig
from tests.ledger.world import World, make_template, prepared
from tests.services.postgres import PostgreSQL, postgres_server

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


# Whose tests are asked of PostgreSQL every day: the models, and some. All others with those that are slow.
DAILY = frozenset({"test_outbox", "test_release", "test_limits_model"})


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Whatever asks for a world is asked of both engines, unless it is about one of them."""
    if "engine" in metafunc.fixturenames:
        is_sqlites = any(mark.name == "sqlite" for mark in metafunc.definition.iter_markers())
        is_daily = metafunc.module.__name__.rpartition(".")[2] in DAILY
        postgresql = pytest.param("postgresql", marks=() if is_daily else pytest.mark.slow)
        metafunc.parametrize("engine", ["sqlite"] if is_sqlites else ["sqlite", postgresql])


@pytest.fixture(scope="session")
def server() -> Iterator[PostgreSQL]:
    with postgres_server() as server:
        yield server


@pytest.fixture(scope="session")
def fleet(server: PostgreSQL, tmp_path_factory: pytest.TempPathFactory) -> Fleet:
    """A prepared ledger on a server of our own."""
    lock_file = tmp_path_factory.mktemp("fleet") / "fleet"
    return prepared(Fleet(SecretStr(server.url), "aitp", "one", 60.0, lock_file, "of the tests"))


@pytest.fixture
def prepared_place(engine: str, request: pytest.FixtureRequest) -> Place:
    place: Place = request.getfixturevalue("template" if engine == "sqlite" else "fleet")
    return place


@pytest.fixture
def create(folder: Path, prepared_place: Place) -> Iterator[Create]:
    """Make a world with these rules and limits."""
    made: list[World] = []

    def make(rules: LedgerConfig | None = None, **limits: int) -> World:
        made.append(World.create(folder, prepared_place, rules, **limits))
        return made[-1]

    yield make
    for world in made:
        world.close()


@pytest.fixture
def world(create: Create) -> World:
    """A ledger without limits, with the default rules."""
    return create()
