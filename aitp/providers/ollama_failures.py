"""What a failed call to Ollama means: one table, first match wins. No effects: `aitp.providers.ollama` asks and raises.

Ollama names no codes: an error is a status and a sentence. A missing model and a missing path are both 404. Models
that run in its cloud are refused one by one (a cap, a subscription, a sign-in), and no local one with them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import httpx2

from aitp.errors import (
    AitpError,
    CooldownRequired,
    CredentialsRefused,
    InputRefused,
    InputTooLong,
    ModelGone,
    ModelMissing,
    RequestRefused,
    ServiceFault,
    SettingRefused,
)
from aitp.policy.routing import canonical
from aitp.providers.refusals import LONG_PAUSE_SECONDS, MAYBE_BOUGHT, Refusal, refusal_of
from aitp.tasks import Service

OLLAMA = Service.OLLAMA.value
MISSING_PAUSE_SECONDS = 10.0  # until it is looked again whether a missing model has been pulled


def _fault(refusal: Refusal) -> AitpError:
    return ServiceFault(OLLAMA, f"{refusal}")


def _busy(refusal: Refusal) -> AitpError:
    return ServiceFault(OLLAMA, f"{refusal}: its queue is full or it is overloaded")


def _memory(refusal: Refusal) -> AitpError:
    return ServiceFault(OLLAMA, f"{refusal}: its machine has too little memory to load {refusal.model}")


def _too_long(refusal: Refusal) -> AitpError:
    said = f"{refusal}: the text is longer than what {refusal.model} reads at once"
    return InputTooLong(said, tokens=refusal.tokens)


def _other_kind(refusal: Refusal) -> AitpError:
    said = f"{refusal}: {refusal.model} is no model for this type of task"
    return ModelGone(OLLAMA, said, model=refusal.model)


def _options(refusal: Refusal) -> AitpError:
    said = f"{refusal}, because of its options: look at OLLAMA_OPTIONS and OLLAMA_KEEP_ALIVE"
    return SettingRefused(OLLAMA, said, setting="OLLAMA_OPTIONS")


def _runner(refusal: Refusal) -> AitpError:
    said = f"{refusal}: the process that runs {refusal.model} died or does not answer; its machine may lack memory"
    return ServiceFault(OLLAMA, said)


def _name(refusal: Refusal) -> AitpError:
    said = f"{refusal}: {refusal.model} is no name of a model; look at SUPPORTED_MODELS"
    return ModelGone(OLLAMA, said, model=refusal.model)


def _parameter(refusal: Refusal) -> AitpError:
    name = refusal.parameter
    return RequestRefused(f"{refusal}: {refusal.model} takes no {name or 'such parameter'} there", parameter=name)


def _missing_model(refusal: Refusal) -> AitpError:
    said = f"{refusal}: it has no model {refusal.model}; its tasks wait until that has been pulled"
    return ModelMissing(OLLAMA, said, seconds=MISSING_PAUSE_SECONDS, model=refusal.model)


def _missing_path(refusal: Refusal) -> AitpError:
    return ServiceFault(OLLAMA, f"{refusal}, and not because of the model: look at OLLAMA_BASE_URL")


def _capped(refusal: Refusal) -> AitpError:
    said = f"{refusal}: the account's cap for {refusal.model} is reached; other models go on"
    seconds = LONG_PAUSE_SECONDS if refusal.delay is None else refusal.pause_seconds
    return CooldownRequired(OLLAMA, said, seconds=seconds, model=refusal.model)


def _rate(refusal: Refusal) -> AitpError:
    said = f"{refusal}: it, or a proxy in front of it, wants fewer requests"
    return CooldownRequired(OLLAMA, said, seconds=refusal.pause_seconds, model=None, told=refusal.delay is not None)


def _not_for_us(refusal: Refusal) -> AitpError:
    said = f"{refusal}: {refusal.model} runs in Ollama's cloud, and needs a sign-in (ollama signin, OLLAMA_API_KEY) or"
    return ModelGone(OLLAMA, f"{said} a subscription; other models go on", model=refusal.model)


def _credentials(refusal: Refusal) -> AitpError:
    return CredentialsRefused(OLLAMA, f"{refusal}: look at OLLAMA_API_KEY and OLLAMA_BASE_URL")


def _kept_out(refusal: Refusal) -> AitpError:
    advice = "it, or a proxy in front of it, does not let us in; look at OLLAMA_BASE_URL and OLLAMA_ORIGINS"
    return CredentialsRefused(OLLAMA, f"{refusal}: {advice}", named=False)


def _input(refusal: Refusal) -> AitpError:
    return InputRefused(f"{refusal}: it refuses the input")


def _request(refusal: Refusal) -> AitpError:
    return RequestRefused(f"{refusal}: it refuses the request, and does not name what of it")


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


def _is_of_the_cloud(refusal: Refusal) -> bool:
    """By its tag, or by what is said of it."""
    tag = canonical(refusal.model).rsplit(":", 1)[-1]
    return tag.endswith("cloud") or refusal.says("subscription", "upgrade", "sign in", "signin", "usage limit")


ROWS: tuple[tuple[str, Condition, Verdict], ...] = (
    # 400 on /api/embed, 500 elsewhere, 413 from some versions' runners.
    (
        "400, 413, 422, 500, input longer than the context",
        lambda r: r.status in (400, 413, 422, 500) and r.is_too_long,
        _too_long,
    ),
    (
        "400, 422, 500, a parameter by its name",
        lambda r: r.status in (400, 422, 500) and bool(r.parameter),
        _parameter,
    ),
    ("model of another kind, whatever the status", lambda r: r.says("does not support"), _other_kind),
    ("404, model", lambda r: r.status == 404 and r.says("not found") and r.says("model"), _missing_model),
    ("404, path", lambda r: r.status == 404, _missing_path),
    ("429, a model of the cloud", lambda r: r.status == 429 and _is_of_the_cloud(r), _capped),
    ("429", lambda r: r.status == 429, _rate),
    ("401, 402, 403, a model of the cloud", lambda r: r.status in (401, 402, 403) and _is_of_the_cloud(r), _not_for_us),
    (
        "401, or 403 that names the key",
        lambda r: (r.status == 401 and r.is_json) or (r.status in (401, 403) and r.names_the_key),
        _credentials,
    ),
    ("401, 403, not a word of the key", lambda r: r.status in (401, 403), _kept_out),
    # 400 or 500, by version and path.
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
    ("500, memory", lambda r: r.status == 500 and r.says("more system memory", "out of memory"), _memory),
    # Some texts come out as NaN, with some models: 500 by most versions, in the words of Go's encoder.
    (
        "400, 500, NaN",
        lambda r: r.status in (400, 500) and r.says("unsupported value: nan", "unsupported value: +inf", "nan or inf"),
        _input,
    ),
    # /api/embed answers 400 even then: seen with 0.17.4, whose runner was killed within a batch.
    ("400, 500, its runner is gone", lambda r: r.status in (400, 500) and r.says(*_RUNNER_GONE), _runner),
    (
        "400, 413, 415, 422 and other refusals",
        lambda r: 400 <= r.status < 500 and r.status not in (405, 407, 408, 409, 425, 499),
        _request,
    ),
    ("503", lambda r: r.status == 503, _busy),
    ("405, 408, 409, 5xx, redirects, anything else", lambda r: True, _fault),
)


def judge(error: httpx2.HTTPError, model: str, texts: Sequence[str] = (), sent: Sequence[str] = ()) -> AitpError:
    """Our error for what the client raised in a call for `model`, with `texts` and the optional parameters `sent`."""
    if isinstance(error, httpx2.HTTPStatusError):
        refusal = refusal_of(OLLAMA, error.response, model, texts=texts, sent=sent)
        failure = next(verdict(refusal) for _, holds, verdict in ROWS if holds(refusal))
        failure.bought_nothing = refusal.status not in MAYBE_BOUGHT
        return failure
    name = type(error).__name__
    if isinstance(error, httpx2.TimeoutException):
        return ServiceFault(OLLAMA, f"ollama did not answer in time ({name}): look at OLLAMA_TIMEOUT")
    # Its words only where they are the system's: others quote what was sent.
    detail = f"{name}: {error}" if isinstance(error, httpx2.ConnectError) else name
    fault = ServiceFault(OLLAMA, f"ollama gave no answer ({detail})")
    fault.bought_nothing = isinstance(error, httpx2.ConnectError)
    return fault
