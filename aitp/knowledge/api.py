"""Wikidata over HTTP: one request at a time, politely, and errors of ours for everything that is no answer.

Polite: a User-Agent with a contact, maxlag, pauses as told, a few calls a second and three at a time over all workers
(mediawiki.org, API:Etiquette). `bound` bounds each request, with the `turn` that it waits for; the `gate` (in the
ledger) is around that, never within. No retries.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import TypeVar
from urllib.parse import quote, urlencode

import orjson
import requests
from ratelimit import limits, sleep_and_retry  # type: ignore[import-untyped]
from requests.structures import CaseInsensitiveDict

from aitp.errors import AitpError, CooldownRequired, CredentialsRefused, DeadlineExceeded, RetryableError, ServiceFault
from aitp.policy.retry import pause_seconds
from aitp.settings import Settings
from aitp.tasks import Service
from aitp.wire import USER_AGENT, NoAnswer, TooLong, Wire, whole_body

WIKIDATA = Service.WIKIDATA.value
# One host serves the pageviews of all of Wikimedia; another Wikidata is expected to serve its own.
VIEW_HOSTS = {"https://www.wikidata.org": "https://wikimedia.org"}
VIEWS = "/api/rest_v1/metrics/pageviews/per-article"
FIXED = {"format": "json", "formatversion": "2", "maxlag": "5"}
MOST_BYTES, ERROR_BYTES = 16 * 2**20, 65_536
CALLS, ALL_CALLS_PER_SECOND, MARGIN_SECONDS = 5, 50.0, 5.0  # calls of one worker; in a second, of all workers

Gate = Callable[[], AbstractContextManager[None]]
Bound = Callable[[float], AbstractContextManager[object]]
T = TypeVar("T")


class Oversized(RetryableError):
    """The answer is longer than anybody wants to read: no fault, ask for less."""


class Api:
    """The two APIs. `read` makes a value of a body; what it raises says that the answer is nonsense."""

    def __init__(self, settings: Settings, gate: Gate, bound: Bound, turn: Gate = nullcontext) -> None:
        self._base_url = settings.wikidata_base_url.rstrip("/")
        self._gate, self._turn, self._bound = gate, turn, bound
        self._timeout, self._trust = settings.request_timeout, settings.trust
        contact = settings.wikidata_contact or "its operator has set no contact"
        agent = f"{USER_AGENT} ({contact}) requests/{requests.__version__}"
        self._headers = {"User-Agent": agent, "Accept": "application/json", "Accept-Encoding": "gzip, deflate"}
        self._period = min(60.0, max(1.0, CALLS * settings.concurrency_limit / ALL_CALLS_PER_SECOND))
        self._wait_for_turn = sleep_and_retry(limits(CALLS, self._period)(lambda: None))
        self._wires: dict[str, Wire] = {}

    def query(self, read: Callable[[bytes], T], **parameters: str) -> T:
        """One call of the action API. Raises Oversized as well."""
        return self._ask(self._base_url, "/w/api.php?" + urlencode({**parameters, **FIXED}), read)

    def pageviews(self, read: Callable[[bytes], T], article: str, first: str, last: str) -> T:
        """The days from `first` to `last` (YYYYMMDD) of `project/title`; no days if nothing is known of them."""
        project, _, title = article.partition("/")
        path = f"{VIEWS}/{project}/all-access/user/{quote(title.replace(' ', '_'), safe='')}/daily/{first}/{last}"
        return self._ask(VIEW_HOSTS.get(self._base_url, self._base_url), path, read, b'{"items": []}')

    def reset(self) -> None:
        """Throw the connections away."""
        while self._wires:
            self._wires.popitem()[1].close()

    def _ask(self, host: str, target: str, read: Callable[[bytes], T], absent: bytes = b"") -> T:
        with self._gate():
            answer, body = self._get(host, host + target)
            if answer.status_code == 404 and absent:
                body = absent
            elif error := _error(answer, body):
                raise error
            try:
                return read(body)
            except (ValueError, LookupError, TypeError, AttributeError, OverflowError):
                raise ServiceFault(WIKIDATA, "Wikidata answered something else than what was asked for") from None

    def _get(self, host: str, url: str) -> tuple[requests.Response, bytes]:
        wire = self._wires[host] = self._wires.get(host) or Wire(host, self._timeout, self._trust)
        try:
            with self._bound(self._timeout + self._period + MARGIN_SECONDS):
                self._wait_for_turn()
                with self._turn():
                    answer = wire.send("GET", url, CaseInsensitiveDict(self._headers))
                    return answer, whole_body(answer, MOST_BYTES)
        except TooLong as failure:
            raise Oversized(f"Wikidata {failure}") from None
        except NoAnswer as failure:
            raise ServiceFault(WIKIDATA, f"Wikidata {failure}: look at WIKIDATA_BASE_URL") from None
        except BaseException as error:
            self.reset()
            if not isinstance(error, DeadlineExceeded):
                raise
            raise ServiceFault(WIKIDATA, f"Wikidata gave no whole answer: {error}") from None


def _error(answer: requests.Response, body: bytes) -> AitpError | None:
    """What an answer that is none means. The action API's own errors come with status 200."""
    status, pause, code = answer.status_code, answer.headers.get("Retry-After"), ""
    if status == 200:
        try:
            code = str(orjson.loads(body if len(body) <= ERROR_BYTES else b"{}")["error"]["code"])
        except (ValueError, LookupError, TypeError):
            return None
    said = f"Wikidata answered {status}{code and f' ({code[:60]!r})'}"
    if code in ("maxlag", "ratelimited") or status == 429 or (status == 503 and pause is not None):
        return CooldownRequired(WIKIDATA, said, seconds=pause_seconds(pause, time.time()), model=None)
    if status in (401, 403):
        return CredentialsRefused(WIKIDATA, f"{said}: it wants no calls from here: is WIKIDATA_CONTACT set?")
    return ServiceFault(WIKIDATA, f"{said}: look at WIKIDATA_BASE_URL" if 300 <= status < 500 else said)
