"""Answers of OpenAI's embeddings endpoint, as the tests put them together, and what should become of them."""

from __future__ import annotations

import base64
import struct
from collections.abc import Sequence
from typing import Any

from aitp.providers.openai import OpenAIProvider
from aitp.settings import Settings, load_settings

KEY = "sk-planted-key-9f86d081884c7d65"
TEXT = "Um texto plantado que nunca aparece em mensagens."
SMALL = "text-embedding-3-small"
OTHER = "text-embedding-ada-002"


def as_base64(numbers: Sequence[float]) -> str:
    return base64.b64encode(struct.pack(f"<{len(numbers)}f", *numbers)).decode()


def item(index: int, embedding: object) -> dict[str, Any]:
    return {"object": "embedding", "index": index, "embedding": embedding}


def answer(*items: object, **more: object) -> dict[str, Any]:
    usage = {"prompt_tokens": 7, "total_tokens": 7}
    return {"object": "list", "data": list(items), "model": SMALL, "usage": usage, **more}


def provider_at(url: str, **options: Any) -> OpenAIProvider:
    """By these settings, by their names without `openai_`."""
    own = {"base_url": url, "timeout": 5.0, **options}
    given = {
        name if name in ("embedding_dimensions", "http_trust_env") else f"openai_{name}": own[name] for name in own
    }
    return OpenAIProvider(settings().model_copy(update={"embedding_dimensions": None, **given}))


def settings(**values: str) -> Settings:
    """Settings of a service whose other parts are not needed here."""
    environ = {
        "API_BASE_URL": "http://127.0.0.1:1",
        "OAUTH2_TOKEN_URL": "http://127.0.0.1:1/token",
        "OAUTH2_CLIENT_ID": "aitp",
        "OAUTH2_CLIENT_SECRET": "secret",
        "PROCESSING_MODE": "openai",
        "OPENAI_API_KEY": KEY,
        "AITP_ENV_FILE": "",
    }
    return load_settings({**environ, **{name.upper(): value for name, value in values.items()}})
