"""The WSGI application: /metrics, /health, /ready and the page. It answers GET and HEAD, reads, and changes nothing.

With METRICS_TOKEN set, those without it see the status codes of /health and /ready alone (`aitp.web.access`).
Nothing is kept between requests but the last good scrape, and nothing runs between them. Ledger or scoreboard may be
missing or garbled: the answer then says so. `aitp.web.serve` runs it under waitress; tests call it as it is.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from aitp import SERVICE_NAME, __version__
from aitp.logs import get_logger
from aitp.settings import Settings
from aitp.web.access import CHALLENGES, may_see_all
from aitp.web.facts import Facts, read_facts, read_past
from aitp.web.gauges import gauges
from aitp.web.page import CONTENT_SECURITY_POLICY, Sight, render
from aitp.web.readiness import health_problems, readiness_problems
from aitp.web.scrape import Scrape
from aitp.web.usage import read_usage

log = get_logger(__name__)

OK, UNAVAILABLE = "200 OK", "503 Service Unavailable"
PROMETHEUS_TEXT = "text/plain; version=0.0.4; charset=utf-8"
SECURITY_HEADERS = (
    ("Cache-Control", "no-store"),
    ("Content-Security-Policy", CONTENT_SECURITY_POLICY),
    ("Cross-Origin-Resource-Policy", "same-origin"),
    ("Referrer-Policy", "no-referrer"),
    ("X-Content-Type-Options", "nosniff"),
    ("X-Frame-Options", "DENY"),
)


class StartResponse(Protocol):
    """What PEP 3333 calls start_response."""

    def __call__(self, status: str, headers: list[tuple[str, str]], /) -> object: ...


@dataclass(frozen=True, slots=True)
class Answer:
    """A response before it is sent."""

    status: str
    type: str
    body: bytes
    headers: tuple[tuple[str, str], ...] = ()


class Application:
    """One a process. `settings` may be replaced between requests, by a reload."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._scrape = Scrape(settings.runtime_dir / "metrics")
        self._routes: dict[str, Callable[[], Answer]] = {
            "/": self._page,
            "/health": self._health,
            "/metrics": self._metrics,
            "/ready": self._ready,
        }
        self._for_everyone: dict[str, Callable[[], Answer]] = {
            "/health": self._health_in_short,
            "/ready": self._ready_in_short,
        }

    def __call__(self, environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        method = environ.get("REQUEST_METHOD", "GET")
        answer = self._answer(method, environ.get("PATH_INFO", "/"), environ.get("HTTP_AUTHORIZATION", ""))
        length = ("Content-Length", str(len(answer.body)))
        start_response(answer.status, [("Content-Type", answer.type), length, *SECURITY_HEADERS, *answer.headers])
        return [] if method == "HEAD" else [answer.body]

    def _answer(self, method: str, path: str, authorization: str) -> Answer:
        if path not in self._routes:
            return _plain("404 Not Found", f"There are {', '.join(self._routes)}.")
        if method not in ("GET", "HEAD"):
            return _plain("405 Method Not Allowed", "Only GET and HEAD.", ("Allow", "GET, HEAD"))
        try:
            trusted = may_see_all(authorization, self.settings.metrics_token)
            route = self._routes[path] if trusted else self._for_everyone.get(path, _refuse)
            return route()
        except Exception:
            # The border of a request: whoever looks at a broken service must not see a traceback, the log must.
            log.exception("Request failed", path=path)
            return _plain("500 Internal Server Error", "See the service's log.")

    def _metrics(self) -> Answer:
        facts = read_facts(self.settings)
        return Answer(OK, PROMETHEUS_TEXT, self._scrape.text(gauges(facts, self.settings)))

    def _health(self) -> Answer:
        facts = read_facts(self.settings)
        problems = health_problems(facts)
        body: dict[str, object] = {
            "status": "unhealthy" if problems else "healthy",
            "service": SERVICE_NAME,
            "version": __version__,
            "rate_limiting": _rate_limiting(facts, self.settings),
        }
        return _json(body, problems, mock=self.settings.mock)

    def _ready(self) -> Answer:
        problems = readiness_problems(read_facts(self.settings), self.settings)
        return _json({"status": "not ready" if problems else "ready", "service": SERVICE_NAME}, problems)

    def _health_in_short(self) -> Answer:
        problems = health_problems(read_facts(self.settings))
        return _status("unhealthy" if problems else "healthy", well=not problems)

    def _ready_in_short(self) -> Answer:
        problems = readiness_problems(read_facts(self.settings), self.settings)
        return _status("not ready" if problems else "ready", well=not problems)

    def _page(self) -> Answer:
        facts, settings = read_facts(self.settings), self.settings
        sight = Sight(
            facts=facts,
            history=read_past(settings),
            usage=read_usage(settings.runtime_dir / "metrics"),
            settings=settings,
            health=health_problems(facts),
            readiness=readiness_problems(facts, settings),
        )
        return Answer(OK, "text/html; charset=utf-8", render(sight))


def build_app(settings: Settings) -> Application:
    """The application for these settings. Opens nothing yet."""
    return Application(settings)


def _rate_limiting(facts: Facts, settings: Settings) -> dict[str, object]:
    """As the limits in force say; what the settings ask for while there is no ledger to tell."""
    ledger = facts.ledger
    if ledger is None:
        enabled, strategy = settings.rate_limit_enabled, str(settings.rate_limit_strategy)
        return {"enabled": enabled, "strategy": strategy, "current_usage": {}}
    usage = {
        period: {"current": use.current, "limit": use.limit, "remaining": use.remaining}
        for period, use in ledger.limits.items()
    }
    return {"enabled": ledger.limits_enabled, "strategy": ledger.strategy, "current_usage": usage}


def _json(body: dict[str, object], problems: Sequence[str], *, mock: bool = False) -> Answer:
    if mock:
        body["mock"] = True
    if problems:
        body["reasons"] = problems
    return Answer(UNAVAILABLE if problems else OK, "application/json", json.dumps(body).encode() + b"\n")


def _refuse() -> Answer:
    challenges = (("WWW-Authenticate", challenge) for challenge in CHALLENGES)
    return _plain("401 Unauthorized", "This needs METRICS_TOKEN.", *challenges)


def _status(status: str, *, well: bool) -> Answer:
    body = json.dumps({"status": status, "service": SERVICE_NAME}).encode() + b"\n"
    return Answer(OK if well else UNAVAILABLE, "application/json", body)


def _plain(status: str, text: str, *headers: tuple[str, str]) -> Answer:
    return Answer(status, "text/plain; charset=utf-8", text.encode() + b"\n", headers)
