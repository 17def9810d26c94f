"""JSON schemas for structured answers, out of pydantic models: what OpenAI calls strict, which Ollama takes as well.

Strict (OpenAI API reference, structured outputs): every object closed, every property required, and a subset of the
keywords. Bounds are part of it by now, and those that an answer is checked against are sent; whoever does not take
them gets the schema without (`schema_bounds` of `Provider.optional`). References are resolved: not every server
follows them.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from pydantic import BaseModel

from aitp.providers.chat import BOUNDS

KEPT = ("type", "description", "enum", *BOUNDS)
# OpenAI takes 1,000 names in a schema, with bounds on their length beyond 250; a longer list is validated only.
MOST_OPTIONS = 250


@cache
def schema_of(model: type[BaseModel]) -> Mapping[str, Any]:
    """The strict schema of `model`, which must not contain itself. Not to be changed: all callers share it."""
    full = model.model_json_schema()
    return _strict(full, full.get("$defs", {}))


def narrowed(schema: Mapping[str, Any], field: str, options: Sequence[str]) -> Mapping[str, Any]:
    """`schema` with the string `field` of its object bound to `options`, if there are any, and not too many."""
    if not 0 < len(options) <= MOST_OPTIONS:
        return schema
    narrow = copy.deepcopy(dict(schema))
    narrow["properties"][field]["enum"] = list(options)
    return narrow


def _strict(schema: Mapping[str, Any], definitions: Mapping[str, Any]) -> dict[str, Any]:
    if reference := schema.get("$ref"):
        return _strict({**definitions[reference.rsplit("/", 1)[-1]], **_without_reference(schema)}, definitions)
    strict = {key: schema[key] for key in KEPT if key in schema}
    if branches := schema.get("anyOf"):
        strict["anyOf"] = [_strict(branch, definitions) for branch in branches]
    if "const" in schema:
        strict["enum"] = [schema["const"]]
    if "items" in schema:
        strict["items"] = _strict(schema["items"], definitions)
    if schema.get("type") == "object":
        properties = schema.get("properties", {})
        strict["properties"] = {name: _strict(part, definitions) for name, part in properties.items()}
        strict["required"] = list(properties)
        strict["additionalProperties"] = False
    return strict


def _without_reference(schema: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in schema.items() if key != "$ref"}
