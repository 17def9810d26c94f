"""Claims: tasks of one queue, taken by a worker for one call. Where "within every limit" is kept.

A claim is one transaction. It asks, in this order, what stops everybody (`_claim`: a ledger of the next release, a
pause, the disk, no task, a limit), then for each queue, the fairest first, and each of its routes, what stops that one
(`_take`), and writes its slot to the first tasks that nothing stops. How an attempt ends is told in outcomes.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple
from zoneinfo import ZoneInfo

from aitp.ledger import budgets, limits
from aitp.ledger.breakers import ALL_CLOSED, ANY_BUGS, ANY_COOLDOWNS, WIDE_OPEN, Breakers, Gate, cooling, paused_until
from aitp.ledger.engine import DISK_LOOK_SECONDS, Connection, Database, Row, these
from aitp.ledger.evidence import ANY_SUSPECTS
from aitp.ledger.queue import CLAIMABLE, CLAIMED, NEXT_READY, next_due, promote_due
from aitp.ledger.schema import VERSION
from aitp.ledger.worlds import World, Worlds
from aitp.policy.batching import fair_share, fitting
from aitp.policy.costs import FREE, NO_USAGE, Pricing, affordable, estimate
from aitp.policy.routing import USED_UP, Availability, Route, Why
from aitp.tasks import Culprit, Period, QueueKey, Task, TaskState

# Whoever waits for a model is woken when it has come; this is for those who are not.
MODEL_LOOK_SECONDS = 10.0


class IdleReason(StrEnum):
    """Why there is nothing to claim, or no poll to be made."""

    NOTHING_READY = "nothing ready"
    NOT_DUE = "not due"
    LIMIT = "limit"
    BREAKER = "breaker"
    COOLDOWN = "cooldown"
    MODEL = "model"
    DISK = "disk"
    PAUSED = "paused"
    UPGRADE = "upgrade"
    PROCESSOR = "processor"
    BUDGET = "budget"
    PRICE = "price"
    UNDERWAY = "underway"
    TYPE = "type"
    QUARANTINE = "quarantine"
    STAND_IN = "stand-in"
    TURN = "turn"


@dataclass(frozen=True, slots=True)
class ClaimOptions:
    """What a claim needs from the settings. `routes` of a queue, first choice first; `batch_size`: tasks in one call.

    A queue without routes waits.
    `needs`: services that a queue needs by a route, besides its provider. `availability`: what is known of its model.
    `pricing`: what its tasks cost by a route, in `currency`. `setup`: names how a provider is set up (address,
    credentials). `canary_seconds`: how long others wait for the first answer where nobody has been served yet.
    """

    workers: int
    routes: Callable[[QueueKey], Sequence[Route]]
    batch_size: Callable[[QueueKey], int]
    needs: Callable[[QueueKey, Route], Sequence[str]] = lambda queue, route: ()
    availability: Callable[[Route], Availability] = lambda route: Availability.UNKNOWN
    pricing: Callable[[QueueKey, Route], Pricing] = lambda queue, route: FREE
    currency: str = ""
    setup: Callable[[str], str] = lambda provider: ""
    canary_seconds: float = 0.0


class Claim(NamedTuple):
    """Tasks of one queue that `slot` owns, for one call by `route`. `more`: others could be claimed as well.

    `reserved_nano`: what it may cost, where budgets are in force. `counted_for`: the day on which it counts as made in
    another provider's stead, and `stand_ins_left` of that day; None if it is not. `is_bounded`: others go by that these
    tasks were sent, which is on disk before they are.
    """

    slot: int
    route: Route
    queue: QueueKey
    tasks: tuple[Task, ...]
    probe: bool
    more: bool
    reserved_nano: int = 0
    world: World = World(0)
    counted_for: int | None = None
    stand_ins_left: int | None = None
    is_bounded: bool = False

    @property
    def provider(self) -> str:
        return self.route.provider


@dataclass(frozen=True, slots=True)
class Idle:
    """Nothing to claim, or no poll to be made, until `until`, UTC seconds (None: until something happens).

    To be warned about: limits `exceeded`, budgets `overspent`, and `unpriced` models. Of one route: `waits`, if tasks
    wait for this very one, and no other stands in; `by_faults`: its service itself has failed.
    """

    because: IdleReason
    until: float | None = None
    exceeded: Mapping[Period, limits.LimitUse] = field(default_factory=dict)
    service: str = ""
    overspent: tuple[budgets.Overspent, ...] = ()
    unpriced: tuple[str, ...] = ()
    waits: bool = False
    by_faults: bool = False


class _Look(NamedTuple):
    """What one look tells, so that what is rare costs no statements while there is none of it.

    `owns`: the slot has tasks still. `all_closed`: all breakers are. `has_bugs`: a processor may be in quarantine.
    `due_at`: when the next ready task is due.
    """

    basis: limits.Basis
    owns: bool
    version: int
    paused: bool
    all_closed: bool
    has_budgets: bool
    has_cooldowns: bool
    has_bugs: bool
    due_at: float | None
    has_suspects: bool
    worlds_version: int


# Served by tasks_claimed and tasks_later.
_LOOK = (
    f"SELECT EXISTS (SELECT 1 FROM tasks WHERE {CLAIMED} AND slot = ?1), version, paused, "
    f"{ALL_CLOSED}, EXISTS (SELECT 1 FROM budgets WHERE allowed IS NOT NULL), {ANY_COOLDOWNS.format('?2')}, "
    f"{ANY_BUGS}, {NEXT_READY}, {ANY_SUSPECTS}, worlds_version, {limits.BASIS} FROM ledger"
)


def _look(connection: Connection, slot: int, now: float) -> tuple[_Look, list[Row]]:
    """What there is, and the queues with a task that is ready. Both asked before either is waited for."""
    look, ready = connection.execute(_LOOK, (slot, now)), connection.execute(_READY_QUEUES)
    row = look.get
    return _Look(limits.Basis(*row[10:]), *row[:10]), ready.fetchall()


class _Ready(NamedTuple):
    """A queue with tasks that are ready. `has_fresh`: not all of them are suspects."""

    number: int
    queue: QueueKey
    has_fresh: bool


@dataclass(slots=True)
class _Search:
    """One claim's search for tasks that may be sent now: what it goes by, and what is to be warned about."""

    connection: Connection
    now: float
    slot: int
    options: ClaimOptions
    seen: _Look
    queues: Sequence[_Ready]
    room: int | None
    budget: budgets.BudgetState | None
    gates: dict[str, Gate] = field(default_factory=dict)
    overspent: list[budgets.Overspent] = field(default_factory=list)
    unpriced: list[str] = field(default_factory=list)


