"""Everything in its order: settings, what is registered, this machine, the running service, the servers, the clock."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from aitp.commands import answers, clock, money, verdicts
from aitp.commands.asking import Answered, Asking
from aitp.commands.findings import Finding
from aitp.commands.machine import look_around
from aitp.errors import AitpError, ConfigurationError
from aitp.process.dispatch import terms_of
from aitp.process.models import asked_of_openai, known_kinds, retiring
from aitp.processors.base import PROCESSORS, Registered, registered
from aitp.providers.inventory import OPENAI_URL, shutdowns_in, uses_models, uses_openai
from aitp.settings import Settings, load_settings
from aitp.taskapi.token import Grant
from aitp.tasks import QueueKey


@dataclass(frozen=True, slots=True)
class Report:
    """All findings; `settings` and `registered` are None if they cannot be used."""

    findings: tuple[Finding, ...]
    settings: Settings | None = None
    registered: Registered | None = None


def check(
    environ: Mapping[str, str] | None = None, *, offline: bool, told: Callable[[str], None] = lambda subject: None
) -> Report:
    """Look at everything, with the settings of this process or of `environ`; `told` hears who is asked next.

    Never raises for anything that is wrong.
    """
    try:
        settings = load_settings(environ)
        found = registered(settings)
    except ConfigurationError as error:
        return Report(tuple(verdicts.of_unusable_settings(error)))
    findings = [*verdicts.of_settings(settings), *verdicts.of_inventory(found, settings)]
    findings += [*money.of_prices(settings, paid_models(settings)), *_of_machine(settings)]
    if not offline:
        findings += _of_servers(settings, told)
    return Report(tuple(findings), settings, found)


def _of_machine(settings: Settings) -> Iterator[Finding]:
    machine = look_around(settings)
    yield from verdicts.of_ledger(machine, settings)
    yield verdicts.of_disk(machine.disk_free, machine.disk_size)
    yield verdicts.of_runtime_dir(settings.runtime_dir, machine.runtime_dir_problem)
    host, port = settings.metrics_host, settings.metrics_port
    yield verdicts.of_port(machine.port, host, port, machine.supervisor_pid)
    yield verdicts.of_descriptors(machine.descriptors, settings)
    yield from verdicts.of_service(machine, settings)


def _of_servers(settings: Settings, told: Callable[[str], None]) -> Iterator[Finding]:
    asking = Asking(settings)
    ahead: dict[str, float] = {}

    def compare(server: str, url: str, answer: object) -> None:
        if not isinstance(answer, AitpError) and (seconds := asking.ahead(url)) is not None:
            ahead[server] = seconds

    told("the authorization server")
    grant = asking.token()
    yield answers.of_token(grant, settings, asking.seconds)
    compare("authorization server", settings.token_url, grant)
    if isinstance(grant, Grant):
        told("the task API")
        pending = asking.pending(grant)
        yield answers.of_task_api(pending, settings, asking.seconds)
        compare("task API", settings.api_base_url, pending)
    yield from _of_providers(settings, asking, told, compare)
    if settings.wikidata_enabled:
        told("Wikidata")
        about = asking.wikidata()
        yield answers.of_wikidata(about, settings.wikidata_base_url, asking.seconds)
        compare("Wikidata server", settings.wikidata_base_url, about)
    yield from clock.of_clocks(ahead)


def _of_providers(
    settings: Settings, asking: Asking, told: Callable[[str], None], compare: Callable[[str, str, object], None]
) -> Iterator[Finding]:
    hybrid = settings.processing_mode == "hybrid"
    if uses_openai(settings):
        told("OpenAI")
        offered = asking.openai_models()
        yield answers.of_openai(offered, asked_of_openai(settings), settings.openai_base_url, asking.seconds)
        if isinstance(offered, Answered) and offered.status == 200:
            now = time.time()
            known = known_kinds(settings)
            yield from answers.of_shutdowns(retiring(settings, shutdowns_in(offered.document), known, now), now)
        compare("OpenAI server", settings.openai_base_url or OPENAI_URL, offered)
    if uses_models(settings):
        told("Ollama")
        missing = asking.missing_models()
        replaceable = hybrid and uses_openai(settings) and settings.hybrid_fallback
        yield answers.of_ollama(missing, settings, replaceable=replaceable, seconds=asking.seconds)


def paid_models(settings: Settings) -> list[tuple[str, str, bool]]:
    """(provider, model, answers) of what is asked for where a task names no model: `answers` are paid for as well."""
    found: dict[tuple[str, str], bool] = {}
    routes = terms_of(settings).routes
    for name, processor in PROCESSORS.items():
        models = [processor.default_model(settings)]
        if settings.processing_mode != "openai":
            models += settings.supported_models
        for model in models:
            for route in routes(QueueKey(name, model)):
                found[route.provider, route.model] = found.get((route.provider, route.model)) or not processor.batched
    return [(provider, model, answers) for (provider, model), answers in found.items()]
