"""What claims need of the settings: how many workers share, which tasks share a call, and who runs them as what.

Whether a model that Ollama lacks is worth waiting for is read from the file of whoever pulls models. How long the
vectors of Ollama's models are is remembered, so that OpenAI can be asked for as many numbers when it stands in: vectors
of two lengths in one index break it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache, partial
from hashlib import blake2b
from pathlib import Path

from aitp.ledger.claims import ClaimOptions
from aitp.logs import get_logger
from aitp.policy.costs import FREE, Pricing
from aitp.policy.routing import Availability, Route, canonical
from aitp.processors import PROCESSORS, Memory, default_models
from aitp.providers import provider_rules, routing_of, uses_models
from aitp.providers.inventory import FILE_NAME, read_inventory
from aitp.settings import Settings
from aitp.tasks import QueueKey, Service

OPENAI_MODELS = Path(__file__).parents[1] / "providers" / "openai_models.txt"
# How long tasks wait for the first answer that one of them gets: what a server refuses is then refused once.
CANARY_SECONDS = 1.0
# What requests depend on besides who and where we are.
REQUEST_SETTINGS = (
    "embedding_dimensions",
    "openai_timeout",
    "openai_service_tier",
    "openai_reasoning_effort",
    "ollama_timeout",
    "ollama_options",
    "ollama_think",
)
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
KNOWN = {
    "nomic-embed-text:latest": 768,
    "nomic-embed-text:v1.5": 768,
    "mxbai-embed-large:latest": 1024,
    "bge-m3:latest": 1024,
    "all-minilm:latest": 384,
    "dengcao/qwen3-embedding-0.6b:q8_0": 1024,
}
KEPT_SECONDS = 90 * 86_400.0

log = get_logger(__name__)


def claim_options(settings: Settings, *, tells: bool = False) -> ClaimOptions:
    """The terms of all workers under `settings`. `tells`: one of them says which models' tasks can go nowhere."""
    routing = routing_of(settings)
    unknown: set[str] = set()

    def routes(queue: QueueKey) -> Sequence[Route]:
        processor = PROCESSORS.get(queue.type)
        if processor is None:
            # Its package was removed, or an older release was installed again: that must not stop all other types.
            if queue.type not in unknown:
                unknown.add(queue.type)
                log.error("Task type is not registered any more, its tasks wait", task_type=queue.type)
            return ()
        if tells and (reason := routing.waits_for(queue.model)) and queue.model not in unknown:
            unknown.add(queue.model)
            log.error("Tasks of a model wait", model=queue.model, reason=reason)
        default = settings.default_embedding_model if processor.batched else settings.default_chat_model
        return routing.options(queue.model, default, queue.failed_at)

    def batch_size(queue: QueueKey) -> int:
        processor = PROCESSORS.get(queue.type)
        return settings.embedding_batch_size if processor is not None and processor.batched else 1

    def needs(queue: QueueKey, route: Route) -> Sequence[str]:
        looks_up = PROCESSORS.of(queue.type, route.provider).looks_up
        return (Service.WIKIDATA.value,) if settings.wikidata_enabled and looks_up else ()

    def pricing(queue: QueueKey, route: Route) -> Pricing:
        if settings.prices is None or (settings.mock and route.provider not in routing.rules):
            return FREE
        return Pricing(settings.prices.of(route.provider, route.model), answers=not PROCESSORS[queue.type].batched)

    currency = settings.prices.currency if settings.prices is not None else ""
    return ClaimOptions(
        settings.concurrency_limit,
        routes,
        batch_size,
        needs,
        ModelAvailability(settings),
        pricing,
        currency,
        setup=cache(partial(setup_of, settings)),
        canary_seconds=CANARY_SECONDS,
    )


def setup_of(settings: Settings, service: str) -> str:
    """A name for how `service` is set up: what was learned of it under another one says nothing."""
    parts = [settings.fingerprint(service), *(repr(getattr(settings, name, None)) for name in REQUEST_SETTINGS)]
    return blake2b(repr(parts).encode(), digest_size=8).hexdigest()


def named_models(settings: Settings) -> tuple[str, ...]:
    """The models that somebody here has named, in so many words or by a default."""
    others = (*settings.fallback_models.values(), *settings.model_aliases.values(), *default_models(settings))
    return (*settings.supported_models, *others)


def strangers_of(settings: Settings) -> Callable[[str], bool]:
    """Whether a model is one that nobody here has named: a task alone does, and may have misspelt it."""
    routing = routing_of(settings)
    stand_ins = (rules.stand_in for rules in routing.rules.values())
    named = {canonical(model) for model in (*named_models(settings), *stand_ins)} | openai_names()
    return lambda model: canonical(model) not in named and not routing.foreign_provider(model)


@cache
def openai_names() -> frozenset[str]:
    """What OpenAI has or once had, as its own package lists it: no misspelling, but gone, or not for this key."""
    return frozenset(map(canonical, OPENAI_MODELS.read_text().split()))


class ModelAvailability:
    """One process's view of that file. A look costs one `stat`, unless it was replaced since."""

    def __init__(self, settings: Settings) -> None:
        self._runtime_dir = settings.runtime_dir
        self._used = uses_models(settings)
        self._file: tuple[int, int] | None = None
        self._known: Mapping[str, Availability] = {}

    def __call__(self, route: Route) -> Availability:
        """What is known of the route's model."""
        if not self._used or route.provider != Service.OLLAMA:
            return Availability.UNKNOWN
        try:
            found = os.stat(self._runtime_dir / FILE_NAME)
            file = (found.st_ino, found.st_mtime_ns)
        except OSError:
            file = None
        if file != self._file:
            inventory = read_inventory(self._runtime_dir)
            # Of a server that cannot be asked nothing is known: its breaker speaks for it.
            models = {} if inventory is None or inventory.problem else inventory.models
            self._file, self._known = file, {canonical(name): state.arrival for name, state in models.items()}
        return self._known.get(canonical(route.model), Availability.UNKNOWN)


def reuse_scope(settings: Settings, prompts: Iterable[str | None]) -> str:
    """A name for all that decides what results look like: none of another scope is used again."""
    facts = [(name, repr(getattr(settings, name))) for name in DECISIVE]
    facts += sorted((name, rules.scope) for name, rules in provider_rules(settings).items())
    return blake2b(repr((facts, sorted(prompt or "" for prompt in prompts))).encode(), digest_size=8).hexdigest()


class EmbeddingDimensions:
    """The lengths seen so far, by model. For one process; `memory` is shared. `named`: MODEL_ALIASES, applied."""

    def __init__(self, memory: Memory, named: Callable[[str], str]) -> None:
        self._memory, self._named = memory, named
        self._seen: dict[str, int] = {}

    def learn(self, model: str, vector: bytes) -> None:
        """A `vector` of `model`, as JSON: remember its length if it is new."""
        model, length = canonical(self._named(model)), vector.count(b",") + 1
        if self._seen.get(model) != length:
            self._seen[model] = length
            self._memory.put({_key(model): str(length).encode()}, KEPT_SECONDS)

    def of(self, model: str) -> int | None:
        """The length of `model`'s vectors; None, and a warning, if nobody has seen one yet."""
        model = canonical(self._named(model))
        length = self._seen.get(model)
        if length is None:
            kept = self._memory.get([_key(model)])
            length = int(kept[_key(model)]) if kept else KNOWN.get(model)
        if length is None:
            log.warning("Length of a model's vectors is unknown, its stand-in gives EMBEDDING_DIMENSIONS", model=model)
        return length


def _key(model: str) -> str:
    return f"vector length {model}"
