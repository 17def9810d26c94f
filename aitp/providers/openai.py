"""OpenAI, or any server that speaks its protocol, through the official client.

One call is one request: the client never retries (the ledger does), never follows a redirect, and is made at the
first call, after fork. The request is posted as ready JSON and the answer taken as raw bytes, which the client offers
for endpoints it does not know: its own way costs twice the CPU, most of it for objects that nobody here wants.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

import httpx2
import openai
import orjson
from pydantic import SecretStr

from aitp.errors import AitpError, CooldownRequired, ServiceFault, SettingRefused, UselessAnswer
from aitp.logs import get_logger
from aitp.providers import Embeddings, Question, Reply, Usage, Vector
from aitp.providers import chat as _chat
from aitp.providers.client import NO_OTHERS, BodyBound, http_client
from aitp.providers.failures import OPENAI, judge
from aitp.providers.vectors import UnusableVector, WrongLength, vector_from_base64, vector_from_numbers
from aitp.tls import Trust

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

    `effort`, `tier`: how much a model is to reason, and by which terms it is bought; empty: not said.
    """

    name = OPENAI

    def __init__(
        self,
        api_key: SecretStr,
        *,
        base_url: str = DEFAULT_BASE_URL,
        timeout_seconds: float = 60.0,
        dimensions: int | None = None,
        effort: str = "",
        tier: str = "",
        trust: Trust = NO_OTHERS,
    ) -> None:
        self._api_key = api_key
        self._base_url = base_url
        self._timeout_seconds = timeout_seconds
        self._dimensions = dimensions
        self._effort = effort
        # Other servers know no tiers, most of them, and "default" is what they have: some refuse what they don't know.
        own = urlsplit(base_url).hostname == urlsplit(DEFAULT_BASE_URL).hostname
        self._tier = tier if own or tier != "default" else ""
        self._trust = trust
        self._bound = BodyBound(OPENAI)
        self._client: openai.OpenAI | None = None

    def optional(self, model: str, *, chat: bool) -> tuple[str, ...]:
        if chat:
            return _chat.optional(model, self._effort, self._tier)
        return ("encoding_format", "dimensions") if accepts_dimensions(model) else ("encoding_format",)

    def embed(
        self, texts: Sequence[str], model: str, dimensions: int | None = None, leave_out: Collection[str] = ()
    ) -> Embeddings:
        length = (dimensions or self._dimensions) if accepts_dimensions(model) else None
        wanted = {"encoding_format": "base64", "dimensions": length}
        held = {name: value for name, value in wanted.items() if value is not None and name not in leave_out}
        self._bound.limit_bytes = ANSWER_BYTES + ANSWER_BYTES_A_TEXT * len(texts)
        answer = self._post("/embeddings", {"model": model, "input": texts, **held}, model, texts, tuple(held))
        # Where a length is asked for besides the settings, it is that of the model that this one stands in for.
        setting = "EMBEDDING_DIMENSIONS" if dimensions is None else "FALLBACK_MODELS"
        return read_embeddings(answer, texts, length, setting)

    def ask(self, question: Question, model: str, leave_out: Collection[str] = ()) -> Reply:
        held = tuple(name for name in self.optional(model, chat=True) if name not in leave_out)
        if "json_schema" in leave_out:
            held = tuple(name for name in held if name != "schema_bounds")  # told in words, and no longer sent
        request = _chat.request_of(question, model, held, self._effort, self._tier)
        texts = [message.content for message in question.messages]
        self._bound.limit_bytes = _chat.ANSWER_BYTES
        return _chat.read_reply(OPENAI, self._post("/chat/completions", request, model, texts, held), question)

    def _post(
        self, path: str, request: Mapping[str, Any], model: str, texts: Sequence[str], held: Sequence[str]
    ) -> object:
        """The answer's JSON; its body is free again when this returns."""
        if self._client is None:
            self._client = self._connect()
        try:
            body = self._client.post(path, content=orjson.dumps(request), cast_to=httpx2.Response).content
            return orjson.loads(body)
        except orjson.JSONDecodeError:
            failure: AitpError = _no_answer("no JSON")
        except openai.OpenAIError as error:
            batch = len(request.get("input", ())) > 1
            failure = judge(error, model, texts, held, batch=batch, tier=str(request.get("service_tier", "")))
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


