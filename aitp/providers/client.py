"""The HTTP client under the providers: one call at a time, and no more of a body, nor for longer, than was agreed.

Nothing from the process's environment unless asked for, no redirects (the key would follow them to another host),
one connection kept alive. Built after fork, by the provider. httpx2 is what the OpenAI client itself is made of.
"""

from __future__ import annotations

import math
import re
import ssl
import time
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import cache
from typing import Any, ClassVar

import httpx2
import orjson

from aitp.errors import AitpError, DeadlineExceeded, ServiceFault
from aitp.providers import BOUNDS, Question
from aitp.providers.failures import error_of, no_answer, no_success, refusal_of, refused_with_200
from aitp.settings import Settings
from aitp.validators import Trust

KEEPALIVE_SECONDS = 30.0  # longer than a worker waits between calls while there is work, shorter than servers hang up
CALL_MARGIN_SECONDS = 5.0  # that a call as a whole may take beyond the time-out of its single reads
LIMITS = httpx2.Limits(max_connections=2, max_keepalive_connections=1, keepalive_expiry=KEEPALIVE_SECONDS)
# The longest answer that anybody should want, its JSON escapes and a server's extra fields included; and for a vector:
# a number may need 24 bytes, and models have up to 4,096 of them.
ANSWER_BYTES, VECTOR_BYTES = 1_048_576, 131_072
# Base64 of floats does not compress, and a bound on compressed bytes bounds nothing: 4 MB may unpack to 4 GB.
PLAIN = {"Accept-Encoding": "identity"}


class BodyBound:
    """A response hook for bodies of all answers, errors too. `begin` each call with what its answer may have.

    A time-out bounds single reads: whoever sends a byte now and then would never come to an end.
    """

    def __init__(self, service: str, seconds: float = math.inf, stream: type[BoundedStream] | None = None) -> None:
        self.service, self.seconds = service, seconds
        self._stream = stream or _Stream
        self.begin(ANSWER_BYTES)

    def begin(self, most: int) -> None:
        """A call begins, whose answer has at most so many bytes."""
        self.most, self.ends = most, time.monotonic() + self.seconds

    def __call__(self, response: Any) -> None:
        if response.headers.get("content-encoding", "identity").lower() != "identity":
            raise ServiceFault(self.service, f"{self.service} compressed its answer although asked for a plain one")
        response.stream = self._stream(response.stream, self)


class BoundedStream:
    """A body that is checked as it comes; of the class that an HTTP client's streams have to be of as well."""

    def __init__(self, stream: Any, bound: BodyBound) -> None:
        self._inner, self._bound = stream, bound

    def __iter__(self) -> Iterator[bytes]:
        bound, received = self._bound, 0
        for chunk in self._inner:
            received += len(chunk)
            if received > bound.most:
                raise ServiceFault(bound.service, f"{bound.service} sent more than the {bound.most} bytes allowed")
            if time.monotonic() > bound.ends:
                said = f"{bound.service} did not come to the end of its answer within {bound.seconds:g} s"
                raise DeadlineExceeded(bound.service, said)
            yield chunk

    def close(self) -> None:
        self._inner.close()


class _Stream(BoundedStream, httpx2.SyncByteStream):
    pass


@cache
def tls_context(trust: Trust) -> ssl.SSLContext:
    """The roots to trust. Made once, by the master's warm-up: 2 MB and 20 ms that its children share.

    A context may be inherited; connections and sessions may not, and there are none yet.
    """
    context = httpx2.create_ssl_context(trust_env=trust.from_environment)
    if trust.certificates:
        context.load_verify_locations(cadata=trust.certificates)
    return context


def http_client(bound: BodyBound, timeout_seconds: float, trust: Trust) -> httpx2.Client:
    """`timeout_seconds` bounds connecting, each read and each write; `bound` the body as a whole."""
    return httpx2.Client(
        timeout=timeout_seconds,
        limits=LIMITS,
        verify=tls_context(trust),
        trust_env=trust.from_environment,
        follow_redirects=False,
        event_hooks={"response": [bound]},
    )


def ollama_headers(settings: Settings) -> dict[str, str]:
    """What goes with each request to Ollama."""
    key = settings.ollama_api_key
    return {**PLAIN, **({} if key is None else {"Authorization": f"Bearer {key.get_secret_value()}"})}


def answer_in(thoughts: object) -> str:
    """An answer that a server took for thoughts, as some do of a model that did not think: one whole JSON object."""
    return thoughts if isinstance(thoughts, str) and re.fullmatch(r"\s*\{.*\}\s*", thoughts, re.DOTALL) else ""


class HttpProvider(ABC):
    """A provider's connection to the server at `base_url`: its client, made at the first call, and one request a call.

    `timeout_seconds` bound connecting, each read and each write, and with a margin the answer as a whole.
    """

    name: str
    _client_errors: type[Exception] = httpx2.HTTPError
    # How its client gives an answer as it came, and what it raises for one of an error, which is an answer, too.
    _as_it_came: ClassVar[Mapping[str, Any]] = {}
    _status_errors: Any = ()

    def __init__(self, settings: Settings, base_url: str, timeout_seconds: float) -> None:
        self._settings = settings
        self._base_url = base_url
        self._timeout = timeout_seconds
        self._bound = BodyBound(self.name, timeout_seconds + CALL_MARGIN_SECONDS)
        self._client: Any = None

    @abstractmethod
    def _connect(self) -> Any:
        """The client of the provider's own kind."""

    def _post(self, path: str, request: Mapping[str, Any], texts: Sequence[str], sent: Sequence[str]) -> object:
        """The answer's JSON; its body is free again when this returns.

        `texts`: what the request says of tasks; `sent`: which parameters it holds, and could do without.
        """
        if self._client is None:
            self._client = self._connect()
        inputs = len(request.get("input", ()))
        self._bound.begin(ANSWER_BYTES + VECTOR_BYTES * inputs)
        try:
            try:
                answer: httpx2.Response = self._client.post(path, content=orjson.dumps(request), **self._as_it_came)
            except self._status_errors as error:
                answer = error.response
            if answer.is_success:
                document = orjson.loads(answer.content)
                if (refused := refused_with_200(document)) is None:
                    return document
                answer = refused
            tier = str(request.get("service_tier", ""))
            refusal = refusal_of(self.name, answer, request["model"], texts, sent, batch=inputs > 1, tier=tier)
            failure = error_of(refusal)
        except orjson.JSONDecodeError:
            failure = no_success(self.name, "no JSON")
        except self._client_errors as error:
            failure = no_answer(self.name, error.__cause__ or error)
        # Out here the caught error is gone: it holds the request (key, texts) or the server's own words.
        self._failed(failure, request["model"])
        raise failure

    @abstractmethod
    def _failed(self, failure: AitpError, model: str) -> None:
        """A call for `model` is about to end with `failure`."""

    def close(self) -> None:
        """Close connections."""
        if self._client is not None:
            self._client.close()
            self._client = None


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
