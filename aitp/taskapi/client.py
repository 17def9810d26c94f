"""The task API: read what is pending, deliver results. One connection a process, made after fork.

Every failure arrives as one of our errors, with a message that holds neither token nor result: DeliveryRefused (the
API itself will not have this result), CredentialsRefused, CooldownRequired, ServiceFault. What a gateway, a login page
or anything else in front of the API says is none of the API's words, whatever its status: it neither acknowledges nor
refuses a result, it is the service's fault. The API's own words are known by their form: the task's document, or its
errors' `{statusCode, message, …}`. What the calls are is in the task API's contract: GET /api/ai-tasks/pending, PATCH
/api/ai-tasks/:id.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Generator
from typing import Protocol
from urllib.parse import quote

from aitp.errors import AitpError, CooldownRequired, CredentialsRefused, DeliveryRefused, ServiceFault
from aitp.http import USER_AGENT, Answer, NoAnswer, Wire, finish, json_object, whole_body
from aitp.policy.retry import pause_seconds
from aitp.settings import Settings
from aitp.taskapi.pages import documents_of
from aitp.taskapi.token import REFUSED_AGAIN
from aitp.tasks import Service, TaskStatus

API = Service.API.value
PENDING = "/api/ai-tasks/pending"
TASK = "/api/ai-tasks/:id"
ERROR_BYTES = 65_536

# How the API refuses a result: 409 may be a race with another one, and 501 is all that this server can say to it.
REFUSALS = frozenset({400, 404, 409, 413, 422, 501})

NOT_ITS_OWN = (
    ", and not in the form of the task API: something in front of it answers: look at API_BASE_URL, and at gateways, "
    "proxies and logins on the way"
)

# How a task's document begins. The rest need not have come, and nothing else begins so.
LEADING_ID = re.compile(rb'\s*\{\s*"_?id"\s*:\s*"([^"\\]{1,64})"\s*[,}]')

WORDS_LENGTH = 200
LEFT_OUT = "…"
# What a server repeats of a request is recognised by so many characters in a row.
REPEATED = 8
QUOTED = re.compile(r"\"[^\"]*(\"|$)|`[^`]*(`|$)|(?<!\w)'[^']*('|$)|[-+]?\d+\.\d+(e[-+]?\d+)?|[\w+=~-]{30,}")

# (endpoint, method, status code or None if there was no answer, seconds)
Observer = Callable[[str, str, int | None, float], None]


class TokenSource(Protocol):
    """Where access tokens come from: `aitp.taskapi.token.Tokens`, which says what these promise."""

    def current(self) -> str: ...

    def replace(self, refused: str) -> str: ...


class TaskApi:
    """The two calls. `observe` is told of each request, a second try with a fresh token included."""

    def __init__(self, settings: Settings, tokens: TokenSource, observe: Observer) -> None:
        self._base_url = settings.api_base_url.rstrip("/")
        self._wire = Wire(self._base_url, settings.request_timeout, settings.trust)
        self._tokens = tokens
        self._observe = observe

    def pending(self, limit: int) -> Generator[bytes, None, None]:
        """The raw pending tasks, `limit` of them if the server heeds that, else all; to be closed."""
        answer, token = self._call("GET", PENDING, f"{PENDING}?limit={limit}", None)
        if answer.status != 200:
            raise self._service_error(answer, *self._said(answer, token))
        return documents_of(answer)

    def deliver(self, task_id: str, status: TaskStatus, result: bytes | None) -> None:
        """Bring a result, ready JSON, to its task; None is null, as a failure sends."""
        body = b'{"state":"%s","result":%s}' % (status.value.encode(), result or b"null")
        path = f"/api/ai-tasks/{quote(task_id, safe='')}"
        answer, token = self._call("PATCH", TASK, path, body)
        code = answer.status
        if 200 <= code < 300:
            self._see_acknowledged(answer, task_id)
            return
        own, said = self._said(answer, token, body.decode(errors="replace"))
        if own and code == 404 and "Cannot PATCH" in said:
            raise ServiceFault(API, f"{said}: it has no such route: look at API_BASE_URL")
        if own and code in REFUSALS:
            raise DeliveryRefused(said, status=code)
        raise self._service_error(answer, own, said)

    def close(self) -> None:
        """End the connection."""
        self._wire.close()

    def _call(self, method: str, endpoint: str, path: str, body: bytes | None) -> tuple[Answer, str]:
        """One request; if its token is refused, one more with a fresh one. The answer's body is still to be read."""
        token = self._tokens.current()
        answer = self._send(method, endpoint, path, body, token)
        if answer.status in (401, 403):
            finish(answer)
            token = self._tokens.replace(token)
            answer = self._send(method, endpoint, path, body, token)
        return answer, token

    def _send(self, method: str, endpoint: str, path: str, body: bytes | None, token: str) -> Answer:
        headers = {"Authorization": f"Bearer {token}", "User-Agent": USER_AGENT, "Accept": "application/json"}
        if body is None:
            headers["Accept-Encoding"] = "gzip"
        else:
            headers |= {"Content-Type": "application/json", "Content-Length": str(len(body))}
        started, code = time.monotonic(), None
        try:
            answer = self._wire.send(method, self._base_url + path, headers, body)
            code = answer.status
        except NoAnswer as failure:
            raise ServiceFault(API, f"the task API {failure}: look at API_BASE_URL") from None
        finally:
            self._observe(endpoint, method, code, time.monotonic() - started)
        return answer

    @staticmethod
    def _see_acknowledged(answer: Answer, task_id: str) -> None:
        """Return if the API itself says that it has the result: by the task's document, or by no body at all.

        An answer of which not enough comes to tell leaves that open. The result is then brought again: the API drops
        what it has already, whereas what is wrongly taken for delivered would be bought anew.
        """
        body, cut = finish(answer)
        if acknowledges(body, task_id) if body else cut is None:
            return
        raise ServiceFault(API, f"the task API answered {answer.status}{f' and {cut}' if cut else NOT_ITS_OWN}")

    @staticmethod
    def _said(answer: Answer, *sent: str) -> tuple[bool, str]:
        """Whether the API itself speaks; and that it answered so, with its own words if there are any."""
        said = f"the task API answered {answer.status}"
        try:
            body = whole_body(answer, ERROR_BYTES)
        except NoAnswer:
            return False, said
        own, words = own_words(body, answer.status, *sent)
        return own, f"{said} ({words})" if words else said

    @staticmethod
    def _service_error(answer: Answer, own: bool, said: str) -> AitpError:
        """What an answer that is neither success nor a refusal of the result means."""
        code = answer.status
        if code == 429:
            seconds = pause_seconds(answer.headers.get("Retry-After"), time.time())
            return CooldownRequired(API, said, seconds=seconds, model=None)
        if 300 <= code < 400:
            return ServiceFault(API, f"{said}: redirects are never followed: look at API_BASE_URL")
        if not own:
            return ServiceFault(API, f"{said}{NOT_ITS_OWN}")
        if code in (401, 403):
            return CredentialsRefused(API, f"{said}: {REFUSED_AGAIN}")
        if code == 404:
            return ServiceFault(API, f"{said}: look at API_BASE_URL")
        return ServiceFault(API, said)


