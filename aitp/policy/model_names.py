"""Names of Ollama's models: which of them mean the same model. Pure."""

from __future__ import annotations

REGISTRY, NAMESPACE, TAG = "registry.ollama.ai/", "library/", ":latest"


def canonical(model: str) -> str:
    """The one name of all spellings of a model, as Ollama compares them: case tells nothing apart, and what it adds
    to a short name may be written out (`https://registry.ollama.ai/library/x:latest` is `x`). Another tag is another
    model; a registry's port is no tag."""
    name = model.lower().rpartition("://")[2].removeprefix(REGISTRY).removeprefix(NAMESPACE)
    return name if ":" in name.rsplit("/", 1)[-1] else f"{name}{TAG}"
