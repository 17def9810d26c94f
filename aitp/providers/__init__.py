"""Where answers are bought: one module a provider, all of the shape `Provider`.

`build` is called after fork, once a worker; clients are made at their first call, so nothing that owns a socket is
ever inherited. `warm_up` is called by the master before it forks, so that what the clients import lazily is shared.
Providers are imported inside these two functions: whoever needs only the vocabulary (processors, relays, the
command line) does not load numpy and the OpenAI client.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any

from aitp.errors import ServiceFault
from aitp.policy.routing import Rules
from aitp.providers.inventory import uses_openai

if TYPE_CHECKING:
    from aitp.providers.base import Embeddings, Message, Provider, Question, Reply, Usage, Vector
    from aitp.settings import Settings

__all__ = ["Embeddings", "Message", "Provider", "Question", "Reply", "Rules", "Usage", "Vector", "build", "warm_up"]


def __getattr__(name: str) -> Any:
    """What is named in `base`: whoever only looks at the inventory does not load it."""
    if name.islower():  # a module's
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module("aitp.providers.base"), name)


def build(settings: Settings, missing: Callable[[str], None] = lambda model: None) -> Mapping[str, Provider]:
    """The providers that `settings` name, by name. After fork; no connection is made before the first call.

    `missing` is told of an Ollama model that is supported, and not there.
    """
    from aitp.providers.base import plugin_builders

    others = {name: make(settings) for name, make in plugin_builders().items()}
    return {**_own_providers(settings, missing), **others}


def _own_providers(settings: Settings, missing: Callable[[str], None]) -> Mapping[str, Provider]:
    from aitp.providers.base import provider_rules

    found: list[Provider] = []
    # OpenAI may answer for a provider of another package, whatever the mode is.
    stands_in = any(rules.stand_in and rules.most_per_day for rules in provider_rules(settings).values())
    if settings.mock:
        from aitp.providers.mock import DIMENSIONS, MockProvider

        found.append(MockProvider(settings.embedding_dimensions or DIMENSIONS))
    elif uses_openai(settings) or (settings.has_real_openai and stands_in):
        from aitp.providers.openai import OpenAIProvider

        found.append(OpenAIProvider(settings))
    if settings.processing_mode != "openai" and not settings.mock:
        from aitp.providers.ollama import OllamaProvider

        found.append(OllamaProvider(settings, missing))
    return {provider.name: provider for provider in found}


def warm_up(settings: Settings) -> None:
    """Before fork: load everything that a call needs, by making one that is refused. Leaves nothing open, no thread."""
    import socket

    from aitp.settings import EMBEDDING_MODEL

    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))  # held, and not listening: whoever connects is refused
        refusing = f"http://127.0.0.1:{bound.getsockname()[1]}/v1"
        addresses = {"openai_base_url": refusing, "ollama_base_url": refusing, "supported_models": (EMBEDDING_MODEL,)}
        for provider in _own_providers(settings.model_copy(update=addresses), lambda missing: None).values():
            try:
                provider.embed(["warm-up"], EMBEDDING_MODEL)
            except ServiceFault:
                pass
            provider.close()
