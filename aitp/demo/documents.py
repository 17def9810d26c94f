"""Task documents of all types, as GET /api/ai-tasks/pending lists them. The same for the same arguments.

Embeddings take the sentences of `aitp.demo.sentences`, the other types the texts of `aitp.demo.scripts`; from the
second round on a number stands behind a text, so that no two tasks have the same one.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from itertools import count as numbers
from typing import Any

from aitp.demo.scripts import AREAS, SCRIPTS, Script
from aitp.demo.sentences import MODEL, tasks, texts
from aitp.settings import CHAT_MODEL

TYPES = ("text_embedding", "identifying_data", "defining_topics", "defining_impact_area", "defining_severity")
# callbackRoute and the field that it writes, by type.
CALLBACKS = {
    "text_embedding": ("verification_update_embedding", "embedding"),
    "identifying_data": ("verification_update_identifying_data", "identifiedData"),
    "defining_topics": ("verification_update_defining_topics", "topics"),
    "defining_impact_area": ("verification_update_defining_impact_area", "impactArea"),
    "defining_severity": ("verification_update_defining_severity", "severity"),
}


def tasks_like(
    kind: Mapping[str, Any] | None, count: int, *, seed: int = 0, start: int = 0
) -> Iterator[dict[str, Any]]:
    """So many documents of a kind: what `tasks_of` takes besides; None: embeddings alone, as OpenAI has them."""
    return tasks(count, seed, start=start) if kind is None else tasks_of(**kind, count=count, seed=seed, start=start)


def tasks_of(
    types: Sequence[str],
    count: int,
    *,
    seed: int = 0,
    start: int = 0,
    embedding_model: str = MODEL,
    chat_model: str = CHAT_MODEL,
) -> Iterator[dict[str, Any]]:
    """So many documents, the types taking turns. `start` skips that many texts."""
    generator = random.Random(f"{seed}/{start}/{','.join(types)}")
    created = datetime(2025, 3, 1, tzinfo=UTC)
    sentences, scripts = texts(count, start), _scripts(start)
    for position in range(count):
        type_ = types[position % len(types)]
        created += timedelta(seconds=generator.uniform(0.1, 30))
        stamp = created.isoformat(timespec="milliseconds").replace("+00:00", "Z")
        if type_ == "text_embedding":
            content: Any = {"text": next(sentences), "model": embedding_model}
        else:
            script, text = next(scripts)
            content = {"text": text, "model": chat_model, **_MORE.get(type_, _nothing)(script)}
        route, field = CALLBACKS[type_]
        yield {
            "_id": f"{generator.getrandbits(96):024x}",
            "type": type_,
            "state": "pending",
            "content": content,
            "callbackRoute": route,
            "callbackParams": {"targetId": f"{generator.getrandbits(96):024x}", "field": field},
            "createdAt": stamp,
            "updatedAt": stamp,
            "__v": 0,
        }


def _scripts(start: int) -> Iterator[tuple[Script, str]]:
    for position in numbers(start):
        round_, place = divmod(position, len(SCRIPTS))
        script = SCRIPTS[place]
        yield script, script.text if round_ == 0 else f"{script.text} ({round_ + 1})"


def _nothing(script: Script) -> dict[str, Any]:
    return {}


def _options(script: Script) -> dict[str, Any]:
    return {"options": list(AREAS[script.language])}


def _found_before(script: Script) -> dict[str, Any]:
    """What the API adds for severity: the results of the tasks before it."""
    return {
        "impactArea": {"name": script.area, "language": script.language},
        "topics": [{"name": name, "wikidataId": None, "language": script.language} for name in script.topics],
        "personalities": [{"name": name} for name in script.people],
    }


_MORE: dict[str, Callable[[Script], dict[str, Any]]] = {
    "defining_impact_area": _options,
    "defining_severity": _found_before,
}
