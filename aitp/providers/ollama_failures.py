"""What a failed call to Ollama means: one table, first match wins. No effects: `aitp.providers.ollama` asks and raises.

Ollama names no codes: an error is a status and a sentence, and the sentence decides. Its words are looked at here and
never passed on, as they may quote the text. A missing model and a missing path are both 404.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import httpx2
import orjson

from aitp.errors import (
    AitpError,
    CooldownRequired,
    CredentialsRefused,
    InputRefused,
    InputTooLong,
    ModelMissing,
    NonRetryableError,
    ServiceFault,
)
from aitp.policy.retry_after import parse_retry_after
from aitp.tasks import Service

OLLAMA = Service.OLLAMA.value
MAX_PAUSE_SECONDS = 3_600.0
MIN_PAUSE_SECONDS = 0.1
RATE_PAUSE_SECONDS = 5.0  # where the server does not say
MISSING_PAUSE_SECONDS = 10.0  # until it is looked again whether a missing model has been pulled


class PathMissing(ServiceFault):
    """The server does not know the path: it is older than that, or no Ollama at all."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """An error answer, reduced to what the table looks at. `message` is Ollama's own, in lower case, else empty."""

    status: int
    model: str
    message: str = ""
    retry_after: str | None = None

    def __str__(self) -> str:
        return f"ollama answered {self.status}"

    def says(self, *words: str) -> bool:
        return any(word in self.message for word in words)


def _fault(refusal: Refusal) -> AitpError:
    return ServiceFault(OLLAMA, f"{refusal}")


def _busy(refusal: Refusal) -> AitpError:
    return ServiceFault(OLLAMA, f"{refusal}: its queue is full or it is overloaded")


def _memory(refusal: Refusal) -> AitpError:
    return ServiceFault(OLLAMA, f"{refusal}: its machine has too little memory to load {refusal.model}")


def _too_long(refusal: Refusal) -> AitpError:
    return InputTooLong(f"{refusal}: the text is longer than what {refusal.model} reads at once")


def _other_kind(refusal: Refusal) -> AitpError:
    return NonRetryableError(f"{refusal}: {refusal.model} is no model for this type of task")


def _options(refusal: Refusal) -> AitpError:
    return ServiceFault(OLLAMA, f"{refusal}, because of its options: look at OLLAMA_OPTIONS and OLLAMA_KEEP_ALIVE")


def _runner(refusal: Refusal) -> AitpError:
    said = f"{refusal}: the process that runs {refusal.model} died or does not answer; its machine may lack memory"
    return ServiceFault(OLLAMA, said)


def _name(refusal: Refusal) -> AitpError:
    return NonRetryableError(f"{refusal}: {refusal.model} is no name of a model; look at SUPPORTED_MODELS")


def _schema(refusal: Refusal) -> AitpError:
    return NonRetryableError(f"{refusal}: it cannot follow the schema of this type of task")


def _missing_model(refusal: Refusal) -> AitpError:
    said = f"{refusal}: it has no model {refusal.model}; its tasks wait until that has been pulled"
    return ModelMissing(OLLAMA, said, seconds=MISSING_PAUSE_SECONDS, model=refusal.model)


def _missing_path(refusal: Refusal) -> AitpError:
    return PathMissing(OLLAMA, f"{refusal}, and not because of the model: look at OLLAMA_BASE_URL")


def _rate(refusal: Refusal) -> AitpError:
    wanted = parse_retry_after(refusal.retry_after, time.time())
    seconds = min(max(RATE_PAUSE_SECONDS if wanted is None else wanted, MIN_PAUSE_SECONDS), MAX_PAUSE_SECONDS)
    return CooldownRequired(OLLAMA, f"{refusal}: it wants fewer requests", seconds=seconds, model=None)


def _refused(refusal: Refusal) -> AitpError:
    said = f"{refusal}: it, or a proxy in front of it, does not let us in; look at OLLAMA_BASE_URL and OLLAMA_ORIGINS"
    return CredentialsRefused(OLLAMA, said)