@dataclass
class Claims:
    """Claims of the workers. `release` ends what a slot has left over. As this process knows it: `worlds`, `rates`."""

    database: Database
    breakers: Breakers
    worlds: Worlds
    release: Callable[[int], object]
    rates: limits.Limits = field(default_factory=limits.Limits)

    def claim(self, slot: int, options: ClaimOptions) -> Claim | Idle:
        """Take tasks of the fairest queue that may be sent now, as many as are this slot's share.

        A slot makes one call at a time: what it still had claimed goes back, as after a stop.
        """
        short_of_disk = self.database.short_of_disk()
        try:
            with self.database.transaction() as connection:
                found = self._claim(connection, slot, options, short_of_disk)
        except BaseException:
            self.worlds.forget()
            raise
        if found is None:
            self.release(slot)
            return self.claim(slot, options)
        if isinstance(found, Idle):
            return found
        if found.is_bounded or self.database.may_die_alone:
            # Taken away by a power cut, the reservation would be room for others, on top of what is sent now; and by
            # the end of a server that this process survives, the tasks would be others' as well.
            self.database.flush()
        # Read when the next one is at it: what is claimed does not change, and it is most of what a claim reads.
        are_these, seqs = these(task.seq for task in found.tasks)
        contents: dict[int, bytes] = dict(
            self.database.read(f"SELECT seq, content FROM contents WHERE seq {are_these}", seqs)
        )
        return found._replace(
            tasks=tuple(
                Task(seq, task_id, queue, contents[seq], attempts, crashes)
                for seq, task_id, queue, _, attempts, crashes in found.tasks
            )
        )

    def _claim(
        self, connection: Connection, slot: int, options: ClaimOptions, short_of_disk: bool
    ) -> Claim | Idle | None:
        """A claim, but for its tasks' contents. None: the slot owns tasks still."""
        now = self.database.clock()
        seen, ready = _look(connection, slot, now)
        if seen.owns:
            return None
        # What stops everybody, the cheapest question first. The limits come last: they are said to be exhausted, once
        # in a window, only if a task waits for them.
        if seen.version > VERSION:
            return Idle(IdleReason.UPGRADE)
        if seen.paused:
            return Idle(IdleReason.PAUSED)
        if short_of_disk:
            return Idle(IdleReason.DISK, now + DISK_LOOK_SECONDS)
        if seen.due_at is not None and seen.due_at <= now:
            promote_due(connection, now)
            ready = connection.execute(_READY_QUEUES).fetchall()
        queues = _by_fairness(connection, ready)
        if not queues:
            return Idle(IdleReason.NOTHING_READY, next_due(connection, TaskState.READY))
        most = options.workers * max(options.batch_size(queue) for _, queue, _ in queues)
        room = self.rates.room(connection, now, seen.basis, enough=most)
        if room.count == 0:
            return Idle(IdleReason.LIMIT, room.frees_at, room.exceeded)
        zone = ZoneInfo(seen.basis.timezone)
        budget = budgets.state(connection, now, zone) if seen.has_budgets else None
        search = _Search(connection, now, slot, options, seen, queues, room.count, budget)
        stops: list[Idle] = []
        found = None
        for number, queue, _ in queues:
            if found := self._first_route(search, number, queue, stops):
                break
        if found is None:
            return _first_end(search, stops, next_due(connection, TaskState.READY))
        others = len(queues) > 1 and (room.count is None or room.count > len(found.tasks))
        is_bounded = room.count is not None or found.reserved_nano > 0 or found.counted_for is not None
        return found._replace(more=found.more or others, is_bounded=is_bounded)

    def _first_route(self, search: _Search, number: int, queue: QueueKey, stops: list[Idle]) -> Claim | None:
        """Tasks of `queue` by the first of its routes that nothing stops; what does is added to `stops`."""
        routes = search.options.routes(queue)
        if not routes:
            stops.append(Idle(IdleReason.TYPE))
        by_faults = used_up = False
        for route in routes:
            if route.most_per_day is not None and not (by_faults or route.reason == Why.FAILED):
                break
            found = self._take(search, number, queue, route._replace(reason=USED_UP) if used_up else route)
            if isinstance(found, Claim):
                return found
            stops.append(found)
            if found.waits:
                break
            by_faults, used_up = found.by_faults, found.because is IdleReason.STAND_IN
        return None

    def _take(self, search: _Search, number: int, queue: QueueKey, route: Route) -> Claim | Idle:
        """Tasks of `queue` to be sent by `route`, or what stops that.

        What holds for most tasks is asked first, and what depends on the tasks themselves last: nobody is told that
        money is short, and no turn is used up, for a call that could not be made anyway.
        """
        connection, now, options, provider = search.connection, search.now, search.options, route.provider
        # It stands in for another one by that one's rules, within a day's number.
        room, left = search.room, None
        if route.most_per_day is not None:
            left = route.most_per_day - limits.stand_ins_sent(connection, route.fallback_from, now)
            if left <= 0:
                return Idle(IdleReason.STAND_IN, limits.next_day(now), service=route.fallback_from)
            room = left if room is None else min(left, room)
        for service in options.needs(queue, route):
            # One whose probe is due may be called: whoever calls it makes the probe.
            if stop := self._service_stops(search, service):
                return stop
        # Its provider is out, or has asked for a pause.
        if stop := self._service_stops(search, provider, route.model):
            return stop
        # Our own processor fails at everything.
        if search.seen.has_bugs and (until := paused_until(connection, queue.type, now)) is not None:
            return Idle(IdleReason.PROCESSOR, until)
        # Nobody knows what it would cost.
        budget = search.budget
        pricing = options.pricing(queue, route) if budget is not None else FREE
        if pricing.is_nothing:
            budget = None
        if budget is not None and (pricing.price is None or options.currency != budget.currency):
            if budgets.note_unpriced(connection, route):
                search.unpriced.append(route.model)
            return Idle(IdleReason.PRICE, service=provider)
        # This model fails at tasks of this type.
        world = self.worlds.find(
            connection, search.seen.worlds_version, route, queue.type, options.setup(provider), now
        )
        if world.is_paused_at(now):
            until = None if world.probe_slot is not None else world.paused_until
            by_faults = bool(route.waits) and world.culprit == Culprit.SERVICE
            return Idle(IdleReason.QUARANTINE, until, service=provider, by_faults=by_faults)
        # The model is not there. While it is on its way nothing stands in for it: that would be another vector space.
        missed = cooling(connection, provider, route.model, now) if search.seen.has_cooldowns else None
        availability = options.availability(route)
        if missed is not None or availability is not Availability.UNKNOWN:
            until = now + MODEL_LOOK_SECONDS if missed is None else missed.until
            given_up = availability is Availability.GIVEN_UP
            return Idle(IdleReason.MODEL, until, service=provider, waits=not given_up)
        # Calls in flight are to tell more before another one is made.
        if not self.worlds.free_for(connection, world, number, now, options.canary_seconds):
            first_answer = None if world.proven else now + options.canary_seconds
            return Idle(IdleReason.TURN, first_answer, service=provider, waits=True)
        gate = self._gate(search, provider)
        if gate.probe or world.paused_until is not None:
            # By a fresh task, of whichever queue, if one can be sent.
            for fresh, its_route in _fresh_instead(search, number, queue, route, whole_provider=gate.probe):
                if isinstance(found := self._take(search, fresh.number, fresh.queue, its_route), Claim):
                    return found
            rows, more, turn = connection.execute(_PROBE, (number,)).fetchall(), False, None
        else:
            rows, more, turn = _select_batch(search, number, options.batch_size(queue), room)
        if not rows:
            return Idle(IdleReason.TURN, waits=True)
        # Money: what a call costs depends on its tasks.
        reserved = 0
        if budget is not None:
            usage = budgets.usage(connection, queue, route) if pricing.answers else NO_USAGE
            sizes = [size for _, _, size, _, _ in rows]
            rows = rows[: affordable(pricing, usage, sizes, budget.left_nano)]
            if not rows:
                needed = estimate(pricing, usage, sizes[:1])
                until, overspent = budgets.keep_back(connection, budget, needed)
                search.overspent += overspent
                return Idle(IdleReason.BUDGET, until, service=provider)
            reserved = estimate(pricing, usage, sizes[: len(rows)])
            budgets.reserve(connection, search.slot, budget.currency, reserved)
        if turn is not None:
            connection.execute(
                "UPDATE queues SET suspects_last = ?1 WHERE id = ?2 AND suspects_last <> ?1", (turn, number)
            )
        self._own(connection, search.slot, provider, gate, world, rows)
        if search.seen.has_suspects:
            world = self.worlds.with_good(connection, world)
        tasks = tuple(Task(seq, task_id, queue, b"", attempts, crashes) for seq, task_id, _, attempts, crashes in rows)
        claim = Claim(search.slot, route, queue, tasks, gate.probe, more, reserved, world)
        if left is None:
            return claim
        day = limits.count_stand_ins(connection, route.fallback_from, now, len(tasks))
        return claim._replace(counted_for=day, stand_ins_left=left - len(tasks))

    def _service_stops(self, search: _Search, service: str, model: str = "") -> Idle | None:
        """Whether a service is out, or has asked for a pause, of all that it serves or of this model, if it is to run
        it: another provider may stand in for that one's faults only."""
        gate = self._gate(search, service)
        if not gate.passes:
            return Idle(IdleReason.BREAKER, gate.until, service=service, by_faults=bool(model) and gate.by_faults)
        pause = cooling(search.connection, service, model, search.now) if search.seen.has_cooldowns else None
        if pause is None or pause.awaited:
            return None
        return Idle(IdleReason.COOLDOWN, pause.until, service=service)

    def _gate(self, search: _Search, service: str) -> Gate:
        """Its breaker, looked at once in a search, if at all."""
        if search.seen.all_closed:
            return WIDE_OPEN
        if service not in search.gates:
            search.gates[service] = self.breakers.gate(search.connection, (service,), search.now)
        return search.gates[service]

    def _own(
        self, connection: Connection, slot: int, provider: str, gate: Gate, world: World, rows: Sequence[Row]
    ) -> None:
        if gate.probe:
            self.breakers.begin_probe(connection, (provider,), slot)
        if world.paused_until is not None:
            self.worlds.begin_probe(connection, world, slot)
        are_these, seqs = these(row[0] for row in rows)
        connection.execute(
            f"UPDATE tasks SET {CLAIMED}, slot = ?, provider = ?, world = ?, missed = 0 WHERE seq {are_these}",
            (slot, provider, world.id, *seqs),
        )

    def again(self, claim: Claim) -> bool:
        """Take room for one more send of all tasks of a claim; False if a limit or a budget has none.

        What was sent before counts as sent now, and the reservation stands for what is sent next: so each request that
        the provider sees is counted, and on disk before it is made.
        """
        with self.database.transaction() as connection:
            now = self.database.clock()
            basis = limits.present_basis(connection)
            room = self.rates.room(connection, now, basis, enough=len(claim.tasks))
            if room.count is not None and room.count < len(claim.tasks):
                return False
            if claim.route.most_per_day is not None:
                instead_of, calls = claim.route.fallback_from, len(claim.tasks)
                if limits.stand_ins_sent(connection, instead_of, now) + calls > claim.route.most_per_day:
                    return False
                limits.count_stand_ins(connection, instead_of, now, calls)
            if claim.reserved_nano:
                budget = budgets.state(connection, now, ZoneInfo(basis.timezone))
                if budget.left_nano < claim.reserved_nano:
                    return False
                budgets.reserve_more(connection, claim.slot, claim.reserved_nano)
            counted = limits.Counted(*connection.execute(f"SELECT {limits.COUNTED}").get)
            limits.count(connection, claim.queue.type, [task.id for task in claim.tasks], now, counted)
        if room.count is not None or claim.is_bounded:
            self.database.flush()
        return True


