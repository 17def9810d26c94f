"""The task API: the list of pending tasks and PATCH, as the NestJS server with MongoDB behind it does them.

`limit` is ignored unless `honour_limit`; a token that is missing, expired or revoked is 403 "Forbidden resource"; a
PATCH stores the state first and runs the callback second, so a refused result is 400 on a task that already reads
`succeeded`; the list is a snapshot of `lag_seconds` ago. Every PATCH is kept in `deliveries`, so that a test can ask
what was delivered, how often. All switches are attributes and may be changed while it runs.
"""

from __future__ import annotations

import math
import re
import secrets
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import blake2b
from typing import Any
from urllib.parse import unquote

import orjson

from aitp.demo.authorization import AuthorizationServer
from aitp.demo.callbacks import complaint
from aitp.demo.faults import Fault, FaultKind
from aitp.demo.http import HttpServer
from aitp.demo.wire import Request, Response, json_response

LIST_PATH = "/api/ai-tasks/pending"
TASK_PATH = "/api/ai-tasks/"
STATES = frozenset({"succeeded", "failed", "in_progress", "pending"})
MONGO_ID = re.compile(r"[0-9a-fA-F]{24}")
MESSAGES = {403: "Forbidden resource", 413: "request entity too large", 429: "ThrottlerException: Too Many Requests"}
FAR_AWAY = math.inf

TaskDocument = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Delivery:
    """One PATCH with an id that is well formed. `state` is what it asked for; `status` what it got."""

    task_id: str
    state: str
    status: int
    whole: bool  # the answer reached the client
    body_bytes: int
    digest: str  # of the body: equal for equal results
    received_wall: float
    received_monotonic: float
    answered_monotonic: float


@dataclass(slots=True)
class _Stored:
    document: dict[str, Any]
    listed: bytes
    state: str = "pending"
    listed_from: float = -FAR_AWAY
    listed_until: float = FAR_AWAY
    result: bytes | None = None