def _input(refusal: Refusal) -> AitpError:
    return InputRefused(f"{refusal}: it refuses the input")


Condition = Callable[[Refusal], bool]
Verdict = Callable[[Refusal], AitpError]

_RUNNER_GONE = (
    "embedding request:",
    "embed response",
    "runner",
    "running the model",
    "server status",
    "server not responding",
    "connection refused",
    "no slots available",
    "failed to acquire",
)

ROWS: tuple[tuple[str, Condition, Verdict], ...] = (
    # 400 on /api/embed, 500 on /api/embeddings, 413 from some versions' runners.
    (
        "input longer than the context, whatever the status",
        lambda r: r.says("exceeds the context length", "exceeds maximum context length", "exceed_context_size"),
        _too_long,
    ),
    ("model of another kind, whatever the status", lambda r: r.says("does not support"), _other_kind),
    ("404, model", lambda r: r.status == 404 and r.says("not found") and r.says("model"), _missing_model),
    ("404, path", lambda r: r.status == 404, _missing_path),
    ("401, 403", lambda r: r.status in (401, 403), _refused),
    ("429", lambda r: r.status == 429, _rate),
    # A wrong setting must not fail the whole queue, text by text. 400 or 500, by version and path.
    (
        "400, 500, options",
        lambda r: r.status in (400, 500) and r.says('option "', "invalid option", "invalid duration", "in duration"),
        _options,
    ),
    (
        "400, 500, a name that is none",
        lambda r: r.status in (400, 500) and r.says("invalid model name", "unqualified name", "model is required"),
        _name,
    ),
    (
        "400, 500, a schema that it cannot follow",
        lambda r: r.status in (400, 500) and r.says("json schema in format", "invalid format"),
        _schema,
    ),
    ("500, memory", lambda r: r.status == 500 and r.says("more system memory", "out of memory"), _memory),
    # Some texts come out as NaN, with some models: 500 by most versions, in the words of Go's encoder. Taken for a
    # fault of the server's, one such text would keep its breaker open for all others.
    (
        "400, 500, NaN",
        lambda r: r.status in (400, 500) and r.says("unsupported value: nan", "unsupported value: +inf", "nan or inf"),
        _input,
    ),
    # /api/embed answers 400 even then: seen with 0.17.4, whose runner was killed within a batch.
    ("400, 500, its runner is gone", lambda r: r.status in (400, 500) and r.says(*_RUNNER_GONE), _runner),
    ("400, 413, 422", lambda r: r.status in (400, 413, 422), _input),
    ("503", lambda r: r.status == 503, _busy),
    ("408, 409, 5xx, redirects, anything else", lambda r: True, _fault),
)


def judge(error: httpx2.HTTPError, model: str) -> AitpError:
    """Our error for what the client raised in a call for `model`."""
    if isinstance(error, httpx2.HTTPStatusError):
        refusal = refusal_of(error.response, model)
        return next(verdict(refusal) for _, holds, verdict in ROWS if holds(refusal))
    name = type(error).__name__
    if isinstance(error, httpx2.TimeoutException):
        return ServiceFault(OLLAMA, f"ollama did not answer in time ({name}): look at OLLAMA_TIMEOUT")
    # Its words only where they are the system's: others quote what was sent.
    detail = f"{name}: {error}" if isinstance(error, httpx2.ConnectError) else name
    return ServiceFault(OLLAMA, f"ollama gave no answer ({detail})")


def refusal_of(response: httpx2.Response, model: str) -> Refusal:
    """The facts of an error answer. Gin's own `404 page not found` and a proxy's pages are no words of Ollama's."""
    try:
        body = orjson.loads(response.content)
    except orjson.JSONDecodeError:
        body = None
    message = body.get("error") if isinstance(body, dict) else None
    said = message.lower() if isinstance(message, str) else ""
    return Refusal(response.status_code, model, said, response.headers.get("retry-after"))
