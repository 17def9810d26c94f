"""Letting go of what a slot owns but can no longer be at work on.

A slot does one thing at a time. So whatever it still owns when its process begins something new is left over: from a
process that is gone, or from a step of this one that ended in a failure of the ledger (a full disk, say) before its
outcome could be written. Without this, such rows would belong to a living slot for ever.
"""

from __future__ import annotations

import apsw

from aitp.ledger.breakers import Breakers
from aitp.ledger.worlds import release_probes


def let_go(connection: apsw.Connection, breakers: Breakers, slot: int, now: float) -> None:
    """Free the deliveries, the poll and the probes of `slot`; its claims are `Endings.give_back`'s."""
    # Served by tasks_finished. What had failed before is due, but still behind those that never failed.
    connection.execute(
        "UPDATE tasks SET slot = NULL,"
        " due_at = (SELECT ?2 FROM results WHERE results.seq = tasks.seq AND deliveries > 0)"
        " WHERE state = 'finished' AND due_at IS NULL AND slot = ?1",
        (slot, now),
    )
    connection.execute("UPDATE polls SET slot = NULL WHERE slot = ?", (slot,))
    breakers.release(connection, slot)
    release_probes(connection, slot)
