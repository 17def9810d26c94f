"""A ledger with something of everything in it, and ways to damage its file."""

from __future__ import annotations

import functools
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

import apsw

from aitp.ledger.outbox import DeliveryOutcome
from aitp.ledger.queue import LedgerConfig
from tests.ledger.world import RELAY, WORKER, Clock, World, terms

PAGE = 4_096
READY, FINISHED, DEAD, DELIVERED = 300, 300, 20, 15


def lived(folder: Path, template: Path) -> World:
    """300 ready, 4 claimed, 300 finished, 20 dead letters, 15 tombstones; a completion for each that was run."""
    kept, clock = _kept(template)
    world = World(copy_of(kept, "ledger.db", folder), replace(clock))
    world.open()
    return world


@functools.cache
def _kept(template: Path) -> tuple[Path, Clock]:
    """It takes a second to live so much: once for all that begin with this template."""
    folder = Path(tempfile.mkdtemp(dir=template.parent))
    world = World.create(folder, template, LedgerConfig(), month=10_000)
    world.admit(*(f"run{number}" for number in range(FINISHED + DEAD + DELIVERED)))
    for _ in range(FINISHED + DEAD + DELIVERED):
        world.finish(world.claim(terms=terms(batch=1)))
        world.clock.go(1.0)
    for delivery in world.take(most=DEAD):
        world.ledger.outbox.settle(delivery, DeliveryOutcome.REFUSED, "400: refused")
    for delivery in world.take(most=DELIVERED):
        world.ledger.outbox.settle(delivery, DeliveryOutcome.DELIVERED)
    world.admit(*(f"new{number}" for number in range(READY + 4)))
    world.claim(WORKER, terms(batch=4))
    assert world.take(RELAY, 3)
    kept = copy_of(world.path, "kept.db")
    world.close()
    return kept, world.clock


def closed(world: World) -> Path:
    """Its file, whole: nothing in the log, nobody at it."""
    world.close()
    empty_log(world.path)
    return world.path


def empty_log(path: Path) -> None:
    """Bring what is in the log into the file: else damage done to the file may be mended from it."""
    connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READWRITE)
    connection.execute("PRAGMA schema_version")
    connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
    connection.close()


def pages_of(path: Path, name: str, kind: str = "leaf") -> list[int]:
    """Numbers of a table's or an index's pages, in the order of what is on them."""
    connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
    try:
        sql = "SELECT pageno FROM dbstat WHERE name = ? AND pagetype = ? ORDER BY path"
        return [number for (number,) in connection.execute(sql, (name, kind))]
    finally:
        connection.close()


def overwrite(path: Path, page: int, content: bytes = b"\xaa" * PAGE) -> None:
    with path.open("r+b") as file:
        file.seek((page - 1) * PAGE)
        file.write(content)


def copy_of(path: Path, name: str, folder: Path | None = None) -> Path:
    """The file under another name (or elsewhere), with its log."""
    copy = (folder or path.parent) / name
    for end in ("", "-wal"):
        if (file := path.with_name(path.name + end)).exists():
            shutil.copy(file, copy.with_name(copy.name + end))
    return copy
