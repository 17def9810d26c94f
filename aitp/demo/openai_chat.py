"""POST /v1/chat/completions of the demo's provider: the request checked as OpenAI does, answers from the script.

Checked: the model, `temperature` (refused by reasoning models), `response_format` (json_schema, strict, and a schema
that is; or a schema in the instructions). Faults to order spoil the answer: a refusal, a cut end, prose and a fence
around it, JSON that is none, a value out of its list.
"""

from __future__ import annotations

import time
from typing import Any

import orjson

from aitp.demo.faults import Fault, FaultKind
from aitp.demo.openai_errors import HEADERS, Refusal
from aitp.demo.scripts import answer_to
from aitp.demo.wire import Response, json_response
from aitp.providers import BOUNDS, Message, Question
from aitp.providers.mock import text_of
from aitp.settings import CHAT_MODEL

CHAT_PATH = "/v1/chat/completions"
REASONING_MODELS = frozenset({"o1", "o3", "o3-mini", "o4-mini", "gpt-5", "gpt-5-mini", CHAT_MODEL})
CHAT_MODELS = REASONING_MODELS | {"gpt-4o", "gpt-4o-mini", "gpt-4.1", "gpt-4.1-mini"}


def complete(document: dict[str, Any], fault: Fault | None, bad_marker: str) -> Response:
    """One completion. Raises Refusal."""
    question = _checked(document)
    if any(bad_marker in message.content for message in question.messages):
        raise Refusal("Invalid prompt: your prompt was flagged.", code="invalid_prompt")
    answer = answer_to(question, document["model"])
    message, reason = _spoilt(answer, fault.kind if fault else None)
    prompt_tokens = sum(max(1, len(each.content) // 4) for each in question.messages)
    completion_tokens = max(1, len(answer) // 4)
    body = {
        "id": "chatcmpl-demo",
        "object": "chat.completion",
        "created": int(time.time()),
        "model": document["model"],
        "service_tier": document.get("service_tier", "default"),
        "choices": [{"index": 0, "message": {"role": "assistant", **message}, "finish_reason": reason}],
        "usage": {
            "prompt_tokens": prompt_tokens,
            "completion_tokens": completion_tokens,
            "total_tokens": prompt_tokens + completion_tokens,
        },
    }
    return json_response(200, body, HEADERS)


def asked_text(document: dict[str, Any]) -> str:
    """The task's text in a request, for the bill."""
    return text_of(Question("", {}, _messages(document)))


def _checked(document: dict[str, Any]) -> Question:
    model = document.get("model")
    if model not in CHAT_MODELS:
        message = f"The model `{model}` does not exist or you do not have access to it."
        raise Refusal(message, status=404, code="model_not_found")
    messages = _messages(document)
    if not messages:
        raise Refusal("Missing required parameter: 'messages'.", param="messages")
    if model in REASONING_MODELS and "temperature" in document:
        said = "Unsupported parameter: 'temperature' is not supported with this model."
        raise Refusal(said, code="unsupported_parameter", param="temperature")
    format_ = document.get("response_format") or {}
    if format_.get("type") in (None, "json_object"):
        if schema := _told_schema(messages):
            return Question("told", schema, messages)
        raise Refusal("This demo answers with JSON, by a schema, only.", param="response_format")
    wanted = format_.get("json_schema") or {}
    if format_.get("type") != "json_schema" or wanted.get("strict") is not True:
        raise Refusal("This demo answers json_schema, strict, only.", param="response_format")
    if fault := _schema_fault(wanted.get("schema")):
        raise Refusal(f"Invalid schema for response_format: {fault}", code="invalid_schema", param="response_format")
    return Question(wanted["name"], wanted["schema"], messages)


def _told_schema(messages: list[Message]) -> dict[str, Any]:
    """The schema that the instructions end with; empty if they have none."""
    for message in messages:
        try:
            found = orjson.loads(message.content[message.content.index("\n{") :])
        except ValueError:
            continue
        if message.role == "system" and isinstance(found, dict):
            return found
    return {}


def _messages(document: dict[str, Any]) -> list[Message]:
    given = document.get("messages")
    found = [each for each in given if isinstance(each, dict)] if isinstance(given, list) else []
    return [Message(each.get("role", "user"), str(each.get("content") or "")) for each in found]


def _schema_fault(schema: Any, root: bool = True) -> str | None:
    """What OpenAI's strict mode has against a schema."""
    if not isinstance(schema, dict):
        return "expected an object"
    if root and schema.get("type") != "object":
        return "the root must be an object"
    if unknown := set(schema) - {"type", "description", "enum", "anyOf", "items", "properties", "required",
                                 "additionalProperties", *BOUNDS}:  # fmt: skip
        return f"{sorted(unknown)} not permitted"
    if schema.get("type") == "object":
        if schema.get("additionalProperties") is not False:
            return "additionalProperties is required to be supplied and to be false"
        if sorted(schema.get("required", ())) != sorted(schema.get("properties", ())):
            return "required must name every key in properties"
    parts = [*schema.get("properties", {}).values(), *schema.get("anyOf", ()), *filter(None, [schema.get("items")])]
    return next((fault for part in parts if (fault := _schema_fault(part, root=False))), None)


def _spoilt(answer: str, kind: FaultKind | None) -> tuple[dict[str, Any], str]:
    """The message and its finish_reason."""
    if kind is FaultKind.REFUSAL:
        return {"content": None, "refusal": "I'm sorry, I can't assist with that."}, "stop"
    content, reason = spoilt(answer, kind)
    return {"content": content, "refusal": None}, reason


def spoilt(answer: str, kind: FaultKind | None) -> tuple[str, str]:
    """What is left of a model's answer, and why it ended. Ollama's server has the same faults."""
    match kind:
        case FaultKind.CUT_ANSWER:
            return answer[: len(answer) // 2], "length"
        case FaultKind.FENCED:
            return f"Here is the {{answer}}:\n```json\n{answer}\n```\nI hope it helps.", "stop"
        case FaultKind.NO_JSON:
            return answer[:-1] + ",}", "stop"
        case FaultKind.EMPTY:
            return "", "stop"
        case FaultKind.OUT_OF_LIST:
            return orjson.dumps({"severity": "apocalyptic", "name": ""}).decode(), "stop"
        case _:
            return answer, "stop"
