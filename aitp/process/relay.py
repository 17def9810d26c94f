"""A relay: delivers finished results to the task API, and polls it for new tasks.

`step` says what comes first: deliver what is finished, then poll if a poll is due. A relay never waits for a provider,
and holds none of its keys.

Documents are read one by one, and tolerantly: fields may be missing or new at any time, and one odd document never
costs the others anything. What is not understood (an unknown type, no id) stays pending in the API for a later release;
what is understood and can never succeed (invalid content of a known type) becomes a task that is failed. No reason
repeats the content.
"""

from __future__ import annotations

import json
import random
import re
import time
from collections.abc import Sequence
from contextlib import closing
from hashlib import blake2b
from itertools import islice

import orjson

from aitp import errors
from aitp.ledger import breakers, duplicates, outbox
from aitp.ledger.claims import Idle, IdleReason
from aitp.ledger.inbox import Malformed, Poll, PollOptions
from aitp.ledger.ledger import Ledger
from aitp.logs import get_logger
from aitp.metrics import DELIVERIES, Metrics
from aitp.policy import evidence, polling
from aitp.process.child import Child
from aitp.process.reports import IntakeWatch, tell_of_breaker, tell_of_reuse
from aitp.processors import PROCESSORS
from aitp.settings import Settings
from aitp.taskapi.client import TaskApi
from aitp.tasks import Health, NewTask, QueueKey, Service

# Mongo's are 24 hex digits; whatever a later server sends must fit into a path, a log line and the scoreboard.
TASK_ID = re.compile(r"(?!\.\.?$)[A-Za-z0-9_.:-]{1,64}")
# Where Mongo puts it: at the beginning. For documents of which more cannot be read, or is not there.
LEADING_ID = re.compile(rb'\{\s*"_id"\s*:\s*"((?!\.\.?")[A-Za-z0-9_.:-]{1,64})"\s*[,}]')
UNKNOWN_MODEL = "unknown"
# Few, so that a slow task API keeps no result waiting behind another relay's.
CHUNK = 8
TOGETHER_SECONDS = 1.0
# Documents entered in one transaction: more would keep claims waiting.
PART = 200
# A page of everything that is pending may be 500 MB: it is bounded by its silence (REQUEST_TIMEOUT) and by this.
POLL_SECONDS = 900.0
JITTER = (0.9, 1.0)
AT_ONCE = 0.0  # by whatever clock
# Documents that cannot be read before a page is suspected to be of a kind that this release does not know.
FEWEST_USELESS = 10
# A call may need a token first, and be made twice with a fresh one.
REQUESTS_IN_A_CALL = 4

log = get_logger(__name__)


def read_document(raw: bytes, settings: Settings | None = None) -> NewTask | Malformed:
    """The task that a document describes; `settings` say which model one has that names none.

    Never raises for anything that a server may send.
    """
    try:
        document = _parsed(raw)
    except (ValueError, RecursionError):
        found = LEADING_ID.match(raw)
        return Malformed(found[1].decode() if found else None, "it is not valid JSON, or far too long")
    if not isinstance(document, dict):
        return Malformed(None, "it is not an object")
    task_id, type_ = document.get("_id"), document.get("type")
    if not isinstance(task_id, str) or not TASK_ID.fullmatch(task_id):
        return Malformed(None, "it has no usable _id")
    if not isinstance(type_, str) or type_ not in PROCESSORS:
        shown = type_ if isinstance(type_, str) and TASK_ID.fullmatch(type_) else "no name of a type"
        return Malformed(task_id, f"its type is unknown to this release: {shown}")
    return _task(task_id, type_, document.get("content"), settings)


