"""What is known of the running service at one moment, and what is wrong with it: the one list of problems.

`read_facts` looks at scoreboard, ledger and token, and closes them again; whatever is missing or garbled is a fact too,
in words, and never an exception: people look most when something is wrong. `problems` is a pure decision over these
facts; /health, /ready, the page, `aitp status` and `aitp check` tell its problems, each those from a severity on. A
rate limit that is used up is no fault: waiting for room is the job.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from aitp.errors import ConfigurationError, LedgerError
from aitp.hardening import is_alive
from aitp.ledger import engine, locks
from aitp.ledger.stats import Bar, History, Snapshot, read_history, snapshot
from aitp.policy.costs import amount
from aitp.policy.routing import Availability, Routing
from aitp.process.scoreboard import MASTER, SLOTS, Record, Role, State, glance, is_hidden, living_master, role_of
from aitp.process.start import START_SECONDS, FailedStart, Supervision, read, read_supervision
from aitp.providers import inventory as models
from aitp.providers import routing_of, uses_models, uses_openai
from aitp.sources import InForce
from aitp.tasks import Service

if TYPE_CHECKING:
    from aitp.settings import Settings

    Configuration = Settings | InForce

OUTBOX_SECONDS = 300.0  # a result that waits longer than its first few tries take
LONG_WAIT_SECONDS = 120.0  # for room in a limit, or for the end of a pause
FAILED_SHARE, FAILED_TASKS = 0.1, 5  # of the last hour's tasks

# Beside LedgerError: what rows that nobody of ours has written make the reading code raise.
_GARBLED = (ValueError, TypeError, LookupError, ArithmeticError)
_NOT_AT_WORK = frozenset((State.STARTING, State.WAITING, State.LEAVING))

_CHECK = "`aitp check` asks it now, and says what it finds."
_WAIT = "Wait a little; the log says what it is waiting for."
_NONE_LOST = "Tasks wait, none is lost."
_ANOTHER_MODEL = "MODEL_ALIASES maps a name in tasks to the model to ask for; default and stand-in models are settings."
_PROBED = "It is probed with one task at a time; the others wait, and none is lost. "
# What to do about a model whose tasks wait, by whose fault that is.
_ABOUT_MODELS = {
    "model": f"Ask for another one: {_ANOTHER_MODEL}",
    "answer": f"{_PROBED}If its answers stay useless, ask another model: {_ANOTHER_MODEL}",
    "request": f"{_PROBED}Change the setting that is named, and reload (HUP).",
    "input": f"{_PROBED}See the settings that shape its requests, and its key and address.",
}


class Severity(StrEnum):
    """From best to worst."""

    OK = "ok"  # looked at, and well
    NOTE = "note"  # well, and worth knowing
    WARNING = "warning"  # it works, but perhaps not as was meant
    PENDING = "pending"  # it does not work yet, or by an operator's wish: /ready answers 503 from here on
    FAULT = "fault"  # something keeps it from its work or a part of it
    ERROR = "error"  # it does not run: it would not start, or has to be started again (/health answers 503)

    def at_least(self, other: Severity) -> bool:
        """Whether it is as bad as `other`, or worse."""
        return _ORDER.index(self) >= _ORDER.index(other)


_ORDER = tuple(Severity)


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that was looked at. `code` names its kind, `advice` says what to do; it is empty where all is well."""

    code: str
    severity: Severity
    sentence: str
    advice: str = ""


def worst_first(found: Iterable[Problem], least: Severity = Severity.OK) -> list[Problem]:
    """Those that are as bad as `least` or worse; of equally bad ones in the order in which they were found."""
    chosen = (problem for problem in found if problem.severity.at_least(least))
    return sorted(chosen, key=lambda problem: -_ORDER.index(problem.severity))


class Phase(StrEnum):
    """Where the service is in its life."""

    STARTING = "starting"  # or starting again: its master was started, or its children are not at work yet
    RUNNING = "running"
    DRAINING = "draining"
    STOPPED = "stopped"  # its master, by an operator (supervisorctl)
    DOWN = "down"  # or its master hangs
    HIDDEN = "hidden"  # it is not for this user to see


