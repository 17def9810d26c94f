"""What the Ollama server has, and getting it what it lacks.

A pull is a stream of JSON lines with status 200 whatever happens: an error is a line of it, and a stream that ends
without `success` broke off. The server keeps what has come, so the next pull goes on from there; a few such tries are
made at once, but none after an error that the server tells of (a registry that refuses, a full disk). Called by
`aitp.process.models`, by one process at a time.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import Any

import httpx  # what the ollama package is made of; loaded by nobody else
import ollama
import orjson
from tenacity import Retrying, retry_if_exception_type, stop_after_attempt, wait_exponential

from aitp import http
from aitp.errors import AitpError, NonRetryableError, ServiceFault
from aitp.policy.routing import canonical
from aitp.providers import client
from aitp.providers.failures import OLLAMA, error_of, no_answer, refusal_of
from aitp.settings import Settings

LIST_SECONDS = 30.0
STREAM_BYTES = 256 * 1_048_576
TRIES = 4
LONGEST_PAUSE_SECONDS = 8.0
# Part of a sentence that says the registry will never give it to us.
_FOR_GOOD = ("file does not exist", "not found", "invalid model", "unauthorized", "access denied", "newer version")


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a pull has come: bytes of all layers that it knows of so far, and what it is at."""

    completed: int = 0
    total: int = 0
    status: str = ""


class PullBroken(ServiceFault):
    """A pull broke off, or came no further: the next one goes on from where it was."""


class _Stream(httpx.SyncByteStream):
    """The body of a pull's answer, which has at most so many bytes: a line of it need not end."""

    def __init__(self, stream: httpx.SyncByteStream) -> None:
        self._stream = stream

    def __iter__(self) -> Iterator[bytes]:
        received = 0
        for piece in self._stream:
            received += len(piece)
            if received > STREAM_BYTES:
                raise ServiceFault(OLLAMA, f"{OLLAMA} sent more than the {STREAM_BYTES} bytes allowed")
            yield piece

    def close(self) -> None:
        self._stream.close()


def _bound(response: Any) -> None:
    # A bound on compressed bytes bounds nothing.
    if response.headers.get("content-encoding", "identity").lower() != "identity":
        raise ServiceFault(OLLAMA, f"{OLLAMA} compressed its answer although asked for a plain one")
    response.stream = _Stream(response.stream)


def missing(settings: Settings, models: Collection[str], seconds: float = LIST_SECONDS) -> list[str]:
    """Those of `models` that the server lacks. Raises ServiceFault and its like if it cannot be asked."""
    url = f"{settings.ollama_base_url.rstrip('/')}/api/tags"
    try:
        answer = http.ask(url, seconds, settings.trust, client.ollama_headers(settings))
    except http.NoAnswer as failure:
        raise ServiceFault(OLLAMA, f"ollama {failure.within(f'{seconds:g} s')}: look at OLLAMA_BASE_URL") from None
    if answer.status != 200:
        raise error_of(refusal_of(OLLAMA, answer, ""))
    try:
        listed = [each.get("model") or each.get("name") for each in orjson.loads(answer.body)["models"]]
        present = {canonical(name) for name in listed if name}
    except (ValueError, LookupError, TypeError, AttributeError):
        raise ServiceFault(OLLAMA, "ollama answered with no list of models") from None
    return [model for model in models if canonical(model) not in present]


def pull(
    settings: Settings,
    model: str,
    told: Callable[[Progress], None],
    *,
    stall_seconds: float = 60.0,
    pause_seconds: float = 0.5,
) -> None:
    """Until the server has `model`. Unbounded in all, as long as it makes progress: the caller bounds it.

    `stall_seconds`: without progress for so long, it is broken off; `pause_seconds` later it is begun again. Whatever
    ends it hangs up: the server stops a pull that nobody listens to, and keeps what has come.
    NonRetryableError: the registry does not give it to us. ServiceFault: it did not come to its end in a few tries.
    """
    tries = Retrying(
        retry=retry_if_exception_type(PullBroken),
        stop=stop_after_attempt(TRIES),
        wait=wait_exponential(multiplier=pause_seconds, max=LONGEST_PAUSE_SECONDS),
        reraise=True,
    )
    # Left to itself, it would follow redirects, wait for ever, and take proxies from the environment.
    with ollama.Client(
        settings.ollama_base_url,
        follow_redirects=False,
        timeout=stall_seconds,
        headers=client.ollama_headers(settings),
        verify=http.tls_context(settings.trust),
        trust_env=settings.trust.from_environment,
        event_hooks={"response": [_bound]},
    ) as server:
        for attempt in tries:
            with attempt:
                _pull_once(server, model, told, stall_seconds)


def _pull_once(server: ollama.Client, model: str, told: Callable[[Progress], None], stall_seconds: float) -> None:
    layers: dict[str, tuple[int, int]] = {}
    progress, moved = Progress(), time.monotonic()
    failure: AitpError | None = None
    try:
        for line in server.pull(model, stream=True):
            if line.digest:
                layers[line.digest] = (line.completed or 0, line.total or 0)
            completed, total = (sum(numbers) for numbers in zip((0, 0), *layers.values(), strict=True))
            now = Progress(completed, total, line.status or "")
            # Lines may come all the time: only new bytes and new stages are progress.
            if now != progress:
                progress, moved = now, time.monotonic()
                told(progress)
            elif time.monotonic() - moved > stall_seconds:
                said = f"made no progress for {stall_seconds:g} s, at {completed} of {total} bytes"
                break
        else:
            said = "ended without saying that it succeeded"
    except ollama.ResponseError as error:
        failure = _refused(error, model)
    except httpx.ConnectError:
        failure = no_answer(OLLAMA, http.NotReached("could not be connected to"))
    except httpx.HTTPError:
        said = f"broke off, or said nothing for {stall_seconds:g} s"
    except (ValueError, TypeError, AttributeError):  # no JSON, or none of a pull: the package takes it as it comes
        said = "answered with lines that tell of no progress"
    if progress.status != "success":
        raise failure or PullBroken(OLLAMA, f"the pull of {model} {said}")


def _refused(error: ollama.ResponseError, model: str) -> AitpError:
    """What an error answer means, or an error in a line of a good one (which has no status)."""
    if error.status_code >= 0:
        return error_of(refusal_of(OLLAMA, http.Whole(error.status_code, {}, str(error.error).encode()), model))
    # A line's words go to the log, without addresses: those may be signed.
    words = re.sub(r"https?://\S+", "…", " ".join(str(error.error).split()))[:200]
    if any(part in words.lower() for part in _FOR_GOOD):
        return NonRetryableError(f"ollama cannot pull {model}: {words}; look at SUPPORTED_MODELS")
    # Nothing broke off: what the server itself says of it is as true a second later.
    return ServiceFault(OLLAMA, f"ollama could not pull {model}: {words}")
