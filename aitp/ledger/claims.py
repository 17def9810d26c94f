"""Claims: tasks of one queue, taken by a worker for one call. Where "within every limit" is kept.

A claim is one transaction: breakers and cooldowns permit, the limits have room, the budgets too, the fairest queue goes
first, the slot is written. Workers claim and finish; whoever obtains a slot releases what its former process left. How
an attempt ends is told in outcomes.py.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import partial
from typing import NamedTuple
from zoneinfo import ZoneInfo

from aitp.ledger.breakers import (
    ALL_CLOSED,
    ANY_BUGS,
    ANY_COOLDOWNS,
    WIDE_OPEN,
    Breakers,
    Cooling,
    Gate,
    cooling,
    paused_until,
)
from aitp.ledger.budgets import Budgets, BudgetState, Overspent
from aitp.ledger.engine import DISK_LOOK_SECONDS, Connection, Database, Row, these
from aitp.ledger.evidence import ANY_SUSPECTS
from aitp.ledger.limits import BASIS, Basis, Exceeded, Limits, present_basis
from aitp.ledger.outcomes import Cause, Outcomes, Report, Settled
from aitp.ledger.queue import CLAIMABLE, NEXT_READY, LedgerConfig, next_due, promote_due
from aitp.ledger.worlds import World, Worlds, release_probes
from aitp.policy.batching import fair_share, fitting
from aitp.policy.costs import FREE, Pricing, affordable, estimate
from aitp.policy.routing import Availability, Route, RouteState, choose, route_state
from aitp.tasks import QueueKey, Task

# Whoever waits for a model is woken when it has come; this is for those who are not.
MODEL_LOOK_SECONDS = 10.0


class IdleReason(StrEnum):
    """Why there is nothing to claim, or no poll to be made."""

    NOTHING_READY = "nothing ready"
    LIMIT = "limit"
    BREAKER = "breaker"
    COOLDOWN = "cooldown"
    MODEL = "model"
    DISK = "disk"
    PAUSED = "paused"
    PROCESSOR = "processor"
    BUDGET = "budget"
    PRICE = "price"
    UNDERWAY = "underway"
    TYPE = "type"
    QUARANTINE = "quarantine"
    TURN = "turn"


@dataclass(frozen=True, slots=True)
class ClaimOptions:
    """What a claim needs from the settings. `routes` of a kind, first choice first; `batch_size`: tasks in one call.

    A kind without routes waits.
    `needs`: services that a kind needs besides its provider. `arrival`: what is known of a route's model.
    `pricing`: what its tasks cost by a route, in `currency`. `setup`: names how a provider is set up (address,
    credentials). `canary_seconds`: how long others wait for the first answer where nobody has been served yet.
    """

    workers: int
    routes: Callable[[QueueKey], Sequence[Route]]
    batch_size: Callable[[QueueKey], int]
    needs: Callable[[QueueKey], Sequence[str]] = lambda queue: ()
    arrival: Callable[[Route], Availability] = lambda route: Availability.UNKNOWN
    pricing: Callable[[QueueKey, Route], Pricing] = lambda queue, route: FREE
    currency: str = ""
    setup: Callable[[str], str] = lambda provider: ""
    canary_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Claim:
    """Tasks of one kind that `slot` owns, for one call by `route`. `more`: others could be claimed as well.

    `reserved_nano`: what it may cost, where budgets are in force.
    """

    slot: int
    route: Route
    queue: QueueKey
    tasks: tuple[Task, ...]
    probe: bool
    more: bool
    reserved_nano: int = 0
    world: World = World(0)  # noqa: RUF009 (frozen)

    @property
    def provider(self) -> str:
        return self.route.provider


@dataclass(frozen=True, slots=True)
class Idle:
    """Nothing to claim until `until`, UTC seconds (None: until something happens).

    To be warned about: limits `exceeded`, budgets `overspent`, and `unpriced` models.
    """

    because: IdleReason
    until: float | None = None
    exceeded: tuple[Exceeded, ...] = ()
    service: str = ""
    overspent: tuple[Overspent, ...] = ()
    unpriced: tuple[str, ...] = ()


class _Found(NamedTuple):
    """A claim in the making: its tasks are rows."""

    route: Route
    queue: QueueKey
    rows: list[Row]
    probe: bool
    more: bool
    limited: bool
    reserved_nano: int
    world: World


class _Survey(NamedTuple):
    """What one look tells, so that what is rare costs no statements while there is none of it.

    `owns`: the slot has tasks still. `all_closed`: all breakers are. `has_bugs`: a processor may be paused. `due_at`:
    when the next ready task is due.
    """

    owns: bool
    paused: bool
    all_closed: bool
    has_budgets: bool
    has_cooldowns: bool
    has_bugs: bool
    due_at: float | None
    has_suspects: bool
    worlds_version: int
    basis: Basis


# Served by tasks_claimed and tasks_later.
_SURVEY = (
    "SELECT EXISTS (SELECT 1 FROM tasks WHERE state = 'claimed' AND slot = ?1), paused, "
    f"{ALL_CLOSED}, EXISTS (SELECT 1 FROM budgets WHERE allowed IS NOT NULL), {ANY_COOLDOWNS.format('?2')}, "
    f"{ANY_BUGS}, {NEXT_READY}, {ANY_SUSPECTS}, worlds_version, {BASIS} FROM ledger"
)


def _survey(connection: Connection, slot: int, now: float) -> _Survey:
    owns, paused, closed, budgets, cooldowns, bugs, due_at, suspects, version, *basis = connection.execute(
        _SURVEY, (slot, now)
    ).get
    return _Survey(owns, paused, closed, budgets, cooldowns, bugs, due_at, suspects, version, Basis(*basis))


@dataclass(slots=True)
class _Search:
    """One claim's search for tasks that may be sent now: what it goes by, and what it has found to be in the way."""

    connection: Connection
    now: float
    terms: ClaimOptions
    seen: _Survey
    budget: BudgetState | None
    blocks: list[Idle] = field(default_factory=list)
    gates: dict[str, Gate] = field(default_factory=dict)