@dataclass(frozen=True, slots=True)
class Facts:
    """One moment: `now` in UTC seconds, `monotonic` as deadlines have it. `ledger` is None exactly if `ledger_problem`
    says why; `inventory`: of Ollama's models; `retirements`: of OpenAI's models that are asked for. `hidden`: this user
    may not look at the scoreboard, and cannot tell whether it runs. `ledger_holder`: the pid of the ledger's master,
    whosever that is, if no master of ours makes its rounds; `supervision`: what supervisord does with ours then.
    """

    now: float
    master: Record | None
    master_ticks: bool
    children: tuple[Record, ...]
    overrun: tuple[Record, ...]
    ledger: Snapshot | None
    ledger_problem: str
    has_token: bool
    inventory: models.Inventory | None = None
    retirements: Sequence[models.Retirement] = ()
    monotonic: float = 0.0
    hidden: bool = False
    ledger_holder: int | None = None
    supervision: Supervision | None = None
    failed_start: FailedStart | None = None

    @property
    def phase(self) -> Phase:
        """Where the service is in its life. Pure."""
        if self.master is not None and self.master_ticks:
            if self.master.state is State.DRAINING:
                return Phase.DRAINING
            started = not all(child.state in _NOT_AT_WORK for child in self.children)
            return Phase.RUNNING if started and self.master.state is State.RUNNING else Phase.STARTING
        match self.supervision:
            case Supervision(state="STOPPED"):
                return Phase.STOPPED
            case Supervision(state="STOPPING"):
                return Phase.DRAINING
            case Supervision(state="STARTING" | "RUNNING", since=since) if self.now - since < START_SECONDS:
                return Phase.STARTING
        return Phase.HIDDEN if self.hidden else Phase.DOWN


def read_facts(settings: Configuration) -> Facts:
    """Look now. Never raises for the state of the service or of its files."""
    monotonic = time.monotonic()
    records = glance(settings.runtime_dir / "scoreboard")
    # Not what only a garbled scoreboard has in use: numbers between the roles.
    children = tuple(record for record in records if any(record.slot in slots for slots in SLOTS.values()))
    ledger, problem = _read_ledger(settings)
    master = living_master(records)
    inventory = models.read_inventory(settings.runtime_dir)
    return Facts(
        now=time.time(),
        # One that hangs is there, one that died is not.
        master=next((record for record in records if record.slot == MASTER and is_alive(record.pid)), None),
        master_ticks=master is not None,
        children=children,
        overrun=tuple(record for record in children if record.overdue(monotonic)),
        ledger=ledger,
        ledger_problem=problem,
        has_token=os.path.isfile(settings.runtime_dir / "token"),
        inventory=inventory if uses_models(settings) else None,
        retirements=inventory.retirements if inventory is not None and uses_openai(settings) else (),
        monotonic=monotonic,
        hidden=is_hidden(settings.runtime_dir / "scoreboard"),
        ledger_holder=None if master else locks.master_of(engine.lock_file(settings.ledger)),
        supervision=None if master else read_supervision(settings.runtime_dir),
        failed_start=None if master else read(settings.runtime_dir, FailedStart),
    )


def read_past(settings: Configuration, span: str = "hour") -> History:
    """What was lately; nothing if the ledger cannot be read, which `read_facts` says."""
    try:
        return read_history(settings.ledger, span)
    except (LedgerError, *_GARBLED):
        return History(span)


def _read_ledger(settings: Configuration) -> tuple[Snapshot | None, str]:
    try:
        return snapshot(settings.ledger, recovery=settings.circuit_breaker_recovery_seconds), ""
    except LedgerError as error:
        return None, str(error)
    except _GARBLED as error:
        return None, f"the ledger {settings.ledger} cannot be understood: {error!r}"


def duration(seconds: float) -> str:
    """`42 s`, `12 min`, `3 h`, `5 d`: two units are never mixed, and what is below 0 is 0."""
    seconds = max(0.0, seconds)
    if seconds >= 1e12:  # of a garbled file: it would be hundreds of digits wide
        return f"{seconds:.0e} s"
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:,.0f} {unit}"
    return f"{seconds:.0f} s"


