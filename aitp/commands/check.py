"""`aitp check`: what is wrong with settings, machine, service and servers, and what to do; as a table, JSON, exit code.

Its findings are `Problem`s, like those of a running service (`aitp.web.health`), which are among them; what servers
answer is judged in `probes`. Safe beside a running service: nothing is claimed, bought, locked or written, and whatever
cannot be looked at is a finding as well.
"""

from __future__ import annotations

import dataclasses
import errno
import os
import shutil
import socket
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from rich.text import Text

from aitp import tasks, validators
from aitp.commands import console, probes
from aitp.errors import AitpError, ConfigurationError, printable
from aitp.ledger import engine, schema, sqlite
from aitp.policy.costs import FIRST_USAGE, amount, estimate
from aitp.process import dispatch, start
from aitp.processors import PROCESSORS, Registered, registered
from aitp.settings import Settings, load_settings
from aitp.web.health import Facts, Problem, Severity, counted, problems, read_facts

COMFORTABLE_BYTES = 1_000_000_000
TYPICAL_BYTES = 2_000  # of a task's content: a page
WIKIMEDIA = ("https://www.wikidata.org", "https://wikidata.org")
IN_MEMORY = ("tmpfs", "ramfs")
LOOPBACK = ("127.0.0.1", "::1", "localhost")
STYLES = {
    Severity.OK: "green",
    Severity.NOTE: "cyan",
    Severity.WARNING: "bold yellow",
    Severity.FAULT: "bold red",
    Severity.ERROR: "bold red",
}


class Report(NamedTuple):
    """All findings, and what they are of, as far as it can be used."""

    findings: tuple[Problem, ...]
    mock: bool = False
    env_file: Path | None = None
    registered: Registered = Registered(())


def show_findings(*, offline: bool, strict: bool) -> console.Told:
    """Check everything, and tell what was found."""
    with Console(stderr=True).status("looking") as waiting:
        report = check(offline=offline, told=lambda server: waiting.update(f"asking {server}"))
    code = exit_code(report.findings, strict=strict)
    said = f"\n{summary(report.findings)}{'' if code == 0 else f' (exit code {code})'}"
    return console.Told(
        _document(report, code), console.grid(_rows(report.findings)), Text(said, style="bold"), code=code
    )


def check(
    environ: Mapping[str, str] | None = None, *, offline: bool, told: Callable[[str], None] = lambda server: None
) -> Report:
    """Look at everything, with the settings of this process or of `environ`; `told` hears who is asked next.

    Never raises for anything that is wrong.
    """
    try:
        settings = load_settings(environ)
        found = registered(settings)
    except ConfigurationError as error:
        return Report(tuple(of_unusable_settings(error)))
    findings = [*of_settings(settings), *of_registered(found, settings), *of_prices(settings)]
    facts = read_facts(settings)
    master = facts.master.pid if facts.master and facts.master_ticks else 0
    findings += [*_of_machine(settings, master), *of_service(facts, settings, master)]
    if not offline:
        findings += probes.of_servers(settings, told)
    return Report(tuple(dict.fromkeys(findings)), bool(settings.mocks), settings.env_file, found)


def exit_code(findings: Iterable[Problem], *, strict: bool = False) -> int:
    """78 if the service would not start, 1 if something keeps it from its work (`strict`: or is a warning), else 0."""
    found = {finding.severity for finding in findings}
    if Severity.ERROR in found:
        return tasks.ExitCode.MISCONFIGURED
    if Severity.FAULT in found or (strict and Severity.WARNING in found):
        return tasks.ExitCode.FAILED
    return tasks.ExitCode.FINE


def summary(findings: Sequence[Problem]) -> str:
    """All of them in one line: how many there are of each that is worth a look."""
    counts = Counter(finding.severity for finding in findings)
    worth = (Severity.ERROR, Severity.FAULT, Severity.WARNING)
    return ", ".join(counted(counts[each], each.value) for each in worth if counts[each]) or "All is well"