class Claims:
    """Claims of the workers. `draw(low, high)` is the spread of the back-off."""

    def __init__(
        self,
        database: Database,
        breakers: Breakers,
        limits: Limits,
        rules: LedgerConfig,
        draw: Callable[[float, float], float] = random.uniform,
    ) -> None:
        self._database = database
        self._breakers = breakers
        self._limits = limits
        self._budgets = Budgets(database)
        self._worlds = Worlds(rules.breaker_threshold)
        self._endings = Outcomes(database, breakers, limits, self._budgets, rules, draw)

    def claim(self, slot: int, terms: ClaimOptions) -> Claim | Idle:
        """Take tasks of the fairest kind that may be sent now, as many as are this slot's share.

        A slot makes one call at a time: what it still had claimed goes back, as after a stop.
        """
        short_of_disk = self._database.short_of_disk()
        try:
            with self._database.transaction() as connection:
                found = self._claim(connection, slot, terms, short_of_disk)
        except BaseException:
            self._worlds.forget()
            raise
        if isinstance(found, Idle):
            return found
        if found.limited:
            # Taken away by a power cut, the reservation would be room for others, on top of what is sent now.
            self._database.flush()
        # Read when the next one is at it: what is claimed does not change, and it is most of what a claim reads.
        contents = self._contents(found.rows)
        tasks = tuple(
            Task(seq, task_id, found.queue, contents[seq], attempts, crashes)
            for seq, task_id, _, attempts, crashes in found.rows
        )
        return Claim(slot, found.route, found.queue, tasks, found.probe, found.more, found.reserved_nano, found.world)

    def _claim(self, connection: Connection, slot: int, terms: ClaimOptions, short_of_disk: bool) -> _Found | Idle:
        now = self._database.clock()
        seen = _survey(connection, slot, now)
        if seen.owns:
            self._endings.give_back(connection, slot, Cause.STOPPED, now)
            self._breakers.release(connection, slot)
            release_probes(connection, slot)
            seen = _survey(connection, slot, now)
        if seen.paused:
            return Idle(IdleReason.PAUSED)
        if short_of_disk:
            return Idle(IdleReason.DISK, now + DISK_LOOK_SECONDS)
        if seen.due_at is not None:
            promote_due(connection, now)
        queues = queues_by_fairness(connection)
        if not queues:
            return Idle(IdleReason.NOTHING_READY, next_due(connection, "ready"))
        most = terms.workers * max(terms.batch_size(queue) for _, queue in queues)
        room = self._limits.room(connection, now, seen.basis, enough=most)
        if room.count == 0:
            return Idle(IdleReason.LIMIT, room.frees_at, room.exceeded)
        budget = self._budgets.budget(connection, now, ZoneInfo(seen.basis.timezone)) if seen.has_budgets else None
        search = _Search(connection, now, terms, seen, budget)
        for number, queue in queues:
            if block := self._missing(search, terms.needs(queue)):
                search.blocks.append(block)
                continue
            options, stands = terms.routes(queue), partial(self._stands, search, number, queue)
            if not options:
                search.blocks.append(Idle(IdleReason.TYPE))
            while (route := choose(options, stands)) is not None:
                gate, world = self._gate(search, route.provider), self._world(search, queue, route)
                if gate.probe or world.paused_until is not None:
                    rows, more = select_probe(connection, number), False
                else:
                    batch_size = terms.batch_size(queue)
                    rows, more = select_batch(
                        connection, number, room.count, terms.workers, batch_size, suspects=seen.has_suspects
                    )
                    if not rows:
                        search.blocks.append(Idle(IdleReason.TURN))
                        break
                reserved = 0
                if budget is not None:
                    rows, reserved = self._afford(search, budget, slot, queue, route, rows)
                    if not rows:
                        options = options[options.index(route) + 1 :]
                        continue
                self._own(connection, slot, route.provider, gate, world, rows)
                others = len(queues) > 1 and (room.count is None or room.count > len(rows))
                limited = room.count is not None or reserved > 0
                return _Found(route, queue, rows, gate.probe, more or others, limited, reserved, world)
        return _first_end(search.blocks, next_due(connection, "ready"))

    def _contents(self, rows: Sequence[Row]) -> dict[int, bytes]:
        are_these, seqs = these(row[0] for row in rows)
        found: list[Row] = self._database.read(f"SELECT seq, content FROM contents WHERE seq {are_these}", seqs)
        return dict(found)

    def finish(self, claim: Claim, report: Report) -> Settled:
        """Record how a claim's call ended, for all or some of its tasks; on disk once `Ledger.flush` has returned.

        Raises LedgerError, with nothing recorded: keep the report and try again, its answers are paid for. What is
        returned is settled, and told once: another try would find nothing left to settle.
        """
        return self._endings.finish(
            claim.slot, claim.route, claim.queue, report, claim.world, reserved=claim.reserved_nano > 0
        )

    def again(self, claim: Claim) -> bool:
        """Take room for one more send of all tasks of a claim; False if a limit or a budget has none.

        What was sent before counts as sent now, and the reservation stands for what is sent next: so each request that
        the provider sees is counted, and on disk before it is made.
        """
        with self._database.transaction() as connection:
            now = self._database.clock()
            basis = present_basis(connection)
            room = self._limits.room(connection, now, basis, enough=len(claim.tasks))
            if room.count is not None and room.count < len(claim.tasks):
                return False
            if claim.reserved_nano:
                budget = self._budgets.budget(connection, now, ZoneInfo(basis.timezone))
                if budget.left_nano < claim.reserved_nano:
                    return False
                self._budgets.reserve_more(connection, claim.slot, claim.reserved_nano)
            self._limits.count(connection, claim.queue.type, [task.id for task in claim.tasks], now, basis.newest_at)
        if room.count is not None or claim.reserved_nano:
            self._database.flush()
        return True

    def release(self, slot: int, cause: Cause) -> Settled:
        """Free all that a slot's former process owned. The caller holds the slot's lock, so that process is gone."""
        return self._endings.release(slot, cause)

    def _gate(self, search: _Search, service: str) -> Gate:
        """Its breaker, looked at once in a search, if at all."""
        if search.seen.all_closed:
            return WIDE_OPEN
        if service not in search.gates:
            search.gates[service] = self._breakers.gate(search.connection, (service,), search.now)
        return search.gates[service]

    def _world(self, search: _Search, queue: QueueKey, route: Route) -> World:
        """The world that tasks of `queue` would be sent to by `route`."""
        setup = search.terms.setup(route.provider)
        return self._worlds.find(search.connection, search.seen.worlds_version, route, queue.type, setup, search.now)

    def _missing(self, search: _Search, services: Sequence[str]) -> Idle | None:
        """The first of `services` that may not be called now. One whose probe is due may: whoever calls makes it."""
        for service in services:
            gate = self._gate(search, service)
            if not gate.passes:
                return Idle(IdleReason.BREAKER, gate.until, service=service)
            if pause := _cooling(search, service, ""):
                return Idle(IdleReason.COOLDOWN, pause.until, service=service)
        return None

    def _afford(
        self, search: _Search, budget: BudgetState, slot: int, queue: QueueKey, route: Route, rows: list[Row]
    ) -> tuple[list[Row], int]:
        """Of these tasks those that one call may be made for within the budgets, and what was reserved for it.

        If there is none, what keeps them back is added to the search's blocks.
        """
        connection = search.connection
        pricing = search.terms.pricing(queue, route)
        if pricing.is_nothing:
            return rows, 0
        habit = self._budgets.habit(connection, pricing, queue, route)
        sizes = [size for _, _, size, _, _ in rows]
        count = affordable(pricing, habit, sizes, budget.left_nano)
        if count == 0:
            until, news = self._budgets.keep_back(connection, budget, estimate(pricing, habit, sizes[:1]))
            search.blocks.append(Idle(IdleReason.BUDGET, until, service=route.provider, overspent=news))
            return [], 0
        reserved = estimate(pricing, habit, sizes[:count])
        self._budgets.reserve(connection, slot, budget.currency, reserved)
        return rows[:count], reserved

    def _stands(self, search: _Search, number: int, queue: QueueKey, route: Route) -> RouteState:
        """How `route` stands for tasks of `queue`; what keeps them from it is added to the blocks."""
        pause = _cooling(search, route.provider, route.model)
        block = _block(search, queue, route, self._gate(search, route.provider), pause)
        if block is None and search.budget is not None:
            block = self._money_block(search, search.budget, number, queue, route)
        missed = pause is not None and pause.awaited
        world = self._world(search, queue, route)
        if block is None:
            block = _quarantine(world, route, search.now)
        found = route_state(blocked=block is not None, missed=missed, arrival=search.terms.arrival(route))
        if block is None and found is not RouteState.FREE:
            until = pause.until if pause is not None else search.now + MODEL_LOOK_SECONDS
            block = Idle(IdleReason.MODEL, until, service=route.provider)
        if block is None and not self._worlds.free_for(
            search.connection, world, number, search.now, search.terms.canary_seconds
        ):
            # Nothing stands in: its calls in flight tell more.
            found = RouteState.AWAITED
            first_answer = None if world.proven else search.now + search.terms.canary_seconds
            block = Idle(IdleReason.TURN, first_answer, service=route.provider)
        if block is not None:
            search.blocks.append(block)
        return found

    def _money_block(
        self, search: _Search, budget: BudgetState, number: int, queue: QueueKey, route: Route
    ) -> Idle | None:
        """What keeps tasks from being sent by `route` whatever each may cost: no price, or no money left at all."""
        pricing = search.terms.pricing(queue, route)
        if pricing.is_nothing:
            return None
        if pricing.price is None or search.terms.currency != budget.currency:
            news = self._budgets.note_unpriced(search.connection, route)
            return Idle(IdleReason.PRICE, service=route.provider, unpriced=(route.model,) if news else ())
        if budget.left_nano > 0:
            return None
        # What is left of another budget may be too little for the next task as well.
        habit = self._budgets.habit(search.connection, pricing, queue, route)
        needed = max(1, estimate(pricing, habit, [oldest_size(search.connection, number)]))
        until, overspent = self._budgets.keep_back(search.connection, budget, needed)
        return Idle(IdleReason.BUDGET, until, service=route.provider, overspent=overspent)

    def _own(
        self, connection: Connection, slot: int, provider: str, gate: Gate, world: World, rows: Sequence[Row]
    ) -> None:
        if gate.probe:
            self._breakers.begin_probe(connection, (provider,), slot)
        if world.paused_until is not None:
            self._worlds.begin_probe(connection, world, slot)
        are_these, seqs = these(row[0] for row in rows)
        connection.execute(
            f"UPDATE tasks SET state = 'claimed', slot = ?, provider = ?, world = ?, missed = 0 WHERE seq {are_these}",
            (slot, provider, world.id, *seqs),
        )


