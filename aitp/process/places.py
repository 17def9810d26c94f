"""What the master remembers of a slot between two children: what ended the last one, and when the next may start.

Decisions only; the clock is passed in.
"""

from __future__ import annotations

from dataclasses import dataclass

from aitp.ledger import Cause
from aitp.process.scoreboard import Record, State

# A child in one of these has taken its slot over: whatever its predecessor left behind is settled.
TAKEN_OVER = frozenset({State.IDLE, State.BUSY, State.RECORDING, State.LEAVING})


@dataclass(frozen=True, slots=True)
class Death:
    """How a child ended. `told`: the master asked it to leave. `killed`: why, if the master killed it."""

    exit_code: int
    lived_seconds: float
    last: Record
    told: bool = False
    killed: Cause | None = None
    orderly: bool = False  # it chose that exit code itself, and not because of a bug

    @property
    def cause(self) -> Cause:
        if self.killed is not None:
            return self.killed
        return Cause.STOPPED if self.orderly else Cause.CRASHED

    @property
    def took_over(self) -> bool:
        return self.last.state in TAKEN_OVER

    def too_early(self, young_seconds: float) -> bool:
        """Whether the next child is likely to end the same way."""
        if self.told:
            return False
        if self.exit_code == 0 and self.last.done > 0:
            return False  # recycled after so many tasks
        return not self.took_over or self.lived_seconds < young_seconds


@dataclass(slots=True)
class Place:
    """One slot. `cause` is for the next child, `not_before` (monotonic) holds it back, `unclean`: it has to tidy up."""

    cause: Cause = Cause.STOPPED
    unclean: bool = False
    early_deaths: int = 0
    not_before: float = 0.0

    def vacate(self, death: Death, now: float, young_seconds: float, longest_seconds: float) -> None:
        """A child is gone: 1, 2, 4 … seconds before the next one if they keep dying early."""
        if death.took_over:
            self.cause = death.cause
            self.unclean = death.exit_code != 0
        if death.too_early(young_seconds):
            self.not_before = now + min(2.0**self.early_deaths, longest_seconds)
            self.early_deaths = min(self.early_deaths + 1, 16)
        else:
            self.forgive()

    def forgive(self) -> None:
        """Start the next one at once."""
        self.early_deaths = 0
        self.not_before = 0.0