# ── settings ─────────────────────────────────────────────────────────────────────────────────────────────────────────
def of_unusable_settings(error: ConfigurationError) -> Iterator[Problem]:
    """Settings that cannot be loaded: one finding for each line. The service does not start with them."""
    advice = "Correct it in the environment or in the file of settings, then run `aitp check` again"
    for problem in error.problems:
        yield Problem("settings", Severity.ERROR, problem, advice)
    yield from _of_warnings(error.warnings)


def _of_warnings(warnings: Iterable[str]) -> Iterator[Problem]:
    for warning in warnings:
        yield _taken_apart("settings", Severity.WARNING, warning, "Correct it, or leave it out")


def _taken_apart(code: str, severity: Severity, sentence: str, advice: str = "") -> Problem:
    """From one of the settings' sentences: `what is wrong; what to do`, or only the former."""
    what, _, said = sentence.partition("; ")
    return Problem(code, severity, what, said[:1].upper() + said[1:] or advice)


def of_settings(settings: Settings) -> Iterator[Problem]:
    """Settings that can be loaded."""
    where = f"the environment and {settings.env_file}" if settings.env_file else "the environment"
    mode, host = settings.processing_mode, settings.metrics_host
    yield Problem("settings", Severity.OK, f"usable, from {where}; mode {mode}")
    yield from _of_warnings(settings.warnings)
    invented = Severity.WARNING if validators.is_near(settings.api_base_url) else Severity.FAULT
    if settings.mock:
        sentence = (
            "MOCK MODE: OPENAI_API_KEY is the placeholder; results are invented, and delivered as if they were real"
        )
        advice = "Set a real OPENAI_API_KEY, or PROCESSING_MODE=ollama"
        yield Problem("mock mode", invented, sentence, advice)
    if others := [name for name in settings.mocks if name != "OPENAI_API_KEY"]:
        sentence = f"MOCK MODE: {', '.join(others)} is a placeholder; results are invented where it would be used"
        yield Problem("mock mode", invented, sentence, "Set a real key")
    if mode != "openai" and not settings.supported_models:
        sentence = f"SUPPORTED_MODELS is empty: in mode {mode} no task is ever sent to Ollama"
        advice = "List Ollama's models in it, or set PROCESSING_MODE=openai"
        yield Problem("models", Severity.WARNING, sentence, advice)
    if mode == "hybrid" and settings.hybrid_fallback and settings.openai_api_key is None:
        sentence = "OPENAI_API_KEY is not set: nothing stands in for Ollama while it fails"
        yield Problem("models", Severity.NOTE, sentence, "Set a key, if OpenAI is to stand in")
    if settings.wikidata_enabled and not settings.wikidata_contact and settings.wikidata_base_url in WIKIMEDIA:
        sentence = "WIKIDATA_CONTACT is not set: Wikimedia lets callers that name none ask least, and may bar them"
        advice = "Set it to an address of a page or of mail where you can be reached"
        yield Problem("wikidata", Severity.WARNING, sentence, advice)
    if settings.metrics_token is None and host not in LOOPBACK:
        sentence = f"METRICS_HOST={host} without a METRICS_TOKEN: whoever reaches that port reads /metrics and the page"
        yield Problem("metrics", Severity.NOTE, sentence, "Set METRICS_TOKEN, or METRICS_HOST=127.0.0.1")
    if not settings.rate_limits:
        sentence = "no rate limit is in force: nothing bounds how much is bought"
        advice = "Set RATE_LIMIT_ENABLED=true and RATE_LIMIT_PER_… if that is not meant"
        yield Problem("limits", Severity.NOTE, sentence, advice)