def _cooling(search: _Search, provider: str, model: str) -> Cooling | None:
    return cooling(search.connection, provider, model, search.now) if search.seen.has_cooldowns else None


def _block(search: _Search, queue: QueueKey, route: Route, gate: Gate, pause: Cooling | None) -> Idle | None:
    """What keeps tasks of `queue` from being sent by `route` now, if anything does; a missing model is told apart."""
    if not gate.passes:
        return Idle(IdleReason.BREAKER, gate.until, service=route.provider)
    if pause is not None and not pause.awaited:
        return Idle(IdleReason.COOLDOWN, pause.until, service=route.provider)
    paused = paused_until(search.connection, queue.type, search.now) if search.seen.has_bugs else None
    return None if paused is None else Idle(IdleReason.PROCESSOR, paused)


def _quarantine(world: World, route: Route, now: float) -> Idle | None:
    """Why a paused world may not be sent to now: its time has not come, or its one probe is in flight."""
    if world.paused_until is None:
        return None
    if world.probe_slot is not None:
        return Idle(IdleReason.QUARANTINE, service=route.provider)
    # Of one that began later than now the clock was set back: it has ended.
    if world.paused_since is not None and world.paused_since <= now < world.paused_until:
        return Idle(IdleReason.QUARANTINE, world.paused_until, service=route.provider)
    return None


