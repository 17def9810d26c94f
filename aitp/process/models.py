"""Looking after models: Ollama's that are missing are pulled, OpenAI's that are to be shut down are told of.

One process at a time does it: under a master a one-shot helper, while relays and workers do their work. The master
sends it at start, at a reload, whenever a worker misses a model (USR2), each hour, and each half minute as long as one
is missing. A look asks the server for what it has; a pull that brought nothing is tried again after a minute, and then
ever more seldom, up to an hour, however often somebody looks. A lock file keeps `aitp models pull` and it apart. What
is known is told by a file (`aitp.providers.inventory`) and by the log.

OLLAMA_MODEL_DOWNLOAD_TIMEOUT counts twice: a tenth of it without a new byte breaks a pull off, which goes on from there
at once, a few times; the whole of it ends the pull, which goes on from there when the master sends the next helper.

For the dates of models that are shut down OpenAI is asked once a day; page and metrics read what came of it, and never
ask. A model that is shut down fails no task, but all of them wait for a person.
"""

from __future__ import annotations

import fcntl
import math
import os
import time
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import TYPE_CHECKING

from aitp.errors import LedgerError, NonRetryableError, RetryableError, ServiceFault
from aitp.http import NoAnswer
from aitp.ledger.stats import queues_in_use
from aitp.logs import get_logger
from aitp.process.dispatch import claim_options
from aitp.processors import PROCESSORS
from aitp.providers import inventory, models_of_ollama, routing_of, uses_models, uses_openai
from aitp.providers.inventory import Inventory, ModelState, Retirement, Stage
from aitp.settings import Settings
from aitp.tasks import QueueKey, Service

if TYPE_CHECKING:
    from aitp.providers.ollama_models import Progress

STALL_SHARE = 10
WRITE_SECONDS = 1.0
LOG_PERCENT = 10
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 60.0, 3_600.0
DAY_SECONDS = 86_400.0
ASKING_SECONDS = 10.0

log = get_logger(__name__)


def longest_look_seconds(settings: Settings) -> float:
    """How long `look_after_models` may take; 0 if there is nothing to look after."""
    if not (uses_models(settings) or uses_openai(settings)):
        return 0.0
    pull = settings.ollama_model_download_timeout * (1 + 1 / STALL_SHARE)
    return 60.0 + ASKING_SECONDS + pull * max(1, len(settings.supported_models))


