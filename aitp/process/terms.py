"""What claims need of the settings: how many workers share, which tasks share a call, and who runs them as what."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from aitp.ledger import Terms
from aitp.logs import get_logger
from aitp.policy.costs import FREE, Tariff
from aitp.policy.routing import Mode, Route, Routing
from aitp.process.arrivals import Arrivals
from aitp.processors import PROCESSORS
from aitp.providers.foreign import foreign_models
from aitp.tasks import Kind, Service

if TYPE_CHECKING:
    from aitp.settings import Settings

log = get_logger(__name__)


def terms_of(settings: Settings) -> Terms:
    """The terms of all workers under `settings`."""
    routing = routing_of(settings)
    unknown: set[str] = set()

    def routes(kind: Kind) -> Sequence[Route]:
        processor = PROCESSORS.get(kind.type)
        if processor is None:
            # Its package was removed, or an older release was installed again: that must not stop all other types.
            if kind.type not in unknown:
                unknown.add(kind.type)
                log.error("Task type is not registered any more, its tasks wait", task_type=kind.type)
            return ()
        default = settings.default_embedding_model if processor.batched else settings.default_chat_model
        return routing.options(kind.model, default, kind.failed_at)

    def batch_size(kind: Kind) -> int:
        processor = PROCESSORS.get(kind.type)
        return settings.embedding_batch_size if processor is not None and processor.batched else 1

    def needs(kind: Kind) -> Sequence[str]:
        processor = PROCESSORS.get(kind.type)
        looks_up = processor is not None and processor.looks_up
        return (Service.WIKIDATA.value,) if settings.wikidata_enabled and looks_up else ()

    def tariff(kind: Kind, route: Route) -> Tariff:
        if settings.mock or settings.prices is None:
            return FREE
        return Tariff(settings.prices.of(route.provider, route.model), answers=not PROCESSORS[kind.type].batched)

    currency = settings.prices.currency if settings.prices is not None else ""
    return Terms(settings.concurrency_limit, routes, batch_size, needs, Arrivals(settings), tariff, currency)


def routing_of(settings: Settings) -> Routing:
    """How `settings` route models. In mock mode all goes to the mock, which has OpenAI's name."""
    return Routing(
        mode=Mode.OPENAI if settings.mock else Mode(settings.processing_mode),
        supported=settings.supported_models,
        fallbacks=settings.fallback_models,
        may_fall_back=settings.hybrid_fallback,
        has_openai=settings.openai_api_key is not None,
        foreign=foreign_models(),
        aliases=settings.model_aliases,
    )
