"""What a schedule's work is: the mode, the task types, their models, and what goes wrong with the servers for those.

Half of them embed through OpenAI alone. The others have tasks for chat models, Ollama, or both providers, each with
faults of its own, and Wikidata where there is something to look up.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from aitp.demo.documents import TYPES
from aitp.demo.faults import FaultKind
from aitp.demo.sentences import MODEL
from aitp.settings import CHAT_MODEL

EMBEDDING = "text_embedding"
CHATS = tuple(type_ for type_ in TYPES if type_ != EMBEDDING)
OLLAMA_EMBEDDER, OLLAMA_CHATTER = "nomic-embed-text", "qwen3:0.6b"

# Where a provider is struck: by these where it embeds, by those where it chats.
TROUBLES: tuple[dict[str, Any], ...] = (
    {"status": 500},
    {"status": 503},
    {"status": 429, "headers": {"Retry-After": "1"}},
    {"kind": FaultKind.DROP},
    {"kind": FaultKind.RESET},
    {"kind": FaultKind.LOSE},
    {"kind": FaultKind.CUT},
    {"kind": FaultKind.RESET_IN_HEAD},
    {"kind": FaultKind.RESET_IN_BODY},
    {"kind": FaultKind.TOO_SHORT},
    {"kind": FaultKind.TOO_LONG},
    {"kind": FaultKind.HANG},
    {"kind": FaultKind.TRICKLE, "seconds": 1.0},
    {"kind": FaultKind.STALL, "seconds": 1.0},
    {"kind": FaultKind.GARBAGE},
    {"kind": FaultKind.ENDLESS},
)
OLLAMA_FAULTS: tuple[dict[str, Any], ...] = (
    *TROUBLES,
    {"kind": FaultKind.WRONG_COUNT, "path": "/api/embed"},
    {"kind": FaultKind.NOT_A_NUMBER, "path": "/api/embed"},
    {"status": 404, "path": "/api/"},
)
CHAT_KINDS = (
    FaultKind.REFUSAL,
    FaultKind.CUT_ANSWER,
    FaultKind.FENCED,
    FaultKind.NO_JSON,
    FaultKind.OUT_OF_LIST,
)
# How a provider fares with one text, whatever else is sent with it: the text has the words of its manner in it.
POISON: tuple[dict[str, Any], ...] = ({"status": 500}, {"kind": FaultKind.PAGE, "status": 403})
BAD_VECTORS: tuple[dict[str, Any], ...] = (*POISON, {"kind": FaultKind.ZEROS})
BAD_CHATS: tuple[dict[str, Any], ...] = (*POISON, {"kind": FaultKind.CUT_ANSWER}, {"kind": FaultKind.EMPTY})
# What befalls whoever is sent together with the text comes first.
BAD_MANNERS = (*BAD_VECTORS, *BAD_CHATS[len(POISON) :])
# What OpenAI's server does not take of any request, and says so in words of its own.
REFUSED = (("encoding_format",), ("json_schema",), ("encoding_format", "response_format"))
CHAT_PATHS = {"openai_api": "/v1/chat", "ollama_api": "/api/chat"}


@dataclass(frozen=True, slots=True)
class Work:
    """`types` take turns. `faults` by server, `acts` by name: what befalls it besides what befalls every schedule.

    `bad`: the types of tasks whose text no provider can do, and how it fares with it.
    """

    mode: str = "openai"
    types: tuple[str, ...] = (EMBEDDING,)
    settings: Mapping[str, Any] = field(default_factory=dict)
    servers: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    faults: tuple[dict[str, Any], ...] = ()
    acts: tuple[tuple[str, dict[str, Any]], ...] = ()
    bad: tuple[tuple[str, dict[str, Any]], ...] = ()

    @property
    def embedding_model(self) -> str:
        return MODEL if self.mode == "openai" else OLLAMA_EMBEDDER

    @property
    def chat_model(self) -> str:
        return CHAT_MODEL if self.mode == "openai" else OLLAMA_CHATTER

    @property
    def chats(self) -> bool:
        """Whether there are tasks for chat models."""
        return set(self.types) != {EMBEDDING}

    @property
    def providers(self) -> tuple[str, ...]:
        """The servers that are called."""
        return {"openai": ("openai_api",), "ollama": ("ollama_api",)}.get(self.mode, ("openai_api", "ollama_api"))


def draw_work(chance: random.Random, seed: int) -> Work:
    """The work of a seed."""
    mode = chance.choices(("openai", "ollama", "hybrid"), (5, 2, 3))[0]
    chats = chance.sample(CHATS, chance.randint(1, len(CHATS))) if chance.random() < 0.6 else []
    # A call of a chat is for one task, one for vectors is for several.
    types = (*(EMBEDDING,) * 3, *chats) if chats else (EMBEDDING,)
    faults, acts = [], []
    providers = Work(mode).providers
    if "ollama_api" in providers:
        faults += [_fault(chance, "ollama_api", fault) for fault in chance.sample(OLLAMA_FAULTS, chance.randint(1, 3))]
        if chance.random() < 0.4:
            acts.append(chance.choice((
                ("provider_down", {"server": "ollama_api"}),
                ("provider_burst", {"server": "ollama_api"}),
                ("runner_deaths", {"times": chance.randint(1, 3)}),
                ("remove_model", {"model": chance.choice((f"{OLLAMA_EMBEDDER}:latest", OLLAMA_CHATTER))}),
            )))  # fmt: skip
    if chats:
        for _ in range(chance.randint(0, 2)):
            server = chance.choice(providers)
            fault = {"kind": chance.choice(CHAT_KINDS), "path": CHAT_PATHS[server]}
            faults.append(_fault(chance, server, fault))
        if chance.random() < 0.5:
            faults.append(_fault(chance, "wikidata_api", chance.choice(TROUBLES)))
        if chance.random() < 0.2:
            acts.append(("provider_down", {"server": "wikidata_api"}))
        if chance.random() < 0.3:
            point = {"point": chance.choice(("ask.before", "ask.after")), "action": chance.choice(("kill", "memory"))}
            acts.append(("point", point))
    return Work(mode, types, *_surroundings(chance, mode, seed), tuple(faults), tuple(acts))


def draw_strangers(chance: random.Random, work: Work) -> Work:
    """The same work at providers that behave as no table of words knows: with bad texts, and parameters refused."""
    bad: list[tuple[str, dict[str, Any]]] = []
    if chance.random() < 0.6:
        for type_ in chance.choices(work.types, k=chance.randint(1, 2)):
            bad.append((type_, chance.choice(BAD_VECTORS if type_ == EMBEDDING else BAD_CHATS)))
    servers = dict(work.servers)
    if chance.random() < 0.3:
        servers["openai_api"] = {"refuses": chance.choice(REFUSED)}
    return replace(work, bad=tuple(bad), servers=servers)


def _fault(chance: random.Random, server: str, fault: dict[str, Any]) -> dict[str, Any]:
    odds = {"probability": chance.choice((0.1, 0.3, 1.0)), "times": chance.randint(1, 3)}
    return {"server": server, **fault, **odds}


def _surroundings(chance: random.Random, mode: str, seed: int) -> tuple[dict[str, Any], dict[str, Mapping[str, Any]]]:
    """(settings, servers)."""
    settings: dict[str, Any] = {"PROCESSING_MODE": mode, "METRICS_HOST": chance.choice(("127.0.0.1", "localhost"))}
    servers: dict[str, Mapping[str, Any]] = {"wikidata_api": {"fault_seed": seed}}
    if mode != "openai":
        settings |= {"SUPPORTED_MODELS": f"{OLLAMA_EMBEDDER},{OLLAMA_CHATTER}", "OLLAMA_TIMEOUT": 1.5}
        ollama: dict[str, Any] = {
            "latency_seconds": chance.choice((0.02, 0.1, 0.3)),
            "cold_seconds": chance.choice((0.0, 0.5)),
            "pull_seconds": 1.0,
            "fault_seed": seed,
        }
        if chance.random() < 0.2:
            ollama["present"] = [OLLAMA_CHATTER]  # the other one is pulled
        servers["ollama_api"] = ollama
    if mode == "hybrid":
        settings["HYBRID_FALLBACK"] = str(chance.random() < 0.8).lower()
    return settings, servers
