"""One raw document of the pending list → a task, or why this release cannot read it.

Tolerant: fields may be missing or new at any time, and one odd document never costs the others anything. What is not
understood (an unknown type, no id) stays pending in the API for a later release; what is understood and can never
succeed (invalid content of a known type) becomes a task that is failed with its reason. No reason repeats the content.
"""

from __future__ import annotations

import re
from typing import Any

import orjson

from aitp.errors import NonRetryableError
from aitp.ledger import Unreadable
from aitp.processors import PROCESSORS
from aitp.tasks import Kind, NewTask

# Mongo's are 24 hex digits; whatever a later server sends must fit into a path, a log line and the scoreboard.
TASK_ID = re.compile(r"[A-Za-z0-9_.:-]{1,64}")
LONGEST_TYPE = 64
UNKNOWN_MODEL = "unknown"


def read_document(raw: bytes) -> NewTask | Unreadable:
    """The task that a document describes. Never raises for anything that a server may send."""
    try:
        document: Any = orjson.loads(raw)
    except orjson.JSONDecodeError:
        return Unreadable(None, "it is not valid JSON")
    if not isinstance(document, dict):
        return Unreadable(None, "it is not an object")
    task_id = document.get("_id")
    if not isinstance(task_id, str) or not TASK_ID.fullmatch(task_id) or task_id in (".", ".."):
        return Unreadable(None, "it has no usable _id")
    type_ = document.get("type")
    if not isinstance(type_, str) or type_ not in PROCESSORS:
        return Unreadable(task_id, f"its type is unknown to this release: {_shown(type_)}")
    processor = PROCESSORS[type_]
    try:
        content = processor.parse(document.get("content"))
    except NonRetryableError as error:
        return NewTask(task_id, Kind(type_, UNKNOWN_MODEL), b"", invalid=str(error))
    return NewTask(task_id, Kind(type_, content.model), content.to_json())


def _shown(type_: object) -> str:
    if not isinstance(type_, str):
        return type(type_).__name__
    return "".join(sign if sign.isascii() and sign.isprintable() else "?" for sign in type_[:LONGEST_TYPE])
