"""Calls to a service made while a task is at work, beside the call that it was claimed for: gate before, word after.

The claim's gate covers the provider. What else a task needs on its way (Wikidata) passes here: `call` lets a request
through if the service's breaker and cooldown do, as the one probe anywhere if its breaker was open, and tells the
ledger how it went. A well service that stays well costs two reads and no transaction. Around a bounded call, never
within one: nothing may interrupt a transaction.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pybreaker

from aitp.errors import CooldownRequired, CredentialsRefused, ServiceFault
from aitp.ledger.breakers import BreakerChange, Breakers
from aitp.ledger.cooldowns import cool_down, cooling
from aitp.ledger.database import Database, as_ledger_error
from aitp.tasks import Health


class Services:
    """The gate for such calls. The breakers and cooldowns are those that claims and `Snapshot` see."""

    def __init__(self, database: Database, breakers: Breakers) -> None:
        self._database = database
        self._breakers = breakers

    def is_well(self, service: str) -> bool:
        """Whether `service` may be called by anyone: breaker closed, no cooldown. Reads only."""
        return self._state(service)[0] == pybreaker.STATE_CLOSED and self._cooling(service) is None

    @contextmanager
    def call(self, service: str, slot: int, observe: Callable[[BreakerChange], None]) -> Iterator[None]:
        """`with services.call("wikidata", slot, observe):` around one request by `slot`.

        Raises ServiceFault or CooldownRequired without running the block if the service is to be left alone now; what
        the block raises is judged and passes. `observe` is told when the breaker moves.
        """
        self._enter(service, slot)
        health, reason, cooldown = Health.HEALTHY, "", None
        try:
            yield
        except CooldownRequired as error:
            reason, cooldown = str(error), error.seconds
            raise
        except ServiceFault as error:
            health, reason = Health.REFUSED if isinstance(error, CredentialsRefused) else Health.FAULTY, str(error)
            raise
        except BaseException:
            health = Health.UNKNOWN
            raise
        finally:
            change = self._tell(service, slot, health, reason, cooldown)
            if change is not None:
                observe(change)

    def _enter(self, service: str, slot: int) -> None:
        cooling = self._cooling(service)
        if cooling is not None:
            seconds = max(0.0, cooling - self._database.clock())
            raise CooldownRequired(
                service, f"{service} asked to be left alone for another {seconds:.0f} s", seconds=seconds, model=None
            )
        state, prober, _ = self._state(service)
        # Half-open for this very slot: a claim let it probe.
        if state == pybreaker.STATE_CLOSED or (state == pybreaker.STATE_HALF_OPEN and prober == slot):
            return
        with self._database.transaction() as connection:
            now = self._database.clock()
            gate = self._breakers.gate(connection, (service,), now)
            if gate.probe:
                self._breakers.begin_probe(connection, (service,), slot)
        if not gate.passes:
            wait = "until its probe ends" if gate.until is None else f"for another {max(0.0, gate.until - now):.0f} s"
            raise ServiceFault(service, f"{service} is out of order: its breaker is open {wait}")

    def _tell(
        self, service: str, slot: int, health: Health, reason: str, cooldown: float | None
    ) -> BreakerChange | None:
        if cooldown is None and health in (Health.HEALTHY, Health.UNKNOWN):
            state, _, failures = self._state(service)
            if state == pybreaker.STATE_CLOSED and (failures == 0 or health is Health.UNKNOWN):
                return None
        with self._database.transaction() as connection:
            now = self._database.clock()
            if cooldown is not None:
                cool_down(connection, service, None, cooldown, now, reason)
            return self._breakers.tell(connection, service, health, slot, now, reason)

    def _state(self, service: str) -> tuple[str, int | None, int]:
        """(state, slot of the probe, failures) of a breaker, outside a transaction."""
        with as_ledger_error(self._database.path):
            state, prober, failures = self._database.connection.execute(
                "SELECT state, probe_slot, failures FROM breakers WHERE service = ?", (service,)
            ).get
        return str(state), prober, int(failures)

    def _cooling(self, service: str) -> float | None:
        with as_ledger_error(self._database.path):
            found = cooling(self._database.connection, service, "", self._database.clock())
            return None if found is None else found.until
