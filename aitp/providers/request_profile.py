"""What a server takes: the parameters that a request holds and could do without, and the request without some of them.

What a server may not take is left out one by one, what is missed least first. The answer's form is then told in words:
answers are checked anyway. Called by the clients of OpenAI's protocol and of Ollama; no effects.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import orjson

from aitp.providers.base import Question

# Keywords of a schema that bound a value; not all who take a schema take these, and fine-tuned models don't.
BOUNDS = ("minLength", "maxLength", "pattern", "minimum", "maximum", "minItems", "maxItems")
# o1, o3, o4, gpt-5 and their variants, dated, fine-tuned or under a vendor's prefix.
_REASONING = re.compile(r"(?:ft:)?(?:o\d|gpt-[5-9])(?![a-z])")
_NOT_REASONING = re.compile(r"(?:ft:)?(?:gpt-[34]|chatgpt)")

# What a parameter of ours is called in refusals of it, by its name in `Provider.optional`.
PARAMETERS: Mapping[str, str] = {
    "encoding_format": r"encoding[ _-]?format|base64",
    "dimensions": r"\bdimensions?\b|matryoshka|\boutput[ _-]?(?:size|dim)",
    "temperature": r"\btemperature\b",
    "reasoning_effort": r"\breasoning[ _.-]?effort|\beffort\b",
    "service_tier": r"\bservice[ _-]?tier|\bflex\b",
    "json_schema": r"\bjson[ _-]?schema|structured[ _-]?outputs?|response[ _-]?format|\bgrammar\b",
    "json_object": r"\bjson[ _-]?(?:object|mode)|response[ _-]?format",
    "think": r"\bthink(?:ing)?\b",
    "format": r"^format$|\b(?:invalid|unsupported|unknown) format\b|['\"`]format['\"`]|\bjson[ _-]?schema"
    r"|structured[ _-]?outputs?|\bgrammar\b",
}


def accepts_dimensions(model: str) -> bool:
    """Whether `model` lets us say how many numbers we want (OpenAI API reference, embeddings)."""
    return model.startswith("text-embedding-3-")


def chat_parameters(model: str, effort: str, tier: str) -> tuple[str, ...]:
    """What a question to `model` could do without. `effort`, `tier`: empty if they are not asked for."""
    name = model.rsplit("/", 1)[-1]
    held = {
        "temperature": not _REASONING.match(name),  # those refuse it, whatever its value
        "reasoning_effort": bool(effort) and not _NOT_REASONING.match(name),
        "service_tier": bool(tier),
        "schema_bounds": not name.startswith("ft:"),
        "json_schema": True,
        "json_object": True,
    }
    return tuple(parameter for parameter, holds in held.items() if holds)


def held_of(optional: Sequence[str], leave_out: Collection[str]) -> list[str]:
    """Which parameters a question is sent with. Without a schema there are no bounds: it is told in words."""
    held = [name for name in optional if name not in leave_out]
    return held if {"json_schema", "format"}.intersection(held) else [name for name in held if name != "schema_bounds"]


def chat_request(question: Question, model: str, held: Collection[str], effort: str, tier: str) -> dict[str, Any]:
    """The body of POST /chat/completions with the parameters `held`.

    Coldest, where the model lets us: the same question, the same answer.
    """
    values: Mapping[str, Any] = {"temperature": 0, "reasoning_effort": effort, "service_tier": tier}
    request = {"model": model, **{name: value for name, value in values.items() if name in held}}
    request["messages"] = messages_of(question, in_words="json_schema" not in held)
    if "json_schema" in held:
        wanted = {"name": question.name, "strict": True, "schema": schema_of(question, held)}
        request["response_format"] = {"type": "json_schema", "json_schema": wanted}
    elif "json_object" in held:
        request["response_format"] = {"type": "json_object"}
    return request


def schema_of(question: Question, held: Collection[str]) -> Any:
    """The schema of the answers, without bounds where those are not `held`."""
    return question.schema if "schema_bounds" in held else _without_bounds(question.schema)


def messages_of(question: Question, *, in_words: bool) -> list[dict[str, str]]:
    """The messages as both protocols have them. `in_words`: the form of the answer is told with the instructions."""
    messages = [{"role": message.role, "content": message.content} for message in question.messages]
    if in_words:
        told = (
            "Answer with one JSON object and nothing else: no words around it, no code fence. "
            f"It has to be valid by this JSON schema:\n{orjson.dumps(question.schema).decode()}"
        )
        if messages and messages[0]["role"] == "system":
            messages[0]["content"] += f"\n\n{told}"
        else:
            messages.insert(0, {"role": "system", "content": told})
    return messages


def _without_bounds(schema: Any) -> Any:
    if isinstance(schema, list):
        return [_without_bounds(part) for part in schema]
    if not isinstance(schema, Mapping):
        return schema
    kept = {key: _without_bounds(value) for key, value in schema.items() if key not in BOUNDS}
    if "properties" in kept:  # which may have the names of keywords
        kept["properties"] = {name: _without_bounds(part) for name, part in schema["properties"].items()}
    return kept
