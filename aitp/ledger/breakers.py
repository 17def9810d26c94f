"""What keeps all processes from a service: breakers, cooldowns, and the quarantine of a processor.

*Breakers.* pybreaker judges outcomes; the gate is ours. It alone moves a breaker from open to half-open, and writes
down whose slot makes the probe, so that exactly one process anywhere makes exactly one (pybreaker alone lets every
process through). A probe ends with its outcome or with its slot's death.

*Cooldowns* are pauses that a provider asked for (429), of one model or of everything it serves. A model that the
provider lacks, and is about to get, is awaited: nobody asked for that pause.

*Quarantine*: a processor pauses after several bugs in a row, because a bug must not fail the whole queue. When the
pause is over one more bug renews it; a success, a restart or a reload ends it for good.

The finish writes all three, the claim reads them, inside their transactions. What a task calls on its way, beside the
call that it was claimed for (Wikidata), passes through `Services`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import NamedTuple

import pybreaker

from aitp.errors import CooldownRequired, CredentialsRefused, ServiceFault
from aitp.ledger.engine import Connection, Database, Row
from aitp.tasks import BreakerState, Culprit, Health, Service

# What a poll and a delivery need, in the order in which they need it: a token comes before the call.
API_SERVICES = (Service.OAUTH.value, Service.API.value)
# After a probe that said nothing of its service (the prober's machine was in trouble): not at once again.
PROBE_AGAIN_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Gate:
    """Whether a service may be called: now, as a probe, or not before `until` (None: when the running probe ends).

    `by_faults`: it may not because the service itself has failed.
    """

    passes: bool
    probe: bool = False
    until: float | None = None
    by_faults: bool = False


@dataclass(frozen=True, slots=True)
class BreakerChange:
    """A breaker that moved, for the log line."""

    service: str
    state: str
    reason: str


class _Fault(Exception):
    """How a fault is put to pybreaker."""


# States by name, as conditions and as assignments alike.
_CLOSED, _OPEN, _HALF_OPEN = (f"state = '{state}'" for state in BreakerState)

# What every gate is while ALL_CLOSED, which is for a select list.
WIDE_OPEN = Gate(True)
ALL_CLOSED = f"NOT EXISTS (SELECT 1 FROM breakers WHERE NOT {_CLOSED})"
# Whether a service's breaker is closed and nothing has failed lately: a healthy call then says nothing new.
IS_CALM = f"EXISTS (SELECT 1 FROM breakers WHERE service = ? AND {_CLOSED} AND failures = 0)"


@dataclass(frozen=True)
class Breakers:
    """The breakers of all services. `threshold`: failures in a row that open one. `recovery`: seconds to its probe."""

    threshold: int
    recovery: float

    def gate(self, connection: Connection, services: Sequence[str], now: float) -> Gate:
        """Whether all of `services` may be called. `begin_probe` follows once there is something to send."""
        probe = False
        for service in services:
            state, opened_at, culprit = connection.execute(
                "SELECT state, opened_at, culprit FROM breakers WHERE service = ?", (service,)
            ).get
            by_faults = culprit == Culprit.SERVICE
            if state == BreakerState.HALF_OPEN:
                return Gate(False, by_faults=by_faults)
            if state == BreakerState.OPEN:
                if opened_at + self.recovery > now:
                    return Gate(False, until=opened_at + self.recovery, by_faults=by_faults)
                probe = True
        return Gate(True, probe=probe)

    def begin_probe(self, connection: Connection, services: Sequence[str], slot: int) -> None:
        """Move the open ones among `services` to half-open, with `slot` as the only one that may call them."""
        connection.executemany(
            f"UPDATE breakers SET {_HALF_OPEN}, probe_slot = ? WHERE service = ? AND {_OPEN}",
            [(slot, service) for service in services],
        )

    def tell(
        self,
        connection: Connection,
        service: str,
        health: Health,
        slot: int,
        now: float,
        reason: str = "",
        culprit: str = "",
    ) -> BreakerChange | None:
        """Judge the outcome of a call to `service` made by `slot`; return the change of state, if any.

        Outcomes of calls that were already under way when the breaker opened say nothing: only the probe's counts then.
        """
        before, failures, prober = connection.execute(
            "SELECT state, failures, probe_slot FROM breakers WHERE service = ?", (service,)
        ).get
        probing = before == BreakerState.HALF_OPEN and prober == slot
        if not (before == BreakerState.CLOSED or probing):
            return None
        if health is Health.UNKNOWN:
            if probing:
                connection.execute(
                    f"UPDATE breakers SET {_OPEN}, probe_slot = NULL, opened_at = ? WHERE service = ?",
                    (now - max(0.0, self.recovery - PROBE_AGAIN_SECONDS), service),
                )
            return None
        if health is Health.HEALTHY and before == BreakerState.CLOSED and failures == 0:
            return None
        row = pybreaker.CircuitMemoryStorage(before)
        for _ in range(failures):
            row.increment_counter()
        breaker = pybreaker.CircuitBreaker(self.threshold, state_storage=row, throw_new_error_on_trip=False)
        if health is Health.REFUSED:
            breaker.open()
        else:
            with suppress(_Fault), breaker.calling():
                if health is Health.FAULTY:
                    raise _Fault
        # pybreaker reads a clock of its own; the ledger goes by the one it was given.
        opened_at = None if row.state == BreakerState.CLOSED else now
        reason = "" if health is Health.HEALTHY else reason
        connection.execute(
            "UPDATE breakers SET state = ?, failures = ?, opened_at = ?, probe_slot = NULL, reason = ?, culprit = ?"
            " WHERE service = ?",
            (row.state, row.counter, opened_at, reason, culprit, service),
        )
        return None if row.state == before else BreakerChange(service, row.state, reason)

    def release(self, connection: Connection, slot: int) -> None:
        """A dead slot's probes end without an outcome: the next process may probe at once."""
        connection.execute(f"UPDATE breakers SET {_OPEN}, probe_slot = NULL WHERE probe_slot = ?", (slot,))


