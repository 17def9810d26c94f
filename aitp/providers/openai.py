"""OpenAI, or any server that speaks its protocol, through the official client.

One call is one request: the client never retries (the ledger does), never follows a redirect, and is made at the
first call, after fork. But a text that is alone and longer than its model reads is cut and sent once more, if
EMBEDDING_OVERFLOW says so: what was refused cost nothing. The request is posted as ready JSON and the answer taken as
raw bytes, which the client offers for endpoints it does not know: its own way costs twice the CPU, most of it for
objects that nobody here wants.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import httpx2
import openai
import orjson
from pydantic import SecretStr

from aitp.errors import AitpError, CooldownRequired, InputTooLong, RetryableError, ServiceFault
from aitp.logs import get_logger
from aitp.policy.cutting import shortened
from aitp.providers import Embeddings, Question, Reply, Usage, Vector, chat
from aitp.providers.failures import OPENAI, judge
from aitp.providers.vectors import UnusableVector, vector_from_base64, vector_from_numbers
from aitp.providers.wire import NO_OTHERS, BodyBound, http_client
from aitp.trust import Trust

DEFAULT_BASE_URL = "https://api.openai.com/v1"
# An answer of floats may need 24 bytes a number, and models have up to 4,096 of them.
ANSWER_BYTES = 65_536
ANSWER_BYTES_A_TEXT = 131_072

_log = get_logger(__name__)


def accepts_dimensions(model: str) -> bool:
    """Whether `model` lets us say how many numbers we want (OpenAI API reference, embeddings)."""
    return model.startswith("text-embedding-3-")


class OpenAIProvider:
    """`dimensions`: numbers to ask for in an embedding of models that accept it; None leaves it to the model.

    `truncate`: cut a text that is longer than its embedding model reads; else it is refused.
    """

    name = OPENAI

    def __init__(
        self,
        api_key: SecretStr,
        *,
        base_url: str = DEFAULT_BASE_URL,
        timeout_seconds: float = 60.0,
        dimensions: int | None = None,
        truncate: bool = True,
        trust: Trust = NO_OTHERS,
    ) -> None:
        self._api_key = api_key
        self._base_url = base_url
        self._timeout_seconds = timeout_seconds
        self._dimensions = dimensions
        self._truncate = truncate
        self._trust = trust
        self._bound = BodyBound(OPENAI)
        self._client: openai.OpenAI | None = None

    def embed(self, texts: Sequence[str], model: str, dimensions: int | None = None) -> Embeddings:
        length = (dimensions or self._dimensions) if accepts_dimensions(model) else None
        kept = texts
        while True:
            try:
                answer = self._embed(kept, model, length)
            except InputTooLong as error:
                # Which of several it is, halving finds out: each half is a claim of its own, within the limits.
                shorter = shortened(kept[0], error.tokens) if self._truncate and len(kept) == 1 else None
                if shorter is None:
                    raise
                kept = [shorter]
                continue
            if kept is not texts:
                facts = {"characters": len(texts[0]), "kept_characters": len(kept[0])}
                used = answer.usage.prompt_tokens
                _log.warning(
                    "Text too long for its model, cut", model=model, cut_by="characters", **facts, kept_tokens=used
                )
            return answer

    def _embed(self, texts: Sequence[str], model: str, length: int | None) -> Embeddings:
        request: dict[str, Any] = {"model": model, "input": texts, "encoding_format": "base64"}
        if length is not None:
            request["dimensions"] = length
        self._bound.limit_bytes = ANSWER_BYTES + ANSWER_BYTES_A_TEXT * len(texts)
        return read_embeddings(self._post("/embeddings", request, model), texts, length)

    def ask(self, question: Question, model: str) -> Reply:
        self._bound.limit_bytes = chat.ANSWER_BYTES
        return chat.read_reply(
            OPENAI, self._post("/chat/completions", chat.request_of(question, model), model), question
        )

    def _post(self, path: str, request: dict[str, Any], model: str) -> object:
        """The answer's JSON; its body is free again when this returns."""
        if self._client is None:
            self._client = self._connect()
        try:
            body = self._client.post(path, content=orjson.dumps(request), cast_to=httpx2.Response).content
            return orjson.loads(body)
        except orjson.JSONDecodeError:
            failure: AitpError = _no_answer("no JSON")
        except openai.OpenAIError as error:
            failure = judge(error, model)
        # Out here the caught error is gone: it holds the request (key, texts) or the server's own words.
        if isinstance(failure, CooldownRequired) and failure.model is None:
            _log.error("OpenAI quota exhausted, pausing", reason=str(failure), pause_seconds=failure.seconds)
        raise failure

    def _connect(self) -> openai.OpenAI:
        return openai.OpenAI(
            api_key=self._api_key.get_secret_value(),
            base_url=self._base_url,
            max_retries=0,
            timeout=self._timeout_seconds,
            http_client=http_client(self._bound, self._timeout_seconds, self._trust),
            default_headers={"Accept-Encoding": "identity"},  # base64 of floats does not compress; unpacking costs CPU
        )

    def reset(self) -> None:
        # Not closed: the timer may have fired with a lock of the connection pool held. Let go of, its sockets close.
        self._client = None

    def close(self) -> None:
        if self._client is not None:
            self._client.close()
            self._client = None


def read_embeddings(answer: object, texts: Sequence[str], length: int | None) -> Embeddings:
    """The vectors of `texts` from an answer's JSON, each `length` numbers long if not None. Takes the answer apart.

    A text whose vector is missing, doubled or unusable gets a RetryableError of its own; an answer without one usable
    vector is the service's fault.
    """
    if not isinstance(answer, dict) or not isinstance(items := answer.get("data"), list):
        raise _no_answer("JSON without a list of embeddings")
    vectors: list[Vector | None] = [None] * len(texts)
    for item in items:
        index = item.get("index") if isinstance(item, dict) else None
        if type(index) is int and 0 <= index < len(texts):
            doubled = vectors[index] is not None
            vectors[index] = _unusable("sent two vectors for this text") if doubled else _vector(item, length)
    whole: list[Vector] = [_unusable("sent no vector for this text") if v is None else v for v in vectors]
    if not any(isinstance(vector, bytes) for vector in whole):
        raise _no_answer(f"no usable vector ({whole[0]!s})")
    return Embeddings(whole, _usage(answer.get("usage"), texts))


def _vector(item: dict[str, Any], length: int | None) -> Vector:
    embedding = item.pop("embedding", None)  # freed one by one: a worker's memory is counted
    try:
        if isinstance(embedding, str):
            return vector_from_base64(embedding, length)
        if isinstance(embedding, list):
            return vector_from_numbers(embedding, length)
    except UnusableVector as error:
        return _unusable(f"sent an unusable vector: {error}")
    return _unusable("sent no vector for this text")


def _usage(counted: object, texts: Sequence[str]) -> Usage:
    if isinstance(counted, dict):
        prompt, total = counted.get("prompt_tokens"), counted.get("total_tokens")
        if type(prompt) is int and prompt >= 0:
            return Usage(prompt, 0, total if type(total) is int and total >= prompt else prompt)
    return Usage.estimate(texts)


def _unusable(what: str) -> RetryableError:
    return RetryableError(f"{OPENAI} {what}")


def _no_answer(what: str) -> ServiceFault:
    return ServiceFault(OPENAI, f"{OPENAI} answered 200 with {what}")
