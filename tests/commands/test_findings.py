"""What settings and machine come to, and how bad findings are, taken together."""

from __future__ import annotations

import errno
import socket
import tempfile
from pathlib import Path

import pytest

from aitp.commands import check
from aitp.commands.check import exit_code, summary
from aitp.ledger import sqlite
from aitp.ledger.schema import FIRST_VERSION, VERSION
from aitp.processors import ProviderEntry, Registered, TaskTypeEntry
from aitp.settings import Settings, load_settings
from aitp.web.health import Facts, Problem, Severity
from tests.settings.complete import COMPLETE
from tests.web.test_health import WELL, with_ledger
from tests.web.world import settings_in


def findings(*severities: Severity) -> list[Problem]:
    return [Problem("thing", severity, "is so") for severity in severities]


@pytest.mark.parametrize(
    ("more", "asked"),
    [
        ({}, True),
        ({"WIKIDATA_CONTACT": "https://example.org/aitp"}, False),
        ({"WIKIDATA_ENABLED": "false"}, False),
        ({"WIKIDATA_BASE_URL": "https://wikibase.example.org"}, False),
    ],
)
def test_wikimedia_wants_to_know_whom_to_ask(more: dict[str, str], asked: bool) -> None:
    found = check.of_settings(load_settings({**COMPLETE, **more}))
    assert [each.severity for each in found if each.sentence.startswith("WIKIDATA_CONTACT is not set")] == (
        [Severity.WARNING] if asked else []
    )


@pytest.mark.parametrize(
    ("severities", "strict", "code"),
    [
        ((), False, 0),
        ((Severity.OK, Severity.NOTE), True, 0),
        ((Severity.WARNING,), False, 0),
        ((Severity.WARNING,), True, 1),
        ((Severity.OK, Severity.FAULT, Severity.WARNING), False, 1),
        ((Severity.FAULT, Severity.ERROR), False, 78),
        ((Severity.ERROR,), True, 78),
    ],
)
def test_the_worst_finding_decides_the_exit_code(severities: tuple[Severity, ...], strict: bool, code: int) -> None:
    assert exit_code(findings(*severities), strict=strict) == code


def test_the_verdict_counts_what_is_worth_a_look() -> None:
    assert summary(findings(Severity.OK, Severity.NOTE)) == "All is well"
    several = findings(Severity.WARNING, Severity.FAULT, Severity.WARNING, Severity.ERROR)
    assert summary(several) == "1 error, 1 fault, 2 warnings"


MB = 10**6
STOPPED = Facts(0.0, None, False, (), (), None, "there is no ledger", False)


def settings(**environ: str) -> Settings:
    return load_settings({**COMPLETE, "WIKIDATA_CONTACT": "aitp@example.org", **environ})


def worst(findings: list[Problem]) -> Problem:
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
    found = list(check.of_settings(settings(**environ)))

    assert worst(found).severity is severity
    assert any(finding.severity is severity and words in finding.sentence for finding in found)


def test_what_is_not_our_own_is_named(tmp_path: Path) -> None:
    own = TaskTypeEntry("text_embedding", "TextEmbeddingProcessor", "aitp.processors.text_embedding", "")
    prompt, package = f"version 2, {tmp_path}/sentiment.md", "aitp-sentiment 1.0.0"
    foreign = TaskTypeEntry("sentiment", "SentimentProcessor", "aitp_sentiment", prompt, package)
    acme = ProviderEntry("acme", "acme-ai 2.1", ("acme-1", "acme-2*"))

    found = check.of_registered(Registered((own, foreign), (acme,)), settings(PROMPTS_DIR=str(tmp_path)))

    assert [(finding.code, finding.sentence) for finding in found] == [
        ("task types", "text_embedding, sentiment"),
        ("extension", "aitp-sentiment 1.0.0: task type sentiment"),
        ("prompt", f"sentiment: version 2, {tmp_path}/sentiment.md"),
        ("extension", "acme-ai 2.1: provider acme of acme-1, acme-2*"),
    ]


def test_a_contradiction_of_limits_says_why_it_matters_and_what_to_do() -> None:
    found = worst(list(check.of_settings(settings(RATE_LIMIT_PER_HOUR="10"))))

    assert "The minute limit can never be reached".lower() in found.sentence.lower()
    assert found.advice == "Raise one or set it to 0"