def counted(number: int, noun: str) -> str:
    """`1 result`, `2,000 results`."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def at_work(records: Iterable[Record], overrun: Collection[Record], room: int) -> tuple[list[Record], str]:
    """Who does what, by slot: `room` of them, the late and those busy for longest chosen first; the others summed."""

    def need(one: Record) -> tuple[object, ...]:
        return one not in overrun, one.slot != MASTER, one.state is State.IDLE, one.since, one.slot

    by_work = sorted(records, key=need)
    rest = Counter(record.state.name.lower() for record in by_work[room:])
    return sorted(by_work[:room], key=lambda one: one.slot), ", ".join(f"{n:,} {state}" for state, n in rest.items())


def problems(facts: Facts, settings: Configuration, minutes: Sequence[Bar] = ()) -> list[Problem]:
    """All that is wrong or worth knowing, the worst first. `minutes`: the last hour, where its failures are wanted."""
    found = list(of_master(facts))
    if facts.ledger is None:
        advice = "Nothing is done without the ledger; the log says more."
        found.append(Problem("ledger", Severity.FAULT, facts.ledger_problem, advice))
    else:
        found += [*_of_room(facts.ledger), *_of_ledger(facts.ledger), *_of_services(facts.ledger, settings)]
        found += [*_of_pauses(facts.ledger, settings), *_of_extensions(facts.ledger, settings)]
    found += [*_of_children(facts, settings), *_of_models(facts, settings)]
    if not facts.has_token:
        found.append(Problem("token", Severity.FAULT, "there is no access token for the task API yet", _CHECK))
    failed, succeeded = sum(minute.failed for minute in minutes), sum(minute.succeeded for minute in minutes)
    if failed >= FAILED_TASKS and failed >= FAILED_SHARE * (failed + succeeded):  # not some odd ones that always do
        sentence = f"{failed:,} of {failed + succeeded:,} tasks failed in the last hour"
        found.append(Problem("failures", Severity.WARNING, sentence, "The page and `aitp tasks` say why."))
    return worst_first(found)


def of_master(facts: Facts) -> Iterator[Problem]:
    """Why it does not run, or is about to stop, and which of its processes are late."""
    master = facts.master
    if not facts.master_ticks and facts.ledger_holder not in (None, master and master.pid):
        holder = f" (process {facts.ledger_holder})" if facts.ledger_holder else ""
        sentence = f"another service has this ledger{holder}, and this one waits for it to leave"
        advice = "A ledger serves one service: stop the other, or set RATE_LIMIT_STORAGE_PATH to a file of its own."
        yield Problem("other-service", Severity.ERROR, sentence, advice)
    elif master is not None and not facts.master_ticks:
        advice = "Restart the service: nothing that was bought is lost."
        yield Problem("master-hangs", Severity.ERROR, "the master does not make its rounds", advice)
    elif facts.phase is Phase.DRAINING:
        advice = "It ends when the calls in flight are done, or their grace is over."
        yield Problem("draining", Severity.PENDING, "draining: the service is being stopped", advice)
    elif master is None:
        yield _of_absence(facts)
    for record in facts.overrun:
        advice = "The master replaces it within seconds; restart the service if this stays."
        yield Problem("deadline", Severity.ERROR, f"slot {record.slot} has overrun its deadline", advice)


def _of_children(facts: Facts, settings: Configuration) -> Iterator[Problem]:
    """Which of them are missing, of a master that is there."""
    if facts.master is None or facts.master.state is State.DRAINING:
        return
    for role, wanted in ((Role.RELAY, settings.relay_processes), (Role.WORKER, settings.concurrency_limit)):
        there = [child for child in facts.children if role_of(child.slot) is role]
        if all(child.state in _NOT_AT_WORK for child in there):
            yield Problem("starting", Severity.PENDING, f"starting: no {role.value} is at work yet", _WAIT)
        elif len(there) < wanted:
            sentence = f"{len(there)} of {counted(wanted, role.value)} are there"
            yield Problem("processes", Severity.WARNING, sentence, "The master starts the others again.")


def _of_absence(facts: Facts) -> Problem:
    """What it means that no master is to be seen."""
    supervision, failed = facts.supervision, facts.failed_start
    died = f" (exit code {supervision.exit_code})" if supervision and supervision.exit_code is not None else ""
    if supervision is not None and facts.phase is Phase.STARTING:
        since = f"starting: its master was started {duration(facts.now - supervision.since)} ago"
        return Problem("starting", Severity.PENDING, since + (died and f", after one that died{died}"), _WAIT)
    if facts.phase is Phase.STOPPED:
        sentence = "the master was stopped by an operator (supervisorctl)"
        return Problem("stopped", Severity.ERROR, sentence, "`supervisorctl start aitp-master` starts it.")
    if facts.phase is Phase.HIDDEN:
        sentence = "whether the service runs is not for this user to see; what is said of port and ledger may be wrong"
        advice = "Ask as the service's user: `sudo aitp status`, `sudo aitp check`."
        return Problem("hidden", Severity.ERROR, sentence, advice)
    if failed is not None:
        sentence = f"the service is not running: its last start failed {duration(facts.now - failed.at)} ago"
        advice = "Mend it (see `aitp check`), and start the service."
        return Problem("failed-start", Severity.ERROR, f"{sentence}: {failed.reason}", advice)
    advice = "Start it (`aitp run`, or systemctl start aitp); if it was started, its log says why it ended."
    return Problem("not-running", Severity.ERROR, f"the master is not running{died and f': it died{died}'}", advice)


def _of_ledger(ledger: Snapshot) -> Iterator[Problem]:
    if ledger.disk_free < engine.DISK_RESERVE_BYTES:
        sentence = f"the disk that holds the ledger is nearly full: {ledger.disk_free // 10**6} MB are free"
        advice = "Make room where RATE_LIMIT_STORAGE_PATH is: no new work is taken until then."
        yield Problem("disk", Severity.FAULT, sentence, advice)
    if ledger.needs_upgrade:
        sentence = "upgrade this host: the ledger is of the next release already, and nothing new is taken here"
        advice = "Install that release here as well: what this host has in hand is finished and delivered all the same."
        yield Problem("upgrade", Severity.FAULT, sentence, advice)
    if ledger.paused:
        yield Problem("paused", Severity.PENDING, "paused by an operator", "`aitp resume` goes on.")
    if away := [host.name for host in ledger.hosts if not host.is_here]:
        sentence = f"{len(away)} of {counted(len(ledger.hosts), 'host')} {'is' if len(away) == 1 else 'are'} away"
        advice = f"Look after {', '.join(away)}; `aitp hosts forget` drops one that does not come back."
        yield Problem("hosts", Severity.WARNING, sentence, advice)
    for processor in sorted(ledger.paused_processors):
        sentence = f"the processor of {processor} is paused after several bugs in a row: see the log"
        advice = "It goes on by itself after a while, and at each restart."
        yield Problem("processor", Severity.FAULT, sentence, advice)
    for model in ledger.unpriced:
        sentence = f"{model} has no price, and while a budget is in force its tasks wait"
        yield Problem("price", Severity.FAULT, sentence, "Give it one in the file that PRICES names, and reload (HUP).")
    if ledger.dead:
        sentence = f"{counted(ledger.dead, 'result')} refused by the task API: dead letters"
        advice = "`aitp dead list` says why; then `aitp dead retry` or `drop`."
        yield Problem("dead-letters", Severity.WARNING, sentence, advice)
    if ledger.finished and ledger.oldest_finished_age > OUTBOX_SECONDS:
        sentence = f"a result has been waiting for its delivery for {duration(ledger.oldest_finished_age)}"
        advice = "It is tried again by itself; see the last errors and the breakers of api and oauth."
        yield Problem("outbox", Severity.WARNING, sentence, advice)
    if ledger.unreadable:
        sentence = f"{counted(ledger.unreadable, 'document')} of the task API cannot be read: left pending there"
        advice = "The log names each once; a newer release may know their type."
        yield Problem("unreadable", Severity.WARNING, sentence, advice)


def _of_services(ledger: Snapshot, settings: Configuration) -> Iterator[Problem]:
    """Breakers and polls. A provider is missed only if no other can stand in for it."""
    providers = providers_of(settings)
    opened = {name: breaker for name, breaker in ledger.breakers.items() if breaker.state != "closed"}
    nobody_left = all(provider in opened for provider in providers)
    routing, instead = known_routing(settings), stand_ins_left(ledger, settings)
    alone = {routing.foreign_provider(model) for model in ledger.models} - {name for name in instead if instead[name]}
    busy = ledger.ready or ledger.waiting or ledger.claimed
    for service, breaker in opened.items():
        needed = service in (Service.API, Service.OAUTH, *alone) or (nobody_left and service in providers)
        reason = f": {breaker.reason}" if breaker.reason else ""
        advice = f"It is probed by itself; until it is well, another answers or what needs it waits. {_CHECK}"
        # With nothing to do nobody probes a provider: once a probe is due, the next task will be served.
        due = breaker.probe_at is not None and breaker.probe_at <= ledger.taken_at
        idle = due and not busy and service not in (Service.API, Service.OAUTH)
        severity = Severity.FAULT if needed and not idle else Severity.WARNING
        yield Problem(f"breaker-{service}", severity, f"Circuit breaker is open for {service}{reason}", advice)
    told = {opened[service].reason for service in (Service.API, Service.OAUTH) if service in opened}
    if ledger.last_poll_problem and ledger.last_poll_problem not in told:
        yield Problem("poll", Severity.FAULT, f"the last poll: {ledger.last_poll_problem}", _CHECK)
    elif ledger.last_poll_at is None and not ledger.last_poll_problem:
        yield Problem("poll", Severity.PENDING, "the task API has not been polled yet", _WAIT)


def _of_pauses(ledger: Snapshot, settings: Configuration) -> Iterator[Problem]:
    """What is sent later, or otherwise: quarantines, what requests do without, cooldowns."""
    providers = providers_of(settings)
    for quarantine in ledger.quarantines:
        # Where another provider can stand in for this one, its tasks go there.
        needed = quarantine.provider == providers[-1] or quarantine.provider not in providers
        severity = Severity.FAULT if needed else Severity.WARNING
        whose = f"{quarantine.type} by {quarantine.model} ({quarantine.provider})"
        advice = _ABOUT_MODELS.get(quarantine.culprit, _PROBED + _CHECK)
        yield Problem("quarantine", severity, f"tasks of {whose} wait: {quarantine.reason}", advice)
    for profile in ledger.profiles:
        left_out = ", ".join(profile.left_out)
        sentence = f"requests for {profile.model} ({profile.provider}) do without {left_out}: {profile.reason}"
        advice = "Nothing needs to be done: it is tried again after a day, or with other settings."
        yield Problem("request", Severity.NOTE, sentence, advice)
    for pause in ledger.cooldowns:
        what = f"{pause.model} of {pause.provider}" if pause.model else pause.provider
        wait = pause.until - ledger.taken_at
        advice = f"They go on in {duration(wait)}; what needs them waits, and nothing is lost."
        yield Problem("cooldown", _of_wait(wait), f"calls to {what} pause: {pause.reason}", advice)


def _of_extensions(ledger: Snapshot, settings: Configuration) -> Iterator[Problem]:
    """Tasks that can go nowhere, and providers of other packages whose stand-in has done its part of the day."""
    routing = known_routing(settings)
    for model, tasks in ledger.models.items():
        if reason := routing.waits_for(model):
            verb = "waits" if tasks == 1 else "wait"
            sentence = f"{counted(tasks, 'task')} of {model} {verb}: {reason}"
            what = "Set what is missing and reload (HUP), or install the package and restart."
            yield Problem("extension", Severity.FAULT, sentence, f"{_NONE_LOST} {what} {_ANOTHER_MODEL}")
    for provider, left in stand_ins_left(ledger, settings).items():
        if not left:
            sentence = f"OpenAI has made all calls of the day that it may make in the stead of {provider}"
            advice = f"{_NONE_LOST} Tasks wait for {provider}, or for midnight UTC."
            yield Problem("stand-ins", Severity.WARNING, sentence, advice)


def known_routing(settings: Configuration) -> Routing:
    """How models are routed. Of packages that cannot be used nothing is known: the service does not start then."""
    if isinstance(settings, InForce):
        return settings.routing
    with suppress(ConfigurationError):
        return routing_of(settings)
    return routing_of(settings, own_alone=True)


def stand_ins_left(ledger: Snapshot, settings: Configuration) -> dict[str, int]:
    """How many calls may still be made today in each provider's stead, where there is a rule for that."""
    rules = {name: each for name, each in known_routing(settings).rules.items() if each.stand_in}
    return {name: max(0, each.most_per_day - ledger.stand_ins.get(name, 0)) for name, each in rules.items()}


