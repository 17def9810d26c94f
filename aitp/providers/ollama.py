"""Ollama: vectors by /api/embed, structured answers by /api/chat (Ollama's API reference).

Only the models of SUPPORTED_MODELS are asked for. A text that is longer than its model reads is refused: left to
itself, a server cuts it without a word.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from aitp.errors import AitpError, AnswerCut, ModelGone, ModelMissing, UselessAnswer
from aitp.policy.routing import canonical
from aitp.providers import Embeddings, Question, Reply, Usage
from aitp.providers.client import HttpProvider, answer_in, held_of, messages_of, ollama_headers, schema_of
from aitp.providers.failures import OLLAMA, no_success
from aitp.providers.vectors import vector_of
from aitp.settings import Settings

# A text of 10,000 characters with its prompt and its answer. Ollama's own default is 4,096 and less: it would cut the
# prompt in the middle. num_predict: some models never come to an end by themselves.
CHAT_OPTIONS: Mapping[str, Any] = {"num_ctx": 8192, "num_predict": 4096, "temperature": 0}


class OllamaProvider(HttpProvider):
    """By OLLAMA_* of the settings. `missing`: told of a model to be pulled."""

    name = OLLAMA

    def __init__(self, settings: Settings, missing: Callable[[str], None] = lambda model: None) -> None:
        super().__init__(settings, settings.ollama_base_url, settings.ollama_timeout)
        self._supported = frozenset(map(canonical, settings.supported_models))
        self._missing = missing

    def optional(self, model: str, *, chat: bool) -> tuple[str, ...]:
        if not chat:
            return ()
        thinks = () if self._settings.ollama_think is None else ("think",)
        return (*thinks, "schema_bounds", "format")

    def embed(
        self, texts: Sequence[str], model: str, dimensions: int | None = None, leave_out: Collection[str] = ()
    ) -> Embeddings:
        request = {**self._request(model), "input": texts, "truncate": False}
        if self._settings.ollama_options:
            request["options"] = self._settings.ollama_options
        return read_embeddings(self._post("/api/embed", request, texts, ()), texts)

    def ask(self, question: Question, model: str, leave_out: Collection[str] = ()) -> Reply:
        held = held_of(self.optional(model, chat=True), leave_out)
        request = {
            **self._request(model),
            "messages": messages_of(question, in_words="format" not in held),
            "stream": False,
            # Rather an error than an answer to half a prompt. Servers from before 0.12 know neither.
            "truncate": False,
            "shift": False,
            "options": {**CHAT_OPTIONS, **self._settings.ollama_options},
        }
        if "think" in held:
            request["think"] = self._settings.ollama_think
        if "format" in held:
            request["format"] = schema_of(question, held)
        texts = [message.content for message in question.messages]
        return read_reply(self._post("/api/chat", request, texts, held), texts)

    def _request(self, model: str) -> dict[str, Any]:
        """What all requests have. ModelGone: it is none of SUPPORTED_MODELS."""
        if canonical(model) not in self._supported:
            known = ", ".join(self._settings.supported_models) or "none"
            gone = ModelGone(OLLAMA, f"{model} is no model of SUPPORTED_MODELS, which has: {known}", model=model)
            gone.bought_nothing = True
            raise gone
        keep_alive = self._settings.ollama_keep_alive
        return {"model": model, **({} if keep_alive is None else {"keep_alive": keep_alive})}

    def _failed(self, failure: AitpError, model: str) -> None:
        if isinstance(failure, ModelMissing):
            self._missing(model)

    def _headers(self) -> Mapping[str, str]:
        return ollama_headers(self._settings)


def read_embeddings(answer: object, texts: Sequence[str]) -> Embeddings:
    """The vectors of an answer to `texts`; an unusable one is a UselessAnswer. ServiceFault: it is no such answer."""
    if not isinstance(answer, dict) or not isinstance(items := answer.get("embeddings"), list):
        raise no_success(OLLAMA, "JSON without a list of embeddings")
    if len(items) != len(texts):
        raise no_success(OLLAMA, f"{len(items)} vectors for {len(texts)} texts")
    if not any(isinstance(item, list) for item in items):
        raise no_success(OLLAMA, "no vector")
    return Embeddings([vector_of(OLLAMA, item) for item in items], Usage.of(answer.get("prompt_eval_count"), 0, texts))


def read_reply(answer: object, texts: Sequence[str]) -> Reply:
    """What the model said to `texts`. Raises AnswerCut, or what else keeps an answer from being one."""
    message = answer.get("message") if isinstance(answer, dict) else None
    if not isinstance(answer, dict) or not isinstance(message, dict):
        raise no_success(OLLAMA, "JSON without a message")
    if answer.get("done") is not True:
        raise no_success(OLLAMA, "an answer that is not done")
    if answer.get("done_reason") == "length":
        raise AnswerCut(f"{OLLAMA}: the model's answer was cut at its greatest length; see OLLAMA_OPTIONS, num_predict")
    said, thoughts = message.get("content"), message.get("thinking")
    text = said if isinstance(said, str) and said.strip() else answer_in(thoughts)
    if not text:
        if thoughts:
            raise UselessAnswer(f"{OLLAMA}: the model thought and then answered nothing; see OLLAMA_THINK")
        raise UselessAnswer(f"{OLLAMA}: the model's answer is empty")
    return Reply(text, Usage.of(answer.get("prompt_eval_count"), answer.get("eval_count"), texts, text))
