"""A power cut, done to the ledger's files after every process was killed: what the disk did not have yet is gone.

Of the write-ahead log, all is certain up to the last fdatasync that returned (the journal says which frame that was),
and all that a checkpoint has moved into the database (SQLite syncs the log before it moves anything). What follows is
cut at a random byte, and a sector of what is left of it may be torn. The index (-shm) is memory, and gone.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

HEADER_BYTES, FRAME_HEADER_BYTES = 32, 24
SALT_AT = 16  # of the log's header; 8 in each frame's
PAGE_SIZE_AT = 8
# "WAL-Index File Format": the header's copy of the salts, and how far checkpoints have tried to go.
INDEX_SALT_AT, BACKFILL_ATTEMPTED_AT = 32, 128
SECTOR_BYTES = 512


def cut_power(ledger: Path, journal: Iterable[Mapping[str, Any]], chance: random.Random) -> int:
    """Do it; how many frames that were written are lost. Nobody may have the ledger open."""
    log, index = ledger.with_name(ledger.name + "-wal"), ledger.with_name(ledger.name + "-shm")
    lost = 0
    if log.exists() and log.stat().st_size > HEADER_BYTES:
        content = log.read_bytes()
        certain, written, frame_bytes = _frames(content, index, journal)
        end = HEADER_BYTES + written * frame_bytes
        # With nothing certain, the log's header may be gone as well.
        start = HEADER_BYTES + certain * frame_bytes if certain else 0
        cut = chance.randint(start, end)
        kept = bytearray(content[:cut])
        if chance.random() < 0.5 and cut - start > SECTOR_BYTES:
            torn = chance.randrange(start, cut - SECTOR_BYTES)
            kept[torn : torn + SECTOR_BYTES] = bytes(SECTOR_BYTES)
            cut = torn
        log.write_bytes(kept)
        lost = written - max(0, cut - HEADER_BYTES) // frame_bytes
    index.unlink(missing_ok=True)
    return lost


def _frames(content: bytes, index: Path, journal: Iterable[Mapping[str, Any]]) -> tuple[int, int, int]:
    """(frames that are certain, frames written, bytes of one) of the log's present run."""
    salt = content[SALT_AT : SALT_AT + 8]
    frame_bytes = FRAME_HEADER_BYTES + struct.unpack_from(">I", content, PAGE_SIZE_AT)[0]
    written = 0
    for at in range(HEADER_BYTES, len(content) - frame_bytes + 1, frame_bytes):
        if content[at + 8 : at + 16] != salt:
            break  # of an earlier run
        written += 1
    synced = [int(line["frames"]) for line in journal if line["step"] == "synced" and line["salt"] == salt.hex()]
    certain = max([0, *synced])
    if index.exists():
        raw = index.read_bytes()
        if raw[INDEX_SALT_AT : INDEX_SALT_AT + 8] == salt:
            certain = max(certain, struct.unpack_from("=I", raw, BACKFILL_ATTEMPTED_AT)[0])
    return min(certain, written), written, frame_bytes
