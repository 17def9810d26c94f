"""Is the service alive, and is it able to work? Pure decisions over `Facts`; each problem is one sentence with advice.

`health_problems` answers /health: is there a reason to restart it? `readiness_problems` answers /ready: can it do its
job right now? An exhausted rate limit is neither: waiting for room is the job.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Self

from aitp.ledger.engine import DISK_RESERVE_BYTES
from aitp.ledger.stats import BreakerView, QuarantineView, Snapshot
from aitp.policy.routing import Availability
from aitp.process.scoreboard import Role, State, role_of
from aitp.providers.inventory import Inventory, ModelState, Stage, uses_models
from aitp.settings import Settings
from aitp.tasks import Service
from aitp.web.facts import Facts

_NOT_AT_WORK = frozenset((State.STARTING, State.WAITING, State.LEAVING))

_CHECK = "`aitp check` finds out whether an address, a name or a secret is wrong."
_WAIT = "Wait a little; the log says what it is waiting for."


DRAINING = "draining"
MODELS = "models"


def about_breaker(service: str) -> str:
    return f"breaker of {service}"


def about_model(name: str) -> str:
    return f"model {name}"


def about_quarantine(quarantine: QuarantineView) -> str:
    return f"quarantine of {quarantine.type} by {quarantine.model} of {quarantine.provider}"


class Problem(str):
    """One sentence on what is wrong. `advice`: what to do. `passing`: it is on its way to be well, or was asked for.

    `about`: the breaker, model or phase, where somebody asks whether it was told already.
    """

    advice: str
    passing: bool
    about: str

    def __new__(cls, sentence: str, advice: str = "", *, passing: bool = False, about: str = "") -> Self:
        problem = super().__new__(cls, sentence)
        problem.advice, problem.passing, problem.about = advice, passing, about
        return problem


_ANOTHER_MODEL = "MODEL_ALIASES maps a name in tasks to the model to ask for; default and stand-in models are settings."
_PROBED = "It is probed with one task at a time; the others wait, and none is lost. "
# What to do about a model whose tasks wait, by whose fault that is.
_ADVICE = {
    "model": f"Ask for another one: {_ANOTHER_MODEL}",
    "answer": f"{_PROBED}If its answers stay useless, ask another model: {_ANOTHER_MODEL}",
    "request": f"{_PROBED}Change the setting that is named, and reload (HUP).",
    "input": f"{_PROBED}See the settings that shape its requests, and its key and address.",
}


def quarantine_problem(quarantine: QuarantineView) -> Problem:
    """That the tasks of a model wait, why, and what to do."""
    return Problem(
        f"tasks of {quarantine.type} by {quarantine.model} ({quarantine.provider}) wait: {quarantine.reason}",
        _ADVICE.get(quarantine.culprit, _PROBED + _CHECK),
        about=about_quarantine(quarantine),
    )


def health_problems(facts: Facts) -> list[Problem]:
    """Why the service should be restarted; empty if it is well."""
    return [*_master_problems(facts), *_overrun_problems(facts)]


def readiness_problems(facts: Facts, settings: Settings) -> list[Problem]:
    """Why the service cannot do its work now; empty if it can."""
    problems = [*health_problems(facts), *_phase_problems(facts)]
    if facts.ledger is None:
        problems.append(Problem(facts.ledger_problem, "Nothing is done without the ledger; the log says more."))
    else:
        problems += _ledger_problems(facts.ledger, settings)
    problems += _model_problems(facts.stock, settings)
    if not facts.has_token:
        problems.append(Problem("there is no access token for the task API yet", _CHECK))
    return problems


def _master_problems(facts: Facts) -> Iterator[Problem]:
    ours = facts.master.pid if facts.master else None
    if not facts.master_ticks and facts.ledger_holder not in (None, ours):
        yield Problem(
            f"another service has this ledger{f' (process {facts.ledger_holder})' if facts.ledger_holder else ''}, "
            "and this one waits for it to leave",
            "A ledger serves one service: stop the other, or set RATE_LIMIT_STORAGE_PATH to a file of its own.",
        )
    elif facts.master is None:
        yield Problem("the master is not running", "Start the service; if it was started, its log says why it ended.")
    elif not facts.master_ticks:
        yield Problem("the master does not make its rounds", "Restart the service: nothing that was bought is lost.")


def _overrun_problems(facts: Facts) -> Iterator[Problem]:
    for record in facts.overrun:
        advice = "The master replaces it within seconds; restart the service if this stays."
        yield Problem(f"slot {record.slot} has overrun its deadline", advice)


def _phase_problems(facts: Facts) -> Iterator[Problem]:
    """Starting and draining: told only of a master that is there."""
    if facts.master is None:
        return
    if facts.master.state is State.DRAINING:
        advice = "It ends when the calls in flight are done, or their grace is over."
        yield Problem("draining: the service is being stopped", advice, passing=True, about=DRAINING)
        return
    for role in Role:
        if not any(role_of(child.slot) is role and child.state not in _NOT_AT_WORK for child in facts.children):
            yield Problem(f"starting: no {role.value} is at work yet", _WAIT, passing=True)


def _ledger_problems(ledger: Snapshot, settings: Settings) -> Iterator[Problem]:
    if ledger.disk_free < DISK_RESERVE_BYTES:
        yield Problem(
            f"the disk that holds the ledger is nearly full: {ledger.disk_free // 2**20} MB are free",
            "Make room where RATE_LIMIT_STORAGE_PATH is: no new work is taken until then.",
        )
    if ledger.paused:
        yield Problem("paused by an operator", "`aitp resume` goes on.", passing=True)
    for processor in sorted(ledger.paused_processors):
        yield Problem(
            f"the processor of {processor} is paused after several bugs in a row: see the log",
            "It goes on by itself after a while, and at each restart.",
        )
    for model in ledger.unpriced:
        yield Problem(
            f"{model} has no price, and while a budget is in force its tasks wait",
            "Give it a price in the file that PRICES names, and reload (HUP).",
        )
    known = set()
    for service in (Service.API, Service.OAUTH):
        if breaker := _open(ledger, service):
            known.add(breaker.reason)
            yield _breaker_problem(service, breaker)
    yield from _provider_problems(ledger, settings)
    if ledger.last_poll_problem in known:
        return  # the same thing, told already
    if ledger.last_poll_problem:
        yield Problem(f"the last poll: {ledger.last_poll_problem}", _CHECK)
    elif ledger.last_poll_at is None:
        yield Problem("the task API has not been polled yet", _WAIT, passing=True)


def _provider_problems(ledger: Snapshot, settings: Settings) -> Iterator[Problem]:
    """A provider is missing only if no other can stand in for it."""
    providers = _providers(settings)
    breakers = {provider: breaker for provider in providers if (breaker := _open(ledger, provider))}
    for quarantine in ledger.quarantines:
        # Where another provider can stand in for this one, its tasks go there.
        if quarantine.provider == providers[-1] or quarantine.provider not in providers:
            yield quarantine_problem(quarantine)
    if len(breakers) < len(providers):
        return
    for provider, breaker in breakers.items():
        # With nothing to do nobody probes: once a probe is due, the next task will be served.
        idle = not (ledger.ready or ledger.waiting or ledger.claimed)
        if not (idle and breaker.probe_at is not None and breaker.probe_at <= ledger.taken_at):
            yield _breaker_problem(provider, breaker)


def _model_problems(stock: Inventory | None, settings: Settings) -> Iterator[Problem]:
    """Models are pulled before the service is ready; one that cannot be had is a problem if OpenAI cannot stand in."""
    if not uses_models(settings):
        return
    replaceable = len(_providers(settings)) > 1
    if stock is None:
        yield Problem("the models of Ollama have not been looked for yet", _WAIT, passing=True)
        return
    if stock.problem:
        if not replaceable:
            yield Problem(
                f"Ollama cannot be asked for its models: {stock.problem}",
                "See whether Ollama runs at OLLAMA_BASE_URL; it is asked again by itself.",
                about=MODELS,
            )
        return
    for name in settings.supported_models:
        state = stock.models.get(name, ModelState(Stage.MISSING))
        if replaceable and state.arrival is not Availability.COMING:
            continue
        if state.stage is Stage.PULLING:
            yield Problem(
                f"the model {name} is being pulled: {state.percent} %", "Wait until it is there.", passing=True
            )
        elif state.stage is Stage.MISSING:
            yield Problem(f"the model {name} is missing, and is to be pulled", "Wait until it is there.", passing=True)
        elif state.stage is Stage.FAILED:
            advice = "See SUPPORTED_MODELS for its name; `aitp models pull` tries again at once."
            yield Problem(f"the model {name} could not be pulled: {state.reason}", advice, about=about_model(name))


def _providers(settings: Settings) -> tuple[Service, ...]:
    if settings.processing_mode == "openai":
        return (Service.OPENAI,)
    if settings.processing_mode == "hybrid" and settings.hybrid_fallback and settings.openai_api_key is not None:
        return (Service.OLLAMA, Service.OPENAI)
    return (Service.OLLAMA,)


def _open(ledger: Snapshot, service: Service) -> BreakerView | None:
    breaker = ledger.breakers.get(service.value)
    return breaker if breaker and breaker.state != "closed" else None


def _breaker_problem(service: Service, breaker: BreakerView) -> Problem:
    reason = f": {breaker.reason}" if breaker.reason else ""
    advice = "It is probed by itself until it is well; its tasks wait, and none is lost. " + _CHECK
    return Problem(f"Circuit breaker is open for {service.value}{reason}", advice, about=about_breaker(service.value))
