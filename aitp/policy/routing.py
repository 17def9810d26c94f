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
from typing import NamedTuple


class Mode(StrEnum):
    """PROCESSING_MODE."""

    OPENAI = "openai"
    OLLAMA = "ollama"
    HYBRID = "hybrid"


# Models that only another package's provider serves, by how their names begin: without it their tasks wait for it.
EXTENSIONS_OF = {"jev": "aitp_jev (examples/aitp_jev)"}


class Why(StrEnum):
    """Why a task goes to another provider than its first choice."""

    FAILED = "failed"  # the first one failed for this very task
    BLOCKED = "blocked"  # the first one's breaker is open, or it cools down


# Why a task goes to its first choice again, though that has failed for it: the other one's calls of the day are made.
USED_UP = "used up"


class Availability(StrEnum):
    """What is known of a model that its provider is to get. Whether it is there only the provider knows."""

    UNKNOWN = "unknown"
    COMING = "coming"  # it is being pulled for the first time, or is about to be
    GIVEN_UP = "given up"  # a pull has failed; later ones may still succeed


class Route(NamedTuple):
    """A provider, the model that is asked for there, and what it falls back from, if it is a fallback.

    `waits`: the seconds between tries, where its provider has a rule of its own. `most_per_day`: of a stand-in by such
    a rule, how many calls it may make on a UTC day; it makes them only after all those waits, or while nothing but
    faults keeps tasks from the provider that it stands in for.
    """

    provider: str
    model: str
    fallback_from: str = ""
    reason: str = ""
    waits: tuple[float, ...] = ()
    most_per_day: int | None = None


@dataclass(frozen=True, slots=True)
class Rules:
    """How a provider of another package is to be used under these settings.

    `lacks`: why its tasks wait, if a setting is missing. `scope`: names all that decides what its answers look like.
    `timeout`: seconds that a call may take. `waits`: seconds before each further try of a task at which the service has
    failed (empty: RETRY_BACKOFF_FACTOR rules). `stand_in`: OpenAI's model that answers in its stead after all of these
    waits, or while faults keep its breaker open, `most_per_day` times on a UTC day.
    """

    lacks: str = ""
    scope: str = ""
    timeout: float = 60.0
    waits: tuple[float, ...] = ()
    stand_in: str = ""
    most_per_day: int = 0


@dataclass(frozen=True)
class Routing:
    """What routes depend on, from the settings. `supported`: Ollama's models, as SUPPORTED_MODELS writes them.

    `fallbacks`: OpenAI's model by Ollama's name; `*` is for all others. `foreign`: providers of other packages by the
    models that go there, whatever the mode is; a name that ends in * stands for all that begin so, in any case.
    `rules`: theirs. `may_stand_in`: OpenAI can, for real. `aliases`: the name that is asked for by the one in the task.
    """

    mode: Mode
    supported: Sequence[str]
    fallbacks: Mapping[str, str]
    may_fall_back: bool
    has_openai: bool
    foreign: Mapping[str, str] = field(default_factory=dict)
    aliases: Mapping[str, str] = field(default_factory=dict)
    rules: Mapping[str, Rules] = field(default_factory=dict)
    may_stand_in: bool = False

    def foreign_provider(self, model: str) -> str:
        """The provider of another package that serves `model`, by its whole name or by the longest beginning; or ""."""
        if model in self.foreign:
            return self.foreign[model]
        begins = [name for name in self._beginnings if model.lower().startswith(name)]
        return self._beginnings[max(begins, key=len)] if begins else ""

    def waits_for(self, model: str) -> str:
        """Why tasks of `model` can go nowhere now; empty if they can."""
        return self._lacks(self.asked_for(model))

    def _lacks(self, model: str) -> str:
        if provider := self.foreign_provider(model):
            lacks = self.rules[provider].lacks if provider in self.rules else ""
            return lacks and f"{provider}: {lacks}"
        package = next((package for name, package in EXTENSIONS_OF.items() if model.lower().startswith(name)), "")
        return package and f"no package that serves it is installed: {package}"

    def asked_for(self, model: str) -> str:
        """The name that tasks of `model` are sent with: its alias, and as SUPPORTED_MODELS spells it.

        So all spellings of a model of Ollama are one to whoever judges by routes. OpenAI's names, and those of other
        packages, are what they are.
        """
        ollama = self.mode is not Mode.OPENAI
        named = self.aliases.get(model)
        if named is None and ollama and not self.foreign_provider(model):
            named = self._aliases.get(canonical(model))
        named = named or model
        return self._supported.get(canonical(named), named) if ollama and not self.foreign_provider(named) else named

    def options(self, model: str, default_fallback: str, failed_at: str = "") -> tuple[Route, ...]:
        """The routes for a task of `model`, first choice first; `failed_at`: the provider that failed for it last.

        `default_fallback` is OpenAI's model for its type, where `fallbacks` names none. In mode ollama a model that is
        not supported still has a route: its provider refuses it with the list of those that are.
        """
        model = self.asked_for(model)
        if self._lacks(model):
            return ()
        if provider := self.foreign_provider(model):
            return self._foreign_options(provider, model, failed_at)
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
        stand_in = self.foreign_provider(instead) or "openai"
        if failed_at == "ollama":
            return (Route(stand_in, instead, "ollama", Why.FAILED), first)
        return (first, Route(stand_in, instead, "ollama", Why.BLOCKED))

    def _foreign_options(self, provider: str, model: str, failed_at: str) -> tuple[Route, ...]:
        rules = self.rules.get(provider, Rules())
        first = Route(provider, model, waits=rules.waits)
        if not (rules.stand_in and rules.most_per_day and self.may_stand_in):
            return (first,)
        failed = failed_at == provider
        why = Why.FAILED if failed else Why.BLOCKED
        instead = Route("openai", rules.stand_in, provider, why, most_per_day=rules.most_per_day)
        return (instead, first) if failed else (first, instead)

    # Claims ask for routes all the time: what is looked up by one name for all spellings is made once.

    @cached_property
    def _beginnings(self) -> Mapping[str, str]:
        return {name[:-1].lower(): provider for name, provider in self.foreign.items() if name.endswith("*")}

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