def read_embeddings(
    answer: object, texts: Sequence[str], length: int | None, setting: str = "EMBEDDING_DIMENSIONS"
) -> Embeddings:
    """The vectors of `texts` from an answer's JSON, each `length` numbers long if not None. Takes the answer apart.

    A text whose vector is missing, doubled or unusable gets a UselessAnswer of its own. SettingRefused: all are whole,
    and of another length. ServiceFault: it is no answer to such a request.
    """
    if not isinstance(answer, dict) or not isinstance(items := answer.get("data"), list):
        raise _no_answer("JSON without a list of embeddings")
    found: list[list[Any]] = [[] for _ in texts]
    for index, item in zip(_positions(items, len(texts)), items, strict=True):
        if 0 <= index < len(texts):
            found[index].append(item.pop("embedding", None) if isinstance(item, dict) else None)
    if not any(isinstance(each, str | list) for embeddings in found for each in embeddings):
        raise _no_answer("no vector")
    vectors: list[Vector] = []
    lengths = set()
    for embeddings in found:
        try:
            vectors.append(_vector(embeddings, length))
        except WrongLength as error:
            lengths.add(error.length)
            vectors.append(_unusable(f"sent an unusable vector: {error}"))
    if len(lengths) == 1 and not any(isinstance(vector, bytes) for vector in vectors):
        said = f"{OPENAI} sent vectors of {lengths.pop()} numbers, and {length} are wanted: look at {setting}"
        raise SettingRefused(OPENAI, said, setting=setting)
    return Embeddings(vectors, _usage(answer.get("usage"), texts))


def _positions(items: Sequence[Any], count: int) -> list[int]:
    """Which text each item is for, -1 for none: by `index`, or by its place in a whole list where that says nothing.

    Servers leave `index` out where it is 0, or everywhere, or have 0 everywhere.
    """
    said = [item.get("index") if isinstance(item, dict) else None for item in items]
    given = [index if type(index) is int else None for index in said]
    whole = len(items) == count
    if whole and (not any(given) or all(index in (None, place) for place, index in enumerate(given))):
        return list(range(count))
    return [index if type(index) is int else 0 if index is None and isinstance(item, dict) else -1
            for index, item in zip(said, items, strict=True)]  # fmt: skip


def _vector(embeddings: list[Any], length: int | None) -> Vector:
    if len(embeddings) > 1:
        return _unusable("sent two vectors for this text")
    embedding = embeddings.pop() if embeddings else None  # freed one by one: a worker's memory is counted
    try:
        if isinstance(embedding, str):
            return vector_from_base64(embedding, length)
        if isinstance(embedding, list):
            return vector_from_numbers(embedding, length)
    except WrongLength:
        raise
    except UnusableVector as error:
        return _unusable(f"sent an unusable vector: {error}")
    return _unusable("sent no vector for this text")


def _usage(counted: object, texts: Sequence[str]) -> Usage:
    if isinstance(counted, dict):
        prompt, total = counted.get("prompt_tokens"), counted.get("total_tokens")
        if type(prompt) is int and prompt >= 0:
            return Usage(prompt, 0, total if type(total) is int and total >= prompt else prompt)
    return Usage.estimate(texts)


def _unusable(what: str) -> UselessAnswer:
    return UselessAnswer(f"{OPENAI} {what}")


def _no_answer(what: str) -> ServiceFault:
    return ServiceFault(OPENAI, f"{OPENAI} answered 200 with {what}")
