"""The metrics process (`aitp metrics`): /metrics, /health, /ready and the page. It answers GET and HEAD, reads, and
changes nothing.

Without METRICS_TOKEN everyone may see everything: nothing here is secret. With it, /metrics and the page are for those
who prove that they know it, as a bearer token (RFC 6750 §2.1: Prometheus' `authorization`) or as the password of HTTP
Basic with any user name (RFC 7617: what a browser asks for). /health and /ready still tell everyone their status code,
because container engines and load balancers have no token to send; but not the reasons.

Nothing is kept between requests but the last good scrape, and nothing runs between them: the process sleeps. Ledger or
scoreboard may be missing or garbled: the answer then says so.

`run_metrics` serves the application by waitress, which reads and writes all connections in one thread, never waits for
any, and closes idle ones. Beyond its limit it would accept nobody, so that whoever holds all places keeps every scrape
out: here a newcomer takes the place of the connection that has been there for longest (`Places`). TERM and INT end it
with 0, HUP reads the settings again. It asks the kernel to be told of its parent's death: an orphan would hold the port
against the supervisor's next child.
"""

from __future__ import annotations

import base64
import hmac
import json
import logging
import signal
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import asdict
from functools import partial
from types import FrameType
from typing import Any, NamedTuple, NoReturn

from pydantic import SecretStr
from waitress import create_server  # type: ignore[import-untyped]

from aitp import SERVICE_NAME, __version__, logs, validators
from aitp.errors import ConfigurationError
from aitp.hardening import PR_SET_PDEATHSIG, Parent, prctl
from aitp.providers import plugin_builders
from aitp.settings import Settings, in_force, load_settings, under_supervisord, withhold
from aitp.tasks import ExitCode
from aitp.web.gauges import Scrape, gauges
from aitp.web.health import Facts, Problem, Severity, problems, read_facts, read_past, worst_first
from aitp.web.page import CONTENT_SECURITY_POLICY, render

StartResponse = Callable[[str, list[tuple[str, str]]], object]  # PEP 3333

log = logs.get_logger(__name__)

OK, UNAVAILABLE = "200 OK", "503 Service Unavailable"
PROMETHEUS_TEXT = "text/plain; version=0.0.4; charset=utf-8"
# A header line each: of several in one line Chromium sees the first only, and would never ask for a password.
CHALLENGES = ('Bearer realm="aitp"', 'Basic realm="aitp", charset="UTF-8"')
SECURITY_HEADERS = (
    ("Cache-Control", "no-store"),
    ("Content-Security-Policy", CONTENT_SECURITY_POLICY),
    ("Cross-Origin-Resource-Policy", "same-origin"),
    ("Referrer-Policy", "no-referrer"),
    ("X-Content-Type-Options", "nosniff"),
    ("X-Frame-Options", "DENY"),
)


class Answer(NamedTuple):
    """A response before it is sent."""

    status: str
    type: str
    body: bytes
    headers: tuple[tuple[str, str], ...] = ()


class Application:
    """One a process. `settings` may be replaced between requests, by a reload: they say how to listen and to whom to
    answer. What is told of the service goes by those that its master has in force.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._scrape = Scrape(settings.runtime_dir / "metrics")
        self._routes: dict[str, Callable[[Facts, Settings], Answer]] = {
            "/": partial(_page, span="hour"),
            "/day": partial(_page, span="day"),
            "/week": partial(_page, span="week"),
            "/health": _health,
            "/metrics": lambda facts, settings: Answer(OK, PROMETHEUS_TEXT, self._scrape.text(gauges(facts, settings))),
            "/ready": _ready,
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
            sees_all = may_see_all(authorization, self.settings.metrics_token)
            if not sees_all and path not in ("/health", "/ready"):
                return _refuse()
            settings = in_force(self.settings)
            answer = self._routes[path](read_facts(settings), settings)
            return answer if sees_all else _in_short(answer)
        except Exception:
            # The border of a request: whoever looks at a broken service must not see a traceback, the log must.
            log.exception("Request failed", path=path)
            return _plain("500 Internal Server Error", "See the service's log.")


def _health(facts: Facts, settings: Settings) -> Answer:
    found = worst_first(problems(facts, settings), Severity.ERROR)
    body: dict[str, object] = {
        "status": "unhealthy" if found else "healthy",
        "service": SERVICE_NAME,
        "version": __version__,
        "rate_limiting": _rate_limiting(facts, settings),
    }
    if settings.mocks:
        body["mock"] = True
    return _json(body, found)


def _ready(facts: Facts, settings: Settings) -> Answer:
    found = worst_first(problems(facts, settings), Severity.PENDING)
    return _json({"status": "not ready" if found else "ready", "service": SERVICE_NAME}, found)


def _page(facts: Facts, settings: Settings, *, span: str) -> Answer:
    history = read_past(settings, span)
    found = problems(facts, settings, history.minutes)
    return Answer(OK, "text/html; charset=utf-8", render(facts, history, settings, found))


def may_see_all(authorization: str, token: SecretStr | None) -> bool:
    """Whether a request with this Authorization header ("" if it has none) may see all there is."""
    if token is None:
        return True
    scheme, _, credentials = authorization.partition(" ")
    proof = b""
    if scheme.lower() == "bearer":
        proof = credentials.strip().encode("latin-1", "replace")  # as WSGI decoded it (PEP 3333)
    elif scheme.lower() == "basic":
        with suppress(ValueError):
            proof = base64.b64decode(credentials.strip(), validate=True).partition(b":")[2]
    # In the same time whatever is wrong with it, or it could be guessed byte by byte.
    return hmac.compare_digest(proof, token.get_secret_value().encode())


def _rate_limiting(facts: Facts, settings: Settings) -> dict[str, object]:
    """As the ledger has it, which in a fleet may be another host's word; by the settings where it cannot be read."""
    ledger = facts.ledger
    uses = ledger.limits.items() if ledger else ()
    return {
        "enabled": ledger.limits_enabled if ledger else bool(settings.rate_limits),
        "strategy": ledger.strategy if ledger else str(settings.rate_limit_strategy),
        "current_usage": {
            name: {"current": use.current, "limit": use.limit, "remaining": use.remaining} for name, use in uses
        },
    }


