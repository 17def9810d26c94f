"""Slot numbers: 0 is the master, 1 to 99 are relays, 101 to 1100 are workers.

A slot is a place in the crew, not a process: a successor inherits it, and with it a lock, a line on the scoreboard
and a metrics file.
"""

from __future__ import annotations

from enum import StrEnum

from aitp.hardening import PR_SET_NAME, prctl

MASTER = 0
LAST_SLOT = 1100


class Role(StrEnum):
    """What a child does."""

    RELAY = "relay"
    WORKER = "worker"


_FIRST = {Role.RELAY: 1, Role.WORKER: 101}
_LAST = {Role.RELAY: 99, Role.WORKER: LAST_SLOT}


def slots_of(role: Role, count: int) -> range:
    """The slots of the first `count` children of a role. Raises ValueError if there are not that many."""
    first = _FIRST[role]
    if not 0 <= count <= _LAST[role] - first + 1:
        raise ValueError(f"there are slots for {_LAST[role] - first + 1} {role}s, not for {count}")
    return range(first, first + count)


def name_process(name: str) -> None:
    """What ps and top call this process (15 bytes; Linux). Nothing depends on it."""
    # Not by /proc/self/comm: it is root's, see `aitp.hardening`.
    prctl(PR_SET_NAME, name.encode())


def role_of(slot: int) -> Role:
    """The role that a slot is for. Raises ValueError for the master's and for numbers outside."""
    for role, first in _FIRST.items():
        if first <= slot <= _LAST[role]:
            return role
    raise ValueError(f"slot {slot} belongs to no role")
