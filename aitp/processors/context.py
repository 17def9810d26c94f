"""What a processor is given besides contents and a provider: what it may look up, and the language of its results.

Built once a worker, after fork; the same for all its tasks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from aitp.knowledge import Knowledge, NoKnowledge

if TYPE_CHECKING:
    from aitp.settings import Settings


@dataclass(frozen=True, slots=True)
class Context:
    """`language`: of names and descriptions in results."""

    knowledge: Knowledge
    language: str

    @classmethod
    def of(cls, settings: Settings, knowledge: Knowledge | None = None) -> Self:
        """The context that `settings` ask for. Without `knowledge` nothing is looked up."""
        return cls(knowledge or NoKnowledge(), settings.result_language)