# No cooldown is believed for longer: a server that names a time next week would stop the service till then.
MAX_COOLDOWN_SECONDS = 3_600.0
# A server that says "at once" has just refused us.
MIN_COOLDOWN_SECONDS = 1.0


class Cooling(NamedTuple):
    """A pause in force."""

    until: float
    awaited: bool


# Whether any pause is in force at a moment; whether the next success says something of one; for a select list.
ANY_COOLDOWNS = "EXISTS (SELECT 1 FROM cooldowns WHERE until > {})"
ANY_GUESSED = "EXISTS (SELECT 1 FROM cooldowns WHERE guessed > 0 OR since IS NOT NULL)"


@dataclass(frozen=True, slots=True)
class Cooldown:
    """A pause that the provider asked for. `model` is None if all of its models must pause.

    `awaited`: nobody asked for it, but the model is not there, and is to come. `guessed`: nobody said how long.
    `counts`: how long such pauses go on without a call that is served is to be known.
    """

    seconds: float
    model: str | None
    reason: str
    awaited: bool = False
    guessed: bool = False
    counts: bool = False


def cool_down(connection: Connection, provider: str, pause: Cooldown, now: float) -> None:
    """Pause one model of a provider, or the whole provider (quota).

    One of which nobody said how long is twice as long as the one before it, if nothing was served since.
    """
    seconds, model = pause.seconds, pause.model or ""
    if pause.guessed:
        before = connection.execute(
            "SELECT guessed FROM cooldowns WHERE provider = ? AND model = ?", (provider, model)
        ).get
        seconds = max(seconds, 2 * (before or 0.0))
    seconds = min(max(seconds, MIN_COOLDOWN_SECONDS), MAX_COOLDOWN_SECONDS)
    guessed = seconds if pause.guessed else 0.0
    connection.execute(
        # Of several answers that arrive together the longest pause counts.
        "INSERT INTO cooldowns (provider, model, until, reason, awaited, guessed, since) VALUES (?, ?, ?, ?, ?, ?, ?)"
        " ON CONFLICT (provider, model) DO UPDATE SET until = excluded.until, reason = excluded.reason,"
        " awaited = excluded.awaited, guessed = excluded.guessed, since = COALESCE(cooldowns.since, excluded.since)"
        " WHERE cooldowns.until < excluded.until",
        (provider, model, now + seconds, pause.reason, int(pause.awaited), guessed, now if pause.counts else None),
    )


def paused_since(connection: Connection, provider: str) -> float | None:
    """When the whole provider first asked for a pause, if it has served nobody since; where that `counts`."""
    since = connection.execute("SELECT since FROM cooldowns WHERE provider = ? AND model = ''", (provider,)).get
    return None if since is None else float(since)


def forget_guesses(connection: Connection, provider: str, model: str) -> None:
    """The provider serves this model again: the next pause of which nobody says how long is short, and the first."""
    connection.execute(
        "UPDATE cooldowns SET since = NULL, until = CASE WHEN guessed > 0 THEN 0 ELSE until END, guessed = 0"
        " WHERE provider = ? AND model IN ('', ?) AND (guessed > 0 OR since IS NOT NULL)",
        (provider, model),
    )


def cooling(connection: Connection, provider: str, model: str, now: float) -> Cooling | None:
    """The pause of this provider's model, one that was asked for before one that is awaited. Reads only."""
    row = connection.execute(
        "SELECT until, awaited FROM cooldowns WHERE provider = ? AND model IN ('', ?) AND until > ?"
        " ORDER BY awaited, until DESC LIMIT 1",
        (provider, model, now),
    ).fetchone()
    return None if row is None else Cooling(float(row[0]), bool(row[1]))


def quiet_until(connection: Connection, now: float) -> float | None:
    """Until when the task API or the authorization server has asked all processes to be quiet (429)."""
    until = connection.execute(_QUIET_UNTIL, (*API_SERVICES, now)).get
    return None if until is None else float(until)