def look_after_models(
    settings: Settings,
    *,
    anew: bool = False,
    told: Callable[[str, ModelState], None] = lambda name, state: None,
    clock: Callable[[], float] = time.time,
) -> bool | None:
    """Learn which of OpenAI's models are to be shut down, and pull what Ollama lacks, of which `told` hears.

    Whether all are there in the end; None if another process is at it. `anew`: forget what has been before, and how
    long a pull that has failed is to wait.
    """
    descriptor = os.open(settings.runtime_dir / "models.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    with open(descriptor, "rb") as lock:  # which ends with the process, however that ends
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            log.info("Another process looks after the models")
            return None
        if uses_openai(settings):
            look_for_retirements(settings, anew=anew)
        return not uses_models(settings) or _Round(settings, anew, told, clock).go()


class _Round:
    """One look at the server, and the pulls that follow from it."""

    def __init__(
        self, settings: Settings, anew: bool, told: Callable[[str, ModelState], None], clock: Callable[[], float]
    ) -> None:
        self._settings, self._told, self._clock = settings, told, clock
        self._names = models_of_ollama(settings)
        self._seconds = settings.ollama_model_download_timeout
        found = inventory.read_inventory(settings.runtime_dir) or Inventory({})
        before: Mapping[str, ModelState] = {} if anew else found.models
        models = {name: before.get(name, ModelState(Stage.MISSING)) for name in self._names}
        self._inventory = found._replace(models=models)
        self._written = -math.inf

    def go(self) -> bool:
        """Whether all are there in the end."""
        from aitp.providers import ollama_models

        try:
            missing = ollama_models.missing(self._settings, self._names)
        except RetryableError as error:
            if str(error) != self._inventory.problem:
                log.warning("Ollama cannot be asked for its models", reason=str(error))
            inventory.write_inventory(self._settings.runtime_dir, self._inventory._replace(problem=str(error)))
            return False
        for name in self._names:
            self._note(name, self._lacking(name) if name in missing else ModelState(Stage.PRESENT))
        for name in missing:
            if self._inventory.models[name].stage is Stage.MISSING:
                self._pull(name, partial(ollama_models.pull, stall_seconds=self._seconds / STALL_SHARE))
        return all(state.stage is Stage.PRESENT for state in self._inventory.models.values())

    def _lacking(self, name: str) -> ModelState:
        last = self._inventory.models[name]
        # A clock that was set back puts nothing off for longer than that.
        if last.stage is Stage.FAILED and 0 < last.pull_at - self._clock() <= LONGEST_PAUSE_SECONDS:
            return last
        return ModelState(Stage.MISSING, failures=last.failures)

    def _pull(self, name: str, pull: Callable[..., None]) -> None:
        log.info("Model is being pulled", model=name, timeout_seconds=self._seconds)
        started, logged, first = time.monotonic(), 0, 0
        state = self._inventory.models[name]._replace(stage=Stage.PULLING)

        def follow(progress: Progress) -> None:
            nonlocal state, logged, first
            if progress.completed:  # a pull that is gone on with begins by knowing of none
                first = first or progress.completed
                state = state._replace(completed=progress.completed, total=progress.total)
            if state.percent >= logged + LOG_PERCENT:
                logged = state.percent - state.percent % LOG_PERCENT
                facts = {"percent": state.percent, "bytes": progress.completed, "total": progress.total}
                log.info("Model is being pulled", model=name, **facts)
            # Not of every line: there are many a second.
            self._note(name, state, write=time.monotonic() - self._written >= WRITE_SECONDS)
            if time.monotonic() - started > self._seconds:
                raise ServiceFault(Service.OLLAMA, f"it took longer than {self._seconds:g} s in all, and goes on later")

        self._note(name, state)
        try:
            pull(self._settings, name, follow)
        except (RetryableError, NonRetryableError, KeyboardInterrupt) as error:
            self._failed(name, state, str(error) or "it was interrupted", brought=0 < first < state.completed)
            if isinstance(error, KeyboardInterrupt):
                raise
        else:
            log.info("Model is there", model=name, bytes=state.total, seconds=round(time.monotonic() - started, 1))
            self._note(name, state._replace(stage=Stage.PRESENT, completed=state.total, failures=0))

    def _failed(self, name: str, state: ModelState, reason: str, *, brought: bool) -> None:
        """What brought bytes may go on at the next look; what brought none waits, each time for twice as long."""
        failures = 1 if brought else state.failures + 1
        pause = 0.0 if brought else min(FIRST_PAUSE_SECONDS * 2 ** (failures - 1), LONGEST_PAUSE_SECONDS)
        pull_at = self._clock() + pause if pause else 0.0
        state = state._replace(stage=Stage.FAILED, reason=reason, failures=failures, pull_at=pull_at)
        log.error("Model could not be pulled", model=name, reason=reason, percent=state.percent, again_in_seconds=pause)
        self._note(name, state)

    def _note(self, name: str, state: ModelState, *, write: bool = True) -> None:
        self._told(name, state)
        if write:
            models = {**self._inventory.models, name: state}
            self._inventory = self._inventory._replace(models=models, problem="")
            inventory.write_inventory(self._settings.runtime_dir, self._inventory)
            self._written = time.monotonic()


def asked_of_openai(settings: Settings, queues: Iterable[QueueKey] = ()) -> dict[str, str]:
    """The models that OpenAI is asked for by these settings, and for tasks of `queues`: the setting to change by name.

    Those that no setting names are named by tasks, and MODEL_ALIASES has others asked for in their place.
    """
    routes = claim_options(settings).routes
    setting_of = {
        **dict.fromkeys(settings.fallback_models.values(), "FALLBACK_MODELS"),
        settings.default_chat_model: "DEFAULT_CHAT_MODEL",
        settings.default_embedding_model: "DEFAULT_EMBEDDING_MODEL",
    }
    fall_back = settings.supported_models if settings.processing_mode == "hybrid" else ()
    by_settings = [
        QueueKey(name, model)
        for name, processor in PROCESSORS.items()
        for model in (processor.default_model(settings), *fall_back, *settings.model_aliases)
    ]
    known = (queue for queue in (*by_settings, *queues) if queue.type in PROCESSORS)
    asked = {route.model for queue in known for route in routes(queue) if route.provider == Service.OPENAI}
    for provider, rules in routing_of(settings).rules.items():
        if rules.stand_in and rules.most_per_day and settings.has_real_openai:
            asked.add(rules.stand_in)
            setting_of.setdefault(rules.stand_in, f"the settings of {provider}")
    return {model: setting_of.get(model, "MODEL_ALIASES") for model in sorted(asked)}


def retiring(
    settings: Settings, shutdowns: Mapping[str, float], queues: Mapping[QueueKey, bool], now: float
) -> list[Retirement]:
    """What is to be shut down of all that OpenAI is asked for, the first first, out of the dates by model.

    What is over already and no setting names is told only while tasks in hand name it: others may have done so long
    ago.
    """
    in_hand = asked_of_openai(settings, [queue for queue, in_hand in queues.items() if in_hand])
    asked = asked_of_openai(settings, queues)
    found = (Retirement(model, shutdowns[model], setting) for model, setting in asked.items() if model in shutdowns)
    kept = (each for each in found if each.model in in_hand or not each.is_over(now))
    return sorted(kept, key=lambda each: (each.at, each.model))


def known_queues(settings: Settings) -> dict[QueueKey, bool]:
    """What the ledger knows of tasks; nothing if it cannot be read, which others say."""
    try:
        return queues_in_use(settings.ledger)
    except (LedgerError, OSError):
        return {}


def look_for_retirements(settings: Settings, *, anew: bool = False) -> None:
    """Keep what is known of models that are shut down; ask for the dates if that was not done within a day, or `anew`.

    The caller holds the lock of whoever looks after models. Nothing waits for it: a server that does not answer, or
    lists no models, is asked again at the next look.
    """
    now, before = time.time(), inventory.read_inventory(settings.runtime_dir) or Inventory({})
    known, asked = before, False
    if anew or not 0 <= now - before.shutdowns_at < DAY_SECONDS:
        try:
            status, document = inventory.ask_for_models(settings, min(settings.request_timeout, ASKING_SECONDS))
        except NoAnswer as failure:
            log.info("OpenAI cannot be asked for its models", reason=str(failure))
        else:
            if asked := status == 200:
                known = before._replace(shutdowns=inventory.shutdowns_in(document), shutdowns_at=now)
            else:  # it may keep no list, or show it to nobody: what the key is worth, calls will tell
                log.info("OpenAI lists no models", status=status)
    found = retiring(settings, known.shutdowns, known_queues(settings), now) if known.shutdowns else []
    known = known._replace(retirements=tuple(found))
    if known != before:
        inventory.write_inventory(settings.runtime_dir, known)
    for each in found if asked else ():
        if each.is_near(now):
            (log.error if each.is_over(now) else log.warning)(each.told(now), model=each.model, advice=each.advice)
