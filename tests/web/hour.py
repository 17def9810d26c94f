"""An hour of service, lived through in a second: a real ledger whose clock is set by hand, and real metrics files.

For the page's tests and for its pictures in docs/.
"""

from __future__ import annotations

import dataclasses
import math
import random
import time
from collections.abc import Callable, Mapping
from zoneinfo import ZoneInfo

from aitp.ledger.budgets import spend
from aitp.ledger.claims import Claim, ClaimOptions
from aitp.ledger.evidence import Failure, Report
from aitp.ledger.inbox import Poll, PollOptions
from aitp.ledger.ledger import Ledger
from aitp.ledger.outbox import DeliveryOutcome, Fault
from aitp.ledger.queue import LedgerConfig
from aitp.metrics import CallStatus, known_models, open_metrics
from aitp.policy.costs import NANO, Bill, Pricing
from aitp.policy.routing import Route
from aitp.process.scoreboard import Record, State
from aitp.tasks import Culprit, Ending, Health, NewTask, Outcome, QueueKey
from tests.ledger.world import Clock, set_budgets
from tests.web.world import RELAY, WORKER, World

UTC = ZoneInfo("UTC")
EMBEDDING = QueueKey("text_embedding", "nomic-embed-text")
TOPICS = QueueKey("defining_topics", "gpt-6.1-terra")
SEVERITY = QueueKey("defining_severity", "gpt-6.1-terra")
TERMS = ClaimOptions(
    workers=3,
    routes=lambda queue: (Route("ollama" if queue is EMBEDDING or queue == EMBEDDING else "openai", queue.model),),
    batch_size=lambda queue: 8 if queue == EMBEDDING else 1,
)


PROMPT_TOKENS, COMPLETION_TOKENS = 310, 640