def _first_end(search: _Search, stops: Sequence[Idle], due_at: float | None) -> Idle:
    """Why nothing can be claimed though tasks are ready, and when the first of the reasons ends, as far as is known."""
    ends = [end for end in (due_at, *(stop.until for stop in stops)) if end is not None]
    return Idle(
        stops[0].because,  # of the fairest queue
        min(ends, default=None),
        service=stops[0].service,
        overspent=tuple(search.overspent),
        unpriced=tuple(search.unpriced),
    )


# Which tasks a claim takes


def _by_fairness(connection: Connection, rows: list[Row]) -> list[_Ready]:
    """Queues with a task that is ready now: fewest claimed tasks first, then the oldest task.

    The claimed ones are counted in tasks_claimed, if there is a choice at all.
    """
    oldest: dict[int, Row] = {}
    if len(rows) > 1:
        claimed: dict[int, int] = dict(connection.execute(_CLAIMED_BY_QUEUE).fetchall())
        oldest = {row[0]: connection.execute(_OLDEST, (row[0],)).get for row in rows}
        rows.sort(key=lambda row: (claimed.get(row[0], 0), min(oldest[row[0]])))
    return [_Ready(number, QueueKey(*key), number not in oldest or oldest[number][0] < _NONE) for number, *key in rows]


