"""The real roles: what the master's processes do when they are aitp's. The commands hand them to the master.

Each role's main opens what it needs after fork, frees what its slot's former process owned, and works until told to
leave. The functions without a role run in short-lived processes, so that the master itself never opens the ledger.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Container, Mapping
from functools import partial

from pydantic import SecretStr

from aitp import release
from aitp.errors import LedgerError
from aitp.ledger import claims, engine
from aitp.ledger.ledger import Ledger, prepare
from aitp.ledger.outcomes import Cause
from aitp.ledger.queue import LedgerConfig
from aitp.logs import conceal, get_logger
from aitp.metrics import CHILD_EXITS, OTHER, Metrics, known_models, open_metrics, prepare_directory
from aitp.policy.costs import ALL_OTHERS
from aitp.process.child import Child, Roles, give_back
from aitp.process.dispatch import named_models, openai_names, reuse_scope, setup_of
from aitp.process.relay import Relay
from aitp.process.reports import tell_of_release
from aitp.process.scoreboard import LAST_SLOT, Role
from aitp.process.worker import Worker
from aitp.processors import PROCESSORS, registered
from aitp.providers import plugin_builders, routing_of, warm_up
from aitp.settings import Settings, load_settings, publish, under_supervisord
from aitp.sources import PROVIDERS_SECRETS, SECRETS
from aitp.taskapi.client import TaskApi
from aitp.taskapi.token import Tokens
from aitp.tasks import Fleet, Service
from aitp.validators import password_in

# After a failure of the ledger: its disk may have room again by then.
LEDGER_PAUSE_SECONDS = 5.0
METRICS = "metrics"  # in RUNTIME_DIR, the slots' files
# Giving memory back costs as much as half a task: not after each of a trickle.
STEPS_BEFORE_GIVING_BACK = 8
# Of the models with a price so many have labels of their own: a file may list all that there are.
MOST_LABELS = 20

log = get_logger(__name__)


def roles(settings: Settings) -> Roles:
    """The roles for the master. `settings`: those it starts with; a reload loads them anew."""
    keep_out_of_logs(settings)
    return Roles(
        mains={Role.RELAY: relay_main, Role.WORKER: worker_main},
        load=_load,
        # Under supervisord a master that dies is only being replaced.
        prepare=partial(prepare_service, publisher=os.getppid() if under_supervisord() else os.getpid()),
        sweep=sweep,
        warm_up=lambda: prepare_to_fork(settings),
    )


def prepare_to_fork(settings: Settings) -> None:
    """In the master: load what all children need."""
    warm_up(settings)
    openai_names()
    registered(settings)  # what other packages bring is found once, for all children
    release()  # asked of git at most once
    engine.engine_of(settings.ledger)


def keep_out_of_logs(settings: Settings) -> None:
    """Never let the secrets of `settings` appear in a log line of this process or of its children."""
    others = (value for value in settings.extensions.values() if isinstance(value, SecretStr))
    conceal(*(getattr(settings, name.lower()) for name in SECRETS), *others)
    if settings.ledger_url is not None:
        conceal(password_in(settings.ledger_url.get_secret_value()))


def _load() -> Settings:
    settings = load_settings()
    keep_out_of_logs(settings)
    return settings


def labelled_models(settings: Settings) -> tuple[str, ...]:
    """The models that get a label of their own in metrics."""
    priced = [] if settings.prices is None else [model for _, model in settings.prices.models if model != ALL_OTHERS]
    return known_models((*named_models(settings), *priced[:MOST_LABELS]))


def priced_models(settings: Settings) -> set[tuple[str, str, str]]:
    """(provider, model, currency) of the series of costs that can be known before anything is bought."""
    if settings.prices is None:
        return set()
    prices, labelled = settings.prices, labelled_models(settings)
    return {
        (provider, model if model in labelled else OTHER, prices.currency)
        for (provider, model), price in prices.models.items()
        if not price.is_nothing
    }


def prepare_service(settings: Settings, publisher: int) -> None:
    """At start and reload: bring the ledger up to date, publish limits and settings, prepare the metrics files.

    `publisher`: the process without which the service is none.
    """
    for warning in settings.warnings:
        log.warning("Settings are odd", warning=warning)
    for name in settings.mocks:
        log.warning("Mock mode: results are invented, no calls are made", mock=True, placeholder=name)
    task_types = registered(settings).task_types
    for entry in task_types:
        log.info("Task type", task_type=entry.name, processor=entry.processor, prompt=entry.prompt)
    found = prepare(
        settings.ledger,
        strategy=settings.rate_limit_strategy,
        timezone=settings.rate_limit_timezone,
        limits=settings.rate_limits,
        currency=settings.prices.currency if settings.prices is not None and not settings.buys_nothing else "",
        budgets=settings.budgets,
        reuse_scope=reuse_scope(settings, (entry.prompt for entry in task_types)),
        setups={service: setup_of(settings, service) for service in (*Service, *plugin_builders())},
    )
    log.info("Ledger is ready", path=str(settings.ledger), found_version=found)
    prepare_directory(
        settings.runtime_dir / METRICS,
        labelled_models(settings),
        tuple(PROCESSORS),
        priced_models(settings),
        tuple(plugin_builders()),
    )
    publish(settings, routing_of(settings), publisher)


def sweep(settings: Settings, wanted: frozenset[int], causes: Mapping[int, Cause]) -> bool:
    """Free what slots outside `wanted` own, where their process is gone; False if some are still held."""
    ledger = Ledger.open(settings.ledger, LedgerConfig.of(settings))
    try:
        spared = {ledger.owner(slot) for slot in wanted}
        _free_ownerless(ledger, spared, {ledger.owner(slot): cause for slot, cause in causes.items()})
        return all(slot in spared for slot in ledger.owners() if ledger.is_ours(slot))
    finally:
        ledger.close()


def _free_ownerless(ledger: Ledger, spared: Container[int], causes: Mapping[int, Cause]) -> bool:
    """Whether there was anything to free of slots that no process holds."""
    released = ledger.release_ownerless(spared, causes)
    for owner, settled in released.items():
        tell_of_release(owner, settled, ledger.hosts.name_of(owner) if ledger.hosts else "")
    return bool(released)


def worker_main(child: Child, settings: Settings, cause: Cause) -> None:
    """A worker's whole life."""
    settings = settings.keeping("LEDGER_URL", *PROVIDERS_SECRETS, others=True)
    ledger, metrics = _open(child, settings, cause)
    worker = Worker(child, ledger, metrics, settings, missing=lambda model: child.miss_model())

    def step() -> float | None:
        found = worker.step()
        return ledger.here(found.until) if isinstance(found, claims.Idle) else time.time()

    _work(child, ledger, step, lambda: not child.leaving and not worker.spent)


