"""Is the service alive, and is it able to work? Pure decisions over `Facts`; each problem is one sentence.

`health_problems` answers /health: is there a reason to restart it? `readiness_problems` answers /ready: can it do its
job right now? An exhausted rate limit is neither: waiting for room is the job.
"""

from __future__ import annotations

from collections.abc import Iterator

from aitp.ledger.claims import DISK_RESERVE_BYTES
from aitp.ledger.views import BreakerView, Snapshot
from aitp.policy.routing import Arrival
from aitp.process.scoreboard import State
from aitp.process.slots import Role, role_of
from aitp.providers.stock import ModelState, Stage, Stock, uses_models
from aitp.settings import Settings
from aitp.tasks import Service
from aitp.web.facts import Facts

_NOT_AT_WORK = frozenset((State.STARTING, State.WAITING, State.LEAVING))


def health_problems(facts: Facts) -> list[str]:
    """Why the service should be restarted; empty if it is well."""
    return [*_master_problems(facts), *_overrun_problems(facts)]


def readiness_problems(facts: Facts, settings: Settings) -> list[str]:
    """Why the service cannot do its work now; empty if it can."""
    problems = [*health_problems(facts), *_phase_problems(facts)]
    if facts.ledger is None:
        problems.append(facts.ledger_problem)
    else:
        problems += _ledger_problems(facts.ledger, settings)
    problems += _model_problems(facts.stock, settings)
    if not facts.has_token:
        problems.append("there is no access token for the task API yet")
    return problems


def _master_problems(facts: Facts) -> Iterator[str]:
    if facts.master is None:
        yield "the master is not running"
    elif not facts.master_ticks:
        yield "the master does not make its rounds"


def _overrun_problems(facts: Facts) -> Iterator[str]:
    for record in facts.overrun:
        yield f"slot {record.slot} has overrun its deadline"


def _phase_problems(facts: Facts) -> Iterator[str]:
    """Starting and draining: told only of a master that is there."""
    if facts.master is None:
        return
    if facts.master.state is State.DRAINING:
        yield "draining: the service is being stopped"
        return
    for role in Role:
        if not any(role_of(child.slot) is role and child.state not in _NOT_AT_WORK for child in facts.children):
            yield f"starting: no {role.value} is at work yet"


def _ledger_problems(ledger: Snapshot, settings: Settings) -> Iterator[str]:
    if ledger.disk_free < DISK_RESERVE_BYTES:
        yield f"the disk that holds the ledger is nearly full: {ledger.disk_free // 2**20} MB are free"
    if ledger.paused:
        yield "paused by an operator"
    for processor in sorted(ledger.paused_processors):
        yield f"the processor of {processor} is paused after several bugs in a row: see the log"
    for service in (Service.API, Service.OAUTH):
        if breaker := _open(ledger, service):
            yield _breaker_problem(service, breaker)
    yield from _provider_problems(ledger, settings)
    if ledger.last_poll_problem:
        yield f"the last poll: {ledger.last_poll_problem}"
    elif ledger.last_poll_at is None:
        yield "the task API has not been polled yet"


def _provider_problems(ledger: Snapshot, settings: Settings) -> Iterator[str]:
    """A provider is missing only if no other can stand in for it."""
    providers = _providers(settings)
    breakers = {provider: breaker for provider in providers if (breaker := _open(ledger, provider))}
    if len(breakers) < len(providers):
        return
    for provider, breaker in breakers.items():
        # With nothing to do nobody probes: once a probe is due, the next task will be served.
        idle = not (ledger.ready or ledger.waiting or ledger.claimed)
        if not (idle and breaker.probe_at is not None and breaker.probe_at <= ledger.taken_at):
            yield _breaker_problem(provider, breaker)


def _model_problems(stock: Stock | None, settings: Settings) -> Iterator[str]:
    """Models are pulled before the service is ready; one that cannot be had is a problem if OpenAI cannot stand in."""
    if not uses_models(settings):
        return
    replaceable = len(_providers(settings)) > 1
    if stock is None:
        yield "the models of Ollama have not been looked for yet"
        return
    if stock.problem:
        if not replaceable:
            yield f"Ollama cannot be asked for its models: {stock.problem}"
        return
    for name in settings.supported_models:
        state = stock.models.get(name, ModelState(Stage.MISSING))
        if replaceable and state.arrival is not Arrival.COMING:
            continue
        if state.stage is Stage.PULLING:
            yield f"the model {name} is being pulled: {state.percent} %"
        elif state.stage is Stage.MISSING:
            yield f"the model {name} is missing, and is to be pulled"
        elif state.stage is Stage.FAILED:
            yield f"the model {name} could not be pulled: {state.reason}"


def _providers(settings: Settings) -> tuple[Service, ...]:
    if settings.processing_mode == "openai":
        return (Service.OPENAI,)
    if settings.processing_mode == "hybrid" and settings.hybrid_fallback and settings.openai_api_key is not None:
        return (Service.OLLAMA, Service.OPENAI)
    return (Service.OLLAMA,)


def _open(ledger: Snapshot, service: Service) -> BreakerView | None:
    breaker = ledger.breakers.get(service.value)
    return breaker if breaker and breaker.state != "closed" else None


def _breaker_problem(service: Service, breaker: BreakerView) -> str:
    reason = f": {breaker.reason}" if breaker.reason else ""
    return f"Circuit breaker is open for {service.value}{reason}"
