"""Ollama, through the `ollama` package's client: vectors by /api/embed, structured answers by /api/chat.

Made after fork, at the first call; never retries, never follows a redirect. Only the models of SUPPORTED_MODELS are
asked for. A text that is longer than its model reads is refused: left to itself, a server cuts it without a word.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import httpx2
import orjson
from pydantic import SecretStr

from aitp.errors import AitpError, AnswerCut, ModelGone, ModelMissing, ServiceFault, UselessAnswer
from aitp.policy.routing import canonical
from aitp.providers import Embeddings, Question, Reply, Usage, Vector
from aitp.providers.chat import messages_of, text_of, without_bounds
from aitp.providers.client import NO_OTHERS, BodyBound
from aitp.providers.ollama_failures import OLLAMA, judge
from aitp.providers.ollama_wire import OllamaClient
from aitp.providers.vectors import UnusableVector, vector_from_numbers
from aitp.tls import Trust

# A number of a vector may need 24 bytes, and models give up to 4,096 of them.
ANSWER_BYTES = 1_048_576
ANSWER_BYTES_A_TEXT = 131_072
# A text of 10,000 characters with its prompt and its answer. Ollama's own default is 4,096 and less: it would cut the
# prompt in the middle. num_predict: some models never come to an end by themselves.
CHAT_OPTIONS: Mapping[str, Any] = {"num_ctx": 8192, "num_predict": 4096, "temperature": 0}


class OllamaProvider:
    """`models`: those supported. `think`: whether, or how much, models are to reason; None leaves it to them.

    `missing`: told of a model to be pulled.
    """

    name = OLLAMA

    def __init__(
        self,
        base_url: str,
        models: Sequence[str],
        *,
        timeout_seconds: float = 120.0,
        api_key: SecretStr | None = None,
        keep_alive: int | str | None = None,
        options: Mapping[str, Any] | None = None,
        think: bool | str | None = None,
        trust: Trust = NO_OTHERS,
        missing: Callable[[str], None] = lambda model: None,
    ) -> None:
        self._base_url = base_url
        self._models = tuple(models)
        self._supported = frozenset(map(canonical, models))
        self._timeout_seconds = timeout_seconds
        self._api_key = api_key
        self._common: dict[str, Any] = {} if keep_alive is None else {"keep_alive": keep_alive}
        self._options = dict(options or {})
        self._think = think
        self._trust = trust
        self._missing = missing
        self._bound = BodyBound(OLLAMA)
        self._client: OllamaClient | None = None

    def optional(self, model: str, *, chat: bool) -> tuple[str, ...]:
        if not chat:
            return ()
        return ("schema_bounds", "format") if self._think is None else ("think", "schema_bounds", "format")

    def embed(
        self, texts: Sequence[str], model: str, dimensions: int | None = None, leave_out: Collection[str] = ()
    ) -> Embeddings:
        self._refuse_unsupported(model)
        options = {"options": self._options} if self._options else {}
        request = {"model": model, "input": texts, "truncate": False, **options, **self._common}
        limit_bytes = ANSWER_BYTES + ANSWER_BYTES_A_TEXT * len(texts)
        return read_embeddings(self._post("/api/embed", request, model, limit_bytes, texts), texts)

    def ask(self, question: Question, model: str, leave_out: Collection[str] = ()) -> Reply:
        self._refuse_unsupported(model)
        held = [name for name in self.optional(model, chat=True) if name not in leave_out]
        request = {
            "model": model,
            "messages": messages_of(question, in_words="format" not in held),
            "stream": False,
            # Rather an error than an answer to half a prompt. Servers from before 0.12 know neither.
            "truncate": False,
            "shift": False,
            "options": {**CHAT_OPTIONS, **self._options},
            **self._common,
        }
        if "format" in held:
            request["format"] = question.schema if "schema_bounds" in held else without_bounds(question.schema)
        if "think" in held:
            request["think"] = self._think
        sent = [name for name in held if name != "schema_bounds" or "format" in held]
        texts = [message.content for message in question.messages]
        return read_reply(self._post("/api/chat", request, model, ANSWER_BYTES, texts, sent), question)

    def reset(self) -> None:
        # Not closed: the timer may have fired with a lock of the connection pool held. Let go of, its sockets close.
        self._client = None

    def close(self) -> None:
        if self._client is not None:
            self._client.hang_up()
            self._client = None

    def _refuse_unsupported(self, model: str) -> None:
        if canonical(model) not in self._supported:
            known = ", ".join(self._models) or "none"
            gone = ModelGone(OLLAMA, f"{model} is no model of SUPPORTED_MODELS, which has: {known}", model=model)
            gone.bought_nothing = True
            raise gone

    def _post(
        self,
        path: str,
        request: dict[str, Any],
        model: str,
        limit_bytes: int,
        texts: Sequence[str],
        sent: Sequence[str] = (),
    ) -> object:
        """The answer's JSON; its body is free again when this returns."""
        self._bound.limit_bytes = limit_bytes
        if self._client is None:
            self._client = OllamaClient(self._base_url, self._bound, self._timeout_seconds, self._trust, self._api_key)
        try:
            return self._client.post(path, request)
        except orjson.JSONDecodeError:
            failure: AitpError = _no_answer("no JSON")
        except httpx2.HTTPError as error:
            failure = judge(error, model, texts, sent)
        # Out here the caught error is gone: it holds the request (texts) or the server's own words.
        if isinstance(failure, ModelMissing):
            self._missing(model)
        raise failure


