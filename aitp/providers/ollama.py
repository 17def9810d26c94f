"""Ollama: vectors by /api/embed, structured answers by /api/chat (Ollama's API reference).

Posted as ready JSON over the HTTP client that OpenAI's is made of: the `ollama` package would build an object for each
number's list, at five times the CPU, and not pass on when a server wants to be asked again. Made after fork, at the
first call; never retries, never follows a redirect. Only the models of SUPPORTED_MODELS are asked for. A text that is
longer than its model reads is refused: left to itself, a server cuts it without a word.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import httpx2
import orjson

from aitp.errors import AnswerCut, ModelGone, ModelMissing, ServiceFault, UselessAnswer
from aitp.policy.routing import canonical
from aitp.providers.base import Embeddings, Question, Reply, Usage, Vector
from aitp.providers.client import CALL_MARGIN_SECONDS, PLAIN, BodyBound, http_client
from aitp.providers.failures import OLLAMA, error_of, no_answer, refusal_of, refused_with_200
from aitp.providers.request_profile import messages_of, schema_of
from aitp.providers.vectors import UnusableVector, vector_from_numbers
from aitp.settings import Settings

# A number of a vector may need 24 bytes, and models give up to 4,096 of them.
ANSWER_BYTES = 1_048_576
ANSWER_BYTES_A_TEXT = 131_072
# A text of 10,000 characters with its prompt and its answer. Ollama's own default is 4,096 and less: it would cut the
# prompt in the middle. num_predict: some models never come to an end by themselves.
CHAT_OPTIONS: Mapping[str, Any] = {"num_ctx": 8192, "num_predict": 4096, "temperature": 0}


class OllamaProvider:
    """By OLLAMA_* of the settings. `missing`: told of a model to be pulled."""

    name = OLLAMA

    def __init__(self, settings: Settings, missing: Callable[[str], None] = lambda model: None) -> None:
        self._settings = settings
        self._supported = frozenset(map(canonical, settings.supported_models))
        keep_alive = settings.ollama_keep_alive
        self._common: dict[str, Any] = {} if keep_alive is None else {"keep_alive": keep_alive}
        self._missing = missing
        self._bound = BodyBound(OLLAMA, settings.ollama_timeout + CALL_MARGIN_SECONDS)
        self._client: httpx2.Client | None = None

    def optional(self, model: str, *, chat: bool) -> tuple[str, ...]:
        if not chat:
            return ()
        thinks = () if self._settings.ollama_think is None else ("think",)
        return (*thinks, "schema_bounds", "format")

    def embed(
        self, texts: Sequence[str], model: str, dimensions: int | None = None, leave_out: Collection[str] = ()
    ) -> Embeddings:
        request = {"model": model, "input": texts, "truncate": False, **self._common}
        if self._settings.ollama_options:
            request["options"] = self._settings.ollama_options
        limit_bytes = ANSWER_BYTES + ANSWER_BYTES_A_TEXT * len(texts)
        return read_embeddings(self._post("/api/embed", request, texts, (), limit_bytes), texts)

    def ask(self, question: Question, model: str, leave_out: Collection[str] = ()) -> Reply:
        held = [name for name in self.optional(model, chat=True) if name not in leave_out]
        request = {
            "model": model,
            "messages": messages_of(question, in_words="format" not in held),
            "stream": False,
            # Rather an error than an answer to half a prompt. Servers from before 0.12 know neither.
            "truncate": False,
            "shift": False,
            "options": {**CHAT_OPTIONS, **self._settings.ollama_options},
            **self._common,
        }
        if "think" in held:
            request["think"] = self._settings.ollama_think
        if "format" in held:
            request["format"] = schema_of(question, held)
        elif "schema_bounds" in held:
            held.remove("schema_bounds")  # told in words, and no longer sent
        texts = [message.content for message in question.messages]
        return read_reply(self._post("/api/chat", request, texts, held, ANSWER_BYTES), texts)

    def _post(
        self, path: str, request: Mapping[str, Any], texts: Sequence[str], sent: Sequence[str], limit_bytes: int
    ) -> object:
        """The answer's JSON; its body is free again when this returns."""
        model = request["model"]
        if canonical(model) not in self._supported:
            known = ", ".join(self._settings.supported_models) or "none"
            gone = ModelGone(OLLAMA, f"{model} is no model of SUPPORTED_MODELS, which has: {known}", model=model)
            gone.bought_nothing = True
            raise gone
        if self._client is None:
            self._client = self._connect()
        self._bound.begin(limit_bytes)
        try:
            answer = self._client.post(path, content=orjson.dumps(request))
            if answer.is_success:
                document = orjson.loads(answer.content)
                if (refused := refused_with_200(document)) is None:
                    return document
                answer = refused
            failure = error_of(refusal_of(OLLAMA, answer, model, texts, sent))
        except orjson.JSONDecodeError:
            failure = _no_success("no JSON")
        except httpx2.HTTPError as error:
            failure = no_answer(OLLAMA, error)
        # Out here the caught error is gone: it holds the request (texts) or the server's own words.
        if isinstance(failure, ModelMissing):
            self._missing(model)
        raise failure

    def _connect(self) -> httpx2.Client:
        settings = self._settings
        client = http_client(self._bound, settings.ollama_timeout, settings.trust)
        client.base_url = httpx2.URL(settings.ollama_base_url)
        client.headers.update({**PLAIN, "Content-Type": "application/json"})
        if settings.ollama_api_key is not None:
            client.headers["Authorization"] = f"Bearer {settings.ollama_api_key.get_secret_value()}"
        return client

    def close(self) -> None:
        if self._client is not None:
            self._client.close()
            self._client = None


