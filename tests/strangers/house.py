"""The real worker and the real ledger in one process, under a clock that jumps: hours of a world within a second.

Nothing is stood in for but time and the processes: each worker is a thread that runs only while the house lets it
(never two at once), and comes to rest where a process would wait, in a call or idle. A call takes as long as the
stranger says, so that claims of several workers overlap as they do in a service; an idle worker sleeps until the moment
that its claim named, or until it is woken. If all sleep without such a moment, the world is at rest.
"""

from __future__ import annotations

import heapq
import itertools
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import orjson

from aitp.ledger.claims import Claim, Idle
from aitp.ledger.outbox import DeliveryOutcome
from aitp.ledger.queue import LedgerConfig
from aitp.ledger.stats import Snapshot, snapshot
from aitp.metrics import Metrics
from aitp.process.child import Child
from aitp.process.scoreboard import LAST_SLOT
from aitp.process.worker import Worker
from aitp.processors import PROCESSORS
from aitp.settings import Settings
from aitp.tasks import NewTask, QueueKey, TaskStatus
from tests.ledger.world import RELAY, World
from tests.strangers.server import Stranger

FIRST_WORKER = 101
STEPS_AT_ONE_MOMENT = 200  # of one worker, without a call: more is spinning
REQUESTS = 1_000  # that no world of this room needs: more is hammering


class _Over(BaseException):
    """The house is closed: a worker's thread unwinds."""


class Spinning(AssertionError):
    """A worker that has nothing to do is busy with it."""


@dataclass(frozen=True, slots=True)
class Ended:
    """What became of a task, as it would be delivered."""

    status: TaskStatus
    result: Any
    reason: str


@dataclass(slots=True)
class _Resident:
    """One worker and its thread, which runs between `go` and `rest`."""

    house: House
    slot: int
    worker: Worker = field(init=False)
    thread: threading.Thread = field(init=False)
    idle: Idle | None = None
    wakes_at: float | None = 0.0
    failure: BaseException | None = None
    steps: int = 0
    _go: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    _rested: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))

    def run_on(self) -> None:
        """Let it run until it rests."""
        self._go.release()
        self._rested.acquire()
        if self.failure is not None:
            raise self.failure

    def rest(self, until: float | None) -> None:
        """In its own thread: give way until then."""
        self.wakes_at = until
        self.house.sleep(self)
        self._rested.release()
        self._go.acquire()
        if self.house.closed:
            raise _Over

    def live(self) -> None:
        self._go.acquire()
        try:
            while not self.house.closed:
                self.idle = None
                found = self.worker.step()
                if isinstance(found, Claim):
                    self.house.claims += 1
                    self.rest(self.house.clock.now)
                else:
                    self.idle = found
                    self.house.note_idle(self, found)
                    self.rest(found.until)
        except _Over:
            pass
        except BaseException as error:  # noqa: BLE001 (told in the main thread)
            self.failure = error
        finally:
            self._rested.release()

    # What a worker needs of its process

    def working(self, seconds: float) -> None: ...

    def recording(self, *_: object) -> None: ...

    def wake_workers(self, count: int = LAST_SLOT) -> None:
        self.house.wake(count, self)

    def wake_relays(self, count: int = LAST_SLOT) -> None: ...

    def count_done(self, count: int = 1) -> None: ...

    @contextmanager
    def call(self, task_id: str, seconds: float) -> Iterator[None]:
        self.house.stranger.took = 0.0
        try:
            yield
        finally:
            if not self.house.closed:
                self.rest(self.house.clock.now + self.house.stranger.took)


class _Hands:
    """`Hands` of a resident; its `idle` is a method, there it is what the worker found."""

    def __init__(self, resident: _Resident) -> None:
        self._resident = resident
        self.slot = resident.slot

    def idle(self) -> None: ...

    def __getattr__(self, name: str) -> Any:
        return getattr(self._resident, name)


