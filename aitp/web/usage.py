"""What the models were used for: calls and tokens of each, summed over all slots' metrics files.

Read for the page, at each look, and only these families: the library's collector would parse every sample of every
slot for it. Counts go on over restarts, like the metrics that they are.
"""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass, field
from pathlib import Path

from aitp import slotfiles
from aitp.metrics import COST, OLLAMA_REQUESTS, OLLAMA_TOKENS, OPENAI_REQUESTS, OPENAI_TOKENS, CallStatus

_PROVIDERS = {"openai": (OPENAI_REQUESTS, OPENAI_TOKENS), "ollama": (OLLAMA_REQUESTS, OLLAMA_TOKENS)}
_FAMILIES = {family.base: provider for provider, families in _PROVIDERS.items() for family in families}
_UNREADABLE = (OSError, struct.error, ValueError, TypeError, LookupError, AttributeError, RuntimeError)


@dataclass(slots=True)
class ModelUse:
    """One model at one provider, since the metrics began. `tokens` by type, `cost` by currency."""

    provider: str
    model: str
    calls: int = 0
    unanswered: int = 0
    tokens: dict[str, int] = field(default_factory=dict)
    cost: dict[str, float] = field(default_factory=dict)


def read_usage(directory: Path) -> tuple[ModelUse, ...] | None:
    """The models that were called, most called first; None if the files cannot be read."""
    uses: dict[tuple[str, str], ModelUse] = {}
    try:
        for key, value in slotfiles.sums(directory, "counter", (*_FAMILIES, COST.base)).items():
            if value <= 0:
                continue
            base, _, labels, _ = json.loads(key)
            provider, model = _FAMILIES.get(base) or str(labels["provider"]), str(labels["model"])
            use = uses.setdefault((provider, model), ModelUse(provider, model))
            if base == COST.base:
                use.cost[str(labels["currency"])] = value
            elif "type" in labels:
                use.tokens[str(labels["type"])] = int(value)
            else:
                use.calls += int(value)
                use.unanswered += int(value) if labels["status"] != CallStatus.SUCCESS else 0
    except _UNREADABLE:
        return None
    return tuple(sorted(uses.values(), key=lambda use: (-use.calls, use.provider, use.model)))
