"""How relays and workers count, in the families of `aitp.metrics`.

Counters and histograms live in memory-mapped files of prometheus_client's multiprocess format, two for each *slot*
(`counter_<slot>.db`, `histogram_<slot>.db`), never for each process id: a restarted child goes on where its predecessor
stopped, and a thousand restarts leave as many files as one.

Promises: importing this opens nothing; counting never raises and never waits. A process calls `open_metrics` after
fork, when it owns its slot; whoever starts or reloads the service calls `prepare_directory` before it forks.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Collection, Iterator, Mapping
from enum import Enum
from pathlib import Path
from typing import Literal

from prometheus_client.utils import floatToGoString

from aitp import slotfiles
from aitp.metrics import (
    API_CALLS,
    API_DURATION,
    API_REQUESTS,
    BUCKETS,
    BUDGET_EXCEEDED,
    CHILD_EXITS,
    COST,
    DEFAULT_MODELS,
    DELIVERIES,
    FALLBACKS,
    LIMIT_EXCEEDED,
    NO_ANSWER,
    OTHER,
    PROVIDERS,
    RESULTS_REUSED,
    TASK_ATTEMPTS,
    TASK_DURATION,
    TASKS_PROCESSED,
    TOKEN_REQUESTS,
    TOKEN_TYPES,
    CallStatus,
    Family,
    known_label_sets,
)
from aitp.slotfiles import SlotFile, key_of
from aitp.tasks import Ending, TaskStatus, TaskType

_BOUNDS = tuple(str(floatToGoString(bound)) for bound in BUCKETS)  # type: ignore[no-untyped-call]
_FILED_TYPES: tuple[Literal["counter", "histogram"], ...] = ("counter", "histogram")


class Metrics:
    """What one process counts, in the files of its slot. Not for threads; one live process a slot."""

    def __init__(self, files: Mapping[str, SlotFile], models: Collection[str]) -> None:
        self._files = files
        self._models = frozenset(models)
        self._keys: dict[tuple[str, tuple[str, ...]], tuple[str, ...]] = {}

    def task_ended(self, task_type: str, status: TaskStatus, seconds: float) -> None:
        """A task succeeded or failed for good, `seconds` after its claim."""
        self._count(TASKS_PROCESSED, task_type, status)
        self._observe(TASK_DURATION, seconds, task_type)

    def attempt_ended(self, task_type: str, ending: Ending) -> None:
        """One attempt at one task ended, whether or not the task did."""
        self._count(TASK_ATTEMPTS, task_type, ending)

    def result_reused(self, task_type: str) -> None:
        """A task succeeded with the result that was bought for an equal one."""
        self._count(TASKS_PROCESSED, task_type, TaskStatus.SUCCEEDED)
        self._count(RESULTS_REUSED, task_type)

    def api_request(self, endpoint: str, method: str, status_code: int | None, seconds: float) -> None:
        """One request to the task API. `endpoint` is a template, never an address; `status_code` None: no answer."""
        if (endpoint, method) not in API_CALLS:
            endpoint, method = OTHER, OTHER
        code = str(status_code) if status_code is not None and 100 <= status_code <= 599 else NO_ANSWER
        self._count(API_REQUESTS, endpoint, method, code)
        self._observe(API_DURATION, seconds, endpoint, method)

    def delivery(self, outcome: Literal["delivered", "refused", "deferred"]) -> None:
        """One attempt to bring a result to the task API."""
        self._count(DELIVERIES, outcome)

    def auth(self, success: bool) -> None:
        """One request for an access token."""
        self._count(TOKEN_REQUESTS, "success" if success else "failure")

    def provider_request(self, provider: str, model: str, status: CallStatus, seconds: float) -> None:
        """One call to a provider. A provider that has no families here is not counted."""
        if families := PROVIDERS.get(provider):
            self._count(families.requests, self._known(model), CallStatus(status))
            self._observe(families.duration, seconds, self._known(model))

    def tokens(self, provider: str, model: str, type: str, count: int) -> None:
        """Tokens that a provider reported; `type` is one of TOKEN_TYPES."""
        if families := PROVIDERS.get(provider):
            self._count(families.tokens, self._known(model), type if type in TOKEN_TYPES else OTHER, amount=count)

    def cost(self, provider: str, model: str, currency: str, amount: float) -> None:
        """What a call cost, in the currency's own unit."""
        self._count(COST, provider, self._known(model), currency, amount=amount)

    def provider_fallback(self, first: str, instead: str, reason: str) -> None:
        """A call to `instead`, because `first` failed or could not be asked."""
        self._count(FALLBACKS, first, instead, reason)

    def rate_limit_exceeded(self, period: str) -> None:
        """The limit of `period` keeps tasks waiting: once for each window, as the warning in the log."""
        self._count(LIMIT_EXCEEDED, period)

    def budget_exceeded(self, period: str) -> None:
        """The budget of `period` keeps tasks waiting: once for each window, as the warning in the log."""
        self._count(BUDGET_EXCEEDED, period)

    def child_ended(self, role: str, cause: str) -> None:
        """A child ended. Its successor in the slot counts it."""
        self._count(CHILD_EXITS, role, cause)

    def close(self) -> None:
        """Give the files back. Counting afterwards is ignored."""
        files, self._files = self._files, {}
        for file in files.values():
            file.close()

    def _known(self, model: str) -> str:
        return model if model in self._models else OTHER

    def _count(self, family: Family, *labels: str | Enum, amount: float = 1) -> None:
        if amount > 0:
            self._add(family, labels, 0, amount)

    def _observe(self, family: Family, seconds: float, *labels: str | Enum) -> None:
        seconds = max(0.0, seconds)
        self._add(family, labels, 0, seconds)
        self._add(family, labels, 1 + bisect_left(BUCKETS, seconds), 1)

    def _add(self, family: Family, labels: tuple[str | Enum, ...], position: int, amount: float) -> None:
        file = self._files.get(family.type)
        if file is None:
            return
        values = tuple(str(label.value) if isinstance(label, Enum) else label for label in labels)
        try:
            keys = self._keys.get((family.name, values)) or self._introduce(file, family, values)
            file.add(keys[position], amount)
        except OSError:
            return  # the file cannot grow: an uncounted task is better than a failed one

    def _introduce(self, file: SlotFile, family: Family, values: tuple[str, ...]) -> tuple[str, ...]:
        """Enter a label set with all its samples at once: a histogram of which some buckets are missing lies."""
        keys = self._keys[family.name, values] = tuple(_keys_of(family, values))
        file.introduce(keys)
        return keys


