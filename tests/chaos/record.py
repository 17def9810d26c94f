"""The record of a run: what was seen from outside and in the ledger, as plain values. The checker knows nothing else.

All instants are of the machine's monotonic clock, which servers, processes and suite share.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any


class Fate(Enum):
    """What must become of a document."""

    SUCCEEDS = "succeeds"
    FAILS = "fails"  # its content can never be worked on, or no provider can do its text
    STAYS = "stays"  # nobody can read it: pending in the task API, set aside in the ledger
    NAMELESS = "nameless"  # its id is none that anyone could use: likewise, set aside by what it is


@dataclass(frozen=True, slots=True)
class Sent:
    """One document of the task API."""

    id: str
    text: str
    fate: Fate = Fate.SUCCEEDS
    type: str = ""


@dataclass(frozen=True, slots=True)
class Buy:
    """One text in one call to a provider. `clean`: paid for, and the answer got through whole and as it should."""

    text: str
    call: int
    paid: bool
    clean: bool
    at: float
    ended: float
    provider: str = "openai"
    chat: bool = False  # one of a conversation, it may be, about one task
    not_found: bool = False  # answered 404: there is no such path, it may be, and another one is tried


@dataclass(frozen=True, slots=True)
class Patch:
    """One delivery. `whole`: the answer reached the client."""

    id: str
    state: str
    status: int
    whole: bool
    at: float
    answered: float


@dataclass(frozen=True, slots=True)
class Record:
    """All there is to judge a run by."""

    documents: Sequence[Sent]
    buys: Sequence[Buy]
    patches: Sequence[Patch]
    states: Mapping[str, str]  # of the tasks that the task API still has
    journal: Sequence[Mapping[str, Any]]  # see controls.py
    deaths: Sequence[tuple[int, float]]  # processes that ended otherwise than by leaving: (pid, not later than)
    workers: int
    most_calls_at_once: int
    max_retries: int = 4
    power_cuts: Sequence[float] = ()
    server_deaths: Sequence[tuple[float, float]] = ()  # of a fleet's ledger: (killed at, up again at)
    troubles: Sequence[tuple[float, float]] = ()  # when memory, descriptors or the disk were short: (from, until)
    clock: Sequence[tuple[float, float]] = ((0.0, 0.0),)  # (from then on, seconds that the service's clock is ahead)
    wall_minus_monotonic: float = 0.0
    limits: Mapping[str, int] = field(default_factory=dict)  # by period
    strategy: str = "rolling"
    zone: str = "UTC"
    declined: frozenset[str] = frozenset()  # texts that a model would not answer: their tasks may fail
    wrong_results: Sequence[str] = ()
    held: Mapping[str, str] = field(default_factory=dict)  # task id: state, of what the ledger still holds
    dead: Mapping[str, str] = field(default_factory=dict)  # task id: reason
    unreadable: frozenset[str] = frozenset()
    redirected: int = 0  # requests with credentials that another host saw
    exit_code: int | None = 0
    leftovers: Sequence[str] = ()  # processes, locks, files and sockets that should be gone
    gauges: Mapping[str, float] = field(default_factory=dict)
    truth: Mapping[str, float] = field(default_factory=dict)
    uncaught: Sequence[str] = ()  # stack traces in the log