def of_registered(found: Registered, settings: Settings) -> Iterator[Problem]:
    """All task types, and by name what is not aitp's own."""
    yield Problem("task types", Severity.OK, ", ".join(entry.name for entry in found.task_types))
    for entry in found.task_types:
        if entry.package:
            yield Problem("extension", Severity.OK, f"{entry.package}: task type {entry.name}")
        if settings.prompts_dir is not None and str(settings.prompts_dir) in entry.prompt:
            yield Problem("prompt", Severity.OK, f"{entry.name}: {entry.prompt}")
    for provider in found.providers:
        serves = f"provider {provider.name} of {', '.join(provider.models)}"
        yield Problem("extension", Severity.OK, f"{provider.package}: {serves}")
        if provider.lacks:
            sentence = f"{provider.name}: {provider.lacks}; tasks for its models wait"
            yield Problem("extension", Severity.WARNING, sentence, "Set it, or leave it if there are none")


def of_prices(settings: Settings) -> Iterator[Problem]:
    """Models without a price, and budgets that no task fits in: of what is asked for where a task names no model."""
    prices = settings.prices
    if prices is None:
        return
    said = f"{prices.path}: {len(prices.models)} in {prices.currency}"
    if settings.mock:
        yield Problem("prices", Severity.NOTE, f"{said}; in mock mode nothing is bought, and nothing counted")
        return
    yield Problem("prices", Severity.OK, said)
    claims = dispatch.claim_options(settings)
    supported = settings.supported_models if settings.processing_mode != "openai" else ()
    queues = [
        tasks.QueueKey(name, model)
        for name, processor in PROCESSORS.items()
        for model in (processor.default_model(settings), *supported)
    ]
    asked = [(route, claims.pricing(queue, route)) for queue in queues for route in claims.routes(queue)]
    consequence = "its tasks wait while a budget is in force" if settings.budgets else "what it costs is not counted"
    for provider, model in dict.fromkeys((route.provider, route.model) for route, (price, _) in asked if price is None):
        sentence = f"PRICES={prices.path} has no price for {model} of {provider}: {consequence}"
        advice = f'Add [{provider}."{model}"] with input and output, of a million tokens; "*" is for all others'
        yield Problem("prices", Severity.FAULT if settings.budgets else Severity.WARNING, sentence, advice)
    priced = ((pricing, route.model) for route, pricing in asked if pricing.price is not None)
    costs = ((estimate(pricing, FIRST_USAGE, [TYPICAL_BYTES]), model) for pricing, model in priced)
    most, dearest = max(costs, default=(0, ""))
    for period, budget in settings.budgets.items():
        said = f"BUDGET_PER_{period.upper()}={amount(budget)} {prices.currency}"
        if most > budget:
            said += f" is less than one task of {dearest} may cost ({amount(most)}): such tasks would wait for ever"
            yield Problem("budget", Severity.FAULT, said, "Raise it, or correct the model's price")
        else:
            yield Problem("budget", Severity.OK, f"{said}, by the calendar")


# ── this machine ─────────────────────────────────────────────────────────────────────────────────────────────────────
def _of_machine(settings: Settings, master: int) -> Iterator[Problem]:
    """`master`: the pid of the running one, 0 if there is none."""
    if isinstance(ledger := settings.ledger, Path):
        disk = shutil.disk_usage(_existing(ledger.parent))
        yield of_ledger(ledger)
        yield of_disk(disk.free, disk.total)
    else:
        yield from of_fleet(ledger)
    yield of_runtime_dir(settings.runtime_dir)
    yield of_port(settings.metrics_host, settings.metrics_port, runs=master != 0)
    if not master:  # a running one has as many as it needs, and refuses settings that want more
        yield of_descriptors(start.most_descriptors(), settings)


def of_fleet(ledger: engine.Fleet) -> Iterator[Problem]:
    """Whether the database can be used, and what of a fleet's promises it keeps."""
    from aitp.ledger.postgresql import look_over

    advice = "Correct LEDGER_URL, or see docs/FLEET.md for what PostgreSQL and the role need"
    try:
        for odd, sentence in look_over(ledger):
            yield (
                Problem("ledger", Severity.WARNING, sentence, advice)
                if odd
                else Problem("ledger", Severity.OK, sentence)
            )
    except AitpError as error:
        yield _taken_apart("ledger", Severity.ERROR, str(error), advice)


