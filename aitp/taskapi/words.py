"""What the task API says: whether it is the API itself that speaks, and its words, fit for logs and the ledger.

A gateway, a login page or another program on the way answers as well, with any status. The API's own words are known by
their form: the task's document, or its errors' `{statusCode, message, …}`. A refusal's words are what a person needs to
see ("Embedding must be a non-empty array"), but servers quote what they refuse: what stands in quotes, decimal numbers,
what may be a key, and all that we sent is left out. Pure.
"""

from __future__ import annotations

import re
from typing import Any

import orjson

LENGTH = 200
LEFT_OUT = "…"
# What a server repeats of a request is recognised by so many characters in a row.
REPEATED = 8

# How a task's document begins. The rest need not have come, and nothing else begins so.
LEADING_ID = re.compile(rb'\s*\{\s*"_?id"\s*:\s*"([^"\\]{1,64})"\s*[,}]')

QUOTED = re.compile(r"\"[^\"]*(\"|$)|`[^`]*(`|$)|(?<!\w)'[^']*('|$)|[-+]?\d+\.\d+(e[-+]?\d+)?|[\w+=~-]{30,}")


def acknowledges(body: bytes, task_id: str) -> bool:
    """Whether a 2xx with this body is the API's own word that it has the result: the document of that task.

    The id counts where one is given. Of a body that was cut off, its beginning will do.
    """
    leading = LEADING_ID.match(body)
    if leading and leading[1].decode(errors="replace").casefold() == task_id.casefold():
        return True
    try:
        document: Any = orjson.loads(body)
    except orjson.JSONDecodeError:
        return False
    if not isinstance(document, dict):
        return False
    named = document.get("_id", document.get("id"))
    if named is None:
        return not document.keys() & {"statusCode", "error", "errors"}
    return isinstance(named, str) and named.casefold() == task_id.casefold()


def is_own_error(body: bytes, status: int) -> bool:
    """Whether an error with this body is the API's own: a JSON object with its status and a message."""
    try:
        document: Any = orjson.loads(body)
    except orjson.JSONDecodeError:
        return False
    return isinstance(document, dict) and document.get("statusCode") == status and "message" in document


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
