"""What the settings and this machine come to: one pure function a subject, from facts to findings."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from aitp.commands.findings import Finding, Severity, fine, of_sentence
from aitp.commands.machine import METRICS_COMMAND, Holder, Machine, Port
from aitp.errors import ConfigurationError
from aitp.ledger import DISK_RESERVE_BYTES
from aitp.ledger.schema import VERSION
from aitp.process.start import descriptors_needed, refuse_few_descriptors, refuse_long_socket_path
from aitp.processors.base import Registered
from aitp.settings import Settings
from aitp.validators import is_near
from aitp.web import health
from aitp.web.health import Problem

COMFORTABLE_BYTES = 2**30
LOOPBACK = ("127.0.0.1", "::1", "localhost")
WILL_NOT_START = "The service does not start with it: exit code 78"


def of_unusable_settings(error: ConfigurationError) -> Iterator[Finding]:
    """Settings that cannot be loaded: one finding for each line."""
    do = "Correct it in the environment or in the file of settings, then run `aitp check` again"
    for problem in error.problems:
        yield Finding(Severity.ERROR, "settings", problem, WILL_NOT_START, do)
    yield from _odd_settings(error.warnings)


def _odd_settings(warnings: Sequence[str]) -> Iterator[Finding]:
    for warning in warnings:
        why = "It has no effect, or not the one that was meant"
        do = "Correct it, or leave it out"
        yield of_sentence(Severity.WARNING, "settings", warning, why, do)


def of_settings(settings: Settings) -> Iterator[Finding]:
    """Settings that can be loaded."""
    where = f"the environment and {settings.env_file}" if settings.env_file else "the environment"
    yield fine("settings", f"usable, from {where}; mode {settings.processing_mode}")
    yield from _odd_settings(settings.warnings)
    yield from _mock(settings)
    if settings.processing_mode != "openai" and not settings.supported_models:
        yield Finding(
            Severity.WARNING,
            "models",
            "SUPPORTED_MODELS is empty",
            f"In mode {settings.processing_mode} no task is ever sent to Ollama",
            "List Ollama's models in it, or set PROCESSING_MODE=openai",
        )
    if settings.processing_mode == "hybrid" and settings.hybrid_fallback and settings.openai_api_key is None:
        yield Finding(
            Severity.NOTE,
            "models",
            "OPENAI_API_KEY is not set",
            "Nothing stands in for Ollama while it fails: its tasks wait",
            "Set a key, if OpenAI is to stand in",
        )
    if settings.metrics_token is None and settings.metrics_host not in LOOPBACK:
        yield Finding(
            Severity.NOTE,
            "metrics",
            f"METRICS_HOST={settings.metrics_host} without a METRICS_TOKEN",
            "Whoever reaches that port reads /metrics and the page: no secret is there, and nothing can be changed",
            "Set METRICS_TOKEN, or METRICS_HOST=127.0.0.1, if that is too many",
        )
    if not settings.rate_limits:
        yield Finding(
            Severity.NOTE,
            "limits",
            "no rate limit is in force",
            "Nothing bounds how much is bought",
            "Set RATE_LIMIT_ENABLED=true and RATE_LIMIT_PER_… if that is not meant",
        )


def _mock(settings: Settings) -> Iterator[Finding]:
    if not settings.mock:
        return
    what = "MOCK MODE: OPENAI_API_KEY is the placeholder; results are invented, no calls are made"
    do = "Set a real OPENAI_API_KEY, or PROCESSING_MODE=ollama"
    if is_near(settings.api_base_url):
        yield Finding(Severity.WARNING, "mock mode", what, "Invented results are delivered as if they were real", do)
        return
    why = f"Invented results would be stored by {settings.api_base_url}, where nobody can tell them from real ones"
    yield Finding(Severity.FAULT, "mock mode", what, why, do)


def of_inventory(found: Registered, settings: Settings) -> Iterator[Finding]:
    """What is registered: all task types, and by name what is not aitp's own."""
    yield fine("task types", ", ".join(entry.name for entry in found.task_types))
    for entry in found.task_types:
        if not entry.module.startswith("aitp."):
            yield fine("extension", f"{entry.name}: {entry.processor} of {entry.module}")
        if settings.prompts_dir is not None and str(settings.prompts_dir) in entry.prompt:
            yield fine("prompt", f"{entry.name}: {entry.prompt}")
    for name, models in found.providers.items():
        yield fine("extension", f"provider {name}: {', '.join(models)}")


