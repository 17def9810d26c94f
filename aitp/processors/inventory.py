"""What is registered: task types, their prompts, providers of other packages. For `aitp check`, which prints it."""

from __future__ import annotations

from dataclasses import dataclass

from aitp.processors.context import Context
from aitp.processors.registry import PROCESSORS
from aitp.providers.foreign import foreign_builders
from aitp.settings import Settings


@dataclass(frozen=True, slots=True)
class TaskTypeEntry:
    """One task type. `module`: where its code is; `prompt`: version and file, empty if it asks no chat model."""

    name: str
    processor: str
    module: str
    prompt: str


@dataclass(frozen=True, slots=True)
class Inventory:
    """`providers`: those of other packages, each with the models that go there."""

    task_types: tuple[TaskTypeEntry, ...]
    providers: dict[str, tuple[str, ...]]


def inventory(settings: Settings) -> Inventory:
    """Everything that these settings and the installed packages come to. ConfigurationError: something is broken."""
    prompts = Context.of(settings).prompts
    shown = {name: f"version {prompt.version}, {prompt.source}" for name, prompt in prompts.items()}
    return Inventory(
        tuple(
            TaskTypeEntry(name, each.label, type(each).__module__, shown.get(name, ""))
            for name, each in sorted(PROCESSORS.items())
        ),
        {name: tuple(builder.models) for name, builder in foreign_builders().items()},
    )
