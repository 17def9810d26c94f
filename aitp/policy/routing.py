"""Which provider runs a task, as which model, and why. Pure; the claim asks, with what stands in each provider's way.

Vectors of two models under one name are silent damage to whoever searches them, so a fallback is never silent: the
route says what it falls back from and for what reason, and whoever claims by it logs and counts that. And there is one
only where the first choice has failed. A model that is being pulled has not: its tasks wait for it, no longer than its
first pull may last, rather than be paid for elsewhere and land in another vector space.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property


class Mode(StrEnum):
    """PROCESSING_MODE."""

    OPENAI = "openai"
    OLLAMA = "ollama"
    HYBRID = "hybrid"


class Why(StrEnum):
    """Why a task goes to another provider than its first choice."""

    FAILED = "failed"  # the first one failed for this very task
    BLOCKED = "blocked"  # the first one's breaker is open, or it cools down


class Availability(StrEnum):
    """What is known of a model that its provider is to get. Whether it is there only the provider knows."""

    UNKNOWN = "unknown"
    COMING = "coming"  # it is being pulled for the first time, or is about to be
    GIVEN_UP = "given up"  # a pull has failed; later ones may still succeed


@dataclass(frozen=True, slots=True)
class Route:
    """A provider, the model that is asked for there, and what it falls back from, if it is a fallback."""

    provider: str
    model: str
    fallback_from: str = ""
    reason: str = ""


@dataclass(frozen=True)
class Routing:
    """What routes depend on, from the settings. `supported`: Ollama's models, as SUPPORTED_MODELS writes them.

    `fallbacks`: OpenAI's model by Ollama's name; `*` is for all others. `foreign`: providers of other packages by the
    models that go there, whatever the mode is. `aliases`: the name that is asked for by the name in the task.
    """

    mode: Mode
    supported: Sequence[str]
    fallbacks: Mapping[str, str]
    may_fall_back: bool
    has_openai: bool
    foreign: Mapping[str, str] = field(default_factory=dict)
    aliases: Mapping[str, str] = field(default_factory=dict)

    def asked_for(self, model: str) -> str:
        """The name that tasks of `model` are sent with: its alias, and as SUPPORTED_MODELS spells it.

        So all spellings of a model of Ollama are one to whoever judges by routes. OpenAI's names, and those of other
        packages, are what they are.
        """
        ollama = self.mode is not Mode.OPENAI
        named = self.aliases.get(model)
        if named is None and ollama and model not in self.foreign:
            named = self._aliases.get(canonical(model))
        named = named or model
        return self._supported.get(canonical(named), named) if ollama and named not in self.foreign else named

    def options(self, model: str, default_fallback: str, failed_at: str = "") -> tuple[Route, ...]:
        """The routes for a task of `model`, first choice first; `failed_at`: the provider that failed for it last.

        `default_fallback` is OpenAI's model for its type, where `fallbacks` names none. In mode ollama a model that is
        not supported still has a route: its provider refuses it with the list of those that are.
        """
        model = self.asked_for(model)
        if model in self.foreign:
            return (Route(self.foreign[model], model),)
        if self.mode is Mode.OPENAI:
            return (Route("openai", model),)
        if self.mode is Mode.OLLAMA:
            return (Route("ollama", model),)
        if canonical(model) not in self._supported:
            return (Route("openai", model),) if self.has_openai else (Route("ollama", model),)
        first = Route("ollama", model)
        if not (self.may_fall_back and self.has_openai):
            return (first,)
        # Ollama's name means nothing to OpenAI.
        instead = self._fallbacks.get(canonical(model)) or self.fallbacks.get("*") or default_fallback
        if failed_at == "ollama":
            return (Route("openai", instead, "ollama", Why.FAILED), first)
        return (first, Route("openai", instead, "ollama", Why.BLOCKED))

    # Claims ask for routes all the time: what is looked up by one name for all spellings is made once.

    @cached_property
    def _supported(self) -> Mapping[str, str]:
        return {canonical(name): name for name in reversed(self.supported)}

    @cached_property
    def _fallbacks(self) -> Mapping[str, str]:
        return {canonical(name): instead for name, instead in self.fallbacks.items()}

    @cached_property
    def _aliases(self) -> Mapping[str, str]:
        return {canonical(name): named for name, named in self.aliases.items()}


REGISTRY, NAMESPACE, TAG = "registry.ollama.ai/", "library/", ":latest"


def canonical(model: str) -> str:
    """The one name of all spellings of a model, as Ollama compares them: case tells nothing apart, and what it adds
    to a short name may be written out (`https://registry.ollama.ai/library/x:latest` is `x`). Another tag is another
    model; a registry's port is no tag."""
    name = model.lower().rpartition("://")[2].removeprefix(REGISTRY).removeprefix(NAMESPACE)
    return name if ":" in name.rsplit("/", 1)[-1] else f"{name}{TAG}"
