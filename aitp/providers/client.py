"""What providers have in common: one request a call, and what both protocols say of a question in the same words.

The requests are posted as ready JSON, and the answers' JSON is read as it came: clients of the servers' own packages
make an object of each part, at several times the CPU and the memory of a worker, and know nothing of how long an answer
may be.
"""

from __future__ import annotations

import re
import time
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import orjson

from aitp import http
from aitp.errors import AitpError
from aitp.providers import BOUNDS, Question
from aitp.providers.failures import error_of, no_answer, no_success, refusal_of, refused_with_200
from aitp.settings import Settings

CALL_MARGIN_SECONDS = 5.0  # that a call as a whole may take beyond the time-out of its single reads
# The longest answer that anybody should want, its JSON escapes and a server's extra fields included; and for a vector:
# a number may need 24 bytes, and models have up to 4,096 of them.
ANSWER_BYTES, VECTOR_BYTES = 1_048_576, 131_072
# Base64 of floats does not compress.
PLAIN = {"Accept": "application/json", "Accept-Encoding": "identity", "User-Agent": http.USER_AGENT}


def ollama_headers(settings: Settings) -> dict[str, str]:
    """What goes with each request to Ollama."""
    key = settings.ollama_api_key
    return {**PLAIN, **({} if key is None else {"Authorization": f"Bearer {key.get_secret_value()}"})}


def answer_in(thoughts: object) -> str:
    """An answer that a server took for thoughts, as some do of a model that did not think: one whole JSON object."""
    return thoughts if isinstance(thoughts, str) and re.fullmatch(r"\s*\{.*\}\s*", thoughts, re.DOTALL) else ""


class HttpProvider(ABC):
    """A provider's connection to the server at `base_url`: made at the first call, and one request a call.

    `timeout_seconds` bound connecting, sending and each read, and with a margin the answer as a whole.
    """

    name: str

    def __init__(self, settings: Settings, base_url: str, timeout_seconds: float) -> None:
        self._settings = settings
        self._base_url = base_url.rstrip("/")
        self._seconds = timeout_seconds
        self._wire = http.Wire(base_url, timeout_seconds, settings.trust, once=True)

    @abstractmethod
    def _headers(self) -> Mapping[str, str]:
        """What goes with each request, PLAIN and the key. Not kept: what shows a provider is not to show the key."""

    def _post(self, path: str, request: Mapping[str, Any], texts: Sequence[str], sent: Sequence[str]) -> object:
        """The answer's JSON; its body is free again when this returns.

        `texts`: what the request says of tasks; `sent`: which parameters it holds, and could do without.
        """
        inputs = len(request.get("input", ()))
        most, began = ANSWER_BYTES + VECTOR_BYTES * inputs, time.monotonic()
        headers = {**self._headers(), "Content-Type": "application/json"}
        try:
            answer = self._wire.send("POST", self._base_url + path, headers, orjson.dumps(request))
            body = http.whole_body(answer, most, self._seconds + CALL_MARGIN_SECONDS, began)
            refused: http.Whole | None = http.Whole(answer.status, answer.headers, body)
            if 200 <= answer.status < 300:
                document = orjson.loads(body)
                refused = refused_with_200(document)
            if refused is None:
                return document
            tier = str(request.get("service_tier", ""))
            refusal = refusal_of(self.name, refused, request["model"], texts, sent, batch=inputs > 1, tier=tier)
            failure = error_of(refusal)
        except orjson.JSONDecodeError:
            failure = no_success(self.name, "no JSON")
        except http.NoAnswer as error:
            failure = no_answer(self.name, error)
        # Out here the caught error is gone: it holds the request (key, texts) or the server's own words.
        self._failed(failure, request["model"])
        raise failure

    @abstractmethod
    def _failed(self, failure: AitpError, model: str) -> None:
        """A call for `model` is about to end with `failure`."""

    def close(self) -> None:
        """Close connections."""
        self._wire.close()


def held_of(optional: Sequence[str], leave_out: Collection[str]) -> list[str]:
    """Which parameters a question is sent with. Without a schema there are no bounds: it is told in words."""
    held = [name for name in optional if name not in leave_out]
    return held if {"json_schema", "format"}.intersection(held) else [name for name in held if name != "schema_bounds"]


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