@pytest.mark.parametrize(
    ("version", "severity", "words"),
    [
        (VERSION, Severity.OK, "rate_limits.db"),
        (None, Severity.OK, "not there yet"),
        (0, Severity.OK, "empty, made when the service next starts"),
        (VERSION - 1, Severity.OK, "brought up to date"),
        (VERSION + 1, Severity.ERROR, f"has version {VERSION + 1}"),
        (FIRST_VERSION - 1, Severity.ERROR, "was never released"),
    ],
)
def test_the_ledger(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: int | None, severity: Severity, words: str
) -> None:
    monkeypatch.setattr(sqlite, "version_of", lambda path: version)

    found = check.of_ledger(tmp_path / "rate_limits.db")

    assert found.severity is severity
    assert words in found.sentence


def test_a_ledger_that_cannot_be_used_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "damaged.db").write_bytes(b"SQLite format 3\0" + b"\xee" * 9000)
    (tmp_path / "file").write_text("")

    assert check.of_ledger(tmp_path / "damaged.db").severity is Severity.ERROR
    assert "is no file" in check.of_ledger(tmp_path).sentence
    assert "is not a directory" in check.of_ledger(tmp_path / "file" / "rate_limits.db").sentence
    monkeypatch.setattr("os.access", lambda path, mode: False)
    assert "may not write in" in check.of_ledger(tmp_path / "rate_limits.db").sentence


@pytest.mark.parametrize(
    ("free", "severity"),
    [(63 * MB, Severity.FAULT), (65 * MB, Severity.WARNING), (999 * MB, Severity.WARNING), (1001 * MB, Severity.OK)],
)
def test_the_disk(free: int, severity: Severity) -> None:
    assert check.of_disk(free, 10_000 * MB).severity is severity


@pytest.mark.parametrize(("length", "severity"), [(83, Severity.OK), (84, Severity.ERROR)])
def test_the_runtime_directory(length: int, severity: Severity, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.access", lambda path, mode: True)

    assert check.of_runtime_dir(Path("/" + "r" * (length - 1))).severity is severity


@pytest.mark.parametrize(
    ("trouble", "runs", "severity", "words"),
    [
        (0, False, Severity.OK, "free"),
        (errno.EADDRINUSE, True, Severity.OK, "served by the running service"),
        (errno.EADDRINUSE, False, Severity.FAULT, "taken"),
        (errno.EADDRNOTAVAIL, False, Severity.FAULT, "Cannot assign requested address"),
        (errno.EACCES, True, Severity.FAULT, "Permission denied"),
    ],
)
def test_the_port(monkeypatch: pytest.MonkeyPatch, trouble: int, runs: bool, severity: Severity, words: str) -> None:
    monkeypatch.setattr("aitp.validators.trouble_at", lambda found: trouble)

    found = check.of_port("0.0.0.0", 8001, runs=runs)

    assert found.severity is severity
    assert words in found.sentence


@pytest.mark.parametrize(
    ("error", "severity", "words"),
    [
        (ValueError("metrics.example leads to no address"), Severity.ERROR, "leads to no address"),
        (socket.gaierror(-3, "Temporary failure"), Severity.FAULT, "cannot be looked up now (Temporary failure)"),
    ],
)
def test_a_name_to_listen_on(monkeypatch: pytest.MonkeyPatch, error: Exception, severity: Severity, words: str) -> None:
    def fails(host: str, port: int) -> None:
        raise error

    monkeypatch.setattr("aitp.validators.addresses", fails)

    found = check.of_port("metrics.example", 8001, runs=False)

    assert (found.severity, words in found.sentence) == (severity, True)


@pytest.mark.parametrize(("most", "severity"), [(106, Severity.ERROR), (107, Severity.OK), (1 << 62, Severity.OK)])
def test_descriptors(most: int, severity: Severity) -> None:
    found = check.of_descriptors(most, settings(CONCURRENCY_LIMIT="5", RELAY_PROCESSES="2"))

    assert found.severity is severity
    assert severity is Severity.OK or "LimitNOFILE" in found.advice


def test_a_running_service_tells_what_keeps_it_from_its_work(tmp_path: Path) -> None:
    told = settings_in(tmp_path, CONCURRENCY_LIMIT="1", RELAY_PROCESSES="1", RATE_LIMIT_ENABLED="false")

    assert [finding.severity for finding in check.of_service(WELL, told, 7)] == [Severity.OK]
    [found] = check.of_service(with_ledger(paused=True), told, 7)
    assert (found.severity, found.sentence) == (Severity.FAULT, "paused by an operator")
    [found] = check.of_service(STOPPED, told, 0)
    assert found.severity is Severity.NOTE


def test_a_ledger_in_memory_is_warned_about() -> None:
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        found = check.of_ledger(Path(folder) / "data" / "rate_limits.db")
    assert (found.code, found.severity) == ("ledger", Severity.WARNING)
    assert "is in memory (tmpfs on /dev/shm)" in found.sentence