def _fresh_instead(
    search: _Search, number: int, queue: QueueKey, route: Route, *, whole_provider: bool
) -> list[tuple[_Ready, Route]]:
    """If this queue has only suspects: those with fresh tasks that would be sent there as well, by their first route.

    The oldest, which may be what fails there, would else make each probe, and the others would wait for ever.
    """
    fresh = [each for each in search.queues if each.has_fresh]
    if any(each.number == number for each in fresh):
        return []
    first = [(each, routes[0]) for each in fresh if (routes := search.options.routes(each.queue))]
    return [
        (each, theirs)
        for each, theirs in first
        if theirs.provider == route.provider
        and (whole_provider or (theirs.model == route.model and each.queue.type == queue.type))
    ]


# One search in tasks_ready for each queue that there is. (An EXISTS PostgreSQL might turn round, and walk the tasks.)
_READY_QUEUES = (
    "SELECT id, type, model, failed_at FROM queues"
    f" WHERE (SELECT 1 FROM tasks WHERE {CLAIMABLE} AND queue = queues.id LIMIT 1) = 1"
)
_CLAIMED_BY_QUEUE = f"SELECT queue, COUNT(*) FROM tasks WHERE {CLAIMED} GROUP BY queue"
# Of fresh tasks and of suspects, which are apart in tasks_ready; none at all is later than any.
_NONE = 2**62
_OLDEST = "SELECT " + ", ".join(
    f"COALESCE((SELECT MIN(seq) FROM tasks WHERE {CLAIMABLE} AND queue = ?1 AND is_suspect = {suspect}), {_NONE})"
    for suspect in (0, 1)
)


