"""A question, and answers of OpenAI's chat endpoint as the tests put them together."""

from __future__ import annotations

from typing import Any

from aitp.providers import Message, Question

SCHEMA = {
    "type": "object",
    "properties": {"severity": {"type": "string", "enum": ["low_1", "critical"]}},
    "required": ["severity"],
    "additionalProperties": False,
}
PLANTED = "Um texto plantado"
QUESTION = Question("severity", SCHEMA, (Message("system", "Judge."), Message("user", f'{{"text": "{PLANTED}"}}')))
USAGE = {"prompt_tokens": 20, "completion_tokens": 8, "total_tokens": 28}


def completion(content: object = '{"severity": "low_1"}', reason: object = "stop", **more: object) -> dict[str, Any]:
    message = {"role": "assistant", "content": content, "refusal": more.pop("refusal", None)}
    choice = {"index": 0, "message": message, "finish_reason": reason}
    return {"object": "chat.completion", "choices": [choice], "usage": USAGE, **more}