def _of_room(ledger: Snapshot) -> Iterator[Problem]:
    """Which limits and budgets have no room, and when there is some again."""
    full = [
        ("limit", f"the limit per {period} is used up ({use.current:,} of {use.limit:,})", period, use.frees_at)
        for period, use in ledger.limits.items()
        if use.remaining == 0
    ]
    for period, budget in ledger.budgets.items():
        if budget.frees_at is not None and budget.allowed_nano is not None:
            spent = f"{amount(budget.spent_nano)} of {amount(budget.allowed_nano)} {budget.currency} spent"
            full.append(("budget", f"the budget of the {period} keeps tasks back ({spent})", period, budget.frees_at))
    for code, said, period, frees_at in full:
        wait = 0.0 if frees_at is None else frees_at - ledger.taken_at
        room = "when a call ends" if frees_at is None else f"in {duration(wait)}"
        setting = f"{'RATE_LIMIT' if code == 'limit' else 'BUDGET'}_PER_{period.upper()}"
        advice = f"{_NONE_LOST} To go on now, raise {setting} and reload (HUP)."
        yield Problem(code, _of_wait(wait), f"{said}: there is room again {room}", advice)


def _of_wait(seconds: float) -> Severity:
    return Severity.NOTE if seconds < LONG_WAIT_SECONDS else Severity.WARNING