def _json(body: dict[str, object], found: Sequence[Problem]) -> Answer:
    if found:
        body["reasons"] = [problem.sentence for problem in found]
        body["problems"] = [asdict(problem) for problem in found]
    return Answer(UNAVAILABLE if found else OK, "application/json", json.dumps(body).encode() + b"\n")


def _in_short(answer: Answer) -> Answer:
    """Of /health and /ready what everybody may see."""
    whole = json.loads(answer.body)
    body = json.dumps({"status": whole["status"], "service": whole["service"]}).encode() + b"\n"
    return Answer(answer.status, answer.type, body)


def _refuse() -> Answer:
    challenges = (("WWW-Authenticate", challenge) for challenge in CHALLENGES)
    return _plain("401 Unauthorized", "This needs METRICS_TOKEN.", *challenges)


def _plain(status: str, text: str, *headers: tuple[str, str]) -> Answer:
    return Answer(status, "text/plain; charset=utf-8", text.encode() + b"\n", headers)


# ── how it is served ─────────────────────────────────────────────────────────────────────────────────────────────────
MOST_CONNECTIONS = 100
IDLE_SECONDS = 30
HEAD_BYTES = 8_192
BODY_BYTES = 1_024  # nothing here reads one; a client that sends one is told so, not cut off
_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def run_metrics(settings: Settings) -> int:
    """Serve until told to stop; the exit code. In the main thread."""
    parent = Parent(supervised=under_supervisord())
    logs.configure(settings.log_level, settings.log_format)
    settings = _needed(settings)
    # waitress warns of every request that waits for the one before.
    logging.getLogger("waitress.queue").setLevel(logging.ERROR)
    with suppress(ConfigurationError):  # the master says so
        plugin_builders()  # their metrics are scraped as well
    application = Application(settings)
    place = {"host": settings.metrics_host, "port": settings.metrics_port}
    # Blocked while waitress starts its thread, so that only this one is ever interrupted.
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    try:
        server = listen(application, settings.metrics_host, settings.metrics_port)
    except OSError as error:
        reason = error.strerror or str(error)
        log.error("METRICS_HOST and METRICS_PORT cannot be listened on", reason=reason, **place)
        return ExitCode.FAILED
    except ValueError:
        log.error("METRICS_HOST is not an address of this machine and not a name that leads to one", **place)
        return ExitCode.MISCONFIGURED
    _install_signals(application)
    if prctl(PR_SET_PDEATHSIG, signal.SIGTERM) and parent.is_gone:  # elsewhere an orphan is left to its operator
        signal.raise_signal(signal.SIGTERM)
    log.info("Metrics server started", **place, mock=bool(settings.mocks))
    with suppress(SystemExit):  # of a signal that comes before waitress is in its loop
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
        server.run()
    log.info("Metrics server stopped")
    return ExitCode.FINE


def listen(application: Callable[..., Any], host: str, port: int) -> Any:
    """waitress on `host` and `port`, one thread; `run` serves. Raises OSError if that cannot be (for now, if it is a
    gaierror), and ValueError if there is no such host."""
    # Bound here: waitress takes every failure to resolve a name for a wrong one.
    sockets = validators.bound(validators.addresses(host, port))
    return create_server(
        application,
        map=Places(),
        sockets=sockets,
        threads=1,
        ident="aitp",
        asyncore_loop_timeout=IDLE_SECONDS,
        cleanup_interval=IDLE_SECONDS / 3,
        channel_timeout=IDLE_SECONDS,
        connection_limit=2 * MOST_CONNECTIONS,  # beyond this it accepts nobody; it counts its own descriptors too
        max_request_header_size=HEAD_BYTES,
        max_request_body_size=BODY_BYTES,
    )


class Places(dict[int, Any]):
    """waitress' connections and sockets, by descriptor, where it wants them kept. A connection that waits for us, with
    a request, keeps its place; any other gives way to newcomers, whatever it sends meanwhile.
    """

    def __setitem__(self, descriptor: int, channel: Any) -> None:
        waiting = [each for each in self.values() if getattr(each, "requests", None) == [] and not each.will_close]
        if len(waiting) >= MOST_CONNECTIONS and descriptor not in self:
            # Closed in waitress's next round: its descriptor must not be somebody else's in this one.
            min(waiting, key=lambda each: each.creation_time).will_close = True
        super().__setitem__(descriptor, channel)


def _needed(settings: Settings) -> Settings:
    """The settings without secrets that are none of this process's business, here and in its environment."""
    withhold("LEDGER_URL", "METRICS_TOKEN")
    logs.conceal(settings.ledger_url, settings.metrics_token)
    return settings.keeping("LEDGER_URL", "METRICS_TOKEN")


def _install_signals(application: Application) -> None:
    def stop(number: int, frame: FrameType | None) -> NoReturn:
        raise SystemExit(0)

    def reload(number: int, frame: FrameType | None) -> None:
        try:
            application.settings = _needed(load_settings())
            log.info("Settings loaded again")
        except ConfigurationError as error:
            log.error(
                "New settings are not valid, the running ones stay",
                problems=list(error.problems),
                warnings=list(error.warnings),
            )

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    signal.signal(signal.SIGHUP, reload)
