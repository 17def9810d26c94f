"""Faults to order: what goes wrong, for which requests, how often, by what chance, and when.

One mechanism for all three servers: `server.faults.add(Fault(path="/v1/embeddings", status=500, times=3))`. Each
request asks the plan once (`strike`); the first fault in order of adding that applies is returned and counted.
Chances come from a generator with a seed, so that a run repeats.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum


class FaultKind(StrEnum):
    """What goes wrong. The first six happen before the server did anything, all others after."""

    STATUS = "status"  # answer `status` with the server's own error body
    PAGE = "page"  # answer `status` with a page, as a gateway or a login in front of the server does
    DROP = "drop"  # close the connection, not a byte sent
    RESET = "reset"  # the same with a TCP reset
    HANG = "hang"  # never answer
    QUOTA = "quota"  # provider: 429 insufficient_quota
    LOSE = "lose"  # do the work, then close without a byte: a lost acknowledgement
    CUT = "cut"  # head and half of the body, then close
    RESET_IN_HEAD = "reset_in_head"  # half of the head, then a TCP reset
    RESET_IN_BODY = "reset_in_body"  # head and half of the body, then a TCP reset
    TOO_SHORT = "too_short"  # a Content-Length that is less than the body
    TOO_LONG = "too_long"  # a Content-Length that is more than the body, then close
    ENDLESS = "endless"  # 200 and a body that goes on until the client has had enough
    TRICKLE = "trickle"  # the body byte by byte, `seconds` apart
    STALL = "stall"  # the right answer, `seconds` late
    GARBAGE = "garbage"  # 200 and a body that is not JSON
    WRONG_COUNT = "wrong_count"  # provider: one vector too few
    WRONG_INDEX = "wrong_index"  # provider: every index is 0
    WRONG_LENGTH = "wrong_length"  # provider: vectors of half the length
    NOT_A_NUMBER = "not_a_number"  # provider: NaN in every vector
    ZEROS = "zeros"  # provider: vectors of nothing but zeros
    REFUSAL = "refusal"  # chat: the model declines
    CUT_ANSWER = "cut_answer"  # chat: finish_reason length
    FENCED = "fenced"  # chat: the right answer within prose and a code fence
    NO_JSON = "no_json"  # chat: a trailing comma
    OUT_OF_LIST = "out_of_list"  # chat: JSON that does not fit
    EMPTY = "empty"  # chat: no word


IDLE_KINDS = frozenset(
    {FaultKind.STATUS, FaultKind.PAGE, FaultKind.DROP, FaultKind.RESET, FaultKind.HANG, FaultKind.QUOTA}
)
RESETS = frozenset({FaultKind.RESET, FaultKind.RESET_IN_HEAD, FaultKind.RESET_IN_BODY})
# After any of these the connection is closed, and the client did not get the answer whole.
BROKEN_OFF = frozenset({*RESETS, FaultKind.CUT, FaultKind.TOO_SHORT, FaultKind.TOO_LONG})


@dataclass(frozen=True, eq=False, slots=True)
class Fault:
    """One fault. It strikes requests whose path starts with `path` (and whose method is `method`, if given).

    `text`: only those with this in their body. Of ZEROS, only the vectors of texts that hold it.
    """

    path: str = ""
    method: str = ""
    text: str = ""
    kind: FaultKind = FaultKind.STATUS
    status: int = 500
    headers: Mapping[str, str] = field(default_factory=dict)  # added to the answer of STATUS, PAGE and QUOTA
    times: int | None = None  # how often; None: until removed
    skip: int = 0  # let so many matching requests pass first
    probability: float = 1.0
    seconds: float = 1.0  # of TRICKLE and STALL
    start_seconds: float = 0.0  # a window of time, counted from the moment it is added
    for_seconds: float | None = None


@dataclass(slots=True)
class _Standing:
    fault: Fault
    added_monotonic: float
    matched: int = 0
    struck: int = 0


class FaultPlan:
    """The faults ordered of one server. Safe to use from any thread."""

    def __init__(self, seed: int = 0) -> None:
        self._random = random.Random(seed)
        self._standing: list[_Standing] = []
        self._lock = threading.Lock()
        self.struck = 0

    def add(self, fault: Fault) -> Fault:
        """Order a fault; the value returned is the handle for `remove` and `times_struck`."""
        with self._lock:
            self._standing.append(_Standing(fault, time.monotonic()))
        return fault

    def remove(self, fault: Fault) -> None:
        """Take one fault back."""
        with self._lock:
            self._standing = [each for each in self._standing if each.fault is not fault]

    def clear(self) -> None:
        """Take all faults back."""
        with self._lock:
            self._standing = []

    def times_struck(self, fault: Fault) -> int:
        """How many requests this fault has hit so far."""
        return sum(each.struck for each in self._standing if each.fault is fault)

    def strike(self, method: str, path: str, body: bytes = b"") -> Fault | None:
        """The fault that this request meets, counted as struck; None for a request that goes well."""
        if not self._standing:
            return None
        with self._lock:
            for standing in self._standing:
                if self._applies(standing, method, path, body):
                    standing.struck += 1
                    self.struck += 1
                    return standing.fault
        return None

    def _applies(self, standing: _Standing, method: str, path: str, body: bytes) -> bool:
        fault = standing.fault
        if not path.startswith(fault.path) or (fault.method and fault.method != method):
            return False
        if fault.text.encode() not in body:
            return False
        age = time.monotonic() - standing.added_monotonic - fault.start_seconds
        if age < 0 or (fault.for_seconds is not None and age > fault.for_seconds):
            return False
        standing.matched += 1
        if standing.matched <= fault.skip or (fault.times is not None and standing.struck >= fault.times):
            return False
        return fault.probability >= 1.0 or self._random.random() < fault.probability
