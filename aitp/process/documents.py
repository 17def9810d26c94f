"""One raw document of the pending list → a task, or why this release cannot read it.

Tolerant: fields may be missing or new at any time, and one odd document never costs the others anything. What is not
understood (an unknown type, no id) stays pending in the API for a later release; what is understood and can never
succeed (invalid content of a known type) becomes a task that is failed with its reason. No reason repeats the content.
Called by the relay.
"""

from __future__ import annotations

import json
import re
from typing import Any

import orjson

from aitp.errors import NonRetryableError
from aitp.ledger import Malformed
from aitp.ledger.duplicates import fingerprint
from aitp.processors import PROCESSORS
from aitp.settings import Settings
from aitp.tasks import NewTask, QueueKey

# Mongo's are 24 hex digits; whatever a later server sends must fit into a path, a log line and the scoreboard.
TASK_ID = re.compile(r"[A-Za-z0-9_.:-]{1,64}")
TYPE_NAME = re.compile(r"[A-Za-z0-9_.:-]{1,64}")
# Where Mongo puts it: at the beginning. For documents of which more cannot be read, or is not there.
LEADING_ID = re.compile(rb'\{\s*"_id"\s*:\s*"([A-Za-z0-9_.:-]{1,64})"\s*[,}]')
UNKNOWN_MODEL = "unknown"


def read_document(raw: bytes, settings: Settings | None = None) -> NewTask | Malformed:
    """The task that a document describes; `settings` say which model one has that names none.

    Never raises for anything that a server may send.
    """
    try:
        document = _parsed(raw)
    except (ValueError, RecursionError):
        found = LEADING_ID.match(raw)
        return Malformed(_task_id(found[1].decode()) if found else None, "it is not valid JSON, or far too long")
    if not isinstance(document, dict):
        return Malformed(None, "it is not an object")
    task_id = _task_id(document.get("_id"))
    if task_id is None:
        return Malformed(None, "it has no usable _id")
    type_ = document.get("type")
    if not isinstance(type_, str) or type_ not in PROCESSORS:
        return Malformed(task_id, f"its type is unknown to this release: {_shown(type_)}")
    return _task(task_id, type_, document.get("content"), settings)


def _parsed(raw: bytes) -> Any:
    try:
        return orjson.loads(raw)
    except orjson.JSONDecodeError:
        # It is strict where others are not: NaN, whose task can be told why, and half an emoji (JavaScript cuts texts
        # so), which is U+FFFD from here on: neither JSON nor UTF-8 could carry it any further.
        return json.loads(_whole(json.dumps(json.loads(raw), ensure_ascii=False)))


def _whole(text: str) -> str:
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def _task(task_id: str, type_: str, content: object, settings: Settings | None) -> NewTask | Malformed:
    processor = PROCESSORS[type_]
    try:
        known = processor.parse(content, settings)
        queue, text = QueueKey(type_, known.model), known.to_json()
        return NewTask(task_id, queue, text, digest=fingerprint(queue, text))
    except NonRetryableError as error:
        return NewTask(task_id, QueueKey(type_, UNKNOWN_MODEL), b"", invalid=str(error))
    except Exception as error:  # noqa: BLE001 (the border of a task: a processor's bug must not stop all polls)
        return Malformed(task_id, f"its content cannot be read by this release ({type(error).__name__})")


def _task_id(value: object) -> str | None:
    usable = isinstance(value, str) and TASK_ID.fullmatch(value) and value not in (".", "..")
    return str(value) if usable else None


def _shown(type_: object) -> str:
    if not isinstance(type_, str):
        return type(type_).__name__
    return type_ if TYPE_NAME.fullmatch(type_) else "no name of a type"
