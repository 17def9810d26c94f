"""What the models were used for: calls and tokens of each, summed over all slots' metrics files.

Read for the page, at each look, and only these families: the library's collector would parse every sample of every
slot for it. Counts go on over restarts, like the metrics that they are.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from aitp.metrics import (
    COST,
    OLLAMA_REQUESTS,
    OLLAMA_TOKENS,
    OPENAI_REQUESTS,
    OPENAI_TOKENS,
    UNREADABLE_FILES,
    CallStatus,
    counted,
)

_PROVIDERS = {"openai": (OPENAI_REQUESTS, OPENAI_TOKENS), "ollama": (OLLAMA_REQUESTS, OLLAMA_TOKENS)}
_FAMILIES = {family.name: provider for provider, families in _PROVIDERS.items() for family in families}


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
        samples = [sample for metric in counted(directory, "counter") for sample in metric.samples if sample.value > 0]
        for sample in samples:
            provider = _FAMILIES.get(sample.name) or (sample.labels["provider"] if sample.name == COST.name else "")
            if not provider:
                continue
            model = sample.labels["model"]
            use = uses.setdefault((provider, model), ModelUse(provider, model))
            if sample.name == COST.name:
                use.cost[sample.labels["currency"]] = sample.value
            elif "type" in sample.labels:
                use.tokens[sample.labels["type"]] = int(sample.value)
            else:
                use.calls += int(sample.value)
                use.unanswered += int(sample.value) if sample.labels["status"] != CallStatus.SUCCESS else 0
    except UNREADABLE_FILES:
        return None
    return tuple(sorted(uses.values(), key=lambda use: (-use.calls, use.provider, use.model)))