def _first_end(blocks: Sequence[Idle], due_at: float | None) -> Idle:
    """Why nothing can be claimed though tasks are ready, and when the first of the reasons ends, as far as is known."""
    ends = [end for end in (due_at, *(block.until for block in blocks)) if end is not None]
    fairest = blocks[0]
    return Idle(
        fairest.because,
        min(ends, default=None),
        service=fairest.service,
        overspent=tuple(news for block in blocks for news in block.overspent),
        unpriced=tuple(news for block in blocks for news in block.unpriced),
    )


def queues_by_fairness(connection: Connection) -> list[tuple[int, QueueKey]]:
    """Kinds with a task that is ready now: fewest claimed tasks first, then the oldest task.

    Walks tasks_ready from kind to kind, so that it costs as much as there are kinds, not tasks; the claimed ones are
    counted in tasks_claimed, if there is a choice at all.
    """
    rows: list[Row] = connection.execute(_READY_QUEUES).fetchall()
    if len(rows) > 1:
        counts: list[Row] = connection.execute(_CLAIMED_BY_QUEUE).fetchall()
        claimed: dict[int, int] = dict(counts)
        oldest = {row[0]: min(connection.execute(_OLDEST, (row[0],)).get) for row in rows}
        rows.sort(key=lambda row: (claimed.get(row[0], 0), oldest[row[0]]))
    return [(number, QueueKey(type_, model, failed_at)) for number, type_, model, failed_at in rows]


