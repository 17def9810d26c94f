"""Names of Ollama's models: which of them mean the same model. Pure."""

from __future__ import annotations


def with_tag(model: str) -> str:
    """The full name: `x` is `x:latest`, another tag is another model; a registry's port is no tag."""
    return model if ":" in model.rsplit("/", 1)[-1] else f"{model}:latest"
