"""When two tasks are the same work: equal type, model and content. Pure; the ledger keeps what is computed here."""

from __future__ import annotations

from hashlib import blake2b

from aitp.tasks import Kind


def digest_of(kind: Kind, content: bytes) -> bytes:
    """16 bytes (BLAKE2b) that tasks of equal type, model and content share, and no others.

    `content` as its processor wrote it: fields that do not matter are gone, and their order is settled.
    """
    # A space is in no type and no model's name, so no two kinds read alike.
    return blake2b(f"{kind.type} {kind.model} ".encode() + content, digest_size=16).digest()