_READY_QUEUES = f"""
    WITH RECURSIVE waiting (kind) AS (
        SELECT MIN(kind) FROM tasks WHERE {CLAIMABLE}
        UNION ALL
        SELECT (SELECT MIN(kind) FROM tasks WHERE {CLAIMABLE} AND kind > waiting.kind)
        FROM waiting WHERE waiting.kind IS NOT NULL
    )
    SELECT kinds.id, type, model, failed_at FROM waiting JOIN kinds ON kinds.id = waiting.kind
"""
_CLAIMED_BY_QUEUE = "SELECT kind, COUNT(*) FROM tasks WHERE state = 'claimed' GROUP BY kind"
# Of fresh tasks and of suspects, which are apart in tasks_ready; none at all is later than any.
_NONE = 2**62
_OLDEST = "SELECT " + ", ".join(
    f"COALESCE((SELECT MIN(seq) FROM tasks WHERE {CLAIMABLE} AND kind = ?1 AND is_suspect = {suspect}), {_NONE})"
    for suspect in (0, 1)
)


# Served by tasks_ready, which holds all that is asked of it; of those chosen the rows are read.
_READY = f"{CLAIMABLE} AND kind = ?1"
_COLUMNS = "SELECT seq, id, size, attempts, crashes FROM tasks WHERE "
_OLDEST_SIZE = f"SELECT size FROM tasks WHERE {_READY} ORDER BY is_suspect, seq LIMIT 1"
_PROBE = _COLUMNS + f"{_READY} ORDER BY is_suspect, attempts, seq LIMIT 1"
_FRESH = f"{_READY} AND is_suspect = 0"
_COUNT_FRESH = f"SELECT COUNT(*) FROM (SELECT 1 FROM tasks WHERE {_FRESH} LIMIT ?2)"
_FRESH_BATCH = _COLUMNS + f"seq IN (SELECT seq FROM tasks WHERE {_FRESH} ORDER BY seq LIMIT ?2) ORDER BY seq"
_SUSPECTS = f"{_READY} AND is_suspect = 1"
_TURN = f"SELECT EXISTS (SELECT 1 FROM tasks WHERE {_SUSPECTS}), suspects_last FROM kinds WHERE id = ?1"
# All served by tasks_suspect. The least suspect first: what fails again and again is not to keep from its turn what
# failed beside it once. Only those with the same bound go together.
_BOUND = f"SELECT batch_limit FROM tasks WHERE {_SUSPECTS} ORDER BY attempts, seq LIMIT 1"
_SUSPECT_BATCH = _COLUMNS + f"{_SUSPECTS} AND batch_limit IS ?2 ORDER BY attempts, seq LIMIT ?3"
_SUSPECTS_IN_FLIGHT = "SELECT 1 FROM tasks WHERE kind = ? AND state = 'claimed' AND is_suspect = 1 LIMIT 1"