def of_ledger(machine: Machine, settings: Settings) -> Iterator[Finding]:
    """Where the ledger is, and whether it can be used there."""
    path = settings.ledger_path
    if problem := machine.ledger_file_system_problem:
        yield of_sentence(Severity.ERROR, "ledger", problem, WILL_NOT_START, "Put it on a local disk")
    if problem := machine.ledger_folder_problem:
        do = "Give the service's user the folder, or set RATE_LIMIT_STORAGE_PATH to a place of its own"
        yield Finding(Severity.ERROR, "ledger", f"{path}: {problem}", WILL_NOT_START, do)
    elif problem := machine.ledger_place_problem:
        yield of_sentence(Severity.ERROR, "ledger", problem, WILL_NOT_START, "Correct the setting")
    elif problem := machine.ledger_problem:
        yield Finding(
            Severity.ERROR,
            "ledger",
            problem,
            "All that is in hand, counted and not yet delivered is in it",
            "Restore a backup, or move it aside; a new one knows nothing of what was used of the limits",
        )
    elif machine.ledger_version is None:
        yield fine("ledger", f"{path}: not there yet, made when the service first starts")
    elif machine.ledger_version == 0:
        yield fine("ledger", f"{path}: empty, made when the service next starts")
    elif machine.ledger_version > VERSION:
        yield Finding(
            Severity.ERROR,
            "ledger",
            f"{path} has version {machine.ledger_version}, this release knows {VERSION}",
            WILL_NOT_START,
            "Install the newer release again, or restore the ledger's backup from before the upgrade",
        )
    elif machine.ledger_version < VERSION:
        yield fine("ledger", f"{path}: of an earlier release, brought up to date at the next start")
    else:
        yield fine("ledger", f"{path}")


def of_disk(free: int, size: int) -> Finding:
    """The room beside the ledger, in bytes."""
    said = f"{free // 2**20:,} MB are free beside the ledger, of {size // 2**20:,}"
    do = "Make room, or move the ledger (RATE_LIMIT_STORAGE_PATH) while the service is stopped"
    if free < DISK_RESERVE_BYTES:
        why = f"Below {DISK_RESERVE_BYTES // 2**20} MB nothing is polled and claimed any more"
        return Finding(Severity.FAULT, "disk", said, why, do)
    if free < COMFORTABLE_BYTES:
        why = f"At {DISK_RESERVE_BYTES // 2**20} MB the service stops taking work on"
        return Finding(Severity.WARNING, "disk", said, why, do)
    return fine("disk", said)


def of_runtime_dir(path: Path, problem: str) -> Finding:
    """Where token, scoreboard, metrics files and supervisord's socket are to be. `problem`: with writing there."""
    if problem:
        do = "Give the service's user the directory, or set RUNTIME_DIR to a place of its own"
        return Finding(Severity.ERROR, "runtime", f"RUNTIME_DIR={path}: {problem}", WILL_NOT_START, do)
    try:
        refuse_long_socket_path(path)
    except ConfigurationError as error:
        do = "Choose a shorter one"
        return of_sentence(Severity.ERROR, "runtime", error.problems[0], WILL_NOT_START, do)
    return fine("runtime", f"{path}")


