"""The vocabulary: what a task is, the states it goes through, how an attempt at it can end. Values only.

What is named here is named nowhere else: SQL speaks of states by these names, and a test compares them with the CHECKs
of the schema.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, IntEnum, StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from pydantic import SecretStr


class TaskType(StrEnum):
    """The task types that this release knows. Third parties register more by name (`aitp.processors`)."""

    TEXT_EMBEDDING = "text_embedding"
    IDENTIFYING_DATA = "identifying_data"
    DEFINING_TOPICS = "defining_topics"
    DEFINING_IMPACT_AREA = "defining_impact_area"
    DEFINING_SEVERITY = "defining_severity"


class TaskState(StrEnum):
    """Where a task is: ready → claimed → finished → (delivered, and gone) | dead."""

    READY = "ready"  # to be run, now or when it is due
    CLAIMED = "claimed"  # by a worker's slot: a call is in flight
    FINISHED = "finished"  # its result waits to be delivered, or is being delivered by a relay's slot
    DEAD = "dead"  # a dead letter: refused by the task API for good, kept for a person


class TaskStatus(StrEnum):
    """What the task API is told."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"


class QueueKey(NamedTuple):
    """What tasks are grouped by: tasks of one kind can share a provider call.

    `failed_at`: the provider that failed for them, if another is to be asked instead.
    """

    type: str
    model: str
    failed_at: str = ""


class NewTask(NamedTuple):
    """A task as a poll brings it. `content` is JSON as its processor wrote it; `invalid` why it can never succeed.

    `fingerprint` is what it shares with its duplicates (`ledger.duplicates.fingerprint`), None if it is to have none.
    """

    id: str
    queue: QueueKey
    content: bytes
    invalid: str | None = None
    fingerprint: bytes | None = None


class Task(NamedTuple):
    """A claimed task. `seq` is its row; `attempts` that failed so far; `crashes` of processes that ran it."""

    seq: int
    id: str
    queue: QueueKey
    content: bytes
    attempts: int = 0
    crashes: int = 0


class Ending(Enum):
    """How one attempt at one task ended. The ledger turns each into a state and an effect on limits."""

    SUCCEEDED = "succeeded"  # result in hand
    FAILED = "failed"  # non-retryable: delivered as failed
    BUG = "bug"  # an exception nobody expected: delivered as failed, and counted against the processor
    RETRY = "retry"  # it failed: whose fault that is, the evidence tells; due again after back-off, or failed
    POSTPONED = "postponed"  # no fault of the task's (429, credentials): ready again, no attempt counted
    FALLBACK = "fallback"  # its provider failed, another one stands in: ready again for that one
    SPLIT = "split"  # a bug struck a batch: each half is claimed separately
    ADAPTED = "adapted"  # the request is changed to what the server takes: ready again at once
    ABANDONED = "abandoned"  # sent, no answer awaited (grace over): ready again, may be bought again
    UNSENT = "unsent"  # no request was sent: ready again, room in the limits comes back


class Culprit(StrEnum):
    """Whose fault a failed attempt is presumed to be, by what came back. Evidence decides (`aitp.policy.evidence`)."""

    INPUT = "input"  # the request was refused: because of this text, or of a parameter, or of anything else
    ANSWER = "answer"  # 200, and nothing that could be delivered
    ACCOUNT = "account"  # credentials, or what looks like them
    SERVICE = "service"  # 5xx, connection, time-out, an answer that is none
    REQUEST = "request"  # a parameter or setting of ours: nothing is left to leave out
    MODEL = "model"  # gone, not allowed, of another kind
    MACHINE = "machine"  # this one


class Outcome(NamedTuple):
    """One task's ending. `result` is the JSON to deliver (SUCCEEDED only); `reason` says why for all others.

    `culprit` is presumed, of a RETRY; `named`: the provider itself says that it is this text; `times`: useless answers
    that this attempt was given.
    """

    task: Task
    ending: Ending
    result: bytes | None = None
    reason: str = ""
    culprit: Culprit = Culprit.SERVICE
    named: bool = False
    times: int = 1


class Health(Enum):
    """What a call says of its service: only faults count against a breaker; UNKNOWN ends no probe well or badly."""

    HEALTHY = "healthy"
    FAULTY = "faulty"
    REFUSED = "refused"  # credentials: the breaker opens at once
    UNKNOWN = "unknown"


class Service(StrEnum):
    """Everything that has a breaker."""

    API = "api"
    OAUTH = "oauth"
    OPENAI = "openai"
    OLLAMA = "ollama"
    WIKIDATA = "wikidata"


class BreakerState(StrEnum):
    """As pybreaker names them."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half-open"  # one probe is on its way


class Period(StrEnum):
    """The five periods of limits, shortest first; budgets have two of them."""

    MINUTE = "minute"
    HOUR = "hour"
    DAY = "day"
    WEEK = "week"
    MONTH = "month"


class Strategy(StrEnum):
    """How the windows of limits are cut."""

    ROLLING = "rolling"
    FIXED = "fixed"


class ExitCode(IntEnum):
    """How our processes end."""

    FINE = 0
    FAILED = 1
    USAGE = 2
    AGAIN = 75  # EX_TEMPFAIL: the machine or the ledger fails us, or not all could be done yet
    MISCONFIGURED = 78  # EX_CONFIG of sysexits.h: nobody starts it anew


@dataclass(frozen=True, slots=True)
class Fleet:
    """A ledger that hosts share: the address and the schema of PostgreSQL, and this host's part in it.

    `grace`: seconds after which a host that is away is gone. `lock_file`: beside it is what tells this host's slots
    apart. As text it is shown without the secrets that the address may hold.
    """

    url: SecretStr
    schema: str
    host: str
    grace: float
    lock_file: Path
    shown: str

    def __str__(self) -> str:
        return self.shown


Place = Path | Fleet
"""Where a ledger is."""
