"""A stand-in for Jev's API, strict about what it is sent, in a thread of the test's process.

with Jev() as jev:
    jev.order(status=503, headers={"Retry-After": "1"}, times=3)     # the next three answers
    jev.requests                                                     # what it saw, and answered
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

KEY = "ts-a-key-of-the-stub"
MODELS = ("jev-1.13.0", "jev-latest")
ALIASES = {"jev-latest": "jev-1.13.0"}


@dataclass
class Seen:
    """One request, and the status that it got; 0 while there is none."""

    body: dict[str, Any]
    headers: dict[str, str]
    received: float
    status: int = 0
    faults: list[str] = field(default_factory=list)

    @property
    def text(self) -> str:
        return str(self.body["state"]["text"])


@dataclass
class Order:
    """How to answer instead. `answers`: these in place of the right ones, by name (None: left out); `body`: this."""

    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    body: Any = None
    answers: Mapping[str, Any] = field(default_factory=dict)
    delay: float = 0.0
    cut: bool = False
    trickle: bool = False
    times: int = 1


class Jev:
    """Answers the first option and the same probabilities to everybody, unless `answers` has others by name."""

    def __init__(self) -> None:
        self.requests: list[Seen] = []
        self.orders: list[Order] = []
        self.answers: dict[str, Any] = {
            "harm": {"probabilities": {"0": 0.05, "1": 0.10, "2": 0.80, "3": 0.05}, "confidence": 0.9},
            "contestable": {"noul": 0.7},
            "checkable": {"noul": 0.9},
        }
        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"jev": self}))
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()

    def order(self, **what: Any) -> None:
        """Answer so next time (`times`; -1: from now on), instead of well."""
        self.orders.append(Order(**what))

    def get_well(self) -> None:
        """Forget all orders."""
        self.orders.clear()

    @property
    def faults(self) -> list[str]:
        """All that was wrong with what it was sent, but for what a test ordered."""
        return [fault for seen in self.requests for fault in seen.faults]

    def bought(self) -> list[str]:
        """The texts that were answered well."""
        return [seen.text for seen in self.requests if seen.status == 200]

    def next_order(self) -> Order:
        with self._lock:
            if not self.orders:
                return Order()
            order = self.orders[0]
            order.times -= 1
            if order.times == 0:
                self.orders.pop(0)
            return order

    def answer(self, name: str, question: Mapping[str, Any]) -> dict[str, Any]:
        kind, given = question["type"], self.answers.get(name, {})
        if kind == "choice":
            first, *others = question["criteria"]
            shares = {first: 0.95, **dict.fromkeys(others, 0.05 / max(len(others), 1))}
            return {"type": kind, "choice": first, "confidence": 0.9, "probabilities": shares, **given}
        if kind == "score":
            legend = {str(level): words for level, words in enumerate(question["criteria"])}
            return {"type": kind, "score": 1.7, "confidence": 0.9, "legend": legend, **given}
        return {"type": kind, **given}

    def wrong_with(self, body: Any) -> list[str]:
        """What is wrong with a request's body; a model that is not known is a 404 of its own."""
        faults = []
        if set(body) != {"state", "model", "questions"}:
            faults.append(f"keys {sorted(body)}")
        state = body.get("state")
        text = "".join(state.values()) if isinstance(state, dict) else str(state or "")
        if not 1 <= len(text) <= 6_000:
            faults.append(f"a state of {len(text)} characters")
        if not body.get("questions"):
            faults.append("no questions")
        for name, question in (body.get("questions") or {}).items():
            kind, criteria = question.get("type"), question.get("criteria")
            if not question.get("instructions"):
                faults.append(f"{name} without instructions")
            if kind == "choice":
                if not isinstance(criteria, dict) or any(value is not None for value in criteria.values()):
                    faults.append(f"{name}: criteria of a choice are a map of options to null")
                elif not 2 <= len(criteria) <= 255:
                    faults.append(f"{name}: {len(criteria)} options")
            elif kind == "score":
                if not isinstance(criteria, list) or not all(isinstance(each, str) for each in criteria):
                    faults.append(f"{name}: criteria of a score are a list of words")
            elif kind != "noul":
                faults.append(f"{name} is a {kind}")
            elif "criteria" in question:
                faults.append(f"{name}: a noul has no criteria")
        return faults


class _Handler(BaseHTTPRequestHandler):
    jev: Jev
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        if self.headers["Authorization"] != f"Bearer {KEY}":
            return self._send(401, {"error": "no such key"}, {})
        models = [{"name": name, "description": "", "release_date": "2026-01-01"} for name in MODELS]
        return self._send(200 if self.path == "/v1/models" else 404, {"models": models}, {})

    def do_POST(self) -> None:
        jev = self.jev
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        seen = Seen(body, dict(self.headers), time.time())
        jev.requests.append(seen)
        order = jev.next_order()
        time.sleep(order.delay)
        if self.path != "/v1/systemone":
            seen.faults.append(f"path {self.path}")
            return self._end(seen, 404, {"detail": "Not Found"}, {})
        if self.headers["Authorization"] != f"Bearer {KEY}":
            return self._end(seen, 401, {"error": {"message": "no such key"}}, {})
        if self.headers["Accept"] != "application/json" or "aitp" not in self.headers["User-Agent"]:
            seen.faults.append("headers")
        seen.faults += jev.wrong_with(body)
        if seen.faults:
            return self._end(seen, 422, {"detail": [{"loc": ["body"], "msg": fault} for fault in seen.faults]}, {})
        if order.status != 200:
            return self._end(seen, order.status, order.body or {"error": "as ordered"}, order.headers)
        if body["model"] not in MODELS:
            return self._end(seen, 404, {"error": f"model {body['model']} not found"}, {})
        answers = {name: jev.answer(name, question) for name, question in body["questions"].items()}
        answers = {name: given for name, given in {**answers, **order.answers}.items() if given is not None}
        usage = {"input_tokens": 120, "output_tokens": 12}
        whole = {"model": ALIASES.get(body["model"], body["model"]), "usage": usage, "answers": answers}
        return self._end(seen, 200, whole if order.body is None else order.body, order.headers, order)

    def _end(self, seen: Seen, status: int, body: Any, headers: Mapping[str, str], order: Order | None = None) -> None:
        seen.status = status
        self._send(status, body, headers, order)

    def _send(self, status: int, body: Any, headers: Mapping[str, str], order: Order | None = None) -> None:
        text = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.send_header("x-typesafe-request-id", "req-1")
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        try:
            if order is not None and order.cut:
                self.wfile.write(text[: len(text) // 2])
                self.close_connection = True
                return
            for piece in [text[i : i + 1] for i in range(len(text))] if order is not None and order.trickle else [text]:
                self.wfile.write(piece)
                self.wfile.flush()
                if order is not None and order.trickle:
                    time.sleep(0.05)
        except OSError:
            pass

    def log_message(self, format: str, *args: Any) -> None:
        """Quiet."""
