"""OpenAI's chat completions, apart from the wire: the request for a structured answer, and what an answer means.

A refusal, a cut answer and a filtered one arrive with status 200, and none of them is a success (OpenAI API
reference, chat completions). Called by `aitp.providers.openai`; no effects.
"""

from __future__ import annotations

import re
from typing import Any

from aitp.errors import AnswerCut, ModelRefused, RetryableError, ServiceFault
from aitp.providers import Question, Reply, Usage

# The longest answer that anybody should want, its JSON escapes and a server's extra fields included.
ANSWER_BYTES = 1_048_576
# o1, o3, o4, gpt-5 and their variants, dated, fine-tuned or under a vendor's prefix.
_REASONING = re.compile(r"(?:ft:)?(?:o\d|gpt-[5-9])(?![a-z])")


def accepts_temperature(model: str) -> bool:
    """Reasoning models refuse `temperature`, whatever its value."""
    return not _REASONING.match(model.rsplit("/", 1)[-1])


def request_of(question: Question, model: str) -> dict[str, Any]:
    """The body of POST /chat/completions. Coldest, where the model lets us: the same question, the same answer."""
    request: dict[str, Any] = {
        "model": model,
        "messages": [{"role": message.role, "content": message.content} for message in question.messages],
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": question.name, "strict": True, "schema": question.schema},
        },
    }
    if accepts_temperature(model):
        request["temperature"] = 0
    return request


def read_reply(service: str, answer: object, question: Question) -> Reply:
    """What the model said. Raises ModelRefused, AnswerCut, or what else keeps an answer from being one."""
    choice = _first(answer.get("choices") if isinstance(answer, dict) else None)
    message = choice.get("message")
    if not isinstance(answer, dict) or not isinstance(message, dict):
        raise ServiceFault(service, f"{service} answered 200 with JSON without a message")
    if message.get("refusal"):
        raise ModelRefused(f"{service}: the model refused to answer this text")
    match choice.get("finish_reason"):
        case "length":
            raise AnswerCut(f"{service}: the model's answer was cut at its greatest length")
        case "content_filter":
            raise ModelRefused(f"{service}: its content filter held the answer to this text back")
    text = message.get("content")
    if not isinstance(text, str) or not text.strip():
        raise RetryableError(f"{service}: the model's answer is empty")
    return Reply(text, usage_of(answer.get("usage"), question, text))


def usage_of(counted: object, question: Question, text: str) -> Usage:
    """The server's count, or an estimate from words where it has none that makes sense."""
    if isinstance(counted, dict):
        prompt, completion = counted.get("prompt_tokens"), counted.get("completion_tokens")
        if type(prompt) is int and type(completion) is int and prompt >= 0 and completion >= 0:
            total = counted.get("total_tokens")
            least = prompt + completion
            return Usage(prompt, completion, total if type(total) is int and total >= least else least)
    return Usage.estimate([message.content for message in question.messages], text)


def _first(choices: object) -> dict[str, Any]:
    found = choices[0] if isinstance(choices, list) and choices else None
    return found if isinstance(found, dict) else {}
