"""What the Ollama server has, and getting it what it lacks.

A pull is a stream of JSON lines with status 200 whatever happens: an error is a line of it, and a stream that ends
without `success` broke off. The server keeps what has come, so the next pull goes on from there; a few such tries are
made at once, but none after an error that the server tells of (a registry that refuses, a full disk). Called by
`aitp.process.models`, by one process at a time.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass

import httpx  # what the ollama package is made of; loaded by nobody else
import httpx2
import ollama
from tenacity import Retrying, retry_if_exception_type, stop_after_attempt, wait_exponential

from aitp.errors import AitpError, NonRetryableError, ServiceFault
from aitp.policy.routing import canonical
from aitp.providers.client import BodyBound, BoundedStream, ollama_headers, tls_context
from aitp.providers.failures import OLLAMA, error_of, no_answer, refusal_of
from aitp.settings import Settings

TAGS_BYTES, LIST_SECONDS = 16 * 1_048_576, 30.0
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


class _Stream(BoundedStream, httpx.SyncByteStream):
    pass


class OllamaModels:
    """By OLLAMA_* of the settings. `stall_seconds`: without progress for so long, a pull is broken off; `pause_seconds`
    later it is begun again."""

    def __init__(self, settings: Settings, *, stall_seconds: float = 60.0, pause_seconds: float = 0.5) -> None:
        self._stall_seconds = stall_seconds
        self._pause_seconds = pause_seconds
        self._bound = BodyBound(OLLAMA, stream=_Stream)
        # Left to itself, it would follow redirects, wait for ever, and take proxies from the environment.
        self._client = ollama.Client(
            settings.ollama_base_url,
            follow_redirects=False,
            timeout=stall_seconds,
            headers=ollama_headers(settings),
            verify=tls_context(settings.trust),
            trust_env=settings.trust.from_environment,
            event_hooks={"response": [self._bound]},
        )

    def missing(self, models: Collection[str]) -> list[str]:
        """Those of `models` that the server lacks. Raises ServiceFault and its like if it cannot be asked."""
        self._bound.begin(TAGS_BYTES, LIST_SECONDS)
        try:
            present = {canonical(model.model) for model in self._client.list().models if model.model}
            return [model for model in models if canonical(model) not in present]
        except (ollama.ResponseError, ConnectionError, httpx.HTTPError) as error:
            failure = _judged(error, "")
        except (ValueError, TypeError, AttributeError):  # no JSON, or none of a list
            failure = ServiceFault(OLLAMA, "ollama answered with no list of models")
        raise failure

    def pull(self, model: str, told: Callable[[Progress], None]) -> None:
        """Until the server has `model`. Unbounded in all, as long as it makes progress: the caller bounds it.

        NonRetryableError: the registry does not give it to us. ServiceFault: it did not come to its end in a few tries.
        """
        tries = Retrying(
            retry=retry_if_exception_type(PullBroken),
            stop=stop_after_attempt(TRIES),
            wait=wait_exponential(multiplier=self._pause_seconds, max=LONGEST_PAUSE_SECONDS),
            reraise=True,
        )
        tries(self._pull_once, model, told)

    def close(self) -> None:
        """Hang up. The server stops a pull that nobody listens to, and keeps what has come."""
        self._client.close()  # type: ignore[no-untyped-call]

    def _pull_once(self, model: str, told: Callable[[Progress], None]) -> None:
        self._bound.begin(STREAM_BYTES)
        failure: AitpError | None = None
        try:
            if self._follow(model, told) == "success":
                return
            said = "ended without saying that it succeeded"
        except (ollama.ResponseError, httpx.ConnectError) as error:
            failure = _judged(error, model)
        except httpx.HTTPError:
            said = f"broke off, or said nothing for {self._stall_seconds:g} s"
        except (ValueError, TypeError, AttributeError):  # no JSON, or none of a pull: the package takes it as it comes
            said = "answered with lines that tell of no progress"
        raise failure or PullBroken(OLLAMA, f"the pull of {model} {said}")

    def _follow(self, model: str, told: Callable[[Progress], None]) -> str:
        """The last status. Lines may come all the time: only new bytes and new stages are progress."""
        layers: dict[str, tuple[int, int]] = {}
        progress, moved = Progress(), time.monotonic()
        for line in self._client.pull(model, stream=True):
            if line.digest:
                layers[line.digest] = (line.completed or 0, line.total or 0)
            completed, total = (sum(numbers) for numbers in zip(*layers.values(), strict=True)) if layers else (0, 0)
            now = Progress(completed, total, line.status or "")
            if now != progress:
                progress, moved = now, time.monotonic()
                told(progress)
            elif time.monotonic() - moved > self._stall_seconds:
                said = f"the pull of {model} made no progress for {self._stall_seconds:g} s"
                raise PullBroken(OLLAMA, f"{said}, at {completed} of {total} bytes")
        return progress.status


def _judged(error: Exception, model: str) -> AitpError:
    """What the package raised, for an answer, for a line of one, or in place of one."""
    if not isinstance(error, ollama.ResponseError):
        # The package's own words hide the system's.
        return no_answer(OLLAMA, error.__context__ or error if isinstance(error, ConnectionError) else error)
    if error.status_code >= 0:
        return error_of(refusal_of(OLLAMA, httpx2.Response(error.status_code, text=str(error.error)), model))
    # A line's words go to the log, without addresses: those may be signed.
    words = re.sub(r"https?://\S+", "…", " ".join(str(error.error).split()))[:200]
    if any(part in words.lower() for part in _FOR_GOOD):
        return NonRetryableError(f"ollama cannot pull {model}: {words}; look at SUPPORTED_MODELS")
    # Nothing broke off: what the server itself says of it is as true a second later.
    return ServiceFault(OLLAMA, f"ollama could not pull {model}: {words}")
