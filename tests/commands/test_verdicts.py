"""What settings and machine come to: tables of facts and findings."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import pytest

from aitp.commands import verdicts
from aitp.commands.findings import Finding, Severity
from aitp.commands.machine import Holder, Machine, Port
from aitp.ledger.schema import VERSION
from aitp.processors.base import Registered, TaskTypeEntry
from aitp.settings import Settings, load_settings
from aitp.web import health
from aitp.web.health import Facts, Problem
from tests.settings.complete import COMPLETE

MB = 2**20
EMPTY = Facts(0.0, None, False, (), (), None, "there is no ledger", False)


def settings(**environ: str) -> Settings:
    return load_settings({**COMPLETE, **environ})


def machine(**facts: Any) -> Machine:
    healthy: dict[str, Any] = {
        "ledger_folder_problem": "",
        "ledger_file_system_problem": "",
        "ledger_place_problem": "",
        "ledger_version": VERSION,
        "ledger_problem": "",
        "disk_free": 9_000 * MB,
        "disk_size": 10_000 * MB,
        "runtime_dir_problem": "",
        "port": Port(),
        "descriptors": 20_000,
        "master_pid": 0,
        "supervisor_pid": 0,
        "facts": EMPTY,
        "problems": (),
    }
    return Machine(**healthy | facts)


def worst(findings: list[Finding]) -> Finding:
    return max(findings, key=lambda finding: list(Severity).index(finding.severity))


@pytest.mark.parametrize(
    ("environ", "severity", "words"),
    [
        ({"METRICS_HOST": "127.0.0.1"}, Severity.OK, "usable"),
        ({"METRICS_TOKEN": "t" * 32}, Severity.OK, "usable"),
        ({}, Severity.NOTE, "without a METRICS_TOKEN"),
        ({"RATE_LIMIT_PER_HOUR": "10"}, Severity.WARNING, "RATE_LIMIT_PER_HOUR=10 is below RATE_LIMIT_PER_MINUTE=20"),
        ({"OLLAMA_URL": "x"}, Severity.WARNING, "OLLAMA_URL is not a setting"),
        ({"ORY_PROJECT_SLUG": "your-project-slug"}, Severity.WARNING, "still has the example's value"),
        ({"OPENAI_API_KEY": "your_openai_api_key_here"}, Severity.WARNING, "MOCK MODE"),
        (
            {"OPENAI_API_KEY": "your_openai_api_key_here", "API_BASE_URL": "https://api.example.org"},
            Severity.FAULT,
            "MOCK MODE",
        ),
        ({"OPENAI_API_KEY": ""}, Severity.NOTE, "OPENAI_API_KEY is not set"),
        ({"SUPPORTED_MODELS": "[]"}, Severity.WARNING, "SUPPORTED_MODELS is empty"),
        ({"RATE_LIMIT_ENABLED": "false"}, Severity.NOTE, "no rate limit is in force"),
    ],
)
def test_settings(environ: dict[str, str], severity: Severity, words: str) -> None:
    found = list(verdicts.of_settings(settings(**environ)))

    assert worst(found).severity is severity
    assert any(finding.severity is severity and words in finding.what for finding in found)


def test_what_is_not_our_own_is_named(tmp_path: Path) -> None:
    own = TaskTypeEntry("text_embedding", "TextEmbeddingProcessor", "aitp.processors.text_embedding", "")
    foreign = TaskTypeEntry("sentiment", "SentimentProcessor", "aitp_sentiment", f"version 2, {tmp_path}/sentiment.md")

    found = verdicts.of_inventory(
        Registered((own, foreign), {"acme": ("acme-1",)}), settings(PROMPTS_DIR=str(tmp_path))
    )

    assert [(finding.subject, finding.what) for finding in found] == [
        ("task types", "text_embedding, sentiment"),
        ("extension", "sentiment: SentimentProcessor of aitp_sentiment"),
        ("prompt", f"sentiment: version 2, {tmp_path}/sentiment.md"),
        ("extension", "provider acme: acme-1"),
    ]


def test_a_contradiction_of_limits_says_why_it_matters_and_what_to_do() -> None:
    found = worst(list(verdicts.of_settings(settings(RATE_LIMIT_PER_HOUR="10"))))

    assert found.why == "The minute limit can never be reached"
    assert found.do == "Raise one or set it to 0"


@pytest.mark.parametrize(
    ("facts", "severity", "words"),
    [
        ({}, Severity.OK, "rate_limits.db"),
        ({"ledger_version": None}, Severity.OK, "not there yet"),
        ({"ledger_version": 0}, Severity.OK, "empty, made when the service next starts"),
        ({"ledger_version": VERSION - 1}, Severity.OK, "brought up to date"),
        ({"ledger_place_problem": "RATE_LIMIT_STORAGE_PATH=/srv is a directory"}, Severity.ERROR, "is a directory"),
        ({"ledger_version": VERSION + 1}, Severity.ERROR, f"has version {VERSION + 1}"),
        ({"ledger_problem": "the ledger x is damaged"}, Severity.ERROR, "damaged"),
        ({"ledger_folder_problem": "user aitp may not write in /srv"}, Severity.ERROR, "may not write in /srv"),
        (
            {"ledger_file_system_problem": "RATE_LIMIT_STORAGE_PATH is on /srv, a network file system (nfs)"},
            Severity.ERROR,
            "network file system (nfs)",
        ),
    ],
)
def test_the_ledger(facts: dict[str, Any], severity: Severity, words: str) -> None:
    found = worst(list(verdicts.of_ledger(machine(**facts), settings())))

    assert found.severity is severity
    assert words in found.what


@pytest.mark.parametrize(
    ("free", "severity"),
    [(63 * MB, Severity.FAULT), (65 * MB, Severity.WARNING), (1023 * MB, Severity.WARNING), (1025 * MB, Severity.OK)],
)
def test_the_disk(free: int, severity: Severity) -> None:
    assert verdicts.of_disk(free, 10_000 * MB).severity is severity


@pytest.mark.parametrize(
    ("length", "problem", "severity"),
    [(83, "", Severity.OK), (84, "", Severity.ERROR), (10, "user aitp may not write in /", Severity.ERROR)],
)
def test_the_runtime_directory(length: int, problem: str, severity: Severity) -> None:
    path = Path("/" + "r" * (length - 1))

    assert verdicts.of_runtime_dir(path, problem).severity is severity


METRICS = "/opt/aitp/.venv/bin/python -m aitp metrics"


@pytest.mark.parametrize(
    ("port", "severity", "words"),
    [
        (Port(), Severity.OK, "free"),
        (Port(errno.EADDRINUSE, Holder(12, 10, METRICS)), Severity.OK, "served by the running service (pid 12)"),
        (Port(errno.EADDRINUSE, Holder(12, 99, METRICS)), Severity.FAULT, "taken by process 12"),
        (Port(errno.EADDRINUSE, Holder(12, 10, "nginx: master")), Severity.FAULT, "process 12 (nginx: master)"),
        (Port(errno.EADDRINUSE, Holder()), Severity.FAULT, "another user"),
        (Port(errno.EADDRNOTAVAIL), Severity.FAULT, "Cannot assign requested address"),
        (Port(errno.EACCES), Severity.FAULT, "Permission denied"),
        (Port(name_unknown=True), Severity.ERROR, "leads to no address"),
        (Port(unresolved="Temporary failure"), Severity.FAULT, "cannot be looked up now (Temporary failure)"),
    ],
)
def test_the_port(port: Port, severity: Severity, words: str) -> None:
    found = verdicts.of_port(port, "0.0.0.0", 8001, supervisor=10)

    assert found.severity is severity
    assert words in found.what


def test_a_metrics_process_without_its_supervisor_is_in_the_way() -> None:
    port = Port(errno.EADDRINUSE, Holder(12, 10, METRICS))

    assert verdicts.of_port(port, "0.0.0.0", 8001, supervisor=0).severity is Severity.FAULT


@pytest.mark.parametrize(("most", "severity"), [(106, Severity.ERROR), (107, Severity.OK), (1 << 62, Severity.OK)])
def test_descriptors(most: int, severity: Severity) -> None:
    found = verdicts.of_descriptors(most, settings(CONCURRENCY_LIMIT="5", RELAY_PROCESSES="2"))

    assert found.severity is severity
    assert severity is Severity.OK or "LimitNOFILE" in found.do


def test_a_running_service_tells_what_keeps_it_from_its_work() -> None:
    paused = Problem("paused", health.Severity.PENDING, "paused by an operator", "`aitp resume` goes on.")
    ready, not_ready = machine(master_pid=7), machine(master_pid=7, problems=(paused,))

    assert [finding.severity for finding in verdicts.of_service(ready, settings())] == [Severity.OK]
    [found] = verdicts.of_service(not_ready, settings())
    assert (found.severity, found.what) == (Severity.FAULT, "paused by an operator")
    [found] = verdicts.of_service(machine(), settings())
    assert found.severity is Severity.NOTE
