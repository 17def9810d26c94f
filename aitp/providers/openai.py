"""OpenAI, or any server that speaks its protocol (OpenAI API reference, embeddings and chat completions).

A refusal, a cut answer and a filtered one arrive with status 200, and none of them is a success (OpenAI API reference).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

from aitp import errors
from aitp.logs import get_logger
from aitp.providers import Embeddings, Question, Reply, Usage, Vector
from aitp.providers.client import PLAIN, HttpProvider, answer_in, held_of, messages_of, schema_of
from aitp.providers.failures import OPENAI, no_success
from aitp.providers.inventory import OPENAI_URL
from aitp.providers.vectors import numbers_in, vector_of
from aitp.settings import Settings
from aitp.sources import exported

# Of `finish_reason`, in the words of whoever speaks the protocol.
_CUT = r"length|max_\w*tokens|token_limit"
_HELD_BACK = "filter|safety|recitation|block|prohibit|spii|sensitive|guardrail|refus"

# o1, o3, o4, gpt-5 and their variants, dated, fine-tuned or under a vendor's prefix.
_REASONING = re.compile(r"(?:ft:)?(?:o\d|gpt-[5-9])(?![a-z])")
_NOT_REASONING = re.compile(r"(?:ft:)?(?:gpt-[34]|chatgpt)")
# Whose bill it is, for a key of several: as OpenAI's own tools take it from the environment.
_BEHALF = {"OPENAI_ORG_ID": "OpenAI-Organization", "OPENAI_PROJECT_ID": "OpenAI-Project"}
_BROKEN_OFF = "error|insufficient|abort|cancel|interrupt"

_log = get_logger(__name__)


class OpenAIProvider(HttpProvider):
    """By OPENAI_* of the settings, which have a key; vectors of EMBEDDING_DIMENSIONS numbers, of models that let us."""

    name = OPENAI

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings, settings.openai_base_url or OPENAI_URL, settings.openai_timeout)
        self._behalf = {_BEHALF[name]: value for name, value in exported(*_BEHALF).items()}
        self._effort = settings.openai_reasoning_effort
        # Other servers know no tiers, most of them, and "default" is what they have: some refuse what they don't know.
        own = urlsplit(self._base_url).hostname == urlsplit(OPENAI_URL).hostname
        tier = settings.openai_service_tier or ""
        self._tier = tier if own or tier != "default" else ""

    def optional(self, model: str, *, chat: bool) -> tuple[str, ...]:
        if not chat:
            return ("encoding_format", "dimensions") if accepts_dimensions(model) else ("encoding_format",)
        name = model.rsplit("/", 1)[-1]
        held = {
            "temperature": not _REASONING.match(name),  # those refuse it, whatever its value
            "reasoning_effort": bool(self._effort) and not _NOT_REASONING.match(name),
            "service_tier": bool(self._tier),
            "schema_bounds": not name.startswith("ft:"),
            "json_schema": True,
            "json_object": True,
        }
        return tuple(parameter for parameter, holds in held.items() if holds)

    def embed(
        self, texts: Sequence[str], model: str, dimensions: int | None = None, leave_out: Collection[str] = ()
    ) -> Embeddings:
        length = (dimensions or self._settings.embedding_dimensions) if accepts_dimensions(model) else None
        wanted = {"encoding_format": "base64", "dimensions": length}
        held = {name: value for name, value in wanted.items() if value is not None and name not in leave_out}
        answer = self._post("/embeddings", {"model": model, "input": texts, **held}, texts, tuple(held))
        # Where a length is asked for besides the settings, it is that of the model that this one stands in for.
        setting = "EMBEDDING_DIMENSIONS" if dimensions is None else "FALLBACK_MODELS"
        return read_embeddings(answer, texts, length, setting)

    def ask(self, question: Question, model: str, leave_out: Collection[str] = ()) -> Reply:
        held = held_of(self.optional(model, chat=True), leave_out)
        texts = [message.content for message in question.messages]
        # Coldest, where the model lets us: the same question, the same answer.
        values = {"temperature": 0, "reasoning_effort": self._effort, "service_tier": self._tier}
        request: dict[str, Any] = {"model": model, **{name: values[name] for name in values if name in held}}
        request["messages"] = messages_of(question, in_words="json_schema" not in held)
        if "json_schema" in held:
            wanted = {"name": question.name, "strict": True, "schema": schema_of(question, held)}
            request["response_format"] = {"type": "json_schema", "json_schema": wanted}
        elif "json_object" in held:
            request["response_format"] = {"type": "json_object"}
        return read_reply(self._post("/chat/completions", request, texts, held), texts)

    def _failed(self, failure: errors.AitpError, model: str) -> None:
        if isinstance(failure, errors.CooldownRequired) and failure.model is None:
            _log.error("OpenAI quota exhausted, pausing", reason=str(failure), pause_seconds=failure.seconds)

    def _headers(self) -> Mapping[str, str]:
        key = self._settings.openai_api_key
        assert key is not None
        return {**PLAIN, **self._behalf, "Authorization": f"Bearer {key.get_secret_value()}"}


def accepts_dimensions(model: str) -> bool:
    """Whether `model` lets us say how many numbers we want (OpenAI API reference, embeddings)."""
    return model.startswith("text-embedding-3-")


def read_embeddings(
    answer: object, texts: Sequence[str], length: int | None, setting: str = "EMBEDDING_DIMENSIONS"
) -> Embeddings:
    """The vectors of `texts` from an answer's JSON, each `length` numbers long if not None. Takes the answer apart.

    A text whose vector is missing, doubled or unusable gets a UselessAnswer of its own. SettingRefused: all are whole,
    and of another length. ServiceFault: it is no answer to such a request.
    """
    if not isinstance(answer, dict) or not isinstance(items := answer.get("data"), list):
        raise no_success(OPENAI, "JSON without a list of embeddings")
    found: list[list[Any]] = [[] for _ in texts]
    for index, item in zip(_positions(items, len(texts)), items, strict=True):
        if 0 <= index < len(texts):
            found[index].append(item.pop("embedding", None) if isinstance(item, dict) else None)
    if not any(isinstance(each, str | list) for embeddings in found for each in embeddings):
        raise no_success(OPENAI, "no vector")
    # Freed one by one: a worker's memory is counted.
    vectors: list[Vector] = [vector_of(OPENAI, each.pop() if len(each) == 1 else None) for each in found]
    lengths = {numbers_in(vector) for vector in vectors if isinstance(vector, bytes)}
    if length is not None and lengths and length not in lengths and len(lengths) == 1:
        said = f"{OPENAI} sent vectors of {lengths.pop()} numbers, and {length} are wanted: look at {setting}"
        raise errors.SettingRefused(OPENAI, said, setting=setting)
    if length is not None and lengths - {length}:
        odd = errors.UselessAnswer(f"{OPENAI} sent an unusable vector: expected {length} numbers")
        vectors = [odd if isinstance(each, bytes) and numbers_in(each) != length else each for each in vectors]
    return Embeddings(vectors, usage_of(answer.get("usage"), texts))


def _positions(items: Sequence[Any], count: int) -> list[int]:
    """Which text each item is for, -1 for none: by `index`, or by its place in a whole list where that says nothing.

    Servers leave `index` out where it is 0, or everywhere, or have 0 everywhere, or count from 1. Else, where one
    is the count itself, it is not known what they count.
    """
    said = [item.get("index") if isinstance(item, dict) else None for item in items]
    given = [index if type(index) is int else None for index in said]
    whole = len(items) == count
    if whole and sorted(filter(None, given)) == [*range(1, count + 1)]:
        return [index - 1 for index in given if index]
    in_order = all(index in (None, place) for place, index in enumerate(given))
    if whole and (in_order or not any(given) or count in given):
        return list(range(count))
    if count in given:
        return [-1] * len(items)
    return [index if type(index) is int else 0 if index is None and isinstance(item, dict) else -1
            for index, item in zip(said, items, strict=True)]  # fmt: skip


def read_reply(answer: object, texts: Sequence[str]) -> Reply:
    """What the model said to `texts`. Raises ModelRefused, AnswerCut, or what else keeps an answer from being one."""
    choices = answer.get("choices") if isinstance(answer, dict) else None
    choice = choices[0] if isinstance(choices, list) and choices else None
    message = choice.get("message", {} if choice.get("finish_reason") else None) if isinstance(choice, dict) else None
    if not isinstance(answer, dict) or not isinstance(choice, dict) or not isinstance(message, dict):
        raise no_success(OPENAI, "JSON without a message")
    if message.get("refusal"):
        raise errors.ModelRefused(f"{OPENAI}: the model refused to answer this text")
    reason = str(choice.get("finish_reason")).lower()
    if re.search(_CUT, reason):
        raise errors.AnswerCut(f"{OPENAI}: the model's answer was cut at its greatest length")
    if re.search(_HELD_BACK, reason):
        raise errors.ModelRefused(f"{OPENAI}: its content filter held the answer to this text back")
    if re.search(_BROKEN_OFF, reason):
        raise no_success(OPENAI, "an answer that broke off")
    text = text_of(message.get("content"))
    if not text.strip():
        text = answer_in(message.get("reasoning_content")) or answer_in(message.get("reasoning"))
    if not text:
        raise errors.UselessAnswer(f"{OPENAI}: the model's answer is empty")
    tier = answer.get("service_tier")
    named = tier if isinstance(tier, str) and re.fullmatch("[a-z_]{1,20}", tier) else ""
    return Reply(text, usage_of(answer.get("usage"), texts, text), tier=named)


def text_of(content: object) -> str:
    """A message's words: a string, or a list of parts of which thoughts are left out."""
    parts: Sequence[object] = content if isinstance(content, list) else [content]
    return "".join(_words(part) for part in parts)


def _words(part: object) -> str:
    if isinstance(part, dict) and not re.search("think|reason", str(part.get("type")).lower()):
        part = part.get("text")
    return part if isinstance(part, str) else ""


def usage_of(counted: object, texts: Sequence[str], answer: str = "") -> Usage:
    """As the server counts."""
    counts = counted if isinstance(counted, dict) else {}
    names = ("prompt_tokens", "completion_tokens", "total_tokens")
    prompt, completion, total = (counts.get(name) for name in names)
    return Usage.of(prompt, completion, texts, answer, total)
