"""What the task API says of a failure, made fit for logs and the ledger.

A refusal's own words are what a person needs to see ("Embedding must be a non-empty array"), but servers quote what
they refuse: what stands in quotes, decimal numbers, what may be a key, and all that we sent is left out. Pure.
"""

from __future__ import annotations

import re
from typing import Any

import orjson

LENGTH = 200
LEFT_OUT = "…"
# What a server repeats of a request is recognised by so many characters in a row.
REPEATED = 8

QUOTED = re.compile(r"\"[^\"]*(\"|$)|`[^`]*(`|$)|(?<!\w)'[^']*('|$)|[-+]?\d+\.\d+(e[-+]?\d+)?|[\w+=~-]{30,}")


def words_of(body: bytes, *sent: str) -> str:
    """The `message` of an error's JSON body, at most LENGTH characters on one line; empty if there is none.

    `sent`: what must not come back in it.
    """
    try:
        document: Any = orjson.loads(body)
    except orjson.JSONDecodeError:
        return ""
    message = document.get("message") if isinstance(document, dict) else None
    if isinstance(message, list):  # NestJS: one line for each field
        message = "; ".join(part for part in message if isinstance(part, str))
    if not isinstance(message, str):
        return ""
    message = QUOTED.sub(LEFT_OUT, _without(message[: 4 * LENGTH], sent))[:LENGTH]
    return "".join(sign if sign.isprintable() else " " for sign in message).strip()


def _without(message: str, sent: tuple[str, ...]) -> str:
    repeated = [False] * len(message)
    for at in range(len(message) - REPEATED + 1):
        piece = message[at : at + REPEATED]
        if any(piece in text for text in sent):
            repeated[at : at + REPEATED] = [True] * REPEATED
    kept = (LEFT_OUT if left_out else sign for sign, left_out in zip(message, repeated, strict=True))
    return re.sub(f"{LEFT_OUT}+", LEFT_OUT, "".join(kept))
