"""Every metric of the service, once: names, types, labels, help texts; how relays and workers count; what they counted.

Counters and histograms are prometheus_client's multiprocess values with the *slot* as process identifier: two files a
slot (`counter_<slot>.db`, `histogram_<slot>.db`), never for each process id. A restarted child goes on where its
predecessor stopped, and a thousand restarts leave as many files as one. Gauges are read at scrape time
(`aitp.web.gauges`). docs/METRICS.md is written from here by `bin/docs`.

Promises: importing this opens nothing; every label value is bounded; counting never raises and never waits. A process
calls `open_metrics` after fork, when it owns its slot; whoever starts or reloads the service calls `prepare_directory`
before it forks.
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from enum import Enum, StrEnum
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, Literal, NamedTuple

from prometheus_client import Counter, Histogram, values
from prometheus_client.metrics_core import Metric
from prometheus_client.multiprocess import MultiProcessCollector

from aitp import errors
from aitp.hardening import replace_file
from aitp.policy.routing import Why
from aitp.settings import keep_metrics_in
from aitp.tasks import Ending, Period, TaskStatus, TaskType

OTHER = "other"  # the label value of everything that is not on a known list
NO_ANSWER = "none"  # status_code of a request that got no answer at all

PENDING_ENDPOINT = "/api/ai-tasks/pending"
TASK_ENDPOINT = "/api/ai-tasks/:id"
TOKEN_TYPES = ("prompt_tokens", "completion_tokens", "total_tokens")
DELIVERY_OUTCOMES = ("delivered", "refused", "deferred")
ROLES = ("relay", "worker")
EXIT_CAUSES = ("crashed", "deadline")
DEFAULT_MODELS = ("text-embedding-3-small", "text-embedding-3-large", "nomic-embed-text")

API_CALLS = ((PENDING_ENDPOINT, "GET"), (TASK_ENDPOINT, "PATCH"))
_ANSWERS = (200, 400, 401, 403, 404, 409, 413, 422, 429, 500, 502, 503, 504)
_API_STATUS_CODES = (*map(str, _ANSWERS), NO_ANSWER)

# From a mocked call to the longest one that OLLAMA_TIMEOUT allows.
BUCKETS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, float("inf"))


class CallStatus(StrEnum):
    """How one call to a provider ended: the `status` label of `openai_requests_total` and `ollama_requests_total`."""

    SUCCESS = "success"
    REFUSED = "refused"  # 400, 404, 422, …: the text, a parameter, the model; or the model declined
    UNAUTHORIZED = "unauthorized"
    RATE_LIMITED = "rate_limited"
    TIMEOUT = "timeout"  # its answer trickled for longer than its time-out
    ERROR = "error"  # 5xx, connection, an answer that is none

    @classmethod
    def of(cls, error: BaseException | None) -> CallStatus:
        """The status for what a call raised; None is success."""
        match error:
            case None:
                return cls.SUCCESS
            case errors.DeadlineExceeded():
                return cls.TIMEOUT
            case errors.CredentialsRefused():
                return cls.UNAUTHORIZED
            case errors.CooldownRequired():
                return cls.RATE_LIMITED
            case errors.RequestRefused() | errors.ModelRefused() | errors.ModelGone() | errors.SettingRefused():
                return cls.REFUSED
        return cls.ERROR


FamilyType = Literal["counter", "gauge", "histogram"]


class Source(StrEnum):
    """Where a scrape finds the values of a metric, in the words of docs/METRICS.md."""

    COUNTED = "counted by relays and workers, each in the file of its slot"
    LEDGER = "the ledger, at each scrape"
    MODELS = "the file of whoever looks after models, at each scrape"
    SERVICE = "the scoreboard, the settings and the metrics process itself, at each scrape"


@dataclass(frozen=True, slots=True)
class Family:
    """One metric: its name as Prometheus shows it, its type, its labels in order, where its values come from."""

    name: str
    type: FamilyType
    help: str
    labels: tuple[str, ...] = ()
    source: Source = Source.COUNTED

    @property
    def base(self) -> str:
        """The name that the client library wants: it adds `_total` to counters by itself."""
        return self.name.removesuffix("_total") if self.type == "counter" else self.name

    @property
    def parts(self) -> Iterable[tuple[str, dict[str, str]]]:
        """The samples of one label set, as the client library shows them: their names, and the labels they add."""
        if self.type != "histogram":
            return [(self.name, {})]
        buckets = [(f"{self.name}_bucket", {"le": str(bound).replace("inf", "+Inf")}) for bound in BUCKETS]
        return [*buckets, (f"{self.name}_count", {}), (f"{self.name}_sum", {})]


Labels = tuple[str | Enum, ...]  # values, in the order of a family's labels
FAMILIES: dict[str, Family] = {}


def _declare(type: FamilyType, source: Source, name: str, help: str, *labels: str) -> Family:
    family = FAMILIES[name] = Family(name, type, help, labels, source)
    return family


_counter, _histogram = partial(_declare, "counter", Source.COUNTED), partial(_declare, "histogram", Source.COUNTED)
_of_ledger, _of_models = partial(_declare, "gauge", Source.LEDGER), partial(_declare, "gauge", Source.MODELS)
_of_service = partial(_declare, "gauge", Source.SERVICE)

# ── counted by relays and workers ────────────────────────────────────────────────────────────────────────────────────
TASKS_PROCESSED = _counter("ai_tasks_processed_total", "Tasks that reached an end.", "task_type", "status")
TASK_DURATION = _histogram("ai_task_processing_duration_seconds", "Time from claim to end of a task.", "task_type")
TASK_ATTEMPTS = _counter("aitp_task_attempts_total", "Attempts at tasks, by how they ended.", "task_type", "ending")
RESULTS_REUSED = _counter(
    "ai_results_reused_total", "Tasks that got an equal one's result, without a call.", "task_type"
)
API_REQUESTS = _counter("api_requests_total", "Requests to the task API.", "endpoint", "method", "status_code")
API_DURATION = _histogram("api_request_duration_seconds", "Duration of requests to the task API.", "endpoint", "method")
DELIVERIES = _counter("aitp_deliveries_total", "Attempts to deliver a result, by outcome.", "outcome")
TOKEN_REQUESTS = _counter("oauth_token_requests_total", "Requests for an access token.", "status")
LIMIT_EXCEEDED = _counter("rate_limit_exceeded_total", "Times that a rate limit kept tasks waiting.", "period")
FALLBACKS = _counter("ai_provider_fallbacks_total", "Calls to another than the first choice.", "from", "to", "reason")
COST = _counter(
    "aitp_cost_total", "What calls cost by PRICES, in the currency's unit.", "provider", "model", "currency"
)
BUDGET_EXCEEDED = _counter("aitp_budget_exceeded_total", "Windows in which a budget kept tasks waiting.", "period")
CHILD_EXITS = _counter("aitp_child_exits_total", "Children that ended unasked, by cause.", "role", "cause")
LEDGER_QUEUE = _histogram("aitp_ledger_queue_seconds", "Time that a fleet's transactions waited for their turn.")
LEDGER_LOST = _counter("aitp_ledger_lost_total", "Lines to a fleet's ledger that were lost.")
LATE_ANSWERS = _counter("aitp_late_answers_total", "Answers to tasks given up as a lost host's, which still counted.")
OPENAI_REQUESTS = _counter("openai_requests_total", "Calls to OpenAI.", "model", "status")
OPENAI_TOKENS = _counter("openai_tokens_used_total", "Tokens that OpenAI charged.", "model", "type")
OPENAI_DURATION = _histogram("openai_request_duration_seconds", "Duration of calls to OpenAI.", "model")
OLLAMA_REQUESTS = _counter("ollama_requests_total", "Calls to Ollama.", "model", "status")
OLLAMA_TOKENS = _counter("ollama_tokens_used_total", "Tokens that Ollama counted.", "model", "type")
OLLAMA_DURATION = _histogram("ollama_request_duration_seconds", "Duration of calls to Ollama.", "model")

_FOREIGN: dict[str, Callable[[Collection[str]], Iterable[Labels]]] = {}


def declare(
    type: FamilyType,
    name: str,
    help: str,
    labels: tuple[str, ...],
    known: Callable[[Collection[str]], Iterable[Labels]],
) -> Family:
    """For other packages: a counter or histogram of their own. `known`: its label sets that exist from the start with
    the value 0, by the models that have labels of their own.
    """
    _FOREIGN[name] = known
    return _declare(type, Source.COUNTED, name, help, *labels)


# ── read at scrape time: from the ledger ─────────────────────────────────────────────────────────────────────────────
TASKS_IN_FLIGHT = _of_ledger("ai_tasks_in_flight", "Tasks that a worker has claimed.")
LIMIT_USAGE = _of_ledger("rate_limit_current_usage", "Tasks counted in the current window.", "period")
LIMIT_MAX = _of_ledger("rate_limit_max_allowed", "Tasks allowed in a window.", "period")
LIMIT_REMAINING = _of_ledger("rate_limit_remaining", "Tasks that the current window has room for.", "period")
LIMIT_ROOM = _of_ledger(
    "rate_limit_room_timestamp_seconds", "When a used-up limit has room; 0: now, or as soon as a call ends.", "period"
)
LIMIT_WINDOW_END = _of_ledger(
    "rate_limit_window_end_timestamp_seconds", "When the window of a fixed limit ends; 0: a rolling one.", "period"
)
BUDGET_SPENT = _of_ledger("aitp_budget_spent", "What was spent in the current calendar window.", "period", "currency")
BUDGET_RESERVED = _of_ledger("aitp_budget_reserved", "What calls in hand may cost, by estimate.", "period", "currency")
BUDGET_MAX = _of_ledger("aitp_budget_max", "The budget of a window.", "period", "currency")
BUDGET_REMAINING = _of_ledger("aitp_budget_remaining", "What is left of the budget.", "period", "currency")
BUDGET_ROOM = _of_ledger(
    "aitp_budget_room_timestamp_seconds", "When a used-up budget has room; 0: now.", "period", "currency"
)
BUDGET_WINDOW_END = _of_ledger(
    "aitp_budget_window_end_timestamp_seconds", "When its window ends.", "period", "currency"
)
UNPRICED_MODELS = _of_ledger("aitp_unpriced_models", "Models whose tasks wait for a price, as a budget is in force.")
BREAKER_STATE = _of_ledger("circuit_breaker_state", "0 closed, 1 open, 2 half-open.", "service")
BREAKER_FAILURES = _of_ledger("aitp_breaker_failures", "Failures in a row that a breaker counts.", "service")
COOLDOWNS = _of_ledger("aitp_cooldowns", "Pauses in force that a service asked for.", "service")
QUEUE_TASKS = _of_ledger("aitp_queue_tasks", "Tasks that wait for a worker, or first for their next try.", "state")
QUEUE_AGE = _of_ledger("aitp_queue_oldest_age_seconds", "Age of the oldest waiting task.")
OUTBOX_RESULTS = _of_ledger("aitp_outbox_results", "Results that wait for delivery.")
OUTBOX_AGE = _of_ledger("aitp_outbox_oldest_age_seconds", "Age of the oldest undelivered result.")
DEAD_LETTERS = _of_ledger("aitp_dead_letters", "Results that the task API refused, kept for a person to see.")
UNREADABLE = _of_ledger("aitp_unreadable_documents", "Task documents left pending because they cannot be read.")
LAST_POLL = _of_ledger("aitp_last_poll_timestamp_seconds", "When the task API was last polled.")
DISK_FREE = _of_ledger("aitp_disk_free_bytes", "Free space where the ledger lies.")
PAUSED = _of_ledger("aitp_paused", "1 while claims are paused by an operator.")
HOSTS = _of_ledger("aitp_hosts", "Hosts that share the ledger, by whether they are here or away.", "state")
HOST_INFO = _of_ledger("aitp_host_info", "Always 1, for each host that shares the ledger.", "host", "number", "version")
QUARANTINES = _of_ledger("aitp_quarantines", "Models whose tasks of a type wait: gone, or useless to all.", "service")
PAUSED_PROCESSORS = _of_ledger("aitp_paused_processors", "Processors paused after bugs in a row.")
LEDGER_READABLE = _of_ledger("aitp_ledger_readable", "1 if this scrape could read the ledger.")

# ── read at scrape time: from the file of whoever looks after models ─────────────────────────────────────────────────
MODEL_PRESENT = _of_models("ollama_model_present", "1 if Ollama has the model.", "model")
MODEL_PULL_BYTES = _of_models(
    "ollama_model_pull_bytes", "Bytes of a model's last pull: so far, and in total.", "model", "kind"
)
MODEL_SHUTDOWN = _of_models(
    "aitp_model_shutdown_timestamp_seconds", "When OpenAI shuts a model down that is in use, if it said so.", "model"
)

# ── read at scrape time: from the scoreboard, the settings, the metrics process ──────────────────────────────────────
PROCESSES = _of_service("aitp_processes", "Children by what they are doing.", "role", "state")
MASTER_RUNNING = _of_service("aitp_master_running", "1 while the master ticks.")
DEADLINES_OVERRUN = _of_service("aitp_deadlines_overrun", "Children that should have moved on by now.")
READY = _of_service("aitp_ready", "1 while /ready finds no reason against.")
POLLING_INTERVAL = _of_service("aitp_polling_interval_seconds", "POLLING_INTERVAL_SECONDS, between two regular polls.")
MOCK = _of_service("aitp_mock", "1 in mock mode: results are made up.")
BUILD_INFO = _of_service("aitp_build_info", "Always 1; the labels tell the versions.", "version", "revision", "python")
SCRAPE_FAILURES = _declare(
    "counter", Source.SERVICE, "aitp_scrape_failures_total", "Scrapes that could not read the files."
)


class _Provider(NamedTuple):
    requests: Family
    tokens: Family
    duration: Family


_OPENAI = _Provider(OPENAI_REQUESTS, OPENAI_TOKENS, OPENAI_DURATION)
_OLLAMA = _Provider(OLLAMA_REQUESTS, OLLAMA_TOKENS, OLLAMA_DURATION)
# The mock stands in for OpenAI, in its metrics too: dashboards can be tried before anything is paid for.
PROVIDERS: Mapping[str, _Provider] = {"openai": _OPENAI, "mock": _OPENAI, "ollama": _OLLAMA}


def known_models(supported: Iterable[str]) -> tuple[str, ...]:
    """The models that get a label of their own: those of the settings and the usual ones. All others are `other`."""
    return tuple(dict.fromkeys((*supported, *DEFAULT_MODELS)))


def reading(family: Family, found: Mapping[tuple[str, ...], float]) -> Metric:
    """What a scrape says of `family`: a value for each tuple of label values, in the order of the family's labels."""
    metric = Metric(family.base, family.help, family.type)
    for labels, value in found.items():
        metric.add_sample(family.name, dict(zip(family.labels, labels, strict=True)), value)
    return metric