def _parsed(raw: bytes) -> object:
    try:
        return orjson.loads(raw)
    except orjson.JSONDecodeError:
        # It is strict where others are not: NaN, whose task can be told why, and half an emoji (JavaScript cuts texts
        # so), which is U+FFFD from here on: neither JSON nor UTF-8 could carry it any further.
        text = json.dumps(json.loads(raw), ensure_ascii=False)
        return json.loads(text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace"))


def _task(task_id: str, type_: str, content: object, settings: Settings | None) -> NewTask | Malformed:
    processor = PROCESSORS[type_]
    try:
        known = processor.parse(content, settings)
        queue, text = QueueKey(type_, known.model), known.to_json()
        return NewTask(task_id, queue, text, fingerprint=duplicates.fingerprint(queue, text))
    except errors.NonRetryableError as error:
        return NewTask(task_id, QueueKey(type_, UNKNOWN_MODEL), b"", invalid=str(error))
    except Exception as error:  # noqa: BLE001 (the border of a task: a processor's bug must not stop all polls)
        return Malformed(task_id, f"its content cannot be read by this release ({type(error).__name__})")


class Harvest:
    """What one poll brings, part by part. Invalid tasks are held back to the end: if over half of a page cannot be
    read, it is more likely this release than the tasks, and nothing is failed. A few prove nothing: a quiet service
    sees its tasks one by one, and what stays pending for good is all that its pages hold."""

    def __init__(self, ledger: Ledger, poll: Poll, metrics: Metrics, settings: Settings) -> None:
        self._ledger = ledger
        self._settings = settings
        self._poll = poll
        self._metrics = metrics
        self._invalid: list[NewTask] = []
        self._unreadable = 0
        self.documents = 0
        self.entered = 0
        self.left_out = 0
        self.problem: str | None = None

    def enter(self, documents: Sequence[bytes]) -> None:
        """Enter one part of the page."""
        valid: list[NewTask] = []
        unreadable: list[Malformed] = []
        for raw in documents:
            match read_document(raw, self._settings):
                case NewTask(invalid=None) as task:
                    valid.append(task)
                case NewTask() as task:
                    self._invalid.append(task)
                case Malformed(task_id, reason):
                    # One without a name is named by what it is, so that it is told once as well.
                    name = task_id or f"nameless:{blake2b(raw, digest_size=8).hexdigest()}"
                    unreadable.append(Malformed(name, reason))
        self.documents += len(documents)
        self._unreadable += len(unreadable)
        self._admit(valid, unreadable)

    def enter_invalid(self) -> None:
        """At the end of the page: fail what can never succeed, unless that is most of it."""
        useless = self._unreadable + len(self._invalid)
        if useless >= FEWEST_USELESS and useless * 2 > self.documents:
            self.problem = f"{useless} of {self.documents} pending documents cannot be read: none of them is failed"
            self._admit([], [Malformed(task.id, task.invalid or "") for task in self._invalid])
        else:
            self._admit(self._invalid, [])

    def _admit(self, tasks: Sequence[NewTask], unreadable: Sequence[Malformed]) -> None:
        admitted = self._ledger.inbox.admit(self._poll, tasks, unreadable)
        self.entered += admitted.tasks
        self.left_out += admitted.left_out
        tell_of_reuse(admitted.reused, self._metrics)
        for document in admitted.malformed:
            log.warning("Document cannot be read, it stays pending", task_id=document.id, reason=document.reason)


class Relay:
    """One relay's tools."""

    def __init__(self, process: Child, ledger: Ledger, api: TaskApi, metrics: Metrics, settings: Settings) -> None:
        self._process = process
        self._ledger = ledger
        self._owner = ledger.owner(process.slot)
        self._api = api
        self._metrics = metrics
        self._settings = settings
        self._interval = settings.polling_interval_seconds
        self._call_seconds = settings.request_timeout * REQUESTS_IN_A_CALL
        self._terms = PollOptions(self._interval, settings.concurrency_limit, settings.embedding_batch_size)
        self._asked = False
        self._delivered_last = False
        self._problem_told = False
        self._intake = IntakeWatch(settings.ledger, "polling")

    def step(self, *, may_poll: bool = True, asked: bool = False) -> float | None:
        """Do what comes first. Returns when there is something to do again, by the ledger's clock; None: not known.

        `asked`: a person wants a poll now. That is kept in mind while other things come first.
        """
        self._asked |= asked
        # Before the look for work, not after: who finishes a task in between must see that this relay is to be woken.
        self._process.idle()
        # An open breaker is probed by turns: what was delivered last may be what fails on every try.
        found = self._ledger.outbox.take(self._owner, CHUNK, may_probe=not (may_poll and self._delivered_last))
        next_poll_at = None
        if isinstance(found, outbox.Nothing) and may_poll:
            poll = self._ledger.inbox.begin_poll(self._owner, self._terms, asked=self._asked)
            # Who asked to be left alone is left alone: the wish is kept till then.
            self._asked = self._asked and isinstance(poll, Idle) and poll.because is IdleReason.COOLDOWN
            self._intake.heed(poll.because if isinstance(poll, Idle) else None, time.monotonic())
            if isinstance(poll, Poll):
                self._delivered_last = False
                self._poll(poll)
                return AT_ONCE
            next_poll_at = poll.until
            if found.probe_left:
                found = self._ledger.outbox.take(self._owner, CHUNK)
        if not isinstance(found, outbox.Nothing):
            self._delivered_last = True
            if len(found) == CHUNK:
                self._process.wake_relays(1)
            self._deliver_all(found)
            return AT_ONCE
        return min((until for until in (found.until, next_poll_at) if until is not None), default=None)

    # Out: results to the task API

    def _deliver_all(self, deliveries: tuple[outbox.Delivery, ...]) -> None:
        """One after the other. What is brought within a second is settled together, which saves a fifth of a relay's
        CPU; a kill in between has the task API told of these once more.
        """
        going, done, since = True, list[outbox.Delivery](), time.monotonic()
        for delivery in deliveries:
            if not going:
                # The API is not well: the rest is anyone's again, and waits with everything else.
                self._ledger.outbox.settle(delivery, outbox.DeliveryOutcome.RETURNED)
                continue
            outcome, reason, fault = self._deliver(delivery)
            going = fault is None
            may_wait = outcome is outbox.DeliveryOutcome.DELIVERED and delivery is not deliveries[-1]
            if may_wait and time.monotonic() - since < TOGETHER_SECONDS:
                done.append(delivery)
                continue
            change = self._ledger.outbox.settle(delivery, outcome, reason, fault, done)
            for each in done:
                self._tell_of(each, outbox.DeliveryOutcome.DELIVERED)
            self._tell_of(delivery, outcome, reason)
            self._tell(change)
            done, since = [], time.monotonic()

    def _deliver(self, delivery: outbox.Delivery) -> tuple[outbox.DeliveryOutcome, str, outbox.Fault | None]:
        """Bring one result to the task API: how that ended, and why; with a fault the next would fare no better."""
        outcome, fault, reason = outbox.DeliveryOutcome.DELIVERED, None, ""
        try:
            with self._process.call(delivery.id, self._call_seconds):
                self._api.deliver(delivery.id, delivery.status, delivery.result)
        except errors.DeliveryRefused as error:
            reason = str(error)
            for_good = evidence.is_refused_for_good(error.status, delivery.conflicts)
            outcome = outbox.DeliveryOutcome.REFUSED if for_good else outbox.DeliveryOutcome.CONFLICT
        except Exception as error:  # noqa: BLE001 (the border of a delivery: nothing may lose the result)
            fault, reason = self._fault_of(error), _reason(error)
            # No failure of the delivery's: it was not looked at, or not even sent.
            unsent = fault.pause is not None or fault.service == Service.OAUTH.value
            outcome = outbox.DeliveryOutcome.RETURNED if unsent else outbox.DeliveryOutcome.LATER
        return outcome, reason, fault

    def _tell_of(self, delivery: outbox.Delivery, outcome: outbox.DeliveryOutcome, reason: str = "") -> None:
        facts = {"task_id": delivery.id, "task_type": delivery.type}
        match outcome:
            case outbox.DeliveryOutcome.DELIVERED:
                told = "delivered"
                log.info("Result delivered", **facts, status=delivery.status.value, tries=delivery.tries + 1)
            case outbox.DeliveryOutcome.REFUSED:
                told = "refused"
                log.error("Result refused, kept as a dead letter", **facts, reason=reason)
            case _:
                told = "deferred"
                log.warning("Result could not be delivered, it waits", **facts, reason=reason)
        self._metrics.count(DELIVERIES, told)

    def _fault_of(self, error: Exception) -> outbox.Fault:
        """What a failed call says of the task API and of the authorization server."""
        match error:
            case errors.CooldownRequired():
                return outbox.Fault(error.service, Health.HEALTHY, str(error), pause=error.seconds)
            case errors.CredentialsRefused():
                return outbox.Fault(error.service, Health.REFUSED, str(error))
            case errors.ServiceFault():
                return outbox.Fault(error.service, Health.FAULTY, str(error))
            case MemoryError() | OSError() | errors.LedgerError():
                return outbox.Fault(Service.API.value, Health.UNKNOWN, "this machine is in trouble")
            case _:
                log.error("Unexpected error", exc_info=error)
                return outbox.Fault(Service.API.value, Health.UNKNOWN, f"unexpected {type(error).__name__}")

    def empty_outbox(self) -> None:
        """Before leaving: bring out all that can be brought out now."""
        while not isinstance(found := self._ledger.outbox.take(self._owner, CHUNK), outbox.Nothing):
            self._deliver_all(found)

    # In: tasks from the task API

    def _poll(self, poll: Poll) -> None:
        """One poll, whatever comes of it. The answer is read in parts, each entered before the next is read."""
        harvest = Harvest(self._ledger, poll, self._metrics, self._settings)
        fault = None
        try:
            self._read_page(poll, harvest)
        except Exception as error:  # noqa: BLE001 (the border of a poll: the next one may fare better)
            fault = self._fault_of(error)
            log.warning("Poll failed", reason=_reason(error), tasks=harvest.entered)
            self._ledger.inbox.fail_poll(poll, _reason(error))
        else:
            self._close_poll(poll, harvest)
        self._tell(self._ledger.outbox.judge(self._owner, fault))
        if harvest.entered:
            self._process.wake_workers(harvest.entered)

    def _read_page(self, poll: Poll, harvest: Harvest) -> None:
        give_up = time.monotonic() + POLL_SECONDS
        # Each step has a deadline of its own, and none is open while the ledger is written to.
        with self._process.call("", self._call_seconds):
            page = self._api.pending(poll.limit)
        with closing(page):
            while True:
                with self._process.call("", self._call_seconds):
                    part = list(islice(page, PART))
                harvest.enter(part)
                if len(part) < PART:
                    break
                if harvest.entered:
                    self._process.wake_workers(1)
                if time.monotonic() > give_up:
                    raise errors.ServiceFault(
                        Service.API.value, f"the pending list took longer than {POLL_SECONDS:g} s"
                    )
            harvest.enter_invalid()

    def _close_poll(self, poll: Poll, harvest: Harvest) -> None:
        dropped = self._ledger.inbox.end_poll(
            poll,
            complete=polling.is_complete(harvest.documents, poll.limit, poll.longest_page),
            more_there=harvest.left_out > 0
            or polling.may_hold_more(harvest.documents, poll.limit, poll.longest_page, harvest.entered),
            documents=harvest.documents,
            barren=harvest.documents == poll.limit and not harvest.entered,
            regular_at=poll.began_at + self._interval * random.uniform(*JITTER),
            problem=harvest.problem,
        )
        tell = log.info if harvest.entered or dropped else log.debug
        facts = {"documents": harvest.documents, "tasks": harvest.entered, "dropped": dropped}
        tell("Poll completed", **facts, left_out=harvest.left_out)
        if harvest.problem and not self._problem_told:
            log.error("Most of the pending documents cannot be read", reason=harvest.problem)
        self._problem_told = harvest.problem is not None

    def _tell(self, change: breakers.BreakerChange | None) -> None:
        if change is not None:
            tell_of_breaker(change)
            # What the others sleep until has changed.
            self._process.wake_relays()


def _reason(error: Exception) -> str:
    """What may be logged and kept: our own words, or the name of an error that nobody expected."""
    return str(error) if isinstance(error, errors.AitpError) else type(error).__name__