class TaskApi(HttpServer):
    """GET /api/ai-tasks/pending and PATCH /api/ai-tasks/:id. Without `authorization` any token will do."""

    def __init__(
        self,
        port: int = 0,
        *,
        authorization: AuthorizationServer | None = None,
        tasks: Iterable[TaskDocument] = (),
        honour_limit: bool = False,
        page_cap: int | None = None,
        lag_seconds: float = 0.0,
        latency_seconds: float = 0.0,
        list_seconds: float | None = None,
        body_limit_bytes: int = 102_400,
        throttle: int = 0,
        redirect_unknown: bool = False,
        repeats: bool = False,
        keep_results: bool = True,
        idle_seconds: float = 5.0,  # what Node does
        fault_seed: int = 0,
    ) -> None:
        super().__init__(port, latency_seconds=latency_seconds, idle_seconds=idle_seconds, fault_seed=fault_seed)
        self.authorization = authorization
        self.introspection_down = False
        self.honour_limit = honour_limit
        self.page_cap = page_cap  # no page has more tasks, whatever is asked for
        self.lag_seconds = lag_seconds
        self.list_seconds = list_seconds
        self.body_limit_bytes = body_limit_bytes
        self.throttle = throttle
        self.throttle_window_seconds = 60.0
        self.redirect_unknown = redirect_unknown
        self.repeats = repeats  # each task is listed twice
        self.keep_results = keep_results
        self.broken_targets: set[str] = set()
        self.follow_up: Callable[[TaskDocument], Iterable[TaskDocument]] | None = None
        self._deliveries: list[Delivery] = []
        self._tasks: dict[str, _Stored] = {}
        self._lock_tasks = threading.Lock()
        self._windows: dict[str, tuple[float, int]] = {}
        self._patches: dict[int, tuple[str, str]] = {}
        self._keep(tasks, -FAR_AWAY)

    # For whoever drives it

    def add(self, tasks: Iterable[TaskDocument]) -> list[str]:
        """New pending tasks (documents without `_id` get one); listed `lag_seconds` from now. Their ids."""
        return self._keep(tasks, time.monotonic())

    def remove(self, task_id: str) -> None:
        """Delete a task: it is no longer listed, and unknown from now on."""
        with self._lock_tasks:
            del self._tasks[task_id]

    def state(self, task_id: str) -> str:
        """The state as stored."""
        return self._tasks[task_id].state

    def states(self) -> Counter[str]:
        """How many tasks are in each state."""
        with self._lock_tasks:
            return Counter(stored.state for stored in self._tasks.values())

    def ids(self) -> list[str]:
        """All tasks, oldest first."""
        return list(self._tasks)

    def document(self, task_id: str) -> TaskDocument:
        """The task as stored now."""
        return self._tasks[task_id].document

    def result(self, task_id: str) -> Any:
        """The last result accepted (None without one)."""
        body = self._tasks[task_id].result
        return None if body is None else orjson.loads(body).get("result")

    @property
    def deliveries(self) -> list[Delivery]:
        """Every PATCH that is over."""
        return self.settled(self._deliveries)

    def deliveries_of(self, task_id: str) -> list[Delivery]:
        """Every PATCH of a task, in order."""
        return [delivery for delivery in list(self.deliveries) if delivery.task_id == task_id]

    def records(self) -> list[list[Any]]:
        return [*super().records(), self._deliveries]

    def forget_ended(self, before: float) -> int:
        """Delete tasks that have not been pending since then (monotonic); how many."""
        with self._lock_tasks:
            ended = [task_id for task_id, stored in self._tasks.items() if stored.listed_until < before]
            for task_id in ended:
                del self._tasks[task_id]
        return len(ended)

    # HTTP

    def answer(self, request: Request, fault: Fault | None) -> Response:
        """The guards first (throttler, body parser, token), then the two routes."""
        route = _route(request)
        if (wait := self._throttled(route)) > 0:
            refusal = self.error(429, request)
            return Response(429, refusal.body, (("Retry-After", str(math.ceil(wait))),))
        if len(request.body) > self.body_limit_bytes:
            return self.error(413, request)
        if not self._allowed(request):
            return self.error(403, request)
        if route == "list":
            return self._list(request)
        if route == "patch":
            return self._patch(request)
        return self._error(404, request, f"Cannot {request.method} {request.path}")

    def error(self, status: int, request: Request) -> Response:
        """The filter's body for any fault."""
        return self._error(status, request, MESSAGES.get(status, "Internal server error"))

    def latency_of(self, request: Request) -> float:
        """`list_seconds` for the list if given, `latency_seconds` otherwise."""
        if request.method == "GET" and self.list_seconds is not None:
            return self.list_seconds
        return self.latency_seconds

    def ended(self, request: Request, exchange: Any) -> None:
        """Note a PATCH once it is over, unless something in front of the API answered it."""
        if request.method != "PATCH" or exchange.fault is FaultKind.PAGE:
            return
        task_id, state = self._patches.pop(request.number, (request.path.removeprefix(TASK_PATH), ""))
        digest = blake2b(request.body, digest_size=8).hexdigest()
        self._deliveries.append(
            Delivery(
                task_id,
                state,
                exchange.status,
                exchange.whole,
                len(request.body),
                digest,
                request.received_wall,
                request.received_monotonic,
                exchange.ended_monotonic,
            )
        )

    def _list(self, request: Request) -> Response:
        as_of = time.monotonic() - self.lag_seconds
        with self._lock_tasks:
            page = [s.listed for s in self._tasks.values() if s.listed_from <= as_of < s.listed_until]
        if self.repeats:
            page = [listed for listed in page for _ in range(2)]
        if self.honour_limit:
            page = page[: max(0, int(request.query.get("limit", "10")))]
        page = page[: self.page_cap]
        return Response(200, b"[" + b",".join(page) + b"]")

    def _patch(self, request: Request) -> Response:
        task_id = unquote(request.path.removeprefix(TASK_PATH))
        try:
            body = orjson.loads(request.body)
        except orjson.JSONDecodeError:
            return self._error(400, request, "Unexpected token in JSON")
        if not isinstance(body, dict) or body.get("state") not in STATES:
            allowed = ", ".join(sorted(STATES))
            return self._error(400, request, f"state must be one of the following values: {allowed}")
        self._patches[request.number] = (task_id, body["state"])
        with self._lock_tasks:
            stored = self._tasks.get(task_id)
            if stored is not None:
                self._store_state(stored, body["state"])
        if stored is None and not MONGO_ID.fullmatch(task_id):
            return self._error(400, request, f"Cast to ObjectId failed for value {task_id!r}")
        if stored is None:
            return self._unknown(request, task_id)
        return self._callback(request, stored, body)

    def _store_state(self, stored: _Stored, state: str) -> None:
        was_pending, now = stored.state == "pending", time.monotonic()
        stored.state = state
        stored.document = {**stored.document, "state": state, "updatedAt": _now()}
        if state == "pending" and not was_pending:
            stored.listed_from, stored.listed_until = now, FAR_AWAY
        elif state != "pending" and was_pending:
            stored.listed_until = now

    def _callback(self, request: Request, stored: _Stored, body: dict[str, Any]) -> Response:
        if body["state"] == "succeeded":
            if stored.document["_id"] in self.broken_targets:
                return self._error(500, request, "Internal server error")
            document = stored.document
            if refusal := complaint(document.get("type"), document.get("content"), body.get("result")):
                return self._error(400, request, refusal)
            if self.keep_results:
                stored.result = request.body
            if self.follow_up is not None:
                self.add(self.follow_up(stored.document))
        return json_response(200, stored.document)

    def _unknown(self, request: Request, task_id: str) -> Response:
        if self.redirect_unknown:
            return Response(302, b"Found. Redirecting to /404", (("Location", self.url + "/404"),), "text/plain")
        return self._error(404, request, f"AI task with ID {task_id} not found")

    def _allowed(self, request: Request) -> bool:
        if self.introspection_down:
            return False
        if self.authorization is None:
            return True
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        return scheme.lower() == "bearer" and self.authorization.active(token)

    def _throttled(self, route: str) -> float:
        """Seconds until this route may be called again; 0 now, and then the call is counted."""
        if not self.throttle:
            return 0.0
        with self._lock_tasks:
            now = time.monotonic()
            began, count = self._windows.get(route, (now, 0))
            if now - began >= self.throttle_window_seconds:
                began, count = now, 0
            if count >= self.throttle:
                return began + self.throttle_window_seconds - now
            self._windows[route] = (began, count + 1)
        return 0.0

    def _keep(self, tasks: Iterable[TaskDocument], listed_from: float) -> list[str]:
        ids = []
        with self._lock_tasks:
            for task in tasks:
                document = {"_id": secrets.token_hex(12), "state": "pending", **task}
                self._tasks[document["_id"]] = _Stored(document, orjson.dumps(document), listed_from=listed_from)
                ids.append(document["_id"])
        return ids

    @staticmethod
    def _error(status: int, request: Request, message: str) -> Response:
        body = {
            "requestId": secrets.token_hex(8),
            "statusCode": status,
            "timestamp": _now(),
            "path": request.path,
            "message": message,
        }
        return json_response(status, body)


def _route(request: Request) -> str:
    if request.path == LIST_PATH and request.method == "GET":
        return "list"
    if request.method == "PATCH" and request.path.startswith(TASK_PATH):
        return "patch"
    return "other"


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
