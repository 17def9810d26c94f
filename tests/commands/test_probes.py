"""What servers' answers mean: tables."""

from __future__ import annotations

import time
from email.utils import formatdate
from typing import Any

import pytest

from aitp.commands import probes
from aitp.commands.probes import Answered, ahead_of, of_clocks
from aitp.errors import AitpError, CooldownRequired, CredentialsRefused, ServiceFault
from aitp.http import BY_TLS
from aitp.providers.inventory import Retirement
from aitp.settings import load_settings
from aitp.taskapi.token import Grant
from aitp.web.health import Severity, of_retirements
from tests.settings.complete import COMPLETE

SETTINGS = load_settings(COMPLETE)
SILENT = ServiceFault("x", "did not answer within REQUEST_TIMEOUT")


@pytest.mark.parametrize(
    ("answer", "severity", "do"),
    [
        (Grant("ory_at_token", 3600.0), Severity.OK, ""),
        (CredentialsRefused("oauth", "401: look at OAUTH2_CLIENT_ID"), Severity.FAULT, "OAUTH2_CLIENT_ID=aitp and its"),
        (CredentialsRefused("oauth", "400", error="invalid_scope"), Severity.FAULT, "the scope"),
        (ServiceFault("oauth", "answered 404"), Severity.FAULT, "ORY_PROJECT_SLUG=happy-tree-1234"),
        (CooldownRequired("oauth", "429", seconds=3, model=None), Severity.WARNING, "Wait"),
    ],
)
def test_a_token(answer: Grant | AitpError, severity: Severity, do: str) -> None:
    found = probes.of_token(answer, SETTINGS)

    assert found.severity is severity
    assert do in found.advice
    assert "ory_at_token" not in repr(found)


def test_an_address_that_is_no_token_endpoints_is_told_what_one_looks_like() -> None:
    settings = load_settings({**COMPLETE, "OAUTH2_TOKEN_URL": "https://x.projects.oryapis.com"})

    found = probes.of_token(ServiceFault("oauth", "answered 404"), settings)

    assert "Ory Hydra's ends in /oauth2/token" in found.advice


@pytest.mark.parametrize(
    ("answer", "severity", "words"),
    [
        (0, Severity.OK, "lists 0 pending"),
        (20, Severity.OK, "20 or more"),
        (CredentialsRefused("api", "refuses a fresh token"), Severity.FAULT, "refuses a fresh token"),
        (SILENT, Severity.FAULT, "within REQUEST_TIMEOUT"),
        (CooldownRequired("api", "answered 429", seconds=3, model=None), Severity.WARNING, "429"),
    ],
)
def test_the_task_api(answer: int | AitpError, severity: Severity, words: str) -> None:
    found = probes.of_task_api(answer, SETTINGS)

    assert found.severity is severity
    assert words in found.sentence


def test_what_cannot_be_spoken_to_by_tls_has_no_valid_certificate_or_no_tls_at_all() -> None:
    fault = ServiceFault("x", f"{BY_TLS} (is its certificate valid?)")

    for found in (probes.of_token(fault, SETTINGS), probes.of_task_api(fault, SETTINGS)):
        assert "See that it has a valid certificate" in found.advice


@pytest.mark.parametrize(("error", "doubted"), [("", True), ("invalid_client", False)])
def test_whoever_refuses_without_a_word_may_be_no_authorization_server(error: str, doubted: bool) -> None:
    found = probes.of_token(CredentialsRefused("oauth", "401", error=error), SETTINGS)

    assert ("another server altogether" in found.advice) == doubted


MODELS = {"data": [{"id": "o3-mini"}, {"id": "text-embedding-3-small"}]}
QUOTA = {"error": {"code": "insufficient_quota"}}


