"""The task API: read what is pending, deliver results. One session a process, made after fork.

Every failure arrives as one of our errors, with a message that holds neither token nor result: DeliveryRefused (never
again), CredentialsRefused, CooldownRequired, ServiceFault. The bound on a whole call is the caller's; after its timer
fired, `reset`. What the calls are is in the task API's contract: GET /api/ai-tasks/pending, PATCH /api/ai-tasks/:id.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import orjson
import requests
from requests.hooks import default_hooks
from requests.structures import CaseInsensitiveDict

from aitp.errors import AitpError, CooldownRequired, CredentialsRefused, DeliveryRefused, ServiceFault
from aitp.policy.retry_after import parse_retry_after
from aitp.taskapi.pages import PendingPage
from aitp.taskapi.token import Tokens
from aitp.taskapi.wire import USER_AGENT, BodyTooLarge, open_session, read_bounded
from aitp.tasks import Service, TaskStatus

if TYPE_CHECKING:
    from aitp.settings import Settings

API = Service.API.value
PENDING = "/api/ai-tasks/pending"
TASK = "/api/ai-tasks/:id"

ERROR_BYTES = 65_536
MESSAGE_LENGTH = 200
DEFAULT_PAUSE_SECONDS = 5.0
LONGEST_PAUSE_SECONDS = 3_600.0

# A result that is answered so will never be taken: it is a dead letter, for a person to see.
NEVER = frozenset({400, 404, 405, 406, 409, 410, 411, 413, 414, 415, 422, 451})

# (endpoint, method, status code or None if there was no answer, seconds)
Observer = Callable[[str, str, int | None, float], None]


class TaskApi:
    """The two calls. `observe` is told of each request, a second try with a fresh token included."""

    def __init__(self, settings: Settings, tokens: Tokens, observe: Observer) -> None:
        self._base_url = settings.api_base_url.rstrip("/")
        self._timeout = settings.request_timeout
        self._trust_env = settings.http_trust_env
        self._tokens = tokens
        self._observe = observe
        self._session: requests.Session | None = None

    def pending(self, limit: int) -> PendingPage:
        """The pending tasks, `limit` of them if the server heeds that, else all."""
        response = self._call("GET", PENDING, f"{PENDING}?limit={limit}", None)
        try:
            if response.status_code != 200:
                raise self._service_error(response)
        except AitpError:
            response.close()
            raise
        return PendingPage(response, _no_answer)

    def deliver(self, task_id: str, status: TaskStatus, result: bytes | None) -> None:
        """Bring a result, ready JSON, to its task; None is null, as a failure sends."""
        body = b'{"state":"%s","result":%s}' % (status.value.encode(), result or b"null")
        with self._call("PATCH", TASK, f"/api/ai-tasks/{quote(task_id, safe='')}", body) as response:
            if 200 <= response.status_code < 300:
                self._drain(response)
                return
            if response.status_code in NEVER:
                message = f"the task API answered {response.status_code}{self._words(response)}"
                raise DeliveryRefused(message, status=response.status_code)
            raise self._service_error(response)

    def reset(self) -> None:
        """Throw the session away: a timer fired inside a call, what its connection would say next is unknown."""
        session, self._session = self._session, None
        self._tokens.forget()
        if session is not None:
            session.close()

    close = reset

    def _call(self, method: str, endpoint: str, path: str, body: bytes | None) -> requests.Response:
        """One request; if its token is refused, one more with a fresh one. The answer's body is still to be read."""
        token = self._tokens.current()
        response = self._send(method, endpoint, path, body, token)
        if response.status_code in (401, 403):
            response.close()
            fresh = self._tokens.replace(token)
            response = self._send(method, endpoint, path, body, fresh)
        return response

    def _send(self, method: str, endpoint: str, path: str, body: bytes | None, token: str) -> requests.Response:
        if self._session is None:
            self._session = open_session(self._trust_env)
        # Prepared by hand: the library's own preparation costs as much CPU as all the rest of a PATCH.
        request = requests.PreparedRequest()
        request.method = method
        request.url = self._base_url + path
        request.hooks = default_hooks()
        request.body = body
        request.headers = CaseInsensitiveDict(
            {
                "Authorization": f"Bearer {token}",
                "User-Agent": USER_AGENT,
                "Accept": "application/json",
                "Accept-Encoding": "gzip, deflate",
                "Connection": "keep-alive",
            }
        )
        if body is not None:
            request.headers["Content-Type"] = "application/json"
            request.headers["Content-Length"] = str(len(body))
        started = time.monotonic()
        try:
            response = self._session.send(request, timeout=self._timeout, allow_redirects=False, stream=True)
        except (requests.RequestException, OSError, ValueError) as error:
            self._observe(endpoint, method, None, time.monotonic() - started)
            raise _no_answer(error) from None
        self._observe(endpoint, method, response.status_code, time.monotonic() - started)
        return response

    def _service_error(self, response: requests.Response) -> AitpError:
        """What an answer that is neither success nor a refusal of the result means."""
        status = response.status_code
        said = f"the task API answered {status}{self._words(response)}"
        if status in (401, 403):
            return CredentialsRefused(API, f"{said} to a fresh token: look at what OAUTH2_CLIENT_ID may do there")
        if status == 429:
            wanted = parse_retry_after(response.headers.get("Retry-After"), time.time())
            seconds = min(DEFAULT_PAUSE_SECONDS if wanted is None else wanted, LONGEST_PAUSE_SECONDS)
            return CooldownRequired(API, said, seconds=seconds, model=None)
        if 300 <= status < 400:
            return ServiceFault(API, f"{said}: it redirects elsewhere, which is never followed: look at API_BASE_URL")
        if status == 404:
            return ServiceFault(API, f"{said}: look at API_BASE_URL")
        return ServiceFault(API, said)

    def _words(self, response: requests.Response) -> str:
        """The server's own `message`, made safe to log; nothing if there is none."""
        try:
            body: Any = orjson.loads(read_bounded(response, ERROR_BYTES))
        except (requests.RequestException, OSError, ValueError):
            return ""
        message = body.get("message") if isinstance(body, dict) else None
        if isinstance(message, list):  # NestJS: one line for each field
            message = "; ".join(part for part in message if isinstance(part, str))
        if not isinstance(message, str) or not message:
            return ""
        safe = "".join(sign if sign.isprintable() else " " for sign in message[:MESSAGE_LENGTH])
        return f" ({safe})"

    def _drain(self, response: requests.Response) -> None:
        """Read the answer to its end, so that the connection can be used again; the answer itself is of no interest."""
        try:
            read_bounded(response, 2**24)
        except (requests.RequestException, OSError, BodyTooLarge):
            # Acknowledged by its status already. What follows costs only the connection.
            pass


def _no_answer(error: Exception) -> ServiceFault:
    """Only the kind of failure: the library's own words quote addresses and headers."""
    if isinstance(error, requests.Timeout):
        return ServiceFault(API, "the task API did not answer in time: look at REQUEST_TIMEOUT")
    if isinstance(error, requests.exceptions.SSLError):
        return ServiceFault(API, "the task API's certificate could not be verified: look at API_BASE_URL")
    return ServiceFault(API, f"the task API gave no answer ({type(error).__name__}): look at API_BASE_URL")