# ── counting ─────────────────────────────────────────────────────────────────────────────────────────────────────────
_FILED_TYPES = ("counter", "histogram")
_FILE_BYTES = 1 << 16
KNOWN_FILE = "known.json"  # the label sets by family of which a scrape shows a 0 until they are counted


class Metrics:
    """What one process counts, in the files of its slot. Not for threads; one live process a slot.

    Without `directory` it counts nothing.
    """

    def __init__(self, directory: Path | None = None, slot: int | str = 0, models: Collection[str] = ()) -> None:
        self._directory = directory
        self._values: Any = values.MultiProcessValue(lambda: slot)  # type: ignore[no-untyped-call]
        self._models = frozenset(models)
        self._children: dict[tuple[str, Labels], Any] = {}

    def task_ended(self, task_type: str, status: TaskStatus, seconds: float) -> None:
        """A task succeeded or failed for good, `seconds` after its claim."""
        self.count(TASKS_PROCESSED, task_type, status)
        self.observe(TASK_DURATION, seconds, task_type)

    def result_reused(self, task_type: str) -> None:
        """A task succeeded with the result that was bought for an equal one."""
        self.count(TASKS_PROCESSED, task_type, TaskStatus.SUCCEEDED)
        self.count(RESULTS_REUSED, task_type)

    def api_request(self, endpoint: str, method: str, status_code: int | None, seconds: float) -> None:
        """One request to the task API. `endpoint` is a template, never an address; `status_code` None: no answer."""
        if (endpoint, method) not in API_CALLS:
            endpoint, method = OTHER, OTHER
        code = str(status_code) if status_code is not None and 100 <= status_code <= 599 else NO_ANSWER
        self.count(API_REQUESTS, endpoint, method, code)
        self.observe(API_DURATION, seconds, endpoint, method)

    def auth(self, success: bool) -> None:
        """One request for an access token."""
        self.count(TOKEN_REQUESTS, "success" if success else "failure")

    def provider_request(self, provider: str, model: str, status: CallStatus, seconds: float) -> None:
        """One call to a provider. A provider that has no families here is not counted."""
        if families := PROVIDERS.get(provider):
            self.count(families.requests, self.known(model), CallStatus(status))
            self.observe(families.duration, seconds, self.known(model))

    def tokens(self, provider: str, model: str, type: str, count: int) -> None:
        """Tokens that a provider reported; `type` is one of TOKEN_TYPES."""
        if families := PROVIDERS.get(provider):
            self.count(families.tokens, self.known(model), type if type in TOKEN_TYPES else OTHER, amount=count)

    def cost(self, provider: str, model: str, currency: str, amount: float) -> None:
        """What a call cost, in the currency's own unit."""
        self.count(COST, provider, self.known(model), currency, amount=amount)

    def ledger_waited(self, seconds: float) -> None:
        """A transaction of a fleet's ledger had its turn."""
        self.observe(LEDGER_QUEUE, seconds)

    def ledger_lost(self) -> None:
        """This process's line to a fleet's ledger was lost."""
        self.count(LEDGER_LOST)

    def count(self, family: Family, *labels: str | Enum, amount: float = 1) -> None:
        """`amount` more in a counter, of this package or of another's (`declare`)."""
        if amount > 0 and (child := self._child(family, labels)):
            child.inc(amount)

    def observe(self, family: Family, seconds: float, *labels: str | Enum) -> None:
        """One more in a histogram, of this package or of another's."""
        if child := self._child(family, labels):
            child.observe(max(0.0, seconds))

    def known(self, model: str) -> str:
        """The label of a model: its name if it is one that the settings name, else `other`."""
        return model if model in self._models else OTHER

    def close(self) -> None:
        """Give the files back. Counting afterwards is ignored."""
        self._directory = None
        self._children.clear()
        self._values.close_all_files()

    def _child(self, family: Family, labels: Labels) -> Any:
        """The library's object of one label set, in the file with a 0 from its first use on.

        None if it cannot be counted: the file cannot be had or cannot grow, and a task must not fail for that.
        """
        if self._directory is None:
            return None
        if (family.name, labels) not in self._children:
            # Which file, and where, the library asks of its module and the environment, once for each label set.
            values.ValueClass = self._values
            keep_metrics_in(self._directory)
            try:
                whole = _declared(family)
                self._children[family.name, labels] = whole.labels(*map(_word, labels)) if labels else whole
            except OSError:
                return None
        return self._children[family.name, labels]


