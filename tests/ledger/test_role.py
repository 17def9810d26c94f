"""The role that docs/FLEET.md tells to make: a schema of its own, and no other right."""

from __future__ import annotations

from pathlib import Path

import psycopg
from pydantic import SecretStr

from aitp.ledger.engine import Fleet
from aitp.ledger.maintenance import check
from aitp.ledger.postgresql import look_over
from tests.ledger.world import World, prepared
from tests.services.postgres import PostgreSQL


def test_a_role_with_a_schema_and_no_other_right_is_enough(server: PostgreSQL, tmp_path: Path) -> None:
    with psycopg.connect(server.url, autocommit=True) as connection:
        connection.execute("CREATE ROLE plain LOGIN")
        connection.execute("CREATE DATABASE plain")
    with psycopg.connect(server.url.replace("/postgres?", "/plain?"), autocommit=True) as connection:
        connection.execute("CREATE SCHEMA aitp AUTHORIZATION plain")
    url = SecretStr(server.url.replace("aitp@/postgres?", "plain@/plain?"))
    world = World(prepared(Fleet(url, "aitp", "one", 20.0, tmp_path / "fleet", "of the test")))
    world.open()
    world.admit("a")
    world.run()
    world.deliver_all()
    world.close()

    assert isinstance(world.place, Fleet)
    assert check(world.place).sound
    assert "PostgreSQL" in next(look_over(world.place))[1]