def acknowledges(body: bytes, task_id: str) -> bool:
    """Whether a 2xx with this body is the API's own word that it has the result: the document of that task.

    The id counts where one is given. Of a body that was cut off, its beginning will do.
    """
    leading = LEADING_ID.match(body)
    if leading and leading[1].decode(errors="replace").casefold() == task_id.casefold():
        return True
    document = json_object(body)
    if not document:
        return False
    named = document.get("_id", document.get("id"))
    if named is None:
        said = [document.get(key) for key in ("success", "ok", "status")]
        failed = any(each is False or each in ("error", "fail") for each in said)
        return not failed and not document.keys() & {"statusCode", "error", "errors"}
    return isinstance(named, str) and named.casefold() == task_id.casefold()


def own_words(body: bytes, status: int, *sent: str) -> tuple[bool, str]:
    """Whether an error with this body is the API's own (a JSON object with its status and a message); and the message,
    at most WORDS_LENGTH characters on one line, empty if there is none.

    A refusal's words are what a person needs to see ("Embedding must be a non-empty array"), but servers quote what
    they refuse: what stands in quotes, decimal numbers, what may be a key, and all that we `sent` is left out.
    """
    document = json_object(body) or {}
    message = document.get("message")
    if isinstance(message, list):  # NestJS: one line for each field
        message = "; ".join(part for part in message if isinstance(part, str))
    words = _without(message[: 4 * WORDS_LENGTH], sent) if isinstance(message, str) else ""
    words = "".join(sign if sign.isprintable() else " " for sign in QUOTED.sub(LEFT_OUT, words)[:WORDS_LENGTH]).strip()
    return document.get("statusCode") == status and "message" in document, words


def _without(message: str, sent: tuple[str, ...]) -> str:
    repeated = [False] * len(message)
    for at in range(len(message) - REPEATED + 1):
        piece = message[at : at + REPEATED]
        if any(piece in text for text in sent):
            repeated[at : at + REPEATED] = [True] * REPEATED
    kept = (LEFT_OUT if left_out else sign for sign, left_out in zip(message, repeated, strict=True))
    return re.sub(f"{LEFT_OUT}+", LEFT_OUT, "".join(kept))
