"""Breakers: which services may be called now, shared by all processes through the ledger.

pybreaker judges outcomes; the gate is ours. It alone moves a breaker from open to half-open, and writes down whose
slot makes the probe, so that exactly one process anywhere makes exactly one (pybreaker alone lets every process
through). A probe ends with its outcome or with its slot's death. Everything runs inside a transaction of the caller's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import apsw
import pybreaker

from aitp.tasks import Health

# After a probe that said nothing of its service (the prober's machine was in trouble): not at once again.
PROBE_AGAIN_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Gate:
    """Whether a service may be called: now, as a probe, or not before `until` (None: when the running probe ends)."""

    passes: bool
    probe: bool = False
    until: float | None = None
    service: str = ""


@dataclass(frozen=True, slots=True)
class BreakerChange:
    """A breaker that moved, for the log line."""

    service: str
    state: str
    reason: str
    before: str = ""


class _Fault(Exception):
    """How a fault is put to pybreaker."""


class _Row(pybreaker.CircuitBreakerStorage):
    """One row of `breakers`, read in this transaction, as pybreaker's storage. `write` puts it back."""

    def __init__(self, connection: apsw.Connection, service: str, now: float) -> None:
        super().__init__(service)
        self._connection = connection
        self._now = now
        self._state, self._counter, self._opened_at, self.probe_slot = connection.execute(
            "SELECT state, failures, opened_at, probe_slot FROM breakers WHERE service = ?", (service,)
        ).get
        self._successes = 0
        self.reason = ""

    @property
    def state(self) -> str:
        return str(self._state)

    @state.setter
    def state(self, state: str) -> None:
        self._state = state

    @property
    def counter(self) -> int:
        return int(self._counter)

    def increment_counter(self) -> None:
        self._counter += 1

    def reset_counter(self) -> None:
        self._counter = 0

    @property
    def success_counter(self) -> int:
        return self._successes

    def increment_success_counter(self) -> None:
        self._successes += 1

    def reset_success_counter(self) -> None:
        self._successes = 0

    @property
    def opened_at(self) -> datetime | None:
        return None

    @opened_at.setter
    def opened_at(self, instant: datetime) -> None:
        # pybreaker reads its own clock; the ledger goes by the one it was given.
        self._opened_at = self._now

    def write(self) -> None:
        self._connection.execute(
            "UPDATE breakers SET state = ?, failures = ?, opened_at = ?, probe_slot = NULL, reason = ?"
            " WHERE service = ?",
            (
                self._state,
                self._counter,
                None if self._state == pybreaker.STATE_CLOSED else self._opened_at,
                self.reason,
                self.name,
            ),
        )


# What every gate is while ALL_CLOSED, which is for a select list.
WIDE_OPEN = Gate(True)
ALL_CLOSED = "NOT EXISTS (SELECT 1 FROM breakers WHERE state <> 'closed')"
# Whether a service's breaker is closed and nothing has failed lately: a healthy call then says nothing new.
IS_CALM = "EXISTS (SELECT 1 FROM breakers WHERE service = ? AND state = 'closed' AND failures = 0)"


class Breakers:
    """The breakers of all services. `threshold`: failures in a row that open one. `recovery`: seconds to its probe."""

    def __init__(self, threshold: int, recovery: float) -> None:
        self._threshold = threshold
        self._recovery = recovery

    def gate(self, connection: apsw.Connection, services: Sequence[str], now: float) -> Gate:
        """Whether all of `services` may be called. `begin_probe` follows once there is something to send."""
        probe = False
        for service in services:
            state, opened_at = connection.execute(
                "SELECT state, opened_at FROM breakers WHERE service = ?", (service,)
            ).get
            if state == pybreaker.STATE_HALF_OPEN:
                return Gate(False, service=service)
            if state == pybreaker.STATE_OPEN:
                if opened_at > now:
                    # The clock was set back: as if it had opened now, or the probe would wait for that time to return.
                    opened_at = now
                    connection.execute("UPDATE breakers SET opened_at = ? WHERE service = ?", (now, service))
                if opened_at + self._recovery > now:
                    return Gate(False, until=opened_at + self._recovery, service=service)
                probe = True
        return Gate(True, probe=probe)

    def begin_probe(self, connection: apsw.Connection, services: Sequence[str], slot: int) -> None:
        """Move the open ones among `services` to half-open, with `slot` as the only one that may call them."""
        connection.executemany(
            "UPDATE breakers SET state = 'half-open', probe_slot = ? WHERE service = ? AND state = 'open'",
            [(slot, service) for service in services],
        )

    def tell(
        self, connection: apsw.Connection, service: str, health: Health, slot: int, now: float, reason: str = ""
    ) -> BreakerChange | None:
        """Judge the outcome of a call to `service` made by `slot`; return the change of state, if any.

        Outcomes of calls that were already under way when the breaker opened say nothing: only the probe's counts then.
        """
        row = _Row(connection, service, now)
        before = row.state
        probing = before == pybreaker.STATE_HALF_OPEN and row.probe_slot == slot
        if not (before == pybreaker.STATE_CLOSED or probing):
            return None
        if health is Health.UNKNOWN:
            if probing:
                self._put_off(connection, service, now)
            return None
        if health is Health.HEALTHY and before == pybreaker.STATE_CLOSED and row.counter == 0:
            return None
        row.reason = "" if health is Health.HEALTHY else reason
        breaker = pybreaker.CircuitBreaker(
            fail_max=self._threshold, state_storage=row, name=service, throw_new_error_on_trip=False
        )
        if health is Health.REFUSED:
            breaker.open()
        else:
            try:
                breaker.call(_replay, health)
            except _Fault:
                pass
        row.write()
        return None if row.state == before else BreakerChange(service, row.state, row.reason, before)

    def tell_probe(
        self, connection: apsw.Connection, service: str, slot: int, now: float, reason: str
    ) -> BreakerChange | None:
        """A call of `slot` failed: if it was the probe, the breaker stays open; else that says nothing here."""
        if not self.is_probe(connection, service, slot):
            return None
        return self.tell(connection, service, Health.FAULTY, slot, now, reason)

    def is_probe(self, connection: apsw.Connection, service: str, slot: int) -> bool:
        """Whether `slot` makes the probe of `service`."""
        prober = connection.execute("SELECT probe_slot FROM breakers WHERE service = ?", (service,)).get
        return bool(prober == slot)

    def is_closed(self, connection: apsw.Connection, service: str) -> bool:
        """Whether nothing is known against `service`."""
        state = connection.execute("SELECT state FROM breakers WHERE service = ?", (service,)).get
        return bool(state == pybreaker.STATE_CLOSED)

    def release(self, connection: apsw.Connection, slot: int) -> None:
        """A dead slot's probes end without an outcome: the next process may probe at once."""
        connection.execute("UPDATE breakers SET state = 'open', probe_slot = NULL WHERE probe_slot = ?", (slot,))

    def _put_off(self, connection: apsw.Connection, service: str, now: float) -> None:
        opened_at = now - max(0.0, self._recovery - PROBE_AGAIN_SECONDS)
        connection.execute(
            "UPDATE breakers SET state = 'open', probe_slot = NULL, opened_at = ? WHERE service = ?",
            (opened_at, service),
        )


def _replay(health: Health) -> None:
    if health is Health.FAULTY:
        raise _Fault