# Served by tasks_ready, which holds all that is asked of it; of those chosen the rows are read.
_READY = f"{CLAIMABLE} AND queue = ?1"
_COLUMNS = "SELECT seq, id, size, attempts, crashes"
# A fresh task if there is one, else the suspect that failed least: one that failed often may be what fails.
_PROBE = f"{_COLUMNS} FROM tasks WHERE {_READY} ORDER BY is_suspect, attempts, seq LIMIT 1"
_FRESH = f"{_READY} AND is_suspect = 0"
# With how many there are (up to ?2), of which only so many rows (?3) are read.
_FRESH_BATCH = (
    f"{_COLUMNS}, (SELECT COUNT(*) FROM (SELECT 1 FROM tasks WHERE {_FRESH} LIMIT ?2) AS fresh)"
    f" FROM tasks WHERE seq IN (SELECT seq FROM tasks WHERE {_FRESH} ORDER BY seq LIMIT ?3) ORDER BY seq"
)
_SUSPECTS = f"{_READY} AND is_suspect = 1"
# Whether suspects wait, whether a batch of them is in flight, and whether it was they who went last.
_TURN = (
    f"SELECT EXISTS (SELECT 1 FROM tasks WHERE {_SUSPECTS}),"
    f" EXISTS (SELECT 1 FROM tasks WHERE queue = ?1 AND {CLAIMED} AND is_suspect = 1), suspects_last"
    " FROM queues WHERE id = ?1"
)
# All served by tasks_suspect. The least suspect first: what fails again and again is not to keep from its turn what
# failed beside it once. Only those with the same bound go together.
_BOUND = f"SELECT batch_limit FROM tasks WHERE {_SUSPECTS} ORDER BY attempts, seq LIMIT 1"
_SUSPECT_BATCH = (
    f"{_COLUMNS} FROM tasks WHERE {_SUSPECTS} AND batch_limit IS NOT DISTINCT FROM ?2 ORDER BY attempts, seq LIMIT ?3"
)