def read_embeddings(answer: object, texts: Sequence[str]) -> Embeddings:
    """The vectors of an answer to `texts`; an unusable one is a UselessAnswer. ServiceFault: it is no such answer."""
    if not isinstance(answer, dict) or not isinstance(items := answer.get("embeddings"), list):
        raise _no_answer("JSON without a list of embeddings")
    if len(items) != len(texts):
        raise _no_answer(f"{len(items)} vectors for {len(texts)} texts")
    if not any(isinstance(item, list) for item in items):
        raise _no_answer("no vector")
    tokens = _count(answer.get("prompt_eval_count"))
    usage = Usage.estimate(texts) if tokens is None else Usage(tokens, 0, tokens)
    return Embeddings([_vector(item) for item in items], usage)


def _vector(numbers: object) -> Vector:
    if not isinstance(numbers, list):
        return UselessAnswer(f"{OLLAMA} sent no vector for this text")
    try:
        return vector_from_numbers(numbers, None)
    except UnusableVector as error:
        return UselessAnswer(f"{OLLAMA} sent an unusable vector: {error}")


def read_reply(answer: object, question: Question) -> Reply:
    """What the model said. Raises AnswerCut, or what else keeps an answer from being one."""
    message = answer.get("message") if isinstance(answer, dict) else None
    if not isinstance(answer, dict) or not isinstance(message, dict):
        raise _no_answer("JSON without a message")
    if answer.get("done") is not True:
        raise _no_answer("an answer that is not done")
    if answer.get("done_reason") == "length":
        raise AnswerCut(f"{OLLAMA}: the model's answer was cut at its greatest length; see OLLAMA_OPTIONS, num_predict")
    text = text_of(message.get("content"))
    if not text.strip():
        if message.get("thinking"):
            raise UselessAnswer(f"{OLLAMA}: the model thought and then answered nothing; see OLLAMA_THINK")
        raise UselessAnswer(f"{OLLAMA}: the model's answer is empty")
    prompt, completion = _count(answer.get("prompt_eval_count")), _count(answer.get("eval_count"))
    if prompt is None or completion is None:  # a prompt that it had in its cache is not counted
        return Reply(text, Usage.estimate([message.content for message in question.messages], text))
    return Reply(text, Usage(prompt, completion, prompt + completion))


def _count(value: object) -> int | None:
    return value if type(value) is int and value > 0 else None


def _no_answer(what: str) -> ServiceFault:
    return ServiceFault(OLLAMA, f"{OLLAMA} answered 200 with {what}")