@pytest.mark.parametrize(
    ("answer", "severity", "words"),
    [
        ((200, MODELS), Severity.OK, "takes the key, and has o3-mini"),
        ((200, {"data": MODELS["data"][:1]}), Severity.WARNING, "does not offer it text-embedding-3-small"),
        ((200, None), Severity.WARNING, "something else"),
        ((200, {"data": [1]}), Severity.WARNING, "something else"),
        ((401, None), Severity.FAULT, "refuses the key"),
        ((403, None), Severity.WARNING, "lets this key list no models"),
        ((404, None), Severity.NOTE, "keeps no list"),
        ((429, None), Severity.OK, "takes the key"),
        ((429, QUOTA), Severity.FAULT, "quota"),
        ((503, None), Severity.FAULT, "answered 503"),
        (SILENT, Severity.FAULT, "did not answer within REQUEST_TIMEOUT"),
    ],
)
def test_openai(answer: Answered | AitpError, severity: Severity, words: str) -> None:
    found = probes.of_openai(
        answer, {"o3-mini": "MODEL_ALIASES", "text-embedding-3-small": "DEFAULT_EMBEDDING_MODEL"}, None
    )

    assert found.severity is severity
    assert words in found.sentence
    assert ("DEFAULT_EMBEDDING_MODEL" in found.advice) == ("does not offer" in words)


def test_a_model_that_ends_is_told_of_two_months_before_with_the_setting_that_replaces_it() -> None:
    now, day = 1_800_000_000.0, 86_400.0
    ends = {"over": -1, "soon": 59, "far": 61}
    found = list(of_retirements([Retirement(n, now + days * day, "X_MODEL") for n, days in ends.items()], now))

    assert [finding.severity for finding in found] == [Severity.WARNING, Severity.WARNING]
    assert "has shut the model over down on 14 January 2027" in found[0].sentence
    assert "shuts the model soon down on 15 March 2027" in found[1].sentence
    assert all("X_MODEL" in finding.advice for finding in found)


@pytest.mark.parametrize(
    ("answer", "replaceable", "severity"),
    [
        ([], False, Severity.OK),
        (["nomic-embed-text"], False, Severity.WARNING),
        (SILENT, False, Severity.FAULT),
        (SILENT, True, Severity.WARNING),
    ],
)
def test_ollama(answer: Any, replaceable: bool, severity: Severity) -> None:
    found = probes.of_ollama(answer, SETTINGS, replaceable=replaceable)

    assert found.severity is severity
    assert severity is Severity.OK or found.advice


@pytest.mark.parametrize(
    ("answer", "severity", "do"),
    [
        ((200, {"query": {}}), Severity.OK, ""),
        ((429, None), Severity.OK, ""),
        ((403, None), Severity.FAULT, "WIKIDATA_CONTACT"),
        ((200, None), Severity.FAULT, "WIKIDATA_BASE_URL"),
        (SILENT, Severity.FAULT, "WIKIDATA_ENABLED=false"),
    ],
)
def test_wikidata(answer: Answered | AitpError, severity: Severity, do: str) -> None:
    found = probes.of_wikidata(answer, "https://www.wikidata.org")

    assert found.severity is severity
    assert do in found.advice


NOON = 1_753_963_200.0


@pytest.mark.parametrize(("received_at", "ahead"), [(NOON, 0.0), (NOON + 61, 61.0), (NOON - 119, -119.0)])
def test_a_clock_is_compared_with_the_date_of_an_answer(received_at: float, ahead: float) -> None:
    assert ahead_of(formatdate(NOON, usegmt=True), received_at) == ahead
    assert ahead_of(time.strftime("%a %b %d %H:%M:%S %Y", time.gmtime(NOON)), received_at) == ahead  # RFC 9110 5.6.7


@pytest.mark.parametrize(
    "header", [None, "", "yesterday", "Thu, 99 Foo 2025 12:00:00 GMT", "Thu, 31 Jul 9999999 0:0:0 GMT"]
)
def test_no_date_is_no_difference(header: str | None) -> None:
    assert ahead_of(header, NOON) is None


@pytest.mark.parametrize(
    ("ahead", "severity", "words"),
    [
        ({"the task API": 0.0, "OpenAI": -29.0}, Severity.OK, "agrees with that of the task API, OpenAI"),
        ({"the task API": 90.0, "OpenAI": 0.0}, Severity.OK, "agrees with that of OpenAI"),
        ({"the task API": 90.0}, Severity.WARNING, "90 s ahead of that of the task API: calendar"),
        ({"the task API": -4000.0, "OpenAI": -4001.0}, Severity.WARNING, "4,000 s behind that of the task API, OpenAI"),
    ],
)
def test_if_all_servers_agree_it_is_ours(ahead: dict[str, float], severity: Severity, words: str) -> None:
    [finding] = of_clocks(ahead)

    assert finding.severity is severity
    assert words in finding.sentence


def test_nobody_asked_is_nothing_found() -> None:
    assert list(of_clocks({})) == []
