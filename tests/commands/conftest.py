"""The fixtures of the ledger's tests, and a desk around them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.commands.desk import Desk
from tests.ledger.conftest import create, folder, template, world
from tests.ledger.world import World

__all__ = ["create", "folder", "template", "world"]


@pytest.fixture
def prepared_place(template: Path) -> Path:
    """What commands look at is a file."""
    return template


@pytest.fixture
def desk(world: World) -> Desk:
    """A ledger without limits."""
    return Desk.around(world)
