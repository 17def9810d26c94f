"""Every metric of the service, once: names, labels, help texts, and how relays and workers count.

Counters and histograms live in memory-mapped files of prometheus_client's multiprocess format, two for each *slot*
(`counter_<slot>.db`, `histogram_<slot>.db`), never for each process id: a restarted child goes on where its predecessor
stopped, and a thousand restarts leave as many files as one. Gauges have no files; `aitp.web.gauges` reads them
from the ledger at scrape time.

Promises: importing this opens nothing; counting never raises and never waits; every label value is bounded.
A process calls `open_metrics` after fork, when it owns its slot; whoever starts or reloads the service calls
`prepare_directory` before it forks.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum, StrEnum
from itertools import product
from pathlib import Path
from typing import Literal

from prometheus_client.metrics_core import Metric
from prometheus_client.utils import floatToGoString

from aitp import slotfiles
from aitp.errors import CooldownRequired, CredentialsRefused, DeadlineExceeded, NonRetryableError
from aitp.policy.routing import Why
from aitp.slotfiles import SlotFile, key_of
from aitp.tasks import Ending, Service, TaskStatus, TaskType

OTHER = "other"  # the label value of everything that is not on a known list
NO_ANSWER = "none"  # status_code of a request that got no answer at all

PENDING_ENDPOINT = "/api/ai-tasks/pending"
TASK_ENDPOINT = "/api/ai-tasks/:id"
PERIODS = ("minute", "hour", "day", "week", "month")
TOKEN_TYPES = ("prompt_tokens", "completion_tokens", "total_tokens")
DELIVERY_OUTCOMES = ("delivered", "refused", "deferred")
ROLES = ("relay", "worker")
EXIT_CAUSES = ("crashed", "deadline")
DEFAULT_MODELS = ("text-embedding-3-small", "text-embedding-3-large", "nomic-embed-text")

_API_CALLS = ((PENDING_ENDPOINT, "GET"), (TASK_ENDPOINT, "PATCH"))
_API_STATUS_CODES = (
    "200",
    "400",
    "401",
    "403",
    "404",
    "409",
    "413",
    "422",
    "429",
    "500",
    "502",
    "503",
    "504",
    NO_ANSWER,
)

# From a mocked call to the longest one that OLLAMA_TIMEOUT allows.
BUCKETS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, float("inf"))
_BOUNDS = tuple(str(floatToGoString(bound)) for bound in BUCKETS)  # type: ignore[no-untyped-call]
_FILED_TYPES: tuple[Literal["counter", "histogram"], ...] = ("counter", "histogram")


class CallStatus(StrEnum):
    """How one call to a provider ended: the `status` label of `openai_requests_total` and `ollama_requests_total`."""

    SUCCESS = "success"
    REFUSED = "refused"  # 400, 422: the input's fault
    UNAUTHORIZED = "unauthorized"
    RATE_LIMITED = "rate_limited"
    TIMEOUT = "timeout"  # our own deadline ended it
    ERROR = "error"  # 5xx, connection, an answer that is none

    @classmethod
    def of(cls, error: BaseException | None) -> CallStatus:
        """The status for what a call raised; None is success."""
        if error is None:
            return cls.SUCCESS
        for kind, status in _STATUS_OF_ERROR:
            if isinstance(error, kind):
                return status
        return cls.ERROR


_STATUS_OF_ERROR: tuple[tuple[type[BaseException], CallStatus], ...] = (
    (CredentialsRefused, CallStatus.UNAUTHORIZED),
    (CooldownRequired, CallStatus.RATE_LIMITED),
    (DeadlineExceeded, CallStatus.TIMEOUT),
    (NonRetryableError, CallStatus.REFUSED),
)


@dataclass(frozen=True, slots=True)
class Family:
    """One metric: its name as Prometheus shows it, its type, its labels in order."""

    name: str
    type: Literal["counter", "gauge", "histogram"]
    help: str
    labels: tuple[str, ...] = ()

    @property
    def base(self) -> str:
        """The name that the client library wants: it adds `_total` to counters by itself."""
        return self.name.removesuffix("_total") if self.type == "counter" else self.name


FAMILIES: dict[str, Family] = {}


def _declare(type: Literal["counter", "gauge", "histogram"], name: str, help: str, *labels: str) -> Family:
    family = FAMILIES[name] = Family(name, type, help, labels)
    return family


# ── counted by relays and workers ────────────────────────────────────────────────────────────────────────────────────
TASKS_PROCESSED = _declare("counter", "ai_tasks_processed_total", "Tasks that reached an end.", "task_type", "status")
TASK_DURATION = _declare(
    "histogram", "ai_task_processing_duration_seconds", "Time from claim to end of a task.", "task_type"
)
TASK_ATTEMPTS = _declare(
    "counter", "aitp_task_attempts_total", "Attempts at tasks, by how they ended.", "task_type", "ending"
)
API_REQUESTS = _declare(
    "counter", "api_requests_total", "Requests to the task API.", "endpoint", "method", "status_code"
)
API_DURATION = _declare(
    "histogram", "api_request_duration_seconds", "Duration of requests to the task API.", "endpoint", "method"
)
DELIVERIES = _declare("counter", "aitp_deliveries_total", "Attempts to deliver a result, by outcome.", "outcome")
TOKEN_REQUESTS = _declare("counter", "oauth_token_requests_total", "Requests for an access token.", "status")
LIMIT_EXCEEDED = _declare(
    "counter", "rate_limit_exceeded_total", "Times that a rate limit kept tasks waiting.", "period"
)
FALLBACKS = _declare(
    "counter",
    "ai_provider_fallbacks_total",
    "Calls to another provider than the first choice.",
    "from",
    "to",
    "reason",
)
CHILD_EXITS = _declare("counter", "aitp_child_exits_total", "Children that ended unasked, by cause.", "role", "cause")
OPENAI_REQUESTS = _declare("counter", "openai_requests_total", "Calls to OpenAI.", "model", "status")
OPENAI_TOKENS = _declare("counter", "openai_tokens_used_total", "Tokens that OpenAI charged.", "model", "type")
OPENAI_DURATION = _declare("histogram", "openai_request_duration_seconds", "Duration of calls to OpenAI.", "model")
OLLAMA_REQUESTS = _declare("counter", "ollama_requests_total", "Calls to Ollama.", "model", "status")
OLLAMA_TOKENS = _declare("counter", "ollama_tokens_used_total", "Tokens that Ollama counted.", "model", "type")
OLLAMA_DURATION = _declare("histogram", "ollama_request_duration_seconds", "Duration of calls to Ollama.", "model")

# ── read at scrape time: from the ledger ─────────────────────────────────────────────────────────────────────────────
TASKS_IN_FLIGHT = _declare("gauge", "ai_tasks_in_flight", "Tasks that a worker has claimed.")
LIMIT_USAGE = _declare("gauge", "rate_limit_current_usage", "Tasks counted in the current window.", "period")
LIMIT_MAX = _declare("gauge", "rate_limit_max_allowed", "Tasks allowed in a window.", "period")
LIMIT_REMAINING = _declare("gauge", "rate_limit_remaining", "Tasks that the current window has room for.", "period")
BREAKER_STATE = _declare("gauge", "circuit_breaker_state", "0 closed, 1 open, 2 half-open.", "service")
BREAKER_FAILURES = _declare("gauge", "aitp_breaker_failures", "Failures in a row that a breaker counts.", "service")
COOLDOWNS = _declare("gauge", "aitp_cooldowns", "Pauses in force that a service asked for.", "service")
QUEUE_TASKS = _declare(
    "gauge", "aitp_queue_tasks", "Tasks that wait for a worker, or first for their next try.", "state"
)
QUEUE_AGE = _declare("gauge", "aitp_queue_oldest_age_seconds", "Age of the oldest waiting task.")
OUTBOX_RESULTS = _declare("gauge", "aitp_outbox_results", "Results that wait for delivery.")
OUTBOX_AGE = _declare("gauge", "aitp_outbox_oldest_age_seconds", "Age of the oldest undelivered result.")
DEAD_LETTERS = _declare("gauge", "aitp_dead_letters", "Results that the task API refused, kept for a person to see.")
UNREADABLE = _declare("gauge", "aitp_unreadable_documents", "Task documents left pending because they cannot be read.")
LAST_POLL = _declare("gauge", "aitp_last_poll_timestamp_seconds", "When the task API was last polled.")
DISK_FREE = _declare("gauge", "aitp_disk_free_bytes", "Free space where the ledger lies.")
PAUSED = _declare("gauge", "aitp_paused", "1 while claims are paused by an operator.")
PAUSED_PROCESSORS = _declare("gauge", "aitp_paused_processors", "Processors paused after bugs in a row.")
LEDGER_READABLE = _declare("gauge", "aitp_ledger_readable", "1 if this scrape could read the ledger.")

# ── read at scrape time: from the file of whoever looks after Ollama's models ────────────────────────────────────────
MODEL_PRESENT = _declare("gauge", "ollama_model_present", "1 if Ollama has the model.", "model")
MODEL_PULL_BYTES = _declare(
    "gauge", "ollama_model_pull_bytes", "Bytes of the last pull of a model: completed, and in total.", "model", "kind"
)

# ── read at scrape time: from the scoreboard, the settings, the metrics process ──────────────────────────────────────
PROCESSES = _declare("gauge", "aitp_processes", "Children by what they are doing.", "role", "state")
MASTER_RUNNING = _declare("gauge", "aitp_master_running", "1 while the master ticks.")
DEADLINES_OVERRUN = _declare("gauge", "aitp_deadlines_overrun", "Children that should have moved on by now.")
MOCK = _declare("gauge", "aitp_mock", "1 in mock mode: results are made up.")
BUILD_INFO = _declare("gauge", "aitp_build_info", "Always 1; the labels tell the versions.", "version", "python")
SCRAPE_FAILURES = _declare("counter", "aitp_scrape_failures_total", "Scrapes that could not read the metrics files.")


@dataclass(frozen=True, slots=True)
class _Provider:
    requests: Family
    tokens: Family
    duration: Family


_OPENAI = _Provider(OPENAI_REQUESTS, OPENAI_TOKENS, OPENAI_DURATION)
_OLLAMA = _Provider(OLLAMA_REQUESTS, OLLAMA_TOKENS, OLLAMA_DURATION)
# The mock stands in for OpenAI, in its metrics too: dashboards can be tried before anything is paid for.
_PROVIDERS: Mapping[str, _Provider] = {"openai": _OPENAI, "mock": _OPENAI, "ollama": _OLLAMA}


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

    def api_request(self, endpoint: str, method: str, status_code: int | None, seconds: float) -> None:
        """One request to the task API. `endpoint` is a template, never an address; `status_code` None: no answer."""
        if (endpoint, method) not in _API_CALLS:
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
        if families := _PROVIDERS.get(provider):
            self._count(families.requests, self._known(model), CallStatus(status))
            self._observe(families.duration, seconds, self._known(model))

    def tokens(self, provider: str, model: str, type: str, count: int) -> None:
        """Tokens that a provider reported; `type` is one of TOKEN_TYPES."""
        if families := _PROVIDERS.get(provider):
            self._count(families.tokens, self._known(model), type if type in TOKEN_TYPES else OTHER, amount=count)

    def provider_fallback(self, first: str, instead: str, reason: str) -> None:
        """A call to `instead`, because `first` failed or could not be asked."""
        self._count(FALLBACKS, first, instead, reason)

    def rate_limit_exceeded(self, period: str) -> None:
        """The limit of `period` keeps tasks waiting: once for each window, as the warning in the log."""
        self._count(LIMIT_EXCEEDED, period)

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


def known_models(supported: Iterable[str]) -> tuple[str, ...]:
    """The models that get a label of their own: those of the settings and the usual ones. All others are `other`."""
    return tuple(dict.fromkeys((*supported, *DEFAULT_MODELS)))


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
    directory: Path, models: Collection[str] = DEFAULT_MODELS, task_types: Collection[str] = tuple(TaskType)
) -> None:
    """Make the directory, and a 0 for every label set that can be known: a series that appears late breaks `rate()`.

    What was counted is never touched, so it may run at any start and reload, beside live processes. Raises OSError.
    """
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    with slotfiles.locked(directory):
        for path in directory.glob("*.db"):
            slotfiles.set_aside_if_damaged(path)
        for type in _FILED_TYPES:
            known = [pair for pair in _known_label_sets(models, task_types) if pair[0].type == type]
            keys = [key for family, values in known for key in _keys_of(family, values)]
            slotfiles.replace_with_zeros(directory / f"{type}_known.db", keys)


def reading(family: Family, values: Mapping[tuple[str, ...], float]) -> Metric:
    """What a scrape says of `family`: a value for each tuple of label values, in the order of the family's labels."""
    metric = Metric(family.base, family.help, family.type)
    for labels, value in values.items():
        metric.add_sample(family.name, dict(zip(family.labels, labels, strict=True)), value)
    return metric


