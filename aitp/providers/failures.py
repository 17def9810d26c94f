"""What a failed call to OpenAI means: one table, first match wins. No effects: `aitp.providers.openai` asks and raises.

Verdicts: the service's fault (its breaker counts), the credentials' (the breaker opens), a pause for one model or for
the account (tasks stay pending), the input's (halve the batch), the model's (the task can never succeed). What a
server writes into its message may quote the key or the text: it is looked at here and never passed on.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import openai

from aitp.errors import (
    AitpError,
    CooldownRequired,
    CredentialsRefused,
    InputRefused,
    InputTooLong,
    NonRetryableError,
    ServiceFault,
)
from aitp.policy.durations import parse_duration
from aitp.policy.retry_after import parse_retry_after
from aitp.tasks import Service

OPENAI = Service.OPENAI.value
MAX_PAUSE_SECONDS = 3_600.0
MIN_PAUSE_SECONDS = 0.1
RATE_PAUSE_SECONDS = 5.0  # where the server does not say
# The HTTP client's errors from before a request.
NEVER_SENT = ("ConnectError", "ConnectTimeout")
LONG_PAUSE_SECONDS = 600.0  # for what only a person can mend


@dataclass(frozen=True, slots=True)
class Refusal:
    """An error answer, reduced to what the table looks at. `message` is in lower case."""

    status: int
    model: str
    code: str = ""
    type: str = ""
    param: str = ""
    message: str = ""
    headers: Mapping[str, str] | None = None

    def __str__(self) -> str:
        names = ", ".join(name for name in (self.code, self.type) if re.fullmatch(r"[A-Za-z_]{1,50}", name))
        return f"openai answered {self.status}" + (f" ({names})" if names else "")

    def says(self, words: str) -> bool:
        return words in self.message

    def is_about_the_model(self) -> bool:
        """A 404 is also what a wrong address answers."""
        return (
            "model" in f"{self.code} {self.param}"
            or self.type.lower().replace("_", "") == "notfounderror"
            or self.model.lower() in self.message
        )


def _fault(refusal: Refusal) -> AitpError:
    return ServiceFault(OPENAI, f"{refusal}")


def _credentials(refusal: Refusal) -> AitpError:
    return CredentialsRefused(OPENAI, f"{refusal}: look at OPENAI_API_KEY and what its project may do")


def _quota(refusal: Refusal) -> AitpError:
    said = f"{refusal}: the account has no credit left; look at its billing and limits"
    return CooldownRequired(OPENAI, said, seconds=LONG_PAUSE_SECONDS, model=None)


def _rate(refusal: Refusal) -> AitpError:
    said = f"{refusal}: the rate limit of {refusal.model} is reached"
    return CooldownRequired(OPENAI, said, seconds=pause_seconds(refusal), model=refusal.model)


def _closed_model(refusal: Refusal) -> AitpError:
    said = f"{refusal}: the key's project may not use {refusal.model}; allow it there"
    return CooldownRequired(OPENAI, said, seconds=LONG_PAUSE_SECONDS, model=refusal.model)


def _no_model(refusal: Refusal) -> AitpError:
    return NonRetryableError(f"{refusal}: it has no model {refusal.model} for this type of task")


def _address(refusal: Refusal) -> AitpError:
    return ServiceFault(OPENAI, f"{refusal}, and not because of the model: look at OPENAI_BASE_URL")


def _dimensions(refusal: Refusal) -> AitpError:
    return ServiceFault(OPENAI, f"{refusal}, because of the dimensions: look at EMBEDDING_DIMENSIONS")


def _no_schema(refusal: Refusal) -> AitpError:
    return NonRetryableError(f"{refusal}: {refusal.model} takes no {refusal.param}; give such tasks another model")


def _too_long(refusal: Refusal) -> AitpError:
    said = f"{refusal}: the text is longer than what {refusal.model} reads at once"
    return InputTooLong(said, tokens=tokens_in(refusal.message))


def _input(refusal: Refusal) -> AitpError:
    return InputRefused(f"{refusal}: it refuses the input")


Condition = Callable[[Refusal], bool]
Verdict = Callable[[Refusal], AitpError]

_CHAT_OPTIONS = {"response_format", "temperature"}
_OVER_CONTEXT = {"context_length_exceeded", "exceed_context_size_error"}
_OUT_OF_CREDIT = {"insufficient_quota", "billing_not_active", "billing_hard_limit_reached"}

ROWS: tuple[tuple[str, Condition, Verdict], ...] = (
    ("no credit", lambda r: r.code in _OUT_OF_CREDIT or r.type in _OUT_OF_CREDIT or r.status == 402, _quota),
    # More tokens than a minute allows: no pause would ever help, fewer texts do.
    ("429, one request above the limit", lambda r: r.status == 429 and "request too large" in r.message, _input),
    ("429", lambda r: r.status == 429, _rate),
    ("403, model not allowed", lambda r: r.status == 403 and r.code == "model_not_found", _closed_model),
    ("403, model of another kind", lambda r: r.status == 403 and "from this model" in r.message, _no_model),
    ("401, 403", lambda r: r.status in (401, 403), _credentials),
    ("404, model", lambda r: r.status == 404 and r.is_about_the_model(), _no_model),
    ("404, address", lambda r: r.status == 404, _address),
    # A wrong setting must not fail the whole queue, text by text.
    ("400, dimensions", lambda r: r.status in (400, 422) and r.param == "dimensions", _dimensions),
    ("400, a chat model too old", lambda r: r.status in (400, 422) and r.param in _CHAT_OPTIONS, _no_schema),
    (
        "400, longer than the context",
        lambda r: r.status in (400, 413, 422) and (r.code in _OVER_CONTEXT or r.says("maximum context length")),
        _too_long,
    ),
    ("400, 413, 422", lambda r: r.status in (400, 413, 422), _input),
    ("408, 409, 5xx, redirects, anything else", lambda r: True, _fault),
)


def judge(error: openai.OpenAIError, model: str) -> AitpError:
    """Our error for what the client raised in a call for `model`."""
    if isinstance(error, openai.APIStatusError):
        refusal = refusal_of(error, model)
        failure = next(verdict(refusal) for _, holds, verdict in ROWS if holds(refusal))
        failure.bought_nothing = True
        return failure
    if isinstance(error, openai.APITimeoutError):
        return ServiceFault(OPENAI, f"openai did not answer in time ({_cause(error)}): look at OPENAI_TIMEOUT")
    if isinstance(error, openai.APIConnectionError):
        fault = ServiceFault(OPENAI, f"openai gave no answer ({_cause(error)})")
        fault.bought_nothing = type(error.__cause__).__name__ in NEVER_SENT
        return fault
    return ServiceFault(OPENAI, f"the call to openai failed ({type(error).__name__})")


def refusal_of(error: openai.APIStatusError, model: str) -> Refusal:
    """The facts of an error answer. Whatever is not a string there counts as absent: the body is the server's."""
    body: Any = error.body if isinstance(error.body, dict) else {}

    def text(name: str) -> str:
        return value if isinstance(value := body.get(name), str) else ""

    message = text("message") or (error.body if isinstance(error.body, str) else "")
    return Refusal(
        error.status_code, model, text("code"), text("type"), text("param"), message.lower(), error.response.headers
    )


