"""Answers of OpenAI's embeddings endpoint, as the tests put them together, and what should become of them."""

from __future__ import annotations

import base64
import struct
from collections.abc import Sequence
from typing import Any

from aitp.providers.openai import OpenAIProvider
from pydantic import SecretStr

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
    return OpenAIProvider(SecretStr(KEY), base_url=url, **{"timeout_seconds": 5.0, **options})
