"""Results that are used again: the settings that they hold good under, and what is told of each.

Called by relays (a new task whose result is there already), workers (twins of a task that was run), and at start and
reload.
"""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import blake2b
from typing import TYPE_CHECKING

from aitp.ledger import Reused
from aitp.logs import get_logger

if TYPE_CHECKING:
    from aitp.metrics import Metrics
    from aitp.settings import Settings

# Whatever decides who answers, what is asked, and what an answer looks like.
DECISIVE = (
    "processing_mode",
    "mock",
    "supported_models",
    "openai_base_url",
    "ollama_base_url",
    "ollama_options",
    "hybrid_fallback",
    "fallback_models",
    "default_embedding_model",
    "default_chat_model",
    "model_aliases",
    "embedding_dimensions",
    "embedding_overflow",
    "result_language",
    "result_country",
    "wikidata_enabled",
    "wikidata_base_url",
    "personality_classes",
)

log = get_logger(__name__)


def reuse_scope(settings: Settings, prompts: Iterable[str | None]) -> str:
    """A name for all that decides what results look like: none of another scope is used again."""
    facts = [(name, repr(getattr(settings, name))) for name in DECISIVE]
    return blake2b(repr((facts, sorted(prompt or "" for prompt in prompts))).encode(), digest_size=8).hexdigest()


def tell_of_reuse(reused: Iterable[Reused], metrics: Metrics) -> None:
    """A line for each task that got the result of its twin, and its place in the counts."""
    for task in reused:
        metrics.result_reused(task.type)
        log.info("Result reused", task_id=task.id, task_type=task.type, twin=task.of)
