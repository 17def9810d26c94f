"""Providers of other installed packages (entry points of the group `aitp.providers`).

An entry point names a callable that takes the settings and makes the provider of the entry point's name; its attribute
`models` says which models go there, whatever PROCESSING_MODE is. Loaded once, by the master's warm-up.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, Protocol

from aitp.errors import ConfigurationError
from aitp.extensions import PROVIDERS_GROUP, complaint, extensions
from aitp.providers import Provider
from aitp.settings import Settings
from aitp.tasks import Service


class Builder(Protocol):
    """What such an entry point names."""

    models: Sequence[str]

    def __call__(self, settings: Settings) -> Provider:
        """The provider. After fork; no connection is made before the first call."""


@cache
def foreign_builders() -> Mapping[str, Builder]:
    """The makers of these providers, by name. ConfigurationError: one of them cannot be used."""
    builders: dict[str, Builder] = {}
    for found in extensions(PROVIDERS_GROUP):
        value: Any = found.value
        said = complaint(PROVIDERS_GROUP, found.name, found.package)
        if found.name in set(Service) or found.name in builders:
            raise ConfigurationError([f"{said}: there is a provider of that name already"])
        if not callable(value) or not isinstance(getattr(value, "models", None), list | tuple):
            raise ConfigurationError([f"{said}: expected a callable with `models`, the names of its models"])
        builders[found.name] = value
    return builders


def foreign_models() -> Mapping[str, str]:
    """Which of these providers serves a model, by the model's name."""
    return {model: name for name, builder in foreign_builders().items() for model in builder.models}