def _of_models(facts: Facts, settings: Configuration) -> Iterator[Problem]:
    """Models are pulled before the service is ready; one that cannot be had is a fault if OpenAI cannot stand in."""
    yield from of_retirements(facts.retirements, facts.now)
    if not uses_models(settings):
        return
    replaceable = len(providers_of(settings)) > 1
    severity = Severity.WARNING if replaceable else Severity.FAULT
    stead = " OpenAI answers in its place." if replaceable else ""
    if facts.inventory is None:
        yield Problem("models", Severity.PENDING, "the models of Ollama have not been looked for yet", _WAIT)
        return
    if facts.inventory.problem:
        sentence = f"Ollama cannot be asked for its models: {facts.inventory.problem}"
        advice = f"See whether Ollama runs at OLLAMA_BASE_URL; it is asked again by itself.{stead}"
        yield Problem("models", severity, sentence, advice)
        return
    routing = known_routing(settings)
    for name in (each for each in settings.supported_models if not routing.foreign_provider(each)):
        state = facts.inventory.models.get(name, models.ModelState(models.Stage.MISSING))
        if state.stage is models.Stage.FAILED:
            sentence = f"the model {name} could not be pulled: {state.reason}"
            advice = f"See SUPPORTED_MODELS for its name; `aitp models pull` tries again at once.{stead}"
            yield Problem("model", severity, sentence, advice)
        elif state.stage is not models.Stage.PRESENT and (not replaceable or state.arrival is Availability.COMING):
            pulling = f"is being pulled: {state.percent} %"
            phase = pulling if state.stage is models.Stage.PULLING else "is missing, and is to be pulled"
            yield Problem("model", Severity.PENDING, f"the model {name} {phase}", "Wait until it is there.")


def of_retirements(retirements: Iterable[models.Retirement], now: float) -> Iterator[Problem]:
    """Models that are asked for, and that OpenAI shuts down before long, or has: their tasks wait from then on."""
    for each in retirements:
        if each.is_near(now):
            yield Problem("retirement", Severity.WARNING, each.told(now), f"{each.advice}, and reload (HUP).")


def providers_of(settings: Configuration) -> tuple[Service, ...]:
    """Who answers, in the order in which they are asked."""
    if settings.processing_mode == "openai":
        return (Service.OPENAI,)
    if settings.processing_mode == "hybrid" and settings.hybrid_fallback and settings.has_openai_key:
        return (Service.OLLAMA, Service.OPENAI)
    return (Service.OLLAMA,)