def of_port(port: Port, host: str, number: int, supervisor: int) -> Finding:
    """The address of /metrics, /health, /ready and the page. `supervisor`: the running service's pid, 0 for none."""
    address = f"METRICS_HOST={host}, METRICS_PORT={number}"
    why = "There would be no metrics, no health and no page, and the service stops when they cannot be served"
    if port.name_unknown:
        do = "Set METRICS_HOST to an address of this machine, or 0.0.0.0 for all of them"
        return Finding(Severity.ERROR, "port", f"{address}: that name leads to no address", WILL_NOT_START, do)
    if port.unresolved:
        said = f"{address}: that name cannot be looked up now ({port.unresolved})"
        do = "Mend the machine's name resolution, or set METRICS_HOST to an address, which needs none"
        return Finding(Severity.FAULT, "port", said, why, do)
    if port.error == 0:
        return fine("port", f"{address}: free")
    if port.error == errno.EADDRINUSE:
        if port.holder is not None and _is_ours(port.holder, supervisor):
            return fine("port", f"{address}: served by the running service (pid {port.holder.pid})")
        by = _words(port.holder)
        return Finding(Severity.FAULT, "port", f"{address}: taken by {by}", why, "Stop that, or set METRICS_PORT")
    do = "Set METRICS_HOST to an address of this machine, and METRICS_PORT to 1024 or more unless root starts it"
    return Finding(Severity.FAULT, "port", f"{address}: {os.strerror(port.error)}", why, do)


def _is_ours(holder: Holder, supervisor: int) -> bool:
    """The metrics process of the running service is a child of the supervisor that its master is a child of, too."""
    return supervisor > 0 and holder.command.endswith(METRICS_COMMAND) and holder.parent == supervisor


def _words(holder: Holder | None) -> str:
    if holder is None or not holder.pid:
        return "a process of another user"
    return f"process {holder.pid} ({holder.command[:80]})"


def of_descriptors(most: int, settings: Settings) -> Finding:
    """How many files a process may open, and how many the master needs for so many children."""
    try:
        refuse_few_descriptors(settings, most)
    except ConfigurationError as error:
        return of_sentence(Severity.ERROR, "files", error.problems[0], WILL_NOT_START, "")
    needed = descriptors_needed(settings)
    return fine(
        "files", "enough may be open" if most > 1 << 40 else f"{most:,} may be open, about {needed:,} are needed"
    )


def of_service(machine: Machine, settings: Settings) -> Iterator[Finding]:
    """What the running service says of itself, and whether it runs with these settings."""
    if not machine.master_pid and machine.facts.hidden:
        yield Finding(
            Severity.WARNING,
            "service",
            "whether it runs is not for this user to see",
            "The runtime directory is its own user's alone, and what is said of port and ledger here may be wrong",
            "Check as the service's user: `sudo aitp check` where bin/install installed it",
        )
        return
    if not machine.master_pid:
        # What it has learned of models is in its ledger.
        yield from (_of_problem(problem) for problem in machine.problems if problem.code in ("quarantine", "request"))
        yield Finding(
            Severity.NOTE,
            "service",
            "it is not running",
            "Nothing is polled, run or delivered",
            "`aitp run`, or systemctl start aitp",
        )
        return
    for problem in machine.problems:
        yield _of_problem(problem)
    ledger = machine.facts.ledger
    if ledger is not None and {period: use.limit for period, use in ledger.limits.items()} != settings.rate_limits:
        yield Finding(
            Severity.WARNING,
            "service",
            "it has other rate limits in force than these settings say",
            "Settings that were changed are read at a reload",
            "Reload it: systemctl reload aitp, or HUP to `aitp run`",
        )
    if not any(problem.severity.at_least(health.Severity.PENDING) for problem in machine.problems):
        yield fine("service", f"running and ready (master: pid {machine.master_pid})")


def _of_problem(problem: Problem) -> Finding:
    """What the running service is not ready for keeps it from its work; it has started all the same."""
    severe = problem.severity.at_least(health.Severity.PENDING)
    severity = Severity.FAULT if severe else Severity(problem.severity.value)
    return Finding(severity, "service", problem.sentence, "", problem.advice)
