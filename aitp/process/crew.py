"""The crew: who does what, handed to the master as functions, and what a child inherits from it.

`cli` builds the real one (relay_main, worker_main, the ledger's preparation); tests build toys.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from aitp.ledger import Cause, SlotLocks
from aitp.process.scoreboard import Scoreboard
from aitp.process.slots import Role
from aitp.process.wakes import Wakes
from aitp.settings import Settings

if TYPE_CHECKING:
    from aitp.process.child import Child


def _nothing() -> None:
    pass


# With a repair, and a text that is cut and sent again.
CALLS_OF_A_CLAIM = 3


@dataclass(frozen=True, slots=True)
class Crew:
    """What the processes do.

    mains      a role's whole life; frees what `cause` left behind, then says `child.idle()`, returns when leaving
    load       the settings as they are now, for a reload; raises ConfigurationError
    prepare    in a short-lived process, at start and reload: migrate, publish limits; raises ConfigurationError
    sweep      in a short-lived process: free what slots outside `wanted` own, for those whose lock nobody holds; the
               mapping names causes that are known (else STOPPED); False if some are still held: asked again later
    warm_up    in the master before it forks: import and touch what all children need, open nothing
    """

    mains: Mapping[Role, Callable[[Child, Settings, Cause], None]]
    load: Callable[[], Settings]
    prepare: Callable[[Settings], None]
    sweep: Callable[[Settings, frozenset[int], Mapping[int, Cause]], bool]
    warm_up: Callable[[], None] = _nothing


@dataclass(frozen=True, slots=True)
class Timings:
    """The master's patience, in seconds. Tests shorten it."""

    tick_seconds: float = 5.0
    start_seconds: float = 60.0  # from fork to a child's first idle
    step_seconds: float = 60.0  # for what is not a call: a transaction, a file
    slack_seconds: float = 5.0  # from a deadline to the kill
    young_seconds: float = 10.0  # whoever dies before is held back
    longest_hold_back_seconds: float = 30.0
    grace_margin_seconds: float = 2.0  # before the grace ends, calls are given up, to put it on record
    takeover_seconds: float = 5.0  # beyond the grace, for another master to leave
    prepare_seconds: float = 900.0  # migrations and integrity checks read the whole ledger
    orphan_seconds: float = 900.0  # for a dead master's child to go, on top of what its calls may take
    sweep_seconds: float = 5.0
    sweep_again_seconds: float = 60.0
    tend_again_seconds: float = 10.0  # first pause between looks at the models while one is missing
    longest_tend_pause_seconds: float = 300.0

    def patience_with_orphans(self, settings: Settings) -> float:
        """Seconds that a dead master's child has to end what it has in hand: answers that it waits for are paid for."""
        longest = max(settings.openai_timeout, settings.ollama_timeout, settings.request_timeout)
        return self.orphan_seconds + CALLS_OF_A_CLAIM * longest


@dataclass(frozen=True, slots=True)
class Heritage:
    """What children have from the master. `lifeline` reads end-of-file when it dies; only it holds `lifeline_end`."""

    board: Scoreboard
    wakes: Wakes
    lifeline: int
    lifeline_end: int
    locks: SlotLocks
    timings: Timings

    def shed(self) -> None:
        """In a child, first of all: let go of what must be the master's alone."""
        os.close(self.lifeline_end)
        # Before the child opens its own: closing this later would drop the child's locks.
        self.locks.close()