def open_metrics(directory: Path, slot: int | str, models: Collection[str] = DEFAULT_MODELS) -> Metrics:
    """The files of `slot`, continued or made. Never raises: what cannot be written is not counted."""
    try:
        for type in _FILED_TYPES:
            allocate(directory / f"{type}_{slot}.db")
    except OSError:
        return Metrics()
    return Metrics(directory, slot, models)


def prepare_directory(
    directory: Path,
    models: Collection[str] = DEFAULT_MODELS,
    task_types: Collection[str] = tuple(TaskType),
    priced: Collection[tuple[str, str, str]] = (),
    replaceable: Collection[str] = (),
) -> None:
    """Make the directory, and a 0 for every label set that can be known: a series that appears late breaks `rate()`.

    `priced`: (provider, model, currency) of models that cost something. `replaceable`: providers of other packages.

    What was counted is never touched, so it may run at any start and reload, beside live processes. Raises OSError.
    """
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    for path in directory.glob("*.db"):
        _set_aside_if_damaged(path)
    models = (*models, OTHER)
    known: dict[Family, Iterable[Labels]] = {
        TASKS_PROCESSED: product(task_types, TaskStatus),
        TASK_DURATION: product(task_types),
        TASK_ATTEMPTS: product(task_types, Ending),
        RESULTS_REUSED: product(task_types),
        API_REQUESTS: ((*call, code) for call in API_CALLS for code in _API_STATUS_CODES),
        API_DURATION: API_CALLS,
        DELIVERIES: product(DELIVERY_OUTCOMES),
        TOKEN_REQUESTS: product(("success", "failure")),
        LIMIT_EXCEEDED: product(Period),
        FALLBACKS: product(("ollama", *replaceable), ("openai",), Why),
        COST: priced,
        BUDGET_EXCEEDED: product((Period.DAY, Period.MONTH)),
        CHILD_EXITS: product(ROLES, EXIT_CAUSES),
        **dict.fromkeys((LEDGER_QUEUE, LEDGER_LOST, LATE_ANSWERS), ((),)),
        **{FAMILIES[name]: label_sets(models) for name, label_sets in _FOREIGN.items()},
    }
    for provider in (_OPENAI, _OLLAMA):
        known[provider.requests] = product(models, CallStatus)
        known[provider.tokens] = product(models, TOKEN_TYPES)
        known[provider.duration] = product(models)
    words = {family.name: [[*map(_word, labels)] for labels in label_sets] for family, label_sets in known.items()}
    replace_file(directory / KNOWN_FILE, json.dumps(words).encode())