class House:
    """Workers on one ledger, served by `stranger`. A context manager."""

    def __init__(
        self,
        folder: Path,
        template: Path,
        stranger: Stranger,
        settings: Settings,
        metrics: Metrics,
        **limits: int,
    ) -> None:
        self.world = World.create(folder, template, LedgerConfig.of(settings), **limits)
        self.clock = self.world.clock
        self.ledger = self.world.ledger
        self.settings = settings
        self.stranger = stranger
        self.closed = False
        self.claims = 0
        self.idles: list[Idle] = []
        self.ids: dict[str, str] = {}  # id by text
        self.found: dict[str, Ended] = {}  # what a test notes before it closes the house
        self.told: list[str] = []
        self._numbers = itertools.count()
        self._events: list[tuple[float, int, _Resident]] = []
        self._arrivals: list[tuple[float, int, Callable[[], None]]] = []
        self.start = self.clock.now
        stranger.clock = self.clock
        self._residents = [_Resident(self, FIRST_WORKER + n) for n in range(settings.concurrency_limit)]
        for resident in self._residents:
            resident.worker = Worker(cast(Child, _Hands(resident)), self.ledger, metrics, settings)
            resident.thread = threading.Thread(target=resident.live, daemon=True)
            resident.thread.start()
            resident.wakes_at = self.clock.now
            self.sleep(resident)

    def __enter__(self) -> House:
        return self

    def __exit__(self, *_: object) -> None:
        self.closed = True
        for resident in self._residents:
            if resident.thread.is_alive():
                resident._go.release()
                resident.thread.join(10)
            for provider in resident.worker._providers.values():
                provider.close()
        self.world.close()

    @property
    def elapsed(self) -> float:
        """Seconds since it was opened, by its clock."""
        return self.clock.now - self.start

    def admit(self, texts: Iterable[str], queue: QueueKey) -> None:
        """These texts are tasks now."""
        processor = PROCESSORS[queue.type]
        tasks = []
        for text in texts:
            task_id = f"task-{next(self._numbers)}"
            self.ids[text] = task_id
            content = processor.content.model_validate({"text": text, "model": queue.model})
            tasks.append(NewTask(task_id, queue, content.to_json()))
        poll = self.world.poll()
        self.ledger.inbox.admit(poll, tasks, ())
        self.ledger.inbox.end_poll(poll, complete=False, more_there=False, regular_at=self.clock.now + 86_400 * 365)
        self.wake(len(self._residents))

    def admit_later(self, seconds: float, texts: Iterable[str], queue: QueueKey) -> None:
        """They come that many seconds from now."""
        texts = list(texts)
        arrival = (self.clock.now + seconds, next(self._numbers), lambda: self.admit(texts, queue))
        heapq.heappush(self._arrivals, arrival)

    def run(self, seconds: float, enough: Callable[[], bool] = lambda: False) -> None:
        """Let so much time go by; less, if all sleep for good, or once it is `enough`."""
        end = self.clock.now + seconds
        while not enough():
            arrival = self._arrivals[0][0] if self._arrivals else None
            event = self._next_event()
            if arrival is not None and (event is None or arrival <= event):
                if arrival > end:
                    break
                self.clock.now = max(self.clock.now, arrival)
                heapq.heappop(self._arrivals)[2]()
                continue
            if event is None or event > end:
                break
            at, _, resident = heapq.heappop(self._events)
            if at > self.clock.now:
                self.clock.now = at
                for each in self._residents:
                    each.steps = 0
            resident.wakes_at = None
            resident.run_on()
            if len(self.stranger.seen) > REQUESTS:
                raise Spinning(f"{REQUESTS} requests within {self.elapsed:.0f} s, the last: {self.stranger.seen[-1]}")
        else:
            return
        if self._arrivals or self._events:
            self.clock.now = max(self.clock.now, end)

    @property
    def at_rest(self) -> bool:
        """Whether nothing would ever happen by itself."""
        return self._next_event() is None and not self._arrivals

    def _next_event(self) -> float | None:
        while self._events and self._events[0][2].wakes_at != self._events[0][0]:
            heapq.heappop(self._events)  # woken since, or asleep until another moment
        return self._events[0][0] if self._events else None

    def sleep(self, resident: _Resident) -> None:
        if resident.wakes_at is not None:
            resident.wakes_at = max(resident.wakes_at, self.clock.now)
            heapq.heappush(self._events, (resident.wakes_at, next(self._numbers), resident))

    def wake(self, count: int, but: _Resident | None = None) -> None:
        for resident in self._residents:
            if count and resident is not but and resident.idle is not None:
                resident.idle = None
                resident.wakes_at = self.clock.now
                self.sleep(resident)
                count -= 1

    def note_idle(self, resident: _Resident, idle: Idle) -> None:
        self.idles.append(idle)
        resident.steps += 1
        if resident.steps > STEPS_AT_ONE_MOMENT:
            raise Spinning(f"{resident.steps} claims at one moment found nothing: {idle}")

    # What came of it

    def ended(self) -> dict[str, Ended]:
        """By text: tasks that succeeded or failed so far."""
        texts = {task_id: text for text, task_id in self.ids.items()}
        rows = self.world.rows(
            "SELECT tasks.id, status, body, reason FROM tasks JOIN results ON results.seq = tasks.seq"
        )
        return {
            texts[task_id]: Ended(TaskStatus(status), None if body is None else orjson.loads(body), reason)
            for task_id, status, body, reason in rows
        }

    def done(self) -> bool:
        """Whether every task has ended, and none comes any more."""
        return not self._arrivals and not self.world.rows(
            "SELECT 1 FROM tasks WHERE state IN ('ready', 'claimed') LIMIT 1"
        )

    def snapshot(self) -> Snapshot:
        return snapshot(self.world.path, recovery=self.settings.circuit_breaker_recovery_seconds, now=self.clock.now)

    def deliver(self) -> None:
        """Empty the outbox, as a relay would."""
        while isinstance(taken := self.ledger.outbox.take(RELAY, 32), tuple):
            for delivery in taken:
                self.ledger.outbox.settle(delivery, DeliveryOutcome.DELIVERED)
