"""What systemd is told, by the protocol of sd_notify(3): datagrams of NAME=value lines to $NOTIFY_SOCKET.

systemd starts `aitp run`, but only the master knows whether work can be done, so the master answers (the unit says
NotifyAccess=all): READY once it can, WATCHDOG at each round as long as it can, STATUS with what it is doing. Work can
be done when at least one child of each role has taken its slot over and keeps its deadline. Services elsewhere that
fail are no reason to restart us, and count for nothing here: /ready tells of them.

`aitp run` alone says STOPPING: systemd takes that as the stop of the whole unit, and `supervisorctl restart
aitp-master` is none. A master that is stopped in order has the watchdog wait until the next master takes it up again.

Without $NOTIFY_SOCKET nothing is sent. Nothing here raises, blocks, or keeps a descriptor.
"""

from __future__ import annotations

import math
import socket
from collections.abc import Mapping, Sequence

from aitp.logs import get_logger
from aitp.process.scoreboard import TAKEN_OVER, Record, Role, State, role_of

LOOK_SECONDS = 0.1  # between two looks at children who start: they wake nobody when they are ready
EXTENSION_SECONDS = 60  # what a start may take from each round of its preparation on; a tick is much shorter

log = get_logger(__name__)


def work_can_be_done(children: Sequence[Record], monotonic: float) -> bool:
    """Whether somebody of each role does his work, or waits for some."""
    able = {role_of(child.slot) for child in children if child.state in TAKEN_OVER and not child.overdue(monotonic)}
    return able == set(Role)


class Systemd:
    """The systemd that started this process, or nobody."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        address = environ.get("NOTIFY_SOCKET", "")
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self._watchdog = environ.get("WATCHDOG_USEC", "")
        self._owes_ready = True  # at the start, and at the end of a reload
        self._status = ""
        self._remark = ""

    # What a master tells, at each of its rounds

    def preparing(self) -> None:
        """The ledger is being prepared, however long that takes (the master bounds it)."""
        self._tell(f"EXTEND_TIMEOUT_USEC={EXTENSION_SECONDS * 1_000_000}", "WATCHDOG=1", status="Preparing the ledger")

    def working(self, children: Sequence[Record], wanted: int, monotonic: float) -> float:
        """The service is running; when to look again (monotonic)."""
        able = work_can_be_done(children, monotonic)
        news = ["WATCHDOG=1"] if able else []
        if able and self._owes_ready:
            self._owes_ready = False
            news += [f"WATCHDOG_USEC={self._watchdog}", "READY=1"] if self._watchdog else ["READY=1"]
        self._tell(*news, status=_summary(children, wanted) + self._remark)
        return monotonic + LOOK_SECONDS if self._address and self._owes_ready else math.inf

    def draining(self) -> None:
        """The master is being stopped. supervisord bounds that. What it was asked for, a stop or a restart, only it
        knows."""
        status = "Stopping: calls in hand end, and results are delivered"
        if status != self._status:
            self._tell(*(["WATCHDOG_USEC=0"] if self._watchdog else []), status=status)

    # What happens in between

    def reloading(self, monotonic: float) -> None:
        """New settings are being judged, until `reloaded`."""
        self._owes_ready = False
        self._tell("RELOADING=1", f"MONOTONIC_USEC={monotonic * 1_000_000:.0f}", status="Reading the settings again")

    def reloaded(self, *, refused: bool) -> None:
        """They are in force, or refused; the next round says READY again."""
        self._owes_ready = True
        self._remark = "; the new settings are refused, the former ones stay in force (see the log)" if refused else ""

    def master_stopped(self) -> None:
        """It leaves now."""
        self._tell(status="The master is stopped; `supervisorctl start aitp-master` goes on")

    def start_failed(self, reason: str) -> None:
        """The service ends before it has begun."""
        self._tell(status=f"The start failed: {' '.join(reason.split())}")

    def service_stops(self) -> None:
        """The whole service is being stopped."""
        self._tell("STOPPING=1")

    def _tell(self, *assignments: str, status: str = "") -> None:
        """`status`: told unless it was told last."""
        if status and status != self._status:
            self._status = status
            assignments = (*assignments, f"STATUS={status}")
        if not self._address or not assignments:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ours:
                ours.setblocking(False)
                ours.sendto("\n".join(assignments).encode(), self._address)
        except OSError as error:
            log.warning("systemd cannot be told how things stand", reason=error.strerror)


def _summary(children: Sequence[Record], wanted: int) -> str:
    at_work = [child for child in children if child.state in TAKEN_OVER]
    calls = sum(child.state is State.BUSY and role_of(child.slot) is Role.WORKER for child in at_work)
    return f"{len(at_work)} of {wanted} processes at work, {calls} in a call"
