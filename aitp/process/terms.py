"""What claims need of the settings: how many workers share, which tasks share a call, and who runs them as what."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cache, partial
from hashlib import blake2b
from typing import TYPE_CHECKING, get_args

from aitp.ledger import ClaimOptions
from aitp.logs import get_logger
from aitp.policy.costs import FREE, Pricing
from aitp.policy.routing import Mode, Route, Routing, canonical
from aitp.process.arrivals import Arrivals
from aitp.processors import PROCESSORS
from aitp.providers.base import plugin_models
from aitp.tasks import QueueKey, Service

if TYPE_CHECKING:
    from aitp.settings import Settings

# How long tasks wait for the first answer that one of them gets: what a server refuses is then refused once.
CANARY_SECONDS = 1.0

log = get_logger(__name__)


def terms_of(settings: Settings) -> ClaimOptions:
    """The terms of all workers under `settings`."""
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
        default = settings.default_embedding_model if processor.batched else settings.default_chat_model
        return routing.options(queue.model, default, queue.failed_at)

    def batch_size(queue: QueueKey) -> int:
        processor = PROCESSORS.get(queue.type)
        return settings.embedding_batch_size if processor is not None and processor.batched else 1

    def needs(queue: QueueKey) -> Sequence[str]:
        processor = PROCESSORS.get(queue.type)
        looks_up = processor is not None and processor.looks_up
        return (Service.WIKIDATA.value,) if settings.wikidata_enabled and looks_up else ()

    def pricing(queue: QueueKey, route: Route) -> Pricing:
        if settings.mock or settings.prices is None:
            return FREE
        return Pricing(settings.prices.of(route.provider, route.model), answers=not PROCESSORS[queue.type].batched)

    currency = settings.prices.currency if settings.prices is not None else ""
    return ClaimOptions(
        settings.concurrency_limit,
        routes,
        batch_size,
        needs,
        Arrivals(settings),
        pricing,
        currency,
        setup=cache(partial(setup_of, settings)),
        canary_seconds=CANARY_SECONDS,
    )


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


def setup_of(settings: Settings, service: str) -> str:
    """A name for how `service` is set up: what was learned of it under another one says nothing."""
    parts = [settings.fingerprint(service), *(repr(getattr(settings, name, None)) for name in REQUEST_SETTINGS)]
    return blake2b(repr(parts).encode(), digest_size=8).hexdigest()


def strangers_of(settings: Settings) -> Callable[[str], bool]:
    """Whether a model is one that nobody here has named: a task alone does, and may have misspelt it."""
    by_settings = (
        *settings.supported_models,
        *settings.fallback_models.values(),
        *settings.model_aliases.values(),
        settings.default_embedding_model,
        settings.default_chat_model,
    )
    named = {canonical(model) for model in by_settings}
    return lambda model: canonical(model) not in named and canonical(model) not in openai_names()


@cache
def openai_names() -> frozenset[str]:
    """What OpenAI has or once had: no misspelling, but gone, or not for this key. Found before the fork, for all."""
    from openai.types import ChatModel, EmbeddingModel

    return frozenset(map(canonical, _names_in((ChatModel, EmbeddingModel))))


def _names_in(types: object) -> Iterator[str]:
    """The strings of (nested) Literals."""
    for part in types if isinstance(types, tuple) else get_args(types):
        if isinstance(part, str):
            yield part
        else:
            yield from _names_in(part)


def routing_of(settings: Settings) -> Routing:
    """How `settings` route models. In mock mode all goes to the mock, which has OpenAI's name."""
    return Routing(
        mode=Mode.OPENAI if settings.mock else Mode(settings.processing_mode),
        supported=settings.supported_models,
        fallbacks=settings.fallback_models,
        may_fall_back=settings.hybrid_fallback,
        has_openai=settings.openai_api_key is not None,
        foreign=plugin_models(),
        aliases=settings.model_aliases,
    )