def of_ledger(path: Path) -> Problem:
    """Where the ledger is, and whether it can be used there."""
    advice = "Restore a backup, or move it aside; a new one knows nothing of what was used of the limits"
    try:
        mountinfo = Path("/proc/self/mountinfo").read_text(errors="surrogateescape")
        sqlite.refuse_network_file_system(path.parent, mountinfo)
        _refuse_unwritable("RATE_LIMIT_STORAGE_PATH", path, path.parent)
        found = _of_version(path, sqlite.version_of(path))
    except AitpError as error:
        return _taken_apart("ledger", Severity.ERROR, str(error), advice)
    point, kind = sqlite.file_system_of(path.parent, mountinfo)
    if found.severity is Severity.OK and kind in IN_MEMORY:
        sentence = f"{path} is in memory ({kind} on {point}): a restart of the machine loses results, and what was used"
        return Problem("ledger", Severity.WARNING, sentence, "Set RATE_LIMIT_STORAGE_PATH to a place on a disk")
    return found


def _of_version(path: Path, version: int | None) -> Problem:
    schema.refuse_unknown(path, version or 0)
    ages = {None: "not there yet, made when the service first starts", 0: "empty, made when the service next starts"}
    said = ages.get(version, "of an earlier release, brought up to date at the next start")
    return Problem("ledger", Severity.OK, str(path) if version == schema.VERSION else f"{path}: {said}")


def of_disk(free: int, size: int) -> Problem:
    """The room beside the ledger, in bytes."""
    reserve = engine.DISK_RESERVE_BYTES // 10**6
    said = f"{free // 10**6:,} MB are free beside the ledger, of {size // 10**6:,}"
    if free >= COMFORTABLE_BYTES:
        return Problem("disk", Severity.OK, said)
    severity = Severity.WARNING if free >= engine.DISK_RESERVE_BYTES else Severity.FAULT
    advice = "Make room, or move the ledger (RATE_LIMIT_STORAGE_PATH) while the service is stopped"
    return Problem("disk", severity, f"{said}: below {reserve} MB nothing is polled and claimed any more", advice)


def of_runtime_dir(path: Path) -> Problem:
    """Where token, scoreboard, metrics files and supervisord's socket are to be."""
    try:
        _refuse_unwritable("RUNTIME_DIR", path, path)
        start.refuse_long_socket_path(path)
    except ConfigurationError as error:
        return _taken_apart("runtime", Severity.ERROR, str(error), "Choose a shorter one")
    return Problem("runtime", Severity.OK, f"{path}")


def of_port(host: str, number: int, *, runs: bool) -> Problem:
    """The address of /metrics, /health, /ready and the page: bound, as the metrics process does, and let go at once.

    `runs`: the service does, and would not for long if it could not be served.
    """
    address = f"METRICS_HOST={host}, METRICS_PORT={number}"
    try:
        trouble = validators.trouble_at(validators.addresses(host, number))
    except ValueError as error:
        advice = "Set METRICS_HOST to an address of this machine, or 0.0.0.0 for all of them"
        return Problem("port", Severity.ERROR, f"{address}: {error}", advice)
    except socket.gaierror as error:
        sentence = f"{address}: that name cannot be looked up now ({error.strerror or error})"
        advice = "Mend the machine's name resolution, or set METRICS_HOST to an address, which needs none"
        return Problem("port", Severity.FAULT, sentence, advice)
    if trouble == 0:
        return Problem("port", Severity.OK, f"{address}: free")
    if trouble != errno.EADDRINUSE:
        advice = "Set METRICS_HOST to an address of this machine, METRICS_PORT to 1024 or more unless root starts it"
        return Problem("port", Severity.FAULT, f"{address}: {os.strerror(trouble)}", advice)
    if runs:
        return Problem("port", Severity.OK, f"{address}: served by the running service")
    advice = f"`ss -ltnp sport = :{number}` says by whom: stop that, or set METRICS_PORT"
    return Problem("port", Severity.FAULT, f"{address}: taken, and the service stops when it cannot be served", advice)


