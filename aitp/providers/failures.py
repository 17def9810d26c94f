"""What a failed call to OpenAI means: one table, first match wins. No effects: `aitp.providers.openai` asks and raises.

Verdicts name a culprit: the service, the account, the model, a parameter or setting of ours, the text, or nobody yet
(`RequestRefused`). Status, code and words are hints that make it quick; what no row knows is found out by evidence.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import openai

from aitp.errors import (
    AitpError,
    CooldownRequired,
    CredentialsRefused,
    InputRefused,
    InputTooLong,
    ModelGone,
    RequestRefused,
    ServiceFault,
)
from aitp.providers.refusals import LONG_PAUSE_SECONDS, MAX_PAUSE_SECONDS, MAYBE_BOUGHT, Refusal, refusal_of
from aitp.tasks import Service

OPENAI = Service.OPENAI.value
# The HTTP client's errors from before a request.
NEVER_SENT = ("ConnectError", "ConnectTimeout")
# What may have no room while the standard tier has.
OTHER_TIERS = ("flex", "priority")


def _fault(refusal: Refusal) -> AitpError:
    return ServiceFault(OPENAI, f"{refusal}")


def _credentials(refusal: Refusal) -> AitpError:
    return CredentialsRefused(OPENAI, f"{refusal}: look at OPENAI_API_KEY and what its project may do")


def _kept_out(refusal: Refusal) -> AitpError:
    said = f"{refusal}" if refusal.page else f"{refusal}: look at OPENAI_API_KEY, and at what stands in front of it"
    return CredentialsRefused(OPENAI, said, named=False)


def _quota(refusal: Refusal) -> AitpError:
    said = f"{refusal}: the account has no credit left; look at its billing and limits"
    return CooldownRequired(OPENAI, said, seconds=LONG_PAUSE_SECONDS, model=None)


def _rate(refusal: Refusal) -> AitpError:
    said = f"{refusal}: the rate limit of {refusal.model} is reached"
    return CooldownRequired(
        OPENAI, said, seconds=refusal.pause_seconds, model=refusal.model, told=refusal.delay is not None
    )


def _too_much(refusal: Refusal) -> AitpError:
    return RequestRefused(f"{refusal}: one request asks for more than the limits of {refusal.model} ever allow")


def _tier(refusal: Refusal) -> AitpError:
    return RequestRefused(f"{refusal}: the tier of OPENAI_SERVICE_TIER has no room", parameter="service_tier")


def _no_model(refusal: Refusal) -> AitpError:
    said = f"{refusal}: it has no model {refusal.model} for us and this type of task; has it been retired?"
    return ModelGone(OPENAI, said, model=refusal.model)


def _address(refusal: Refusal) -> AitpError:
    return ServiceFault(OPENAI, f"{refusal}, and not because of the model: look at OPENAI_BASE_URL")


def _parameter(refusal: Refusal) -> AitpError:
    name = refusal.parameter
    return RequestRefused(f"{refusal}: {refusal.model} takes no {name or 'such parameter'} there", parameter=name)


def _too_long(refusal: Refusal) -> AitpError:
    said = f"{refusal}: the text is longer than what {refusal.model} reads at once"
    return InputTooLong(said, tokens=refusal.tokens)


def _input(refusal: Refusal) -> AitpError:
    return InputRefused(f"{refusal}: it refuses the input")


def _request(refusal: Refusal) -> AitpError:
    return RequestRefused(f"{refusal}: it refuses the request, and does not name what of it")


Condition = Callable[[Refusal], bool]
Verdict = Callable[[Refusal], AitpError]

_OVER_CONTEXT = {"context_length_exceeded", "exceed_context_size_error"}
_OUT_OF_CREDIT = {"insufficient_quota", "billing_not_active", "billing_hard_limit_reached"}
_REFUSALS = (400, 403, 413, 415, 422, 501)
# Some servers fail at what they do not know.
_OF_PARAMETERS = (*_REFUSALS, 404, 405, 409, 500)
_MODELS = (400, 403, 404, 410, 422, 501)


def _is_above_the_limit(refusal: Refusal) -> bool:
    """More tokens than a minute allows: no pause would ever help, fewer texts do. A day's pause may mean the same."""
    endless = refusal.batch and refusal.delay is not None and refusal.delay > MAX_PAUSE_SECONDS
    return refusal.status == 429 and (endless or refusal.says("too large", "too many tokens in"))


