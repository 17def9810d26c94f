"""What follows from several settings together: addresses, mock mode, limits in force, warnings, copies for children."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from pydantic import SecretStr

from aitp.errors import ConfigurationError
from aitp.settings import PLACEHOLDER_KEY, PROJECT_ROOT, load_settings
from tests.settings.complete import COMPLETE


def without(*names: str, **more: str) -> dict[str, str]:
    return {**{name: value for name, value in COMPLETE.items() if name not in names}, **more}


@pytest.mark.parametrize(
    ("url", "accepted"),
    [
        ("https://api.example.org", True),
        ("http://localhost:3000", True),
        ("http://api.localhost", True),
        ("http://127.0.0.9", True),
        ("http://[::1]:3000", True),
        ("http://10.1.2.3", True),
        ("http://172.16.0.1", True),
        ("http://192.168.0.7:3000", True),
        ("http://[fd00::7]", True),
        ("http://[::ffff:192.168.0.7]", True),
        ("http://nestjs-api:3000", True),
        ("http://api.example.org", False),
        ("http://api.internal", False),
        ("http://8.8.8.8", False),
        ("http://172.32.0.1", False),
        ("http://134744072", False),
        ("http://0x08080808", False),
        ("http://[2001:4860:4860::8888]", False),
        ("http://[::ffff:8.8.8.8]", False),
        ("http://localhost.example.org", False),
    ],
)
@pytest.mark.parametrize("name", ["API_BASE_URL", "OAUTH2_TOKEN_URL", "OPENAI_BASE_URL"])
def test_plain_http_goes_only_where_nobody_listens(name: str, url: str, accepted: bool) -> None:
    environ = {**COMPLETE, name: url}
    if accepted:
        assert getattr(load_settings(environ), name.lower()) == url
    else:
        with pytest.raises(ConfigurationError, match="ALLOW_INSECURE_HTTP=true"):
            load_settings(environ)
        assert getattr(load_settings({**environ, "ALLOW_INSECURE_HTTP": "true"}), name.lower()) == url


@pytest.mark.parametrize(
    "url",
    [
        *("", "nestjs-api:3000", "ftp://api", "https://", "https://a b", "https://api/?q=1", "https://api/#top"),
        *("https://api:99999", "https://api:0", "https://[::1", "https://u@api", "https://-a-/", "https://a\u202eb"),
    ],
)
def test_what_is_not_an_address_is_refused(url: str) -> None:
    with pytest.raises(ConfigurationError, match="API_BASE_URL"):
        load_settings({**COMPLETE, "API_BASE_URL": url})


def test_the_token_comes_from_the_slugs_project_unless_an_address_overrides_it() -> None:
    assert load_settings(COMPLETE).token_url == "https://happy-tree-1234.projects.oryapis.com/oauth2/token"
    address = "https://hydra.example.org/oauth2/token"
    assert load_settings({**COMPLETE, "OAUTH2_TOKEN_URL": address}).token_url == address


def test_neither_slug_nor_token_address_is_one_clear_line() -> None:
    with pytest.raises(
        ConfigurationError, match=r"^OAUTH2_TOKEN_URL: neither it nor ORY_PROJECT_SLUG is set"
    ) as caught:
        load_settings(without("ORY_PROJECT_SLUG"))
    assert len(caught.value.problems) == 1


def test_mode_openai_without_a_key_names_the_placeholder() -> None:
    with pytest.raises(ConfigurationError, match=f"OPENAI_API_KEY: not set; .*{PLACEHOLDER_KEY}"):
        load_settings(without("OPENAI_API_KEY", PROCESSING_MODE="openai"))


def test_mode_hybrid_without_a_key_is_fine() -> None:
    settings = load_settings(without("OPENAI_API_KEY", PROCESSING_MODE="hybrid"))

    assert settings.openai_api_key is None
    assert not settings.mock


@pytest.mark.parametrize(
    ("mode", "key", "mock"),
    [
        ("openai", PLACEHOLDER_KEY, True),
        ("hybrid", PLACEHOLDER_KEY, True),
        ("ollama", PLACEHOLDER_KEY, False),
        ("openai", "sk-real", False),
    ],
)
def test_the_placeholder_means_mock_mode_where_openai_is_used(mode: str, key: str, mock: bool) -> None:
    assert load_settings({**COMPLETE, "PROCESSING_MODE": mode, "OPENAI_API_KEY": key}).mock is mock


def test_limits_in_force_leave_out_those_switched_off() -> None:
    assert load_settings({**COMPLETE, "RATE_LIMIT_PER_DAY": "0"}).rate_limits == {
        "minute": 20,
        "hour": 100,
        "week": 2000,
        "month": 7500,
    }
    assert load_settings({**COMPLETE, "RATE_LIMIT_ENABLED": "false"}).rate_limits == {}


def test_a_limit_that_can_never_be_reached_is_a_warning() -> None:
    assert load_settings({**COMPLETE, "RATE_LIMIT_PER_HOUR": "10"}).warnings == (
        "RATE_LIMIT_PER_HOUR=10 is below RATE_LIMIT_PER_MINUTE=20: "
        "the minute limit can never be reached; raise one or set it to 0",
    )


def test_a_limit_is_compared_past_those_switched_off() -> None:
    (warning,) = load_settings({**COMPLETE, "RATE_LIMIT_PER_HOUR": "0", "RATE_LIMIT_PER_DAY": "10"}).warnings
    assert warning.startswith("RATE_LIMIT_PER_DAY=10 is below RATE_LIMIT_PER_MINUTE=20")


def test_what_was_left_as_in_the_example_is_a_warning() -> None:
    (warning,) = load_settings({**COMPLETE, "OAUTH2_CLIENT_ID": "your-client-id"}).warnings
    assert warning.startswith("OAUTH2_CLIENT_ID still has")


def test_quotes_that_came_along_are_a_warning() -> None:
    (warning,) = load_settings({**COMPLETE, "OAUTH2_SCOPE": '"read write"'}).warnings
    assert warning.startswith("OAUTH2_SCOPE begins and ends with a quote")


def test_relays_get_no_provider_key_and_workers_no_oauth_secret() -> None:
    settings = load_settings(COMPLETE)

    for_relay, for_worker = settings.keeping("OAUTH2_CLIENT_SECRET"), settings.keeping("OPENAI_API_KEY")

    assert for_relay.openai_api_key == for_worker.oauth2_client_secret == SecretStr("withheld-from-this-process")
    assert for_relay.oauth2_client_secret == settings.oauth2_client_secret
    assert for_worker.openai_api_key == settings.openai_api_key


@pytest.mark.parametrize(
    ("url", "more", "taken"),
    [
        ("https://ollama.com", {}, True),
        ("http://ollama:11434", {}, True),
        ("http://10.0.0.7:11434", {}, True),
        ("http://ollama.example.org", {}, False),
        ("http://ollama.example.org", {"ALLOW_INSECURE_HTTP": "true"}, True),
    ],
)
def test_the_key_of_ollama_goes_nowhere_in_the_open(url: str, more: dict[str, str], taken: bool) -> None:
    given = {**COMPLETE, "OLLAMA_BASE_URL": url, **more}
    assert load_settings(given).ollama_api_key is None
    try:
        key = load_settings({**given, "OLLAMA_API_KEY": "planted"}).ollama_api_key
    except ConfigurationError as error:
        assert not taken
        (said,) = error.problems
        assert said.startswith("OLLAMA_API_KEY=***: cannot be sent to OLLAMA_BASE_URL: plain http")
    else:
        assert taken
        assert key is not None


def test_neither_does_the_token_of_wikidata() -> None:
    given = {**COMPLETE, "WIKIDATA_TOKEN": "planted"}
    assert load_settings(given).wikidata_token is not None
    assert load_settings({**given, "WIKIDATA_BASE_URL": "http://wikibase:8080"}).wikidata_token is not None
    with pytest.raises(
        ConfigurationError, match=r"WIKIDATA_TOKEN=\*\*\*: cannot be sent to WIKIDATA_BASE_URL: plain http"
    ):
        load_settings({**given, "WIKIDATA_BASE_URL": "http://wikibase.example.org"})


@pytest.mark.parametrize(("said", "think"), [("", None), ("true", True), ("False", False), ("LOW", "low")])
def test_thinking_is_a_yes_a_no_or_an_amount(said: str, think: object) -> None:
    assert load_settings({**COMPLETE, "OLLAMA_THINK": said}).ollama_think == think


@pytest.mark.parametrize(("said", "tier"), [(None, "default"), ("Flex", "flex"), ("", None)])
def test_a_service_tier_may_be_left_unsaid(said: str | None, tier: str | None) -> None:
    given = {} if said is None else {"OPENAI_SERVICE_TIER": said}

    assert load_settings({**COMPLETE, **given}).openai_service_tier == tier


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("OLLAMA_THINK", "maybe", "must be true, false, low, medium or high"),
        ("OPENAI_SERVICE_TIER", "cheap", "must be one of auto, default, flex, priority"),
        ("OPENAI_REASONING_EFFORT", "as much as you like", "must be one word"),
    ],
)
def test_what_a_model_is_asked_for_has_to_be_a_word_that_it_knows(name: str, value: str, allowed: str) -> None:
    with pytest.raises(ConfigurationError, match=allowed):
        load_settings({**COMPLETE, name: value})


def test_relays_still_know_that_results_are_invented() -> None:
    assert load_settings({**COMPLETE, "OPENAI_API_KEY": PLACEHOLDER_KEY}).keeping().mock


SERVICES = ("api", "oauth", "openai", "ollama", "wikidata", "somebody-elses")


@pytest.mark.parametrize(
    ("name", "value", "concerned"),
    [
        ("API_BASE_URL", "http://another-api:3000", {"api"}),
        ("ORY_PROJECT_SLUG", "other-tree-1234", {"api", "oauth"}),
        ("OAUTH2_TOKEN_URL", "https://hydra.example.org/oauth2/token", {"api", "oauth"}),
        ("OAUTH2_CLIENT_ID", "another", {"api", "oauth"}),
        ("OAUTH2_CLIENT_SECRET", "another", {"api", "oauth"}),
        ("OAUTH2_CLIENT_AUTH", "post", {"api", "oauth"}),
        ("OAUTH2_SCOPE", "read", {"api", "oauth"}),
        ("OAUTH2_AUDIENCE", "https://api.example.org", {"api", "oauth"}),
        ("OPENAI_API_KEY", "sk-another", {"openai"}),
        ("OPENAI_BASE_URL", "https://llm.example.org/v1", {"openai"}),
        ("OLLAMA_BASE_URL", "http://gpu:11434", {"ollama"}),
        ("WIKIDATA_BASE_URL", "https://wikidata.example.org", {"wikidata"}),
        ("WIKIDATA_CONTACT", "ops@example.org", {"wikidata"}),
        ("HTTP_TRUST_ENV", "true", set(SERVICES)),
        ("LOG_LEVEL", "DEBUG", set()),
        ("RATE_LIMIT_PER_MINUTE", "7", set()),
    ],
)
def test_a_services_fingerprint_changes_with_what_lets_us_in_there(name: str, value: str, concerned: set[str]) -> None:
    before, after = load_settings(COMPLETE), load_settings({**COMPLETE, name: value})

    changed = {service for service in SERVICES if before.fingerprint(service) != after.fingerprint(service)}

    assert changed == concerned
    assert len({before.fingerprint(service) for service in SERVICES}) == len(SERVICES)
    assert all(len(before.fingerprint(service)) == 16 for service in SERVICES)


SOCKS = "socks5h://user:password@10.0.0.1:1080"


@pytest.mark.parametrize(
    ("surroundings", "named"),
    [
        ({"ALL_PROXY": SOCKS}, "ALL_PROXY: a SOCKS proxy cannot be used"),
        ({"all_proxy": SOCKS.upper(), "HTTPS_PROXY": "http://10.0.0.1:3128"}, "all_proxy"),
        ({"HTTP_PROXY": SOCKS}, "HTTP_PROXY"),
        ({"https_proxy": SOCKS}, "https_proxy"),
        ({"SSL_CERT_FILE": "/nowhere/ca.pem"}, "SSL_CERT_FILE=/nowhere/ca.pem: No such file"),
        ({"SSL_CERT_FILE": "/etc"}, "SSL_CERT_FILE=/etc: Is a directory"),
        ({"REQUESTS_CA_BUNDLE": "/etc/hostname"}, "REQUESTS_CA_BUNDLE=/etc/hostname: there is no certificate"),
        ({"CURL_CA_BUNDLE": "/nowhere/ca.pem"}, "CURL_CA_BUNDLE"),
        ({"SSL_CERT_DIR": "/nowhere:/etc/hostname"}, "SSL_CERT_DIR"),
    ],
)
def test_what_would_be_trusted_and_cannot_be_used_is_refused_by_name(surroundings: dict[str, str], named: str) -> None:
    assert load_settings({**COMPLETE, **surroundings, "HTTP_TRUST_ENV": "false"})
    with pytest.raises(ConfigurationError) as caught:
        load_settings({**COMPLETE, **surroundings, "HTTP_TRUST_ENV": "true"})
    [problem] = caught.value.problems
    assert problem.startswith(named)
    assert "password" not in problem


@pytest.mark.parametrize(
    "surroundings",
    [
        {
            "HTTPS_PROXY": "http://10.0.0.1:3128",
            "http_proxy": "10.0.0.1:3128",
            "ALL_PROXY": SOCKS,
        },  # of no scheme of ours
        {"HTTP_PROXY": SOCKS, "http_proxy": "http://10.0.0.1:3128"},
        {"HTTP_PROXY": SOCKS, "http_proxy": ""},
        {"ALL_PROXY": ""},
        {"ftp_proxy": SOCKS},
        {"SSL_CERT_DIR": "/nowhere:/etc"},
        {"REQUESTS_CA_BUNDLE": "/etc"},
        {"SSL_CERT_FILE": ""},
    ],
)
def test_what_can_be_used_or_is_not_used_is_no_trouble(surroundings: dict[str, str]) -> None:
    assert load_settings({**COMPLETE, **surroundings, "HTTP_TRUST_ENV": "true"}).trust.from_environment


# As every command begins.
TRY = """
import os, sys
from aitp.errors import ConfigurationError
from aitp.settings import load_settings, prepare_environment
prepare_environment()
import ollama
assert "ALL_PROXY" not in os.environ
try:
    load_settings()
except ConfigurationError as error:
    assert error.problems[0].startswith("ALL_PROXY")
    sys.exit(78)
"""


@pytest.mark.parametrize(("trusting", "code"), [("true", 78), ("false", 0)])
def test_a_socks_proxy_in_the_environment_is_refused_by_the_programs_too(trusting: str, code: int) -> None:
    said = subprocess.run(
        [sys.executable, "-c", TRY],
        env={**COMPLETE, "PATH": os.environ["PATH"], "ALL_PROXY": SOCKS, "HTTP_TRUST_ENV": trusting},
        cwd=PROJECT_ROOT,
        check=False,
    )
    assert said.returncode == code