def allocate(path: Path) -> None:
    """Make a file of values, its space taken; one that a crash of the machine has garbled is set aside.

    A new one is there only when a scrape can read it. Raises OSError, disk full included.
    """
    _set_aside_if_damaged(path)
    # Not sparse: a write to a page that a full disk cannot back would kill the process (SIGBUS).
    if path.exists():
        with path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, _FILE_BYTES)
    else:
        replace_file(path, bytes(_FILE_BYTES))


def _word(label: str | Enum) -> str:
    return str(label.value) if isinstance(label, Enum) else label


def _declared(family: Family) -> Counter | Histogram:
    if family.type == "histogram":
        return Histogram(family.name, family.help, family.labels, registry=None, buckets=BUCKETS)
    return Counter(family.name, family.help, family.labels, registry=None)


def _set_aside_if_damaged(path: Path) -> None:
    """Rename a file that a scrape could not read to `….damaged`, over an earlier one of that name."""
    try:
        with path.open("rb") as file:
            (used,) = struct.unpack("i", file.read(4))
        if used < 0:
            raise ValueError(f"{path} says that it holds {used} bytes")
        _merged([path])
    except FileNotFoundError:
        return
    except UNREADABLE_FILES:
        path.replace(path.with_name(path.name + ".damaged"))