_QUIET_UNTIL = "SELECT MAX(until) FROM cooldowns WHERE provider IN (?, ?) AND until > ?"


BUGS_IN_A_ROW = 5
PAUSE_SECONDS = 3_600.0


# Whether a processor has had a bug since it started; for a select list.
ANY_BUGS = "EXISTS (SELECT 1 FROM processors)"


def count_bugs(connection: Connection, task_type: str, bugs: int, now: float) -> bool:
    """Add tasks that met a bug; whether that pauses the processor of `task_type`."""
    in_a_row = connection.execute(
        "INSERT INTO processors (type, bugs) VALUES (?, ?)"
        " ON CONFLICT (type) DO UPDATE SET bugs = processors.bugs + excluded.bugs RETURNING bugs",
        (task_type, bugs),
    ).get
    if in_a_row < BUGS_IN_A_ROW:
        return False
    connection.execute("UPDATE processors SET paused_until = ? WHERE type = ?", (now + PAUSE_SECONDS, task_type))
    return True


def forget_bugs(connection: Connection, task_type: str | None = None) -> None:
    """A processor (None: every one) starts afresh."""
    connection.execute("DELETE FROM processors WHERE CAST(?1 AS TEXT) IS NULL OR type = ?1", (task_type,))


def paused_until(connection: Connection, task_type: str, now: float) -> float | None:
    """When the pause of a processor ends; None if there is none. Reads only."""
    until = connection.execute(
        "SELECT paused_until FROM processors WHERE type = ? AND paused_until > ?", (task_type, now)
    ).get
    return None if until is None else float(until)


@dataclass
class Services:
    """The gate for such calls. The breakers and cooldowns are those that claims and `Snapshot` see."""

    database: Database
    breakers: Breakers

    def is_well(self, service: str) -> bool:
        """Whether `service` may be called by anyone: breaker closed, no cooldown. Reads only."""
        state, _, _, quiet_until = self._look(service)
        return state == BreakerState.CLOSED and quiet_until is None

    @contextmanager
    def call(self, service: str, slot: int, observe: Callable[[BreakerChange], None]) -> Iterator[None]:
        """`with services.call("wikidata", slot, observe):` around one request by `slot`.

        Raises ServiceFault or CooldownRequired without running the block if the service is to be left alone now; what
        the block raises is judged and passes. `observe` is told when the breaker moves.
        """
        state, prober, _, quiet_until = self._look(service)
        if quiet_until is not None:
            seconds = max(0.0, quiet_until - self.database.clock())
            said = f"{service} asked to be left alone for another {seconds:.0f} s"
            raise CooldownRequired(service, said, seconds=seconds, model=None)
        # Half-open for this very slot: a claim let it probe.
        if not (state == BreakerState.CLOSED or (state == BreakerState.HALF_OPEN and prober == slot)):
            self._begin_probe(service, slot)
        health, reason, cooldown = Health.HEALTHY, "", None
        try:
            yield
        except CooldownRequired as error:
            reason, cooldown = str(error), Cooldown(error.seconds, None, str(error))
            raise
        except ServiceFault as error:
            health, reason = Health.REFUSED if isinstance(error, CredentialsRefused) else Health.FAULTY, str(error)
            raise
        except BaseException:
            health = Health.UNKNOWN
            raise
        finally:
            state, _, failures, _ = self._look(service)  # by others as well, since the call began
            says_nothing = health is Health.UNKNOWN or (health is Health.HEALTHY and not failures)
            if state != BreakerState.CLOSED or cooldown is not None or not says_nothing:
                with self.database.transaction() as connection:
                    now = self.database.clock()
                    if cooldown is not None:
                        cool_down(connection, service, cooldown, now)
                    change = self.breakers.tell(connection, service, health, slot, now, reason)
                    if change is not None:
                        self.database.announce("workers")
                if change is not None:
                    observe(change)

    def _begin_probe(self, service: str, slot: int) -> None:
        """Have `slot` be the one to probe an open breaker, or raise ServiceFault."""
        with self.database.transaction() as connection:
            now = self.database.clock()
            gate = self.breakers.gate(connection, (service,), now)
            if gate.probe:
                self.breakers.begin_probe(connection, (service,), slot)
        if not gate.passes:
            wait = "until its probe ends" if gate.until is None else f"for another {max(0.0, gate.until - now):.0f} s"
            raise ServiceFault(service, f"{service} is out of order: its breaker is open {wait}")

    def _look(self, service: str) -> Row:
        """(state, slot of the probe, failures in a row, end of the pause that it asked for), outside a transaction."""
        [row] = self.database.read(
            "SELECT state, probe_slot, failures, (SELECT MAX(until) FROM cooldowns WHERE provider = service"
            " AND model = '' AND until > ?) FROM breakers WHERE service = ?",
            (self.database.clock(), service),
        )
        return row
