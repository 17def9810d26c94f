"""`aitp metrics`: the application under waitress, one thread, from the bound port to the exit code.

TERM and INT end it with 0, HUP reads the settings again. It asks the kernel to be told of its parent's death: an orphan
would hold the port against the supervisor's next child. Between requests the process sleeps.

waitress reads and writes all connections in one thread, never waits for any, and closes idle ones. Beyond its limit it
would accept nobody, so that whoever holds all places keeps every scrape out: here a newcomer takes the place of the
connection that has been there for longest (`Places`).
"""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Callable
from contextlib import suppress
from types import FrameType
from typing import Any, NoReturn

from waitress import create_server  # type: ignore[import-untyped]

from aitp import logs
from aitp.errors import ConfigurationError
from aitp.hardening import PR_SET_PDEATHSIG, Parent, prctl
from aitp.providers import plugin_builders
from aitp.settings import Settings, load_settings, under_supervisord, withhold
from aitp.tasks import ExitCode
from aitp.validators import addresses, bound
from aitp.web.app import Application

log = logs.get_logger(__name__)

MOST_CONNECTIONS = 100
IDLE_SECONDS = 30
HEAD_BYTES = 8_192
BODY_BYTES = 1_024  # nothing here reads one; a client that sends one is told so, not cut off
_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def run_metrics(settings: Settings) -> int:
    """Serve until told to stop; the exit code. Called by the command line, in the main thread."""
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
    _stop_with_parent()
    log.info("Metrics server started", **place, mock=bool(settings.mocks))
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
        server.run()
    except SystemExit:
        pass  # the signal came before waitress was in its loop
    log.info("Metrics server stopped")
    return ExitCode.FINE


def listen(application: Callable[..., Any], host: str, port: int) -> Any:
    """waitress on `host` and `port`, one thread; `run` serves. Raises OSError if that cannot be (for now, if it is a
    gaierror), and ValueError if there is no such host."""
    # Bound here: waitress takes every failure to resolve a name for a wrong one.
    sockets = bound(addresses(host, port))
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


def _stop_with_parent() -> None:
    """Have the kernel send TERM when the parent dies. Where it can't (not Linux), an orphan is left to its operator."""
    parent = Parent(supervised=under_supervisord())
    if prctl(PR_SET_PDEATHSIG, signal.SIGTERM) and parent.is_gone:
        os.kill(os.getpid(), signal.SIGTERM)