def _keys_of(family: Family, values: tuple[str, ...]) -> Iterator[str]:
    """The keys of one label set's samples: a counter's only one; a histogram's sum, then each bucket."""
    if family.type == "counter":
        yield key_of(family.base, family.name, family.labels, values, family.help)
        return
    yield key_of(family.base, f"{family.name}_sum", family.labels, values, family.help)
    for bound in _BOUNDS:
        yield key_of(family.base, f"{family.name}_bucket", (*family.labels, "le"), (*values, bound), family.help)


def _known_label_sets(models: Collection[str], task_types: Collection[str]) -> Iterator[tuple[Family, tuple[str, ...]]]:
    models = (*models, OTHER)
    types = [str(name) for name in task_types]
    combinations: list[tuple[Family, Iterable[tuple[str, ...]]]] = [
        (TASKS_PROCESSED, product(types, _values(TaskStatus))),
        (TASK_DURATION, product(types)),
        (TASK_ATTEMPTS, product(types, _values(Ending))),
        (API_REQUESTS, ((*call, code) for call in _API_CALLS for code in _API_STATUS_CODES)),
        (API_DURATION, _API_CALLS),
        (DELIVERIES, product(DELIVERY_OUTCOMES)),
        (TOKEN_REQUESTS, product(("success", "failure"))),
        (LIMIT_EXCEEDED, product(PERIODS)),
        (FALLBACKS, (("ollama", "openai", str(reason.value)) for reason in Why)),
        (CHILD_EXITS, product(ROLES, EXIT_CAUSES)),
    ]
    for provider in (_OPENAI, _OLLAMA):
        combinations += [
            (provider.requests, product(models, _values(CallStatus))),
            (provider.tokens, product(models, TOKEN_TYPES)),
            (provider.duration, product(models)),
        ]
    for family, label_sets in combinations:
        for values in label_sets:
            yield family, values


def _values(kind: type[Enum]) -> tuple[str, ...]:
    return tuple(str(member.value) for member in kind)


SERVICES = _values(Service)
