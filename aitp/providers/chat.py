"""OpenAI's chat completions, apart from the wire: the request for a structured answer, and what an answer means.

What a server may not take is left out one by one, and the answer's form is then told in words: answers are checked
anyway. A refusal, a cut answer and a filtered one arrive with status 200, and none of them is a success (OpenAI API
reference, chat completions). Called by `aitp.providers.openai`; no effects.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import orjson

from aitp.errors import AnswerCut, ModelRefused, ServiceFault, UselessAnswer
from aitp.providers import Question, Reply, Usage

# The longest answer that anybody should want, its JSON escapes and a server's extra fields included.
ANSWER_BYTES = 1_048_576
# Keywords of a schema that bound a value; not all who take a schema take these, and fine-tuned models don't.
BOUNDS = ("minLength", "maxLength", "pattern", "minimum", "maximum", "minItems", "maxItems")
# o1, o3, o4, gpt-5 and their variants, dated, fine-tuned or under a vendor's prefix.
_REASONING = re.compile(r"(?:ft:)?(?:o\d|gpt-[5-9])(?![a-z])")
_NOT_REASONING = re.compile(r"(?:ft:)?(?:gpt-[34]|chatgpt)")
_CUT = ("length", "max_tokens", "model_length")
_HELD_BACK = ("content_filter", "safety", "recitation", "blocklist", "prohibited_content", "spii")


def accepts_temperature(model: str) -> bool:
    """Reasoning models refuse `temperature`, whatever its value."""
    return not _REASONING.match(model.rsplit("/", 1)[-1])


def optional(model: str, effort: str, tier: str) -> tuple[str, ...]:
    """What a question to `model` could do without, first what is missed least. `effort`, `tier`: empty if not asked."""
    name = model.rsplit("/", 1)[-1]
    held = {
        "temperature": accepts_temperature(model),
        "reasoning_effort": bool(effort) and not _NOT_REASONING.match(name),
        "service_tier": bool(tier),
        "schema_bounds": not name.startswith("ft:"),
        "json_schema": True,
        "json_object": True,
    }
    return tuple(name for name, holds in held.items() if holds)


def request_of(
    question: Question, model: str, held: Collection[str], effort: str = "", tier: str = ""
) -> dict[str, Any]:
    """The body of POST /chat/completions with the optional parameters `held`.

    Coldest, where the model lets us: the same question, the same answer.
    """
    request: dict[str, Any] = {"model": model}
    if "json_schema" in held:
        request["messages"] = messages_of(question)
        schema = question.schema if "schema_bounds" in held else without_bounds(question.schema)
        wanted = {"name": question.name, "strict": True, "schema": schema}
        request["response_format"] = {"type": "json_schema", "json_schema": wanted}
    else:
        request["messages"] = messages_of(question, in_words=True)
        if "json_object" in held:
            request["response_format"] = {"type": "json_object"}
    values: Mapping[str, Any] = {"temperature": 0, "reasoning_effort": effort, "service_tier": tier}
    return request | {name: value for name, value in values.items() if name in held}


def messages_of(question: Question, *, in_words: bool = False) -> list[dict[str, str]]:
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


def without_bounds(schema: Any) -> Any:
    """The same schema, with types and lists of values but without bounds."""
    if isinstance(schema, Mapping):
        # A property may have the name of a keyword.
        return {
            key: {name: without_bounds(part) for name, part in value.items()}
            if key == "properties"
            else without_bounds(value)
            for key, value in schema.items()
            if key not in BOUNDS
        }
    return [without_bounds(part) for part in schema] if isinstance(schema, list) else schema


def read_reply(service: str, answer: object, question: Question) -> Reply:
    """What the model said. Raises ModelRefused, AnswerCut, or what else keeps an answer from being one."""
    choice = _first(answer.get("choices") if isinstance(answer, dict) else None)
    message = choice.get("message")
    if not isinstance(answer, dict) or not isinstance(message, dict):
        raise ServiceFault(service, f"{service} answered 200 with JSON without a message")
    if message.get("refusal"):
        raise ModelRefused(f"{service}: the model refused to answer this text")
    reason = str(choice.get("finish_reason")).lower()
    if reason in _CUT:
        raise AnswerCut(f"{service}: the model's answer was cut at its greatest length")
    if reason in _HELD_BACK:
        raise ModelRefused(f"{service}: its content filter held the answer to this text back")
    text = text_of(message.get("content"))
    if not text.strip():
        raise UselessAnswer(f"{service}: the model's answer is empty")
    tier = answer.get("service_tier")
    named = tier if isinstance(tier, str) and re.fullmatch("[a-z_]{1,20}", tier) else ""
    return Reply(text, usage_of(answer.get("usage"), question, text), tier=named)


def text_of(content: object) -> str:
    """A message's words: a string, or a list of parts of which thoughts are left out."""
    if isinstance(content, str):
        return content
    parts: Sequence[object] = content if isinstance(content, list) else [content]
    return "".join(_words(part) for part in parts)


def _words(part: object) -> str:
    if isinstance(part, str):
        return part
    if not isinstance(part, dict) or re.search("think|reason", str(part.get("type")).lower()):
        return ""
    words = part.get("text")
    return words if isinstance(words, str) else ""


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