def of_descriptors(most: int, settings: Settings) -> Problem:
    """How many files a process may open, and how many the master needs for so many children."""
    try:
        start.refuse_few_descriptors(settings, most)
    except ConfigurationError as error:
        return _taken_apart("files", Severity.ERROR, str(error))
    said = "enough" if most > 1 << 40 else f"{most:,}"
    return Problem("files", Severity.OK, f"{said} may be open, about {start.descriptors_needed(settings):,} are needed")


def _existing(path: Path) -> Path:
    """`path`, or the nearest above it that is there, as far as this user may look."""
    while not os.path.exists(path) and path != path.parent:
        path = path.parent
    return path


def _refuse_unwritable(setting: str, path: Path, folder: Path) -> None:
    """Raise ConfigurationError if this user could not write `path`, in a `folder` that may have to be made."""
    there, who = _existing(folder), f"this user (uid {os.geteuid()})"
    if not there.is_dir():
        problem = f"{there} is not a directory"
    elif not os.access(there, os.W_OK | os.X_OK):
        problem = f"{who} may not write in {there}"
    elif os.path.exists(path) and not os.access(path, os.R_OK | os.W_OK):
        problem = f"{who} may not write to it"
    else:
        return
    advice = f"give the service's user that place, or set {setting} to one of its own"
    raise ConfigurationError([f"{setting}={path}: {problem}; {advice}"])


# ── the running service ──────────────────────────────────────────────────────────────────────────────────────────────
_STOPPED = {
    "not-running": Severity.NOTE,
    "stopped": Severity.NOTE,
    "failed-start": Severity.WARNING,
    "hidden": Severity.WARNING,
}  # no fault of what is looked at


def of_service(facts: Facts, settings: Settings, master: int) -> Iterator[Problem]:
    """What the running service is told of by /ready, and whether it runs with these settings. `master`: its pid."""
    found = problems(facts, settings)
    if not master:
        # What it has learned of models is in its ledger.
        yield from (_started(problem) for problem in found if problem.code in ("quarantine", "request", "extension"))
        for problem in found:
            if problem.code in _STOPPED:
                yield dataclasses.replace(problem, code="service", severity=_STOPPED[problem.code])
        return
    yield from map(_started, found)
    ledger = facts.ledger
    if ledger is not None and {period: use.limit for period, use in ledger.limits.items()} != settings.rate_limits:
        sentence = "it has other rate limits in force than these settings say"
        yield Problem("service", Severity.WARNING, sentence, "Reload it: systemctl reload aitp, or HUP to `aitp run`")
    if not any(problem.severity.at_least(Severity.PENDING) for problem in found):
        yield Problem("service", Severity.OK, f"running and ready (master: pid {master})")


def _started(problem: Problem) -> Problem:
    """What a running service is not ready for keeps it from its work; it has started all the same."""
    severity = Severity.FAULT if problem.severity.at_least(Severity.PENDING) else problem.severity
    return dataclasses.replace(problem, severity=severity)


# ── how it is shown ──────────────────────────────────────────────────────────────────────────────────────────────────
def _rows(findings: tuple[Problem, ...]) -> Iterator[tuple[Text, Text, Text]]:
    for finding, following in zip(findings, (*findings[1:], None), strict=True):
        text = Text(printable(finding.sentence))
        # What several in a row have in common is said once, below the last of them.
        if finding.advice and (following is None or finding.advice != following.advice):
            text.append("\nDo:  ", style="bold").append(printable(finding.advice))
        yield Text(finding.severity.value, style=STYLES[finding.severity]), Text(finding.code), text


def _document(report: Report, code: int) -> dict[str, Any]:
    return {
        "ok": code == 0,
        "exit_code": code,
        "mock": report.mock,
        "env_file": report.env_file and str(report.env_file),
        "findings": [dataclasses.asdict(finding) for finding in report.findings],
        **dataclasses.asdict(report.registered),
    }