class Hour:
    """Sixty minutes that end now, each with its tasks, calls and deliveries.

    Calls cost what the settings' PRICES say, if they name any.
    """

    def __init__(self, world: World, seed: int = 7) -> None:
        self.world = world
        self._clock = Clock(time.time() - 3600)
        settings = world.settings
        self.ledger = Ledger.open(settings.ledger, LedgerConfig.of(settings), clock=self._clock)
        self._metrics = open_metrics(
            world.settings.runtime_dir / "metrics", WORKER, known_models(("nomic-embed-text", "gpt-6.1-terra"))
        )
        self._chance = random.Random(seed)
        self._number = 0
        self._prices, self._terms = world.settings.prices, TERMS
        if self._prices is not None:
            self._terms = dataclasses.replace(TERMS, pricing=self._tariff, currency=self._prices.currency)
            set_budgets(self.ledger, self._prices.currency, world.settings.budgets)

    @property
    def now(self) -> float:
        return self._clock.now

    @now.setter
    def now(self, moment: float) -> None:
        self._clock.now = moment

    def spent_before(self, today: int, this_month: int) -> None:
        """What was spent before this hour, in nano-units; the month's with the day's in it."""
        assert self._prices is not None
        day = self.now // 86_400 * 86_400
        month = day - (time.gmtime(day).tm_mday - 1) * 86_400
        with self.ledger._database.transaction() as connection:
            spend(connection, self._prices.currency, this_month - today, month, UTC)
            spend(connection, self._prices.currency, today, day, UTC)

    def live(self, events: Mapping[int, Callable[[], None]] | None = None) -> None:
        """Go through the hour, with what happens besides in some of its minutes."""
        for minute in range(60):
            if event := (events or {}).get(minute):
                event()
            self._admit(EMBEDDING, 0)  # a poll notes how many wait
            self._work()
            self._deliver()
            self._admit(EMBEDDING, 6 + round(5 * math.sin(minute / 9) + self._chance.random() * 4))
            self._admit(TOPICS if minute % 2 else SEVERITY, self._chance.randrange(3))
            self.now += 60 - self.now % 60 if minute == 0 else 60
        self.now = time.time()
        self._work()
        self._deliver()

    def leave(self, waiting: int, in_flight: int, finished: int) -> None:
        """The end of the hour: tasks that wait, are at work, and are to be delivered."""
        self.now = time.time() - 20
        self._admit(EMBEDDING, finished)
        self._work()
        self.now = time.time() - 8
        self._admit(SEVERITY, in_flight)
        for number in range(in_flight):
            self.now = time.time() - 5 + number
            claim = self.ledger.claims.claim(WORKER + number, self._terms)
            assert isinstance(claim, Claim), claim
            self._board(WORKER + number, State.BUSY, claim.tasks[0].id)
        self._admit(EMBEDDING, waiting)
        self.now = time.time() - 2

    def close(self) -> None:
        self.ledger.close()
        self._metrics.close()

    def trouble(
        self, reason: str, queue: QueueKey = TOPICS, ending: Ending = Ending.RETRY, health: Health = Health.FAULTY
    ) -> None:
        """One task's attempt that goes wrong now."""
        self._admit(queue, 1)
        claim = self.ledger.claims.claim(WORKER, self._terms)
        assert isinstance(claim, Claim)
        culprit = Culprit.SERVICE if health is Health.FAULTY else Culprit.ACCOUNT
        failure = None if health is Health.HEALTHY else Failure(culprit, reason, named=health is Health.REFUSED)
        outcomes = [Outcome(task, ending, reason=reason, culprit=culprit) for task in claim.tasks]
        self.ledger.outcomes.finish(claim, Report(outcomes, failure, seconds=30.0))
        self._metrics.provider_request(claim.provider, claim.route.model, CallStatus.ERROR, 30.0)

    def api_refuses(self, reason: str) -> None:
        """The task API refuses our token: its breaker opens, and the results that there are wait."""
        taken = self.ledger.outbox.take(RELAY, 1)
        assert isinstance(taken, tuple)
        self.ledger.outbox.settle(taken[0], DeliveryOutcome.RETURNED, fault=Fault("api", Health.REFUSED, reason))

    def refuse(self, refusal: str) -> None:
        """A result that the task API refuses: a dead letter."""
        self._admit(EMBEDDING, 1)
        self._work()
        taken = self.ledger.outbox.take(RELAY, 1)
        assert isinstance(taken, tuple)
        self.ledger.outbox.settle(taken[0], DeliveryOutcome.REFUSED, refusal)

    def _admit(self, queue: QueueKey, count: int) -> None:
        poll = self._poll()
        tasks = [NewTask(self._name(), queue, b'{"text": "a text that nobody may see"}') for _ in range(count)]
        self.ledger.inbox.admit(poll, tasks)
        self._poll_ended(poll)

    def _poll(self) -> Poll:
        poll = self.ledger.inbox.begin_poll(RELAY, PollOptions(interval=30, concurrency=3, batch_size=8), asked=True)
        assert isinstance(poll, Poll), poll
        return poll

    def _poll_ended(self, poll: Poll) -> None:
        self.ledger.inbox.end_poll(poll, complete=False, more_there=False, regular_at=self.now + 30)

    def _work(self) -> None:
        while isinstance(claim := self.ledger.claims.claim(WORKER, self._terms), Claim):
            texts = len(claim.tasks)
            seconds = (0.05 * texts if claim.queue == EMBEDDING else 3.0) * self._chance.uniform(0.6, 1.7)
            outcomes = [Outcome(task, Ending.SUCCEEDED, b"[0.5]") for task in claim.tasks]
            prompt, completion = PROMPT_TOKENS * texts, 0 if claim.queue == EMBEDDING else COMPLETION_TOKENS
            bill = self._bill(claim, prompt, completion)
            self.ledger.outcomes.finish(claim, Report(outcomes, seconds=seconds, bill=bill))
            self._metrics.provider_request(claim.provider, claim.route.model, CallStatus.SUCCESS, seconds)
            self._metrics.tokens(claim.provider, claim.route.model, "prompt_tokens", prompt)
            if completion:
                self._metrics.tokens(claim.provider, claim.route.model, "completion_tokens", completion)

    def _tariff(self, queue: QueueKey, route: Route) -> Pricing:
        assert self._prices is not None
        return Pricing(self._prices.of(route.provider, route.model), answers=queue != EMBEDDING)

    def _bill(self, claim: Claim, prompt: int, completion: int) -> Bill | None:
        """What a call costs, if it costs something; counted in the metrics, too."""
        price = None if self._prices is None else self._prices.of(claim.provider, claim.route.model)
        if self._prices is None or price is None or price.is_nothing:
            return None
        nano, currency = price.cost(prompt, completion), self._prices.currency
        self._metrics.cost(claim.provider, claim.route.model, currency, nano / NANO)
        return Bill(currency, nano, prompt, completion)

    def _deliver(self) -> None:
        while isinstance(taken := self.ledger.outbox.take(RELAY, 8), tuple):
            for delivery in taken:
                self.ledger.outbox.settle(delivery, DeliveryOutcome.DELIVERED)

    def _board(self, slot: int, state: State, task_id: str = "") -> None:
        since, deadline = time.time() - self._chance.uniform(1, 4), time.monotonic() + 117
        self.world.scoreboard.write(Record(slot, 4242, state, time.time() - 9000, since, deadline, 311, task_id))

    def _name(self) -> str:
        self._number += 1
        return f"66e8{self._number:04x}a1c8e9d0{self._chance.getrandbits(32):08x}"