ROWS: tuple[tuple[str, Condition, Verdict], ...] = (
    (
        "a refusal that names the account's credit",
        lambda r: (
            not _OUT_OF_CREDIT.isdisjoint((r.code, r.type))
            or (r.status in (400, 402, 403, 429) and r.names_the_credit)
            or (r.status == 402 and r.is_json)
        ),
        _quota,
    ),
    (
        "429, no room in the tier that was asked for",
        lambda r: r.status == 429 and r.tier in OTHER_TIERS and r.says("unavailable", "capacity", r.tier, "tier"),
        _tier,
    ),
    ("429, one request above the limit, or a batch that has to wait for hours", _is_above_the_limit, _too_much),
    ("429", lambda r: r.status == 429, _rate),
    (
        "400, 413, 422, 500, longer than the context",
        lambda r: (
            r.status in (400, 413, 422, 500) and (r.code in _OVER_CONTEXT or r.type in _OVER_CONTEXT or r.is_too_long)
        ),
        _too_long,
    ),
    (
        "400, 403, 404, 409, 422, 500, 501, a parameter by its name",
        lambda r: r.status in _OF_PARAMETERS and bool(r.parameter),
        _parameter,
    ),
    (
        "400, 403, 404, 410, 422, 501, the model: gone, not allowed, of another kind",
        lambda r: r.status in _MODELS and r.names_the_model,
        _no_model,
    ),
    (
        "400, 403, 422, the input: a policy, or by `param`",
        lambda r: r.status in _REFUSALS and r.names_the_input,
        _input,
    ),
    (
        "401, or 400, 403, 422 that name the key",
        lambda r: (r.status == 401 and r.is_json) or (r.status in (400, 401, 403, 422) and r.names_the_key),
        _credentials,
    ),
    ("401, 402, 403, not a word of the key", lambda r: r.status in (401, 402, 403), _kept_out),
    ("404, 405, 410, the address", lambda r: r.status in (404, 405, 410), _address),
    (
        "400, 413, 415, 422 and other refusals",
        lambda r: 400 <= r.status < 500 and r.status not in (407, 408, 409, 425, 499),
        _request,
    ),
    ("407, 408, 409, 5xx, redirects, anything else", lambda r: True, _fault),
)


def judge(
    error: openai.OpenAIError,
    model: str,
    texts: Sequence[str],
    sent: Sequence[str],
    *,
    batch: bool = False,
    tier: str = "",
) -> AitpError:
    """Our error for what the client raised in a call for `model`, with `texts` and the optional parameters `sent`."""
    if isinstance(error, openai.APIStatusError):
        refusal = refusal_of(OPENAI, error.response, model, texts=texts, batch=batch, sent=sent, tier=tier)
        failure = next(verdict(refusal) for _, holds, verdict in ROWS if holds(refusal))
        failure.bought_nothing = refusal.status not in MAYBE_BOUGHT
        return failure
    if isinstance(error, openai.APITimeoutError):
        return ServiceFault(OPENAI, f"openai did not answer in time ({_cause(error)}): look at OPENAI_TIMEOUT")
    if isinstance(error, openai.APIConnectionError):
        fault = ServiceFault(OPENAI, f"openai gave no answer ({_cause(error)})")
        fault.bought_nothing = type(error.__cause__).__name__ in NEVER_SENT
        return fault
    return ServiceFault(OPENAI, f"the call to openai failed ({type(error).__name__})")


def _cause(error: BaseException) -> str:
    """What lies under a connection error. Its words only where they are the system's: others quote what was sent."""
    cause = error.__cause__ or error
    name = type(cause).__name__
    return f"{name}: {cause}" if name == "ConnectError" else name
