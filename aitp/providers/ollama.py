"""Ollama, through the `ollama` package's client: vectors by /api/embed, structured answers by /api/chat.

Made after fork, at the first call; never retries, never follows a redirect. Only the models of SUPPORTED_MODELS are
asked for. A text that is longer than its model reads is cut here, by a stated rule and with a line in the log, or
refused alone (EMBEDDING_OVERFLOW): left to itself, a server cuts it without a word or refuses the whole batch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import httpx2
import orjson

from aitp.errors import (
    AitpError,
    AnswerCut,
    InputTooLong,
    ModelMissing,
    NonRetryableError,
    RetryableError,
    ServiceFault,
)
from aitp.logs import get_logger
from aitp.policy.cutting import shortened
from aitp.policy.model_names import canonical
from aitp.providers import Embeddings, Question, Reply, Usage, Vector
from aitp.providers.ollama_failures import OLLAMA, PathMissing, judge
from aitp.providers.ollama_wire import OllamaClient
from aitp.providers.vectors import UnusableVector, vector_from_numbers
from aitp.providers.wire import NO_OTHERS, BodyBound
from aitp.trust import Trust

# A number of a vector may need 24 bytes, and models give up to 4,096 of them.
ANSWER_BYTES = 1_048_576
ANSWER_BYTES_A_TEXT = 131_072
# A text of 10,000 characters with its prompt and its answer. Ollama's own default is 4,096 and less: it would cut the
# prompt in the middle. num_predict: some models never come to an end by themselves.
CHAT_OPTIONS: Mapping[str, Any] = {"num_ctx": 8192, "num_predict": 4096, "temperature": 0}

_log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class _Part:
    """Vectors of some texts, and what they cost; None: the server did not say."""

    vectors: list[Vector]
    tokens: int | None

    def __add__(self, other: _Part) -> _Part:
        known = self.tokens is not None and other.tokens is not None
        return _Part(self.vectors + other.vectors, (self.tokens or 0) + (other.tokens or 0) if known else None)


class OllamaProvider:
    """`models`: those supported. `truncate`: cut texts that are too long. `missing`: told of a model to be pulled."""

    name = OLLAMA

    def __init__(
        self,
        base_url: str,
        models: Sequence[str],
        *,
        timeout_seconds: float = 120.0,
        truncate: bool = True,
        keep_alive: int | str | None = None,
        options: Mapping[str, Any] | None = None,
        trust: Trust = NO_OTHERS,
        missing: Callable[[str], None] = lambda model: None,
    ) -> None:
        self._base_url = base_url
        self._models = tuple(models)
        self._supported = frozenset(map(canonical, models))
        self._timeout_seconds = timeout_seconds
        self._truncate = truncate
        self._common: dict[str, Any] = {} if keep_alive is None else {"keep_alive": keep_alive}
        self._options = dict(options or {})
        self._trust = trust
        self._missing = missing
        self._bound = BodyBound(OLLAMA)
        self._client: OllamaClient | None = None
        self._old = False  # a server without /api/embed

    def embed(self, texts: Sequence[str], model: str, dimensions: int | None = None) -> Embeddings:
        self._refuse_unsupported(model)
        part = self._vectors(texts, model)
        usage = Usage.estimate(texts) if part.tokens is None else Usage(part.tokens, 0, part.tokens)
        return Embeddings(part.vectors, usage)

    def ask(self, question: Question, model: str) -> Reply:
        self._refuse_unsupported(model)
        request = {
            "model": model,
            "messages": [{"role": message.role, "content": message.content} for message in question.messages],
            "format": question.schema,
            "stream": False,
            # Rather an error than an answer to half a prompt. Servers from before 0.12 know neither.
            "truncate": False,
            "shift": False,
            "options": {**CHAT_OPTIONS, **self._options},
            **self._common,
        }
        return _read_reply(self._post("/api/chat", request, model, ANSWER_BYTES), question)

    def reset(self) -> None:
        # Not closed: the timer may have fired with a lock of the connection pool held. Let go of, its sockets close.
        self._client = None
        self._old = False

    def close(self) -> None:
        if self._client is not None:
            self._client.hang_up()
            self._client = None

    def _refuse_unsupported(self, model: str) -> None:
        if canonical(model) not in self._supported:
            known = ", ".join(self._models) or "none"
            raise NonRetryableError(f"{model} is no model of SUPPORTED_MODELS, which has: {known}")

    # Vectors

    def _vectors(self, texts: Sequence[str], model: str) -> _Part:
        """Those of `texts`. If one of them is too long, all others keep theirs."""
        try:
            return self._call(texts, model, truncate=False)
        except InputTooLong as error:
            refused = _bare(error)
        if len(texts) == 1:
            return self._shortened(texts[0], model) if self._truncate else _Part([refused], 0)
        middle = len(texts) // 2
        return self._vectors(texts[:middle], model) + self._vectors(texts[middle:], model)

    def _shortened(self, text: str, model: str) -> _Part:
        """The vector of as much of `text` as the model takes: cut by the server, or by a quarter again and again.

        From 0.13.5 on servers may refuse a text that is too long although asked to cut it (ollama/ollama#14186).
        """
        kept = text
        while True:
            try:
                part = self._call([kept], model, truncate=True)
            except InputTooLong as error:
                shorter = shortened(kept)
                if shorter is None:
                    return _Part([_bare(error)], 0)
                kept = shorter
                continue
            by = "characters" if kept != text else "the server"
            facts = {"characters": len(text), "kept_characters": len(kept) if kept != text else None}
            _log.warning("Text too long for its model, cut", model=model, cut_by=by, **facts, kept_tokens=part.tokens)
            return part

    def _call(self, texts: Sequence[str], model: str, *, truncate: bool) -> _Part:
        if not self._old:
            request = {"model": model, "input": texts, "truncate": truncate, **self._embedding_options()}
            try:
                answer = self._post("/api/embed", request, model, ANSWER_BYTES + ANSWER_BYTES_A_TEXT * len(texts))
                return read_embeddings(answer, len(texts))
            except PathMissing:
                _log.info("Ollama has no /api/embed, asking /api/embeddings, text by text")
            self._old = True
        try:
            return self._call_one_by_one(texts, model)
        except PathMissing:
            self._old = False  # it is not that the server is old
            raise

    def _call_one_by_one(self, texts: Sequence[str], model: str) -> _Part:
        """As servers before 0.3 have it. Their vectors have no particular length, newer ones' have length 1."""
        numbers = []
        for text in texts:
            request = {"model": model, "prompt": text, **self._embedding_options()}
            answer = self._post("/api/embeddings", request, model, ANSWER_BYTES)
            numbers.append(answer.get("embedding") if isinstance(answer, dict) else None)
        return read_embeddings({"embeddings": numbers}, len(texts), unit=True)

    def _embedding_options(self) -> dict[str, Any]:
        return {**({"options": self._options} if self._options else {}), **self._common}

    # The wire

    def _post(self, path: str, request: dict[str, Any], model: str, limit_bytes: int) -> object:
        """The answer's JSON; its body is free again when this returns."""
        self._bound.limit_bytes = limit_bytes
        if self._client is None:
            self._client = OllamaClient(self._base_url, self._bound, self._timeout_seconds, self._trust)
        try:
            return self._client.post(path, request)
        except orjson.JSONDecodeError:
            failure: AitpError = _no_answer("no JSON")
        except httpx2.HTTPError as error:
            failure = judge(error, model)
        # Out here the caught error is gone: it holds the request (texts) or the server's own words.
        if isinstance(failure, ModelMissing):
            self._missing(model)
        raise failure


def read_embeddings(answer: object, count: int, *, unit: bool = False) -> _Part:
    """The vectors of an answer to `count` texts, `unit`: brought to length 1. ServiceFault: none of them is usable."""
    if not isinstance(answer, dict) or not isinstance(items := answer.get("embeddings"), list):
        raise _no_answer("JSON without a list of embeddings")
    if len(items) != count:
        raise _no_answer(f"{len(items)} vectors for {count} texts")
    vectors = [_vector(item, unit) for item in items]
    if not any(isinstance(vector, bytes) for vector in vectors):
        raise _no_answer(f"no usable vector ({vectors[0]!s})")
    return _Part(vectors, _count(answer.get("prompt_eval_count")))


def _vector(numbers: object, unit: bool) -> Vector:
    if not isinstance(numbers, list):
        return RetryableError(f"{OLLAMA} sent no vector for this text")
    try:
        return vector_from_numbers(numbers, None, unit=unit)
    except UnusableVector as error:
        return RetryableError(f"{OLLAMA} sent an unusable vector: {error}")


def _read_reply(answer: object, question: Question) -> Reply:
    message = answer.get("message") if isinstance(answer, dict) else None
    if not isinstance(answer, dict) or not isinstance(message, dict):
        raise _no_answer("JSON without a message")
    if answer.get("done") is not True:
        raise _no_answer("an answer that is not done")
    if answer.get("done_reason") == "length":
        raise AnswerCut(f"{OLLAMA}: the model's answer was cut at its greatest length; see OLLAMA_OPTIONS, num_predict")
    text = message.get("content")
    if not isinstance(text, str) or not text.strip():
        raise RetryableError(f"{OLLAMA}: the model's answer is empty")
    prompt, completion = _count(answer.get("prompt_eval_count")), _count(answer.get("eval_count"))
    if prompt is None or completion is None:  # a prompt that it had in its cache is not counted
        return Reply(text, Usage.estimate([message.content for message in question.messages], text))
    return Reply(text, Usage(prompt, completion, prompt + completion))


def _count(value: object) -> int | None:
    return value if type(value) is int and value > 0 else None


def _bare(error: InputTooLong) -> InputTooLong:
    """The same without its traceback, which holds the texts."""
    return InputTooLong(str(error))


def _no_answer(what: str) -> ServiceFault:
    return ServiceFault(OLLAMA, f"{OLLAMA} answered 200 with {what}")