def open_metrics(directory: Path, slot: int, models: Collection[str] = DEFAULT_MODELS) -> Metrics:
    """The files of `slot`, continued or made. Never raises: what cannot be written is not counted."""
    files: dict[str, SlotFile] = {}
    for type in _FILED_TYPES:
        try:
            files[type] = SlotFile(directory / f"{type}_{slot}.db")
        except OSError:
            continue
    return Metrics(files, models)


def prepare_directory(
    directory: Path,
    models: Collection[str] = DEFAULT_MODELS,
    task_types: Collection[str] = tuple(TaskType),
    priced: Collection[tuple[str, str, str]] = (),
) -> None:
    """Make the directory, and a 0 for every label set that can be known: a series that appears late breaks `rate()`.

    `priced`: (provider, model, currency) of models that cost something.

    What was counted is never touched, so it may run at any start and reload, beside live processes. Raises OSError.
    """
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    with slotfiles.locked(directory):
        for path in directory.glob("*.db"):
            slotfiles.set_aside_if_damaged(path)
        for type in _FILED_TYPES:
            known = [pair for pair in known_label_sets(models, task_types) if pair[0].type == type]
            known += [(COST, values) for values in priced if COST.type == type]
            keys = [key for family, values in known for key in _keys_of(family, values)]
            slotfiles.replace_with_zeros(directory / f"{type}_known.db", keys)


def _keys_of(family: Family, values: tuple[str, ...]) -> Iterator[str]:
    """The keys of one label set's samples: a counter's only one; a histogram's sum, then each bucket."""
    if family.type == "counter":
        yield key_of(family.base, family.name, family.labels, values, family.help)
        return
    yield key_of(family.base, f"{family.name}_sum", family.labels, values, family.help)
    for bound in _BOUNDS:
        yield key_of(family.base, f"{family.name}_bucket", (*family.labels, "le"), (*values, bound), family.help)
