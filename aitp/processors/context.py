"""What a processor is given besides contents and a provider: what it may look up, the prompts, and for whom it writes.

Built once a worker, after fork; the same for all its tasks.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, Self

from aitp.knowledge import Knowledge, NoKnowledge
from aitp.processors.prompting import Prompt, load_prompts
from aitp.settings import PERSONALITY_CLASSES

if TYPE_CHECKING:
    from aitp.settings import Settings


class Memory(Protocol):
    """Keeps bytes for a while, for all processes: the ledger's cache, in service."""

    def get(self, keys: Iterable[str]) -> Mapping[str, bytes]:
        """What is kept under `keys`."""

    def put(self, values: Mapping[str, bytes], seconds: float) -> None:
        """Keep `values` for so long."""


@dataclass(frozen=True, slots=True)
class Context:
    """`language`: of names and descriptions in results. `country`: where results are read. `prompts` by task type.

    `memory`: for answers that were bought and cannot be used up yet; without one they are bought again.
    `dimensions`: of vectors, where they are to be as long as another model's. `truncate`: cut a text that is longer
    than its model reads, else its task is failed (EMBEDDING_OVERFLOW). `personality_classes`: what Wikidata's items
    have to be direct instances of to be personalities.
    """

    knowledge: Knowledge
    language: str
    country: str = ""
    prompts: Mapping[str, Prompt] = field(default_factory=dict)
    memory: Memory | None = None
    dimensions: int | None = None
    truncate: bool = True
    personality_classes: tuple[str, ...] = PERSONALITY_CLASSES

    @classmethod
    def of(cls, settings: Settings, knowledge: Knowledge | None = None, memory: Memory | None = None) -> Self:
        """The context that `settings` ask for. Without `knowledge` nothing is looked up.

        ConfigurationError: a processor's package or a prompt cannot be used.
        """
        from aitp.processors.registry import PROCESSORS  # not above: the shape of a processor names this class

        places = {each.task_type: each.prompt for each in PROCESSORS.values() if each.prompt is not None}
        prompts = load_prompts(places, settings.prompts_dir)
        truncate = settings.embedding_overflow == "truncate"
        return cls(
            knowledge or NoKnowledge(),
            settings.result_language,
            settings.result_country,
            prompts,
            memory,
            truncate=truncate,
            personality_classes=settings.personality_classes,
        )

    def prompt(self, task_type: str) -> str:
        """The instructions for tasks of that type."""
        return self.prompts[task_type].filled({"language": self.language, "country": self.country})