def read_embeddings(answer: object, texts: Sequence[str]) -> Embeddings:
    """The vectors of an answer to `texts`; an unusable one is a UselessAnswer. ServiceFault: it is no such answer."""
    if not isinstance(answer, dict) or not isinstance(items := answer.get("embeddings"), list):
        raise _no_success("JSON without a list of embeddings")
    if len(items) != len(texts):
        raise _no_success(f"{len(items)} vectors for {len(texts)} texts")
    if not any(isinstance(item, list) for item in items):
        raise _no_success("no vector")
    tokens = _count(answer.get("prompt_eval_count"))
    usage = Usage.estimate(texts) if tokens is None else Usage(tokens, 0, tokens)
    return Embeddings([_vector(item) for item in items], usage)


def _vector(numbers: object) -> Vector:
    try:
        if not isinstance(numbers, list):
            raise UnusableVector("no vector for this text")
        return vector_from_numbers(numbers, None)
    except UnusableVector as error:
        return UselessAnswer(f"{OLLAMA} sent {error}")


def read_reply(answer: object, texts: Sequence[str]) -> Reply:
    """What the model said to `texts`. Raises AnswerCut, or what else keeps an answer from being one."""
    message = answer.get("message") if isinstance(answer, dict) else None
    if not isinstance(answer, dict) or not isinstance(message, dict):
        raise _no_success("JSON without a message")
    if answer.get("done") is not True:
        raise _no_success("an answer that is not done")
    if answer.get("done_reason") == "length":
        raise AnswerCut(f"{OLLAMA}: the model's answer was cut at its greatest length; see OLLAMA_OPTIONS, num_predict")
    text = message.get("content")
    if not isinstance(text, str) or not text.strip():
        if message.get("thinking"):
            raise UselessAnswer(f"{OLLAMA}: the model thought and then answered nothing; see OLLAMA_THINK")
        raise UselessAnswer(f"{OLLAMA}: the model's answer is empty")
    prompt, completion = _count(answer.get("prompt_eval_count")), _count(answer.get("eval_count"))
    if prompt is None or completion is None:  # a prompt that it had in its cache is not counted
        return Reply(text, Usage.estimate(texts, text))
    return Reply(text, Usage(prompt, completion, prompt + completion))


def _count(value: object) -> int | None:
    return value if type(value) is int and value > 0 else None


def _no_success(what: str) -> ServiceFault:
    return ServiceFault(OLLAMA, f"{OLLAMA} answered 200 with {what}")