# ── reading ──────────────────────────────────────────────────────────────────────────────────────────────────────────
# All that a file which is missing, half-written or garbled makes the library raise.
UNREADABLE_FILES = (OSError, struct.error, ValueError, TypeError, AttributeError, LookupError, RuntimeError)


def counted(directory: Path, type: str = "*") -> list[Metric]:
    """The sums over all slots, of one type or all, in the order of declaration. Raises one of UNREADABLE_FILES.

    What an older release has left there is not shown.
    """
    if not directory.is_dir():
        raise FileNotFoundError(f"there is no {directory}")
    found = {(metric.name, metric.type): metric for metric in _merged(directory.glob(f"{type}_*.db"))}
    known = json.loads((directory / KNOWN_FILE).read_bytes()) if (directory / KNOWN_FILE).exists() else {}
    shown = []
    for family in FAMILIES.values():
        if family.type not in (_FILED_TYPES if type == "*" else (type,)):
            continue
        metric = found.get((family.base, family.type)) or reading(family, {})
        there = {tuple(map(sample.labels.get, family.labels)) for sample in metric.samples}
        for labels in known.get(family.name, ()):
            for name, more in family.parts if tuple(labels) not in there else ():
                metric.add_sample(name, {**dict(zip(family.labels, labels, strict=True)), **more}, 0)
        shown += [metric] if metric.samples else []
    return shown


def _merged(paths: Iterable[Path]) -> Iterable[Metric]:
    merged: Iterable[Metric] = MultiProcessCollector.merge([str(path) for path in paths])  # type: ignore[no-untyped-call]
    return merged
