"""Models that OpenAI is about to shut down: which of those that are asked for, when, and what to do about it.

Whoever looks after models asks for the dates once a day, and keeps what comes of them beside what is known of Ollama's
(`aitp.providers.inventory`); page and metrics read it there, and never ask. A model that is shut down fails no task,
but all of them wait for a person.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from aitp.errors import DeadlineExceeded, LedgerError
from aitp.http import NoAnswer
from aitp.ledger.views import QueueInUse, queues_in_use
from aitp.logs import get_logger
from aitp.process.bounds import BoundedCall
from aitp.process.terms import terms_of
from aitp.processors import PROCESSORS
from aitp.providers.inventory import (
    Inventory,
    Retirement,
    ask_for_models,
    read_inventory,
    shutdowns_in,
    uses_openai,
    write_inventory,
)
from aitp.tasks import QueueKey, Service

if TYPE_CHECKING:
    from aitp.settings import Settings

DAY_SECONDS = 86_400.0
ASKING_SECONDS = 10.0
MARGIN_SECONDS = 1.0

log = get_logger(__name__)


def asked_of_openai(settings: Settings, queues: Iterable[QueueKey] = ()) -> dict[str, str]:
    """The models that OpenAI is asked for by these settings, and for tasks of `kinds`: the setting to change by name.

    Those that no setting names are named by tasks, and MODEL_ALIASES has others asked for in their place.
    """
    routes, aliases, found = terms_of(settings).routes, settings.model_aliases, dict[str, str]()

    def note(queue: QueueKey, setting: str) -> None:
        for route in routes(queue):
            if route.provider != Service.OPENAI:
                continue
            if route.fallback_from:
                instead = route.model in settings.fallback_models.values()
                found.setdefault(route.model, "FALLBACK_MODELS" if instead else _default_setting(queue.type))
            else:
                found.setdefault(route.model, setting if route.model == queue.model else "MODEL_ALIASES")

    for name, processor in PROCESSORS.items():
        note(QueueKey(name, processor.default_model(settings)), _default_setting(name))
        for model in settings.supported_models if settings.processing_mode == "hybrid" else ():
            note(QueueKey(name, model), "FALLBACK_MODELS")
        for model in aliases:
            note(QueueKey(name, model), "MODEL_ALIASES")
    for queue in queues:
        if queue.type in PROCESSORS:
            note(queue, "MODEL_ALIASES")
    return found


def _default_setting(task_type: str) -> str:
    processor = PROCESSORS[task_type]
    if processor.content.default_model:
        return "MODEL_ALIASES"
    return "DEFAULT_EMBEDDING_MODEL" if processor.batched else "DEFAULT_CHAT_MODEL"


def retiring(
    settings: Settings, shutdowns: Mapping[str, float], queues: Sequence[QueueInUse], now: float
) -> list[Retirement]:
    """What is to be shut down of all that OpenAI is asked for, the first first, out of the dates by model.

    What is over already and no setting names is told only while tasks in hand name it: others may have done so long
    ago.
    """
    by_settings = asked_of_openai(settings)
    in_hand = asked_of_openai(settings, [each.queue for each in queues if each.in_hand])
    asked = {**asked_of_openai(settings, [each.queue for each in queues]), **by_settings}
    found = [Retirement(model, shutdowns[model], setting) for model, setting in asked.items() if model in shutdowns]
    kept = [each for each in found if each.model in in_hand or not each.is_over(now)]
    return sorted(kept, key=lambda each: (each.at, each.model))


def known_kinds(settings: Settings) -> list[QueueInUse]:
    """What the ledger knows of tasks; nothing if it cannot be read, which others say."""
    try:
        return queues_in_use(settings.ledger_path)
    except (LedgerError, OSError):
        return []


def look_for_retirements(settings: Settings, *, anew: bool = False) -> None:
    """Keep what is known of models that are shut down; ask for the dates if that was not done within a day, or `anew`.

    The caller holds the lock of whoever looks after models. Nothing waits for it: a server that does not answer, or
    lists no models, is asked again at the next look.
    """
    if not uses_openai(settings):
        return
    now, before = time.time(), read_inventory(settings.runtime_dir) or Inventory({})
    asked = None
    if anew or not 0 <= now - before.shutdowns_at < DAY_SECONDS:
        asked = _dates(settings)
    shutdowns, at = (before.shutdowns, before.shutdowns_at) if asked is None else (asked, now)
    found = tuple(retiring(settings, shutdowns, known_kinds(settings), now)) if shutdowns else ()
    if asked is not None or found != before.retirements:
        write_inventory(settings.runtime_dir, replace(before, shutdowns=shutdowns, shutdowns_at=at, retirements=found))
    for each in found if asked is not None else ():
        if each.is_near(now):
            (log.error if each.is_over(now) else log.warning)(each.told(now), model=each.model, advice=each.advice)


def _dates(settings: Settings) -> dict[str, float] | None:
    """When which models are shut down, as the server says; None if it says nothing."""
    try:
        with BoundedCall(ASKING_SECONDS + MARGIN_SECONDS, lambda: math.inf, lambda: None):
            status, document = ask_for_models(settings, min(settings.request_timeout, ASKING_SECONDS))
    except (NoAnswer, DeadlineExceeded) as failure:
        log.info("OpenAI cannot be asked for its models", reason=str(failure))
        return None
    if status != 200:  # it may keep no list, or show it to nobody: what the key is worth, calls will tell
        log.info("OpenAI lists no models", status=status)
        return None
    return shutdowns_in(document)
