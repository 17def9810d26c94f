"""What the task API's callbacks accept as a result: a function a task type.

`complaint` is what a callback answers 400 with; None if it takes the result. A type without a callback refuses nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

SEVERITIES = {"critical", *(f"{group}_{step}" for group in ("high", "medium", "low") for step in (1, 2, 3))}
PERSONALITY_TEXTS = ("name", "mentioned_as", "context")
WIKIDATA_TEXTS = ("id", "url", "label", "description")


def complaint(task_type: Any, content: Any, result: Any) -> str | None:
    """Why the callback of `task_type` refuses `result` for a task of that content."""
    check = _CHECKS.get(task_type) if isinstance(task_type, str) else None
    return check(content if isinstance(content, dict) else {"text": content}, result) if check else None


def _embedding(content: dict[str, Any], result: Any) -> str | None:
    if not isinstance(result, list) or not result:
        return "Embedding must be a non-empty array"
    if not set(map(type, result)) <= {float, int} or not all(map(math.isfinite, result)):
        return "Embedding must be an array of numbers"
    return None


def _personalities(content: dict[str, Any], result: Any) -> str | None:
    if not isinstance(result, dict) or not isinstance(people := result.get("personalities"), list):
        return "personalities must be an array"
    for person in people:
        if not isinstance(person, dict) or not all(_is_text(person.get(field)) for field in PERSONALITY_TEXTS):
            return f"each personality must have {', '.join(PERSONALITY_TEXTS)}"
        if type(person.get("confidence")) not in (float, int) or not 0 <= person["confidence"] <= 1:
            return "confidence must be a number from 0 to 1"
        if "wikidata" not in person or not _is_entity(person["wikidata"]):
            return f"wikidata must have {', '.join(WIKIDATA_TEXTS)}, aliases"
    return None


def _topics(content: dict[str, Any], result: Any) -> str | None:
    if not isinstance(result, list) or not result:
        return "Topics must be a non-empty array"
    return None if all(map(_is_named, result)) else "each topic must have name, wikidataId, language"


def _impact_area(content: dict[str, Any], result: Any) -> str | None:
    if not _is_named(result) or not _is_text(result.get("description")):
        return "an impact area must have name, description, wikidataId, language"
    if (options := content.get("options")) and result["name"] not in options:
        return "name must be one of the options"
    return None


def _severity(content: dict[str, Any], result: Any) -> str | None:
    level = result.get("severity") if isinstance(result, dict) else None
    return None if isinstance(level, str) and level in SEVERITIES else "severity must be one of the ten levels"


def _is_named(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and _is_text(value.get("name"))
        and _is_text(value.get("language"))
        and "wikidataId" in value
        and (value["wikidataId"] is None or _is_id(value["wikidataId"]))
    )


def _is_entity(value: Any) -> bool:
    """null is what a service sends that runs without Wikidata."""
    if value is None:
        return True
    return (
        isinstance(value, dict)
        and _is_id(value.get("id"))
        and all(isinstance(value.get(field), str) for field in WIKIDATA_TEXTS)
        and isinstance(value.get("aliases"), list)
        and all(isinstance(alias, str) for alias in value["aliases"])
    )


def _is_id(value: Any) -> bool:
    return isinstance(value, str) and value[:1] == "Q" and value[1:].isdecimal()


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


_CHECKS: dict[str, Callable[[dict[str, Any], Any], str | None]] = {
    "text_embedding": _embedding,
    "identifying_data": _personalities,
    "defining_topics": _topics,
    "defining_impact_area": _impact_area,
    "defining_severity": _severity,
}
