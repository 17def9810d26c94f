"""Worlds: what attempts are made in, as claims see them. Evidence is gathered in each by itself (`ledger.evidence`).

A world is a provider as it is set up, a model, a type of tasks, and the parameters that are sent. The claim asks for a
queue's present one, and whether it may be sent to now. While nothing fails that costs no statement: what claims need is
remembered by each process until the ledger's `worlds_version` moves. Everything runs inside a transaction of the
caller's.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from aitp.ledger.engine import Connection
from aitp.ledger.queue import CLAIMED
from aitp.policy.routing import Route
from aitp.tasks import BreakerState

# What a server does not take of a request is believed for so long.
PROFILE_SECONDS = 86_400.0
# Those that nobody was sent to lately are forgotten: settings and models come and go.
MOST_WORLDS = 500


class World(NamedTuple):
    """A queue's present world, as a claim needs it. `culprit`: whose fault it is that it is paused.

    `left_out`: parameters not to be sent. `proven`: it has served a task. `row`: failures in a row. `paused_until`:
    when it is probed, by `probe_slot` (None: by nobody yet). `expires_at`: until then its profile is believed.
    `good`: the calls that it had served when this one began; known where there are suspects.
    """

    id: int
    left_out: tuple[str, ...] = ()
    proven: bool = True
    row: int = 0
    paused_until: float | None = None
    probe_slot: int | None = None
    culprit: str = ""
    expires_at: float = float("inf")
    good: int | None = None

    @property
    def is_well(self) -> bool:
        """Whether one more success there says nothing new."""
        return self.proven and self.paused_until is None

    def is_paused_at(self, now: float) -> bool:
        """Whether it may not be sent to: its time has not come, or its one probe is in flight."""
        return self.paused_until is not None and (self.probe_slot is not None or now < self.paused_until)


class Worlds:
    """A claim's view: the present world of a route and type. For one process; `threshold` as the breakers have it."""

    def __init__(self, threshold: int) -> None:
        self._threshold = threshold
        self._version = -1
        self._known: dict[tuple[str, str, str], World] = {}

    def find(self, connection: Connection, version: int, route: Route, type_: str, setup: str, now: float) -> World:
        """The world in which a task of `type_` would be sent by `route`, made if need be. `version`: the ledger's."""
        if version != self._version:
            self._version, self._known = version, {}
        key = (route.provider, route.model, type_)
        found = self._known.get(key)
        if found is None or found.expires_at <= now:
            found = self._known[key] = _find(connection, route, type_, setup, now)
        return found

    def forget(self) -> None:
        """The transaction in which worlds were found, or made, has come to nothing."""
        self._known = {}

    def free_for(self, connection: Connection, world: World, number: int, now: float, canary: float) -> bool:
        """Whether one more call may be made there now, beside those that are in flight.

        While failures come in a row, no more are sent than it takes to know whose fault that is. Where nobody has been
        served yet, the others wait `canary` seconds for the first answer: what it refuses is then refused once.
        """
        if world.proven and not world.row:
            return True
        calls = int(
            # Served by tasks_claimed; only while something is wrong, or new.
            connection.execute(f"SELECT COUNT(DISTINCT slot) FROM tasks WHERE {CLAIMED} AND queue = ?", (number,)).get
        )
        if calls and world.row + calls >= max(self._threshold, 1):
            return False
        if world.proven or not canary:
            return True
        tried_at = connection.execute("SELECT tried_at FROM worlds WHERE id = ?", (world.id,)).get
        if calls and now - canary < tried_at:
            return False
        connection.execute("UPDATE worlds SET tried_at = ? WHERE id = ?", (now, world.id))
        return True

    def with_good(self, connection: Connection, world: World) -> World:
        """The same, with what it has served so far."""
        return world._replace(good=int(connection.execute("SELECT good FROM worlds WHERE id = ?", (world.id,)).get))

    def begin_probe(self, connection: Connection, world: World, slot: int) -> None:
        """Let `slot` alone be sent to a paused world whose time has come."""
        connection.execute("UPDATE worlds SET probe_slot = ? WHERE id = ?", (slot, world.id))
        moved(connection)


_PROFILE = "SELECT left_out, since FROM request_profiles WHERE provider = ? AND model = ? AND setup = ? AND since > ?"
_WORLD = (
    "SELECT id, proven, (SELECT COUNT(*) FROM failures WHERE world = worlds.id), paused_until, probe_slot,"
    " culprit FROM worlds WHERE provider = ? AND model = ? AND type = ? AND setup = ? AND left_out = ?"
)


def _find(connection: Connection, route: Route, type_: str, setup: str, now: float) -> World:
    profile = connection.execute(_PROFILE, (route.provider, route.model, setup, now - PROFILE_SECONDS)).fetchone()
    left_out, expires_at = ("", float("inf")) if profile is None else (profile[0], profile[1] + PROFILE_SECONDS)
    key = (route.provider, route.model, type_, setup, left_out)
    row = connection.execute(_WORLD, key).fetchone()
    if row is None:
        connection.execute("INSERT INTO worlds (provider, model, type, setup, left_out) VALUES (?, ?, ?, ?, ?)", key)
        row = connection.execute(_WORLD, key).fetchone()
        assert row is not None
    number, proven, failures, until, prober, culprit = row
    return World(number, tuple(left_out.split()), bool(proven), failures, until, prober, culprit, expires_at)


def moved(connection: Connection) -> None:
    """What claims remember of worlds is not so any more."""
    connection.execute("UPDATE ledger SET worlds_version = worlds_version + 1")


def release_probes(connection: Connection, slot: int) -> None:
    """A dead slot's probes of paused worlds end without an outcome."""
    connection.execute("UPDATE worlds SET probe_slot = NULL WHERE probe_slot = ?", (slot,))
    if connection.changes():
        moved(connection)


def publish_setups(connection: Connection, setups: Mapping[str, str]) -> None:
    """Services are now set up so (address, credentials): whatever is set up anew is tried at once.

    What was learned of an earlier set-up is forgotten.
    """
    for service, setup in setups.items():
        connection.execute("UPDATE breakers SET setup = ? WHERE service = ? AND setup <> ?", (setup, service, setup))
        if not connection.changes():
            continue
        connection.execute(
            "UPDATE breakers SET opened_at = 0 WHERE service = ? AND state = ?", (service, BreakerState.OPEN)
        )
        connection.execute("DELETE FROM cooldowns WHERE provider = ?", (service,))
        connection.execute("DELETE FROM request_profiles WHERE provider = ? AND setup <> ?", (service, setup))
        connection.execute(
            "UPDATE worlds SET paused_until = NULL, probe_slot = NULL WHERE provider = ? AND setup <> ?",
            (service, setup),
        )
    moved(connection)


def prune_worlds(connection: Connection) -> None:
    """Forget worlds that nothing refers to, beyond the newest."""
    if int(connection.execute("SELECT COUNT(*) FROM worlds").get) > MOST_WORLDS:
        connection.execute(
            "DELETE FROM worlds WHERE id <= (SELECT MAX(id) FROM worlds) - ? AND id NOT IN"
            " (SELECT world FROM evidence UNION SELECT world FROM tasks WHERE world IS NOT NULL)",
            (MOST_WORLDS,),
        )
        connection.execute("DELETE FROM failures WHERE world NOT IN (SELECT id FROM worlds)")
        moved(connection)