def tokens_in(message: str) -> tuple[int, int] | None:
    """How many tokens a request had and how many its model reads, if the sentence that refuses it says both.

    "maximum context length is 8192 tokens, however you requested 9093 tokens", or "… resulted in 9093 tokens".
    """
    reads = re.search(r"maximum context length is (\d{1,9}) tokens", message)
    had = re.search(r"(?:requested|resulted in) (\d{1,9}) tokens", message)
    return (int(had[1]), int(reads[1])) if had and reads else None


def pause_seconds(refusal: Refusal) -> float:
    """How long a 429 asks to wait: its own word first, then when the exhausted limit is whole again."""
    headers = refusal.headers or {}
    milliseconds = parse_duration(headers.get("retry-after-ms"))
    seconds = parse_retry_after(headers.get("retry-after"), time.time())
    resets = {name: parse_duration(headers.get(f"x-ratelimit-reset-{name}")) for name in ("requests", "tokens")}
    known = [value for value in resets.values() if value is not None]
    if milliseconds is not None:
        wanted = milliseconds / 1_000
    elif seconds is not None:
        wanted = seconds
    elif (named := resets.get(refusal.type)) is not None:  # OpenAI's `type` says which limit it was
        wanted = named
    else:
        wanted = max(known, default=RATE_PAUSE_SECONDS)
    return min(max(wanted, MIN_PAUSE_SECONDS), MAX_PAUSE_SECONDS)


def _cause(error: BaseException) -> str:
    """What lies under a connection error. Its words only where they are the system's: others quote what was sent."""
    cause = error.__cause__ or error
    name = type(cause).__name__
    return f"{name}: {cause}" if name == "ConnectError" else name