def _select_batch(
    search: _Search, number: int, batch_size: int, room: int | None
) -> tuple[list[Row], bool, int | None]:
    """One claim's tasks of a queue, oldest first, as many as are a worker's share: rows (seq, id, size, attempts,
    crashes); whether others could be claimed as well; whose turn it was, while suspects wait as well.

    Suspects, if there are any, take turns with fresh tasks, one batch of them at a time, so that what fails together is
    told apart and holds nobody up. None at all: they are all suspects, and their turn has not come.
    """
    connection, workers = search.connection, search.options.workers
    most = batch_size * workers if room is None else min(batch_size * workers, room)
    waiting = in_flight = theirs_last = False
    if search.seen.has_suspects:
        waiting, in_flight, theirs_last = connection.execute(_TURN, (number,)).get
    fresh_rows: list[Row] = connection.execute(_FRESH_BATCH, (number, most, min(most, batch_size))).fetchall()
    fresh = int(fresh_rows[0][-1]) if fresh_rows else 0
    if waiting and not in_flight and not (fresh and theirs_last):
        bound = connection.execute(_BOUND, (number,)).get
        size = min(most, batch_size, bound or batch_size)
        rows = connection.execute(_SUSPECT_BATCH, (number, bound, size)).fetchall()
        return rows[: fitting(row[2] for row in rows)], fresh > 0, 1
    if not fresh:
        return [], False, None
    rows = [row[:5] for row in fresh_rows[: fair_share(fresh, workers, batch_size)]]
    rows = rows[: fitting(row[2] for row in rows)]
    return rows, fresh > len(rows), 0 if waiting else None