def oldest_size(connection: Connection, queue: int) -> int:
    """The size of the task of a kind that is next in turn."""
    return int(connection.execute(_OLDEST_SIZE, (queue,)).get)


def select_probe(connection: Connection, queue: int) -> list[Row]:
    """A fresh task if there is one, else the suspect that failed least: one that failed often may be what fails."""
    rows: list[Row] = connection.execute(_PROBE, (queue,)).fetchall()
    return rows


def select_batch(
    connection: Connection, queue: int, room: int | None, workers: int, batch_size: int, *, suspects: bool
) -> tuple[list[Row], bool]:
    """(seq, id, size, attempts, crashes) of one claim's tasks, oldest first, and whether there is more of the kind.

    Suspects, if there are any, take turns with fresh tasks, one batch of them at a time, so that what fails together is
    told apart and holds nobody up. None at all: they are all suspects, and their turn has not come.
    """
    most = batch_size * workers if room is None else min(batch_size * workers, room)
    waiting = False
    if suspects:
        waiting, theirs_last = connection.execute(_TURN, (queue,)).get
        in_flight = connection.execute(_SUSPECTS_IN_FLIGHT, (queue,)).get is not None
    fresh = int(connection.execute(_COUNT_FRESH, (queue, most)).get)
    if waiting and not in_flight and not (fresh and theirs_last):
        rows = _suspects(connection, queue, min(most, batch_size))
        _note_turn(connection, queue, 1)
        return rows, fresh > 0
    if fresh:
        if waiting:
            _note_turn(connection, queue, 0)
        rows = connection.execute(_FRESH_BATCH, (queue, fair_share(fresh, workers, batch_size))).fetchall()
        rows = rows[: fitting(row[2] for row in rows)]
        return rows, fresh > len(rows)
    return [], False


def _suspects(connection: Connection, queue: int, most: int) -> list[Row]:
    bound = connection.execute(_BOUND, (queue,)).get
    size = most if bound is None else min(most, bound)
    rows: list[Row] = connection.execute(_SUSPECT_BATCH, (queue, bound, size)).fetchall()
    return rows[: fitting(row[2] for row in rows)]


def _note_turn(connection: Connection, queue: int, suspects_last: int) -> None:
    connection.execute(
        "UPDATE kinds SET suspects_last = ?1 WHERE id = ?2 AND suspects_last <> ?1", (suspects_last, queue)
    )
