"""The fixtures of the ledger's tests, and a desk around them."""

from __future__ import annotations

import pytest

from tests.commands.desk import Desk
from tests.ledger.conftest import create, folder, template, world
from tests.ledger.world import World

__all__ = ["create", "folder", "template", "world"]


@pytest.fixture
def desk(world: World) -> Desk:
    """A ledger without limits."""
    return Desk.around(world)
