"""Every metric of the service, once: names, types, labels and what values they may have, help texts, sources.

Relays and workers count through `aitp.counting`; `aitp.web.gauges` reads gauges at scrape time. docs/METRICS.md is
written from here by `bin/docs`. Promises: importing this opens nothing; every label value is bounded.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum, StrEnum
from itertools import product
from typing import Literal

from prometheus_client.metrics_core import Metric

from aitp.errors import (
    CooldownRequired,
    CredentialsRefused,
    DeadlineExceeded,
    ModelGone,
    ModelRefused,
    RequestRefused,
    SettingRefused,
)
from aitp.policy.routing import Why
from aitp.tasks import Ending, TaskStatus

OTHER = "other"  # the label value of everything that is not on a known list
NO_ANSWER = "none"  # status_code of a request that got no answer at all

PENDING_ENDPOINT = "/api/ai-tasks/pending"
TASK_ENDPOINT = "/api/ai-tasks/:id"
PERIODS = ("minute", "hour", "day", "week", "month")
BUDGET_PERIODS = ("day", "month")
TOKEN_TYPES = ("prompt_tokens", "completion_tokens", "total_tokens")
DELIVERY_OUTCOMES = ("delivered", "refused", "deferred")
ROLES = ("relay", "worker")
EXIT_CAUSES = ("crashed", "deadline")
DEFAULT_MODELS = ("text-embedding-3-small", "text-embedding-3-large", "nomic-embed-text")

API_CALLS = ((PENDING_ENDPOINT, "GET"), (TASK_ENDPOINT, "PATCH"))
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


class CallStatus(StrEnum):
    """How one call to a provider ended: the `status` label of `openai_requests_total` and `ollama_requests_total`."""

    SUCCESS = "success"
    REFUSED = "refused"  # 400, 404, 422, …: the text, a parameter, the model; or the model declined
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
    *((kind, CallStatus.REFUSED) for kind in (RequestRefused, ModelRefused, ModelGone, SettingRefused)),
)


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
    type: Literal["counter", "gauge", "histogram"]
    help: str
    labels: tuple[str, ...] = ()
    source: Source = Source.COUNTED

    @property
    def base(self) -> str:
        """The name that the client library wants: it adds `_total` to counters by itself."""
        return self.name.removesuffix("_total") if self.type == "counter" else self.name


FAMILIES: dict[str, Family] = {}


def _declare(
    type: Literal["counter", "gauge", "histogram"], name: str, help: str, *labels: str, source: Source | None = None
) -> Family:
    source = source or (Source.LEDGER if type == "gauge" else Source.COUNTED)
    family = FAMILIES[name] = Family(name, type, help, labels, source)
    return family


# ── counted by relays and workers ────────────────────────────────────────────────────────────────────────────────────
TASKS_PROCESSED = _declare("counter", "ai_tasks_processed_total", "Tasks that reached an end.", "task_type", "status")
TASK_DURATION = _declare(
    "histogram", "ai_task_processing_duration_seconds", "Time from claim to end of a task.", "task_type"
)
TASK_ATTEMPTS = _declare(
    "counter", "aitp_task_attempts_total", "Attempts at tasks, by how they ended.", "task_type", "ending"
)
RESULTS_REUSED = _declare(
    "counter", "ai_results_reused_total", "Tasks that got the result of an equal one, without a call.", "task_type"
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
COST = _declare(
    "counter",
    "aitp_cost_total",
    "What calls cost by the prices of PRICES and the usage that providers reported, in the currency's own unit.",
    "provider",
    "model",
    "currency",
)
BUDGET_EXCEEDED = _declare(
    "counter", "aitp_budget_exceeded_total", "Times that a budget kept tasks waiting: once a window.", "period"
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
LIMIT_ROOM = _declare(
    "gauge",
    "rate_limit_room_timestamp_seconds",
    "When a used-up limit has room again; 0 while it has room, or will have as soon as a call ends.",
    "period",
)
LIMIT_WINDOW_END = _declare(
    "gauge",
    "rate_limit_window_end_timestamp_seconds",
    "When the current calendar window of a fixed limit ends; 0 for a rolling one, which has no end.",
    "period",
)
BUDGET_SPENT = _declare(
    "gauge", "aitp_budget_spent", "What was spent in the current calendar window.", "period", "currency"
)
BUDGET_RESERVED = _declare(
    "gauge", "aitp_budget_reserved", "What calls in hand may cost, by estimate.", "period", "currency"
)
BUDGET_MAX = _declare("gauge", "aitp_budget_max", "The budget of a window.", "period", "currency")
BUDGET_REMAINING = _declare(
    "gauge", "aitp_budget_remaining", "What the budget of the current window has left.", "period", "currency"
)
BUDGET_ROOM = _declare(
    "gauge",
    "aitp_budget_room_timestamp_seconds",
    "When a budget that keeps tasks back has room again; 0 while it keeps none back.",
    "period",
    "currency",
)
BUDGET_WINDOW_END = _declare(
    "gauge",
    "aitp_budget_window_end_timestamp_seconds",
    "When the current calendar window of a budget ends.",
    "period",
    "currency",
)
UNPRICED_MODELS = _declare(
    "gauge", "aitp_unpriced_models", "Models whose tasks wait because they have no price while a budget is in force."
)
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
QUARANTINES = _declare(
    "gauge", "aitp_quarantines", "Models whose tasks of one type wait: gone, or useless to every task.", "service"
)
PAUSED_PROCESSORS = _declare("gauge", "aitp_paused_processors", "Processors paused after bugs in a row.")
LEDGER_READABLE = _declare("gauge", "aitp_ledger_readable", "1 if this scrape could read the ledger.")

# ── read at scrape time: from the file of whoever looks after models ─────────────────────────────────────────────────
MODEL_PRESENT = _declare("gauge", "ollama_model_present", "1 if Ollama has the model.", "model", source=Source.MODELS)
MODEL_PULL_BYTES = _declare(
    "gauge",
    "ollama_model_pull_bytes",
    "Bytes of the last pull of a model: completed, and in total.",
    "model",
    "kind",
    source=Source.MODELS,
)
MODEL_SHUTDOWN = _declare(
    "gauge",
    "aitp_model_shutdown_timestamp_seconds",
    "When OpenAI shuts a model down that settings or tasks name, if it has said so.",
    "model",
    source=Source.MODELS,
)

# ── read at scrape time: from the scoreboard, the settings, the metrics process ──────────────────────────────────────
PROCESSES = _declare(
    "gauge", "aitp_processes", "Children by what they are doing.", "role", "state", source=Source.SERVICE
)
MASTER_RUNNING = _declare("gauge", "aitp_master_running", "1 while the master ticks.", source=Source.SERVICE)
DEADLINES_OVERRUN = _declare(
    "gauge", "aitp_deadlines_overrun", "Children that should have moved on by now.", source=Source.SERVICE
)
READY = _declare("gauge", "aitp_ready", "1 while /ready finds no reason against.", source=Source.SERVICE)
POLLING_INTERVAL = _declare(
    "gauge",
    "aitp_polling_interval_seconds",
    "POLLING_INTERVAL_SECONDS: how far apart polls are while nothing else asks for one.",
    source=Source.SERVICE,
)
MOCK = _declare("gauge", "aitp_mock", "1 in mock mode: results are made up.", source=Source.SERVICE)
BUILD_INFO = _declare(
    "gauge",
    "aitp_build_info",
    "Always 1; the labels tell the versions.",
    "version",
    "python",
    source=Source.SERVICE,
)
SCRAPE_FAILURES = _declare(
    "counter",
    "aitp_scrape_failures_total",
    "Scrapes that could not read the metrics files.",
    source=Source.SERVICE,
)


@dataclass(frozen=True, slots=True)
class _Provider:
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


def reading(family: Family, values: Mapping[tuple[str, ...], float]) -> Metric:
    """What a scrape says of `family`: a value for each tuple of label values, in the order of the family's labels."""
    metric = Metric(family.base, family.help, family.type)
    for labels, value in values.items():
        metric.add_sample(family.name, dict(zip(family.labels, labels, strict=True)), value)
    return metric


def known_label_sets(models: Collection[str], task_types: Collection[str]) -> Iterator[tuple[Family, tuple[str, ...]]]:
    """Every label set of a counter or histogram that can be known before it is first counted."""
    models = (*models, OTHER)
    types = [str(name) for name in task_types]
    combinations: list[tuple[Family, Iterable[tuple[str, ...]]]] = [
        (TASKS_PROCESSED, product(types, _values(TaskStatus))),
        (TASK_DURATION, product(types)),
        (TASK_ATTEMPTS, product(types, _values(Ending))),
        (RESULTS_REUSED, product(types)),
        (API_REQUESTS, ((*call, code) for call in API_CALLS for code in _API_STATUS_CODES)),
        (API_DURATION, API_CALLS),
        (DELIVERIES, product(DELIVERY_OUTCOMES)),
        (TOKEN_REQUESTS, product(("success", "failure"))),
        (LIMIT_EXCEEDED, product(PERIODS)),
        (FALLBACKS, (("ollama", "openai", str(reason.value)) for reason in Why)),
        (BUDGET_EXCEEDED, product(BUDGET_PERIODS)),
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
