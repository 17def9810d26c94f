"""What the ledger needs from the settings, as one value: tests build it without any environment."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from aitp.settings import Settings


@dataclass(frozen=True, slots=True)
class Rules:
    """Counts, and seconds for `breaker_recovery` and `reuse_seconds`; defaults are the settings' defaults."""

    max_retries: int = 3
    backoff_factor: float = 2.0
    max_crashes: int = 3
    breaker_threshold: int = 5
    breaker_recovery: float = 60.0
    inbox_limit: int = 5_000
    reuse_seconds: float = 86_400.0

    @classmethod
    def of(cls, settings: Settings) -> Self:
        return cls(
            max_retries=settings.max_retries,
            backoff_factor=settings.retry_backoff_factor,
            max_crashes=settings.max_task_crashes,
            breaker_threshold=settings.circuit_breaker_threshold,
            breaker_recovery=settings.circuit_breaker_recovery_seconds,
            inbox_limit=settings.inbox_limit,
            reuse_seconds=settings.result_reuse_seconds,
        )