def relay_main(child: Child, settings: Settings, cause: Cause) -> None:
    """A relay's whole life. Told to leave, it first brings out what is finished."""
    settings = settings.keeping("LEDGER_URL", "OAUTH2_CLIENT_SECRET")
    ledger, metrics = _open(child, settings, cause)
    # The one before may have died between bringing tasks and telling: nobody else would, and all would sleep on.
    child.wake_workers()
    api = TaskApi(settings, Tokens(settings, metrics.auth), metrics.api_request)
    relay = Relay(child, ledger, api, metrics, settings)
    fleet = FleetWatch(child, ledger, settings) if ledger.hosts else None

    def step() -> float | None:
        asked, child.poll_asked = child.poll_asked, False
        if fleet:
            fleet.look()
        until = ledger.here(relay.step(may_poll=not (child.draining or child.leaving), asked=asked))
        return fleet.next_look(until) if fleet else until

    _work(child, ledger, step, lambda: not child.leaving, fleet)
    relay.empty_outbox()


def page_address(settings: Settings) -> str:
    """Where people of other hosts find this one's page: by its name, if it listens on every address."""
    host = settings.metrics_host.strip("[]")
    if host in ("*", "0.0.0.0", "::") and isinstance(settings.ledger, Fleet):
        host = settings.ledger.host
    return f"[{host}]:{settings.metrics_port}" if ":" in host else f"{host}:{settings.metrics_port}"


class FleetWatch:
    """What a relay does beside its work where other hosts share the ledger: note that this one is there, free what
    belongs to slots of others that are gone, and wake whoever has something to do by what others announce.
    """

    def __init__(self, child: Child, ledger: Ledger, settings: Settings) -> None:
        assert ledger.hosts is not None
        self._child, self._ledger, self._hosts = child, ledger, ledger.hosts
        self._workers, self._relays = settings.concurrency_limit, settings.relay_processes
        self._page = page_address(settings)
        self._due = -math.inf
        self._is_called = False
        self.database = ledger.hosts.database
        self.database.listen(self._heard)

    def look(self) -> None:
        """If it is time to."""
        if time.monotonic() < self._due:
            return
        self._hosts.note(release(), workers=self._workers, relays=self._relays, page=self._page)
        if _free_ownerless(self._ledger, self._hosts.ours, {}):
            self._child.wake_workers()
            self._child.wake_relays()
        self._due = time.monotonic() + self._hosts.look_again_in(self._ledger.owners())

    def next_look(self, until: float | None) -> float:
        """When this relay has something to do again, if by itself that were `until`; by this host's clock."""
        self.database.hear()
        called, self._is_called = self._is_called, False
        again_at = time.time() + self._due - time.monotonic()
        return 0.0 if called else min(again_at, math.inf if until is None else until)

    def _heard(self, what: str) -> None:
        whom, _, count = what.partition(" ")
        if whom in ("workers", "all"):
            self._child.wake_workers(int(count) if count.isdecimal() else LAST_SLOT)
        if whom in ("relays", "all"):
            self._is_called = True
            self._child.wake_relays()


def _open(child: Child, settings: Settings, cause: Cause) -> tuple[Ledger, Metrics]:
    ledger = Ledger.open(settings.ledger, LedgerConfig.of(settings), locks=child.locks)
    metrics = open_metrics(settings.runtime_dir / METRICS, child.slot, labelled_models(settings))
    if ledger.hosts:
        ledger.hosts.database.observer = metrics
    if cause is not Cause.STOPPED:
        metrics.count(CHILD_EXITS, child.role.value, cause.value)
    tell_of_release(child.slot, ledger.outcomes.release(ledger.owner(child.slot), cause))
    child.wake_relays(1)  # a task that was poison is finished now
    return ledger, metrics


def _work(
    child: Child,
    ledger: Ledger,
    step: Callable[[], float | None],
    going: Callable[[], bool],
    fleet: FleetWatch | None = None,
) -> None:
    """Step by step, with a sleep whenever there is nothing to do. A ledger that fails is waited for, never died of.

    `fleet`: whose announcements end a sleep.
    """
    steps = 0
    while going():
        try:
            until = step()
        except LedgerError as error:
            log.error("Ledger cannot be used, work waits", reason=str(error))
            until = time.time() + LEDGER_PAUSE_SECONDS
        steps += 1
        if until is None or until > time.time():
            if steps >= STEPS_BEFORE_GIVING_BACK:
                steps = 0
                ledger.forget_pages()
                give_back()
            child.wait(until, fleet.database.line if fleet else None)
