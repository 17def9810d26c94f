"""The process that started this one, and whether it is still there: master and metrics process end with supervisord."""

from __future__ import annotations

import os
import select

from aitp.settings import surroundings


class Parent:
    """Made once, early. It may have died by then: starting takes a while, and whoever is an orphan already sees no
    change of its parent's number any more. supervisord holds the other end of its programs' standard input."""

    def __init__(self) -> None:
        self._pid = os.getppid()
        # After the pid was noted, not before: in between it might die unnoticed.
        self._was_gone = "SUPERVISOR_ENABLED" in surroundings() and _standard_input_hung_up()

    @property
    def is_gone(self) -> bool:
        return self._was_gone or os.getppid() != self._pid


def _standard_input_hung_up() -> bool:
    poll = select.poll()
    poll.register(0, 0)  # hang-ups are always told
    return any(events & select.POLLHUP for _, events in poll.poll(0))
