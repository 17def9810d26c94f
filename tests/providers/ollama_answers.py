"""Answers of Ollama, as the tests put them together, and a provider that asks for them."""

from __future__ import annotations

from typing import Any

from aitp.providers import Message, Question
from aitp.providers.ollama import OllamaProvider
from tests.providers.embeddings import settings
from tests.providers.scripted import ScriptedServer

NOMIC = "nomic-embed-text"
CHAT = "llama3.2"
TEXT = "Um texto plantado que nunca aparece em mensagens."
SCHEMA = {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}
QUESTION = Question("who", SCHEMA, [Message("system", "Diga quem."), Message("user", TEXT)])
TOO_LONG = {"error": "the input length exceeds the context length"}


def vectors(*numbers: object, **more: object) -> dict[str, Any]:
    return {"model": NOMIC, "embeddings": list(numbers), "prompt_eval_count": 7, **more}


def said(text: str, **more: object) -> dict[str, Any]:
    message = {"role": "assistant", "content": text}
    counts = {"prompt_eval_count": 11, "eval_count": 5}
    return {"model": CHAT, "message": message, "done": True, "done_reason": "stop", **counts, **more}


def provider_at(server: ScriptedServer | str, **options: Any) -> OllamaProvider:
    """By these settings, by their names without `ollama_`."""
    models, missing = options.pop("models", [NOMIC, CHAT]), options.pop("missing", lambda model: None)
    own = {"base_url": server if isinstance(server, str) else server.url.removesuffix("/v1"), "timeout": 5.0, **options}
    given = {f"ollama_{name}": value for name, value in own.items()}
    return OllamaProvider(settings().model_copy(update={"supported_models": tuple(models), **given}), missing)
